"""`semires run`: from a manifest to a trained, evaluated model, by a supervisor and the ranks it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from semires_trainer.config import SemiRESJob, resolve
from semires_trainer.connection import storage_settings
from semires_trainer.errors import ConfigError
from semires_trainer.orders import STAGES, control_folder
from semires_trainer.results import Results, read_results
from semires_trainer.schedule import check_batches
from semires_trainer.signals import EXIT_CODES, StopRequested
from semires_trainer.storage import Storage
from semires_trainer.supervisor import Supervision, supervise
from semires_trainer.workplace import cache_folder, work_folder


class RunFailed(Exception):
    """A run ended as one of its processes says."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(
    job: SemiRESJob,
    *,
    nproc: int = 1,
    stages: Sequence[str] = STAGES,
    endpoints: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Results | None:
    """Run `stages` of a job on `nproc` processes of this machine; returns the results if it evaluated here.

    Of several nodes the one with rank 0 has them. Raises ConfigError for what can be known before anything is written,
    RunFailed, and StopRequested after a requested stop.
    """
    given = supervision_of(job, os.environ, processes=str(nproc), stages=stages, endpoints=endpoints or {}, port=port)
    with given.storage:
        outcome = supervise(given)
    raise_unless_done(outcome)
    path = given.work / "results.json"
    return read_results(path) if "evaluate" in stages and given.control.rank(0).is_file() else None


def supervision_of(
    job: SemiRESJob,
    environment: Mapping[str, str],
    *,
    processes: str,
    stages: Sequence[str],
    endpoints: Mapping[str, str],
    port: int | None,
) -> Supervision:
    """Everything that a supervisor needs, checked as far as it can be without opening anything."""
    resolved = resolve(job)
    if processes.isdecimal():
        check_batches(resolved.training, processes=int(processes) * nodes_of(environment))
    cache = cache_folder(environment)
    work = work_folder(resolved, cache)
    return Supervision(
        job=job,
        resolved=resolved,
        processes=processes,
        stages=tuple(stages),
        environment=dict(environment),
        storage=Storage(storage_settings(job.spec.storage, endpoints, environment)),
        cache=cache,
        work=work,
        control=control_folder(work, environment),
        port=port,
    )


def nodes_of(environment: Mapping[str, str]) -> int:
    """Nodes of this run, as PyTorchJob's variable says; ConfigError if their number is not fixed."""
    text = environment.get("PET_NNODES") or "1"
    least = text.partition(":")[0]
    if not least.isdecimal() or int(least) == 0 or text not in (least, f"{least}:{least}"):
        raise ConfigError(
            f"a run has a fixed number of nodes, got {text!r}", field="PET_NNODES", remedy="Set minimum = maximum"
        )
    return int(least)


def raise_unless_done(outcome: Mapping[str, Any]) -> None:
    """RunFailed or StopRequested, as the outcome says."""
    code = int(outcome["exitCode"])
    if code in EXIT_CODES.values() and "stopped" in outcome:
        raise StopRequested(code, outcome["stopped"]["message"])
    if code:
        raise RunFailed(outcome["error"]["message"], exit_code=code)
