"""A small Python client for SemiRESJobs, on the models of the manifest and of the status.

    with Client("team-a") as client:
        job = client.submit("job.yaml")
        job = client.wait(job.name, until="Finished", timeout=86400)
        print(job.status.phase, job.status.results)

Needs the extra `operator`: pip install 'semires[operator]'. Its errors are `SemiresError`s of one line.
"""

from __future__ import annotations

from semires_operator.client.differences import Difference
from semires_operator.client.errors import (
    ClusterError,
    Conflict,
    Forbidden,
    JobFailed,
    JobGone,
    JobNotFound,
    NoCluster,
    NoLog,
    NotFound,
    NotInstalled,
    Refused,
    Unreachable,
    WaitTimedOut,
)
from semires_operator.client.jobs import Applied, Client, Until
from semires_operator.client.logs import LogLine, LogRequest
from semires_operator.client.model import Event, Job

__all__ = [
    "Applied",
    "Client",
    "ClusterError",
    "Conflict",
    "Difference",
    "Event",
    "Forbidden",
    "Job",
    "JobFailed",
    "JobGone",
    "JobNotFound",
    "LogLine",
    "LogRequest",
    "NoCluster",
    "NoLog",
    "NotFound",
    "NotInstalled",
    "Refused",
    "Unreachable",
    "Until",
    "WaitTimedOut",
]
