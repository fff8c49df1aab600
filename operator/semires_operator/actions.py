"""What `decide` may want done. The shell does it after the status that records it is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal


class Unbuildable(ValueError):
    """No child can be made of this spec on this cluster. `str()` names field, value and remedy.

    Raised by those who build bodies; nothing is created until it is no more raised.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A value of reasons.Reason: EndpointNotAllowed, SpecInvalid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Create:
    """POST an object; one of the same name that is ours counts as done."""

    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """Delete an object if it still has this UID."""

    kind: Literal["Job", "PyTorchJob", "SemiRESJob"]
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AskCheckpoint:
    """POST /checkpoint to the training pods of the attempt; it is repeated until `decide` is content."""

    pod: str
    ip: str


Action = Create | Delete | AskCheckpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """An event to be told about the job: on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a look at a job leads to."""

    status: dict[str, Any]
    """The whole status as it should be."""
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    requeue_after: float | None = None
    """Seconds until the next look, if nothing happens before."""
    now: datetime
