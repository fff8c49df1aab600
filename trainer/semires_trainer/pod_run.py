"""The job of a pod: from its environment to an outcome, told as JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from semires_trainer.config import SemiRESJob, parse_job
from semires_trainer.errors import ConfigError, SemiresError
from semires_trainer.launch import supervision_of
from semires_trainer.orders import JOB_UID, POD_UID, STAGES, Attempt, attempt_of
from semires_trainer.outcome import end_of, outcome_json, write_termination_message
from semires_trainer.sinks import JsonSink
from semires_trainer.supervisor import supervise

DOCUMENT, DOCUMENT_SHA256, PORT = "SEMIRES_DOCUMENT", "SEMIRES_DOCUMENT_SHA256", "SEMIRES_PORT"
LONGEST_DOCUMENT = 96 << 10
DEFAULT_PORT = "9464"
LARGEST_PORT = 65535


def run_pod(environment: Mapping[str, str]) -> int:
    """Supervise the job of this pod; returns the exit code of the design."""
    attempt = Attempt(job="?", job_uid=environment.get(JOB_UID, ""), pod_uid=environment.get(POD_UID, ""))
    try:
        attempt = attempt_of("?", environment)
        job = document_of(environment)
        attempt = replace(attempt, job=job.metadata.name)
        given = supervision_of(
            job,
            environment,
            processes=environment.get("PET_NPROC_PER_NODE", "1"),
            stages=STAGES,
            endpoints={},
            port=port_of(environment),
        )
    except SemiresError as error:
        outcome = outcome_json(attempt, end_of(error))
        write_termination_message(outcome, environment)
    else:
        with given.storage:
            outcome = supervise(given)
    tell(outcome)
    return int(outcome["exitCode"])


def tell(outcome: Mapping[str, Any]) -> None:
    """The last line of the pod's log."""
    sink = JsonSink(sys.stderr, job=outcome["job"], attempt=outcome["attempt"], rank=None)
    message = outcome.get("error", outcome.get("stopped", {"message": "Done."}))["message"]
    level = logging.ERROR if "error" in outcome else logging.INFO
    sink.event(level, "outcome", message, {"outcome": dict(outcome)})


def document_of(environment: Mapping[str, str]) -> SemiRESJob:
    """The job in the environment; ConfigError if it is absent, too long, or not the one whose sha256 is given."""
    content = os.fsencode(environment.get(DOCUMENT, ""))
    if not content or len(content) > LONGEST_DOCUMENT:
        raise ConfigError(
            f"the document has {len(content)} bytes, 1 to {LONGEST_DOCUMENT} are expected",
            field=DOCUMENT,
            remedy="Put long lists into a file: spec.dataset.labeled.imageIdsFile",
        )
    if hashlib.sha256(content).hexdigest() != environment.get(DOCUMENT_SHA256):
        raise ConfigError("the document does not have the sha256 that is given", field=DOCUMENT_SHA256)
    try:
        return parse_job(json.loads(content))
    except ValueError as error:
        raise ConfigError(f"the document is not JSON: {error}", field=DOCUMENT) from error


def port_of(environment: Mapping[str, str]) -> int:
    """The port that progress is served at; ConfigError if it is none."""
    text = environment.get(PORT) or DEFAULT_PORT
    if not text.isdecimal() or int(text) > LARGEST_PORT:
        raise ConfigError(f"{text!r} is no port", field=PORT, remedy="Leave it to the operator")
    return int(text)
