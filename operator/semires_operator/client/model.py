"""A job and its events as the API server has them, with the status as typed models. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from semires_operator.client.errors import ClusterError
from semires_operator.names import KIND
from semires_operator.status import Condition, Status
from semires_trainer.config import SemiRESJob, parse_job


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A SemiRESJob as the API server has it."""

    document: Mapping[str, Any]
    """The whole object."""
    status: Status
    """Its status; that of a job that no operator has looked at yet is empty and Pending."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Name, labels and so on, as the API server has them."""
        found: Mapping[str, Any] = self.document.get("metadata") or {}
        return found

    @property
    def spec(self) -> Mapping[str, Any]:
        """The manifest's spec with the server's defaults; `manifest()` gives it typed."""
        found: Mapping[str, Any] = self.document.get("spec") or {}
        return found

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.metadata.get("namespace", ""))

    @property
    def uid(self) -> str:
        """Its UID: two jobs of one name, one after the other, have different ones."""
        return str(self.metadata.get("uid", ""))

    @property
    def version(self) -> str:
        """resourceVersion: changes with every write."""
        return str(self.metadata.get("resourceVersion", ""))

    @property
    def created(self) -> datetime | None:
        """When it was submitted; None for one that was not, such as by a dry run without a server."""
        return time_of(self.metadata.get("creationTimestamp"))

    @property
    def is_deleting(self) -> bool:
        """Whether its deletion was asked for."""
        return "deletionTimestamp" in self.metadata

    @property
    def is_current(self) -> bool:
        """Whether the status speaks of the present spec: the operator has seen the last change."""
        return self.status.observed_generation >= int(self.metadata.get("generation", 0))

    @property
    def is_suspended(self) -> bool:
        """Whether spec.suspend is true."""
        return bool(self.spec.get("suspend", False))

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.is_complete or self.is_failed

    @property
    def is_complete(self) -> bool:
        """Whether it succeeded."""
        return self.holds("Complete")

    @property
    def is_failed(self) -> bool:
        """Whether it failed for good."""
        return self.holds("Failed")

    def condition(self, type_: str) -> Condition | None:
        """The condition of a type, if there is one."""
        return next((condition for condition in self.status.conditions if condition.type == type_), None)

    def holds(self, type_: str) -> bool:
        """Whether the condition of a type is True."""
        found = self.condition(type_)
        return found is not None and found.status == "True"

    def manifest(self) -> SemiRESJob:
        """What was submitted, typed. Raises ConfigError for one that this version can't read."""
        names = ("name", "namespace", "labels", "annotations")
        metadata = {name: self.metadata[name] for name in names if name in self.metadata}
        head = {name: self.document[name] for name in ("apiVersion", "kind") if name in self.document}
        return parse_job({**head, "metadata": metadata, "spec": self.spec})


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that was told about a job."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str
    time: datetime | None
    """When it was told last."""
    count: int = 1
    """How often."""
    source: str = ""
    """Who told it."""


def job_of(document: Mapping[str, Any]) -> Job:
    """A job from the API server's object. Fields of the status that this version doesn't know are left out.

    Raises ClusterError if the status has another form.
    """
    try:
        status = Status.model_validate(document.get("status") or {}, extra="ignore")
    except ValidationError as error:
        name = (document.get("metadata") or {}).get("name", "?")
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ClusterError(
            f"{first['msg']}",
            field=f"status.{where} of {KIND} {name}",
            remedy="Its operator is of another version: install the same one here",
        ) from error
    return Job(document=document, status=status)


def event_of(document: Mapping[str, Any]) -> Event:
    """An event from the API server's object, whichever of the two APIs it was written by."""
    series = document.get("series") or {}
    times = (
        *(series.get("lastObservedTime"), document.get("lastTimestamp"), document.get("eventTime")),
        (document.get("metadata") or {}).get("creationTimestamp"),
    )
    source = (document.get("source") or {}).get("component") or document.get("reportingComponent") or ""
    return Event(
        type=str(document.get("type", "")),
        reason=clean(str(document.get("reason", ""))),
        message=clean(str(document.get("message") or "")),
        time=next((found for found in map(time_of, times) if found is not None), None),
        count=int(series.get("count") or document.get("count") or 1),
        source=clean(str(source)),
    )


def time_of(text: object) -> datetime | None:
    """A time of the API server; None if there is none."""
    if not isinstance(text, str) or not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def clean(text: str) -> str:
    """Text from elsewhere as it may go to a terminal: without control characters, but for tabs and ends of lines."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter) not in {"Cc", "Cf"})
