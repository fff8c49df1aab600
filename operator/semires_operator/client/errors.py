"""What can go wrong between a user and a cluster: each error is one line, says what to do, and has an exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semires_trainer.errors import SemiresError

if TYPE_CHECKING:
    from semires_operator.client.model import Job


class ClusterError(SemiresError):
    """A request that the cluster did not fulfil."""

    exit_code = 2
    reason = "ClusterRefused"


class NoCluster(ClusterError):
    """No kubeconfig, or no such context in it: it is not known which cluster is meant."""

    reason = "NoCluster"


class Unreachable(ClusterError):
    """The API server does not answer, or asks to come back later."""

    reason = "Unreachable"


class Forbidden(ClusterError):
    """The API server does not know the user, or the user lacks a right."""

    reason = "Forbidden"


class NotInstalled(ClusterError):
    """The cluster serves no SemiRESJobs."""

    reason = "NotInstalled"


class NotFound(ClusterError):
    """Something that was asked for is not there."""

    reason = "NotFound"


class JobNotFound(NotFound):
    """There is no such job."""


class Refused(ClusterError):
    """The API server refused what was asked for: a wrong field, a quota, an admission webhook."""

    reason = "Refused"


class Conflict(ClusterError):
    """Somebody else changed the object meanwhile, or made one of the same name."""

    reason = "Conflict"


class Expired(ClusterError):
    """The version to watch from is too old; the client lists again."""

    reason = "Expired"


class NoLog(ClusterError):
    """There is nothing to read yet, or no longer."""

    reason = "NoLog"


class WaitTimedOut(ClusterError):
    """What was waited for did not come in time; the exit code is that of timeout(1)."""

    exit_code = 124
    reason = "WaitTimedOut"


class JobGone(ClusterError):
    """The job was deleted while it was waited for."""

    exit_code = 1
    reason = "Gone"


class JobFailed(ClusterError):
    """The job ended in a way in which what was waited for never comes."""

    exit_code = 1
    reason = "JobFailed"

    def __init__(self, message: str, *, job: Job, field: str = "", remedy: str = "") -> None:
        super().__init__(message, field=field, remedy=remedy)
        self.job = job
        """As it ended."""
