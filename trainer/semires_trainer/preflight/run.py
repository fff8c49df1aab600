"""The checks of one attempt, from the environment of a pod to an outcome, whatever hangs or fails meanwhile."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from semires_trainer.config import SemiRESJob, resolve
from semires_trainer.connection import storage_settings
from semires_trainer.errors import InfrastructureError, SemiresError
from semires_trainer.launch import nodes_of
from semires_trainer.orders import JOB_UID, POD_UID, Attempt, attempt_of
from semires_trainer.outcome import BUG, End, encoded, end_of, outcome_json, write_termination_message
from semires_trainer.pod_run import document_of
from semires_trainer.preflight.checks import Given, check_job
from semires_trainer.preflight.findings import Findings, hearing_warnings, with_findings
from semires_trainer.schedule import check_batches
from semires_trainer.signals import EARLY, StopFlag, stop_on_signals
from semires_trainer.storage import Storage, StorageSettings
from semires_trainer.telemetry import open_reporter
from semires_trainer.workplace import cache_folder

logger = logging.getLogger(__name__)

PROCESSES = "PET_NPROC_PER_NODE"
MARGIN, SHORTEST_MARGIN_SECONDS, LONGEST_MARGIN_SECONDS = 0.1, 1.0, 30.0
"""Share of the deadline that is left for the end: whoever set the deadline kills the pod when it is over."""
LOOK_SECONDS = 0.05


def run_preflight(environment: Mapping[str, str], *, began: float) -> int:
    """Check the job of this environment and tell its outcome; returns the exit code. `began`: monotonic clock."""
    attempt = Attempt(job="?", job_uid=environment.get(JOB_UID, ""), pod_uid=environment.get(POD_UID, ""))
    found = Findings()
    try:
        attempt = attempt_of("?", environment)
        job = document_of(environment)
        attempt = replace(attempt, job=job.metadata.name)
        seconds = seconds_for(job.spec.preflight.deadline_seconds)
        given = given_of(job, environment, attempt, seconds=seconds)
    except SemiresError as error:
        end: End | None = end_of(error)
    else:
        with (
            open_reporter(None, job=attempt.job, attempt=attempt.number, rank=None),
            hearing_warnings(found),
            stop_on_signals() as stop,
        ):
            stop.signal_number = stop.signal_number or (EARLY[0] if EARLY else 0)
            end = watched(given, found, stop=stop, began=began, seconds=seconds)
    outcome = with_findings(outcome_json(attempt, end), found)
    write_termination_message(outcome, environment)
    sys.stdout.write(encoded(outcome).decode() + "\n")
    return int(outcome["exitCode"])


def seconds_for(deadline_seconds: int) -> float:
    """Seconds that the checks may take."""
    margin = min(max(MARGIN * deadline_seconds, SHORTEST_MARGIN_SECONDS), LONGEST_MARGIN_SECONDS)
    return deadline_seconds - margin


def given_of(job: SemiRESJob, environment: Mapping[str, str], attempt: Attempt, *, seconds: float) -> Given:
    """What the checks work with, itself checked as far as it can be without opening anything; ConfigError."""
    resolved = resolve(job)
    check_batches(resolved.training, processes=processes_of(job, environment))
    settings = storage_settings(job.spec.storage, {}, environment)
    return Given(
        resolved=resolved,
        storage=Storage(less_patient(settings, seconds)),
        cache=cache_folder(environment) / "inputs",
        attempt=attempt,
    )


def processes_of(job: SemiRESJob, environment: Mapping[str, str]) -> int:
    """Ranks of the attempt: as the variables of its pods say; without them one a GPU of the manifest."""
    text, resources = environment.get(PROCESSES, ""), job.spec.resources
    per_node = int(text) if text.isdecimal() and int(text) else max(1, resources.gpus_per_node)
    return per_node * (nodes_of(environment) if environment.get("PET_NNODES") else resources.nodes)


def less_patient(settings: StorageSettings, seconds: float) -> StorageSettings:
    """A service that fails or is silent is given up in time to say so."""
    return replace(
        settings,
        connect_timeout_seconds=min(settings.connect_timeout_seconds, seconds / 20),
        read_timeout_seconds=min(settings.read_timeout_seconds, seconds / 20),
        patience_seconds=min(settings.patience_seconds, seconds / 4),
        rotation_seconds=min(settings.rotation_seconds, seconds / 4),
    )


def watched(given: Given, found: Findings, *, stop: StopFlag, began: float, seconds: float) -> End | None:
    """Run the checks in a thread, and leave them where they are if a stop or the deadline comes first."""
    ends: list[End | None] = []
    thread = threading.Thread(target=lambda: ends.append(end_of_checks(given, found)), daemon=True)
    thread.start()
    while thread.is_alive():
        if stop.is_set:
            message = f"The preflight was at {found.doing}; it leaves nothing to be saved."
            return End(exit_code=stop.exit_code, reason="Stopped", message=message)
        if time.monotonic() - began > seconds:
            return end_of(
                InfrastructureError(
                    f"the preflight is not done after {seconds:.0f} s; it is at {found.doing}",
                    field="spec.preflight.deadlineSeconds",
                    remedy="Look whether the storage answers; for a very long listing raise the deadline",
                )
            )
        thread.join(LOOK_SECONDS)
    return ends[0]


def end_of_checks(given: Given, found: Findings) -> End | None:
    """How the checks ended; None if all is well. A bug too is an end that can be told."""
    try:
        check_job(given, found)
    except SemiresError as error:
        return end_of(error)
    except Exception as error:
        logger.exception("The preflight has a bug.")
        message = f"{type(error).__name__}: {error}. This is a bug; the log has a traceback"
        return End(exit_code=SemiresError.exit_code, reason=BUG, message=message)
    return None
