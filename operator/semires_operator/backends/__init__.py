"""Which kind of object runs an attempt. A new one is a module here, and a name in `spec.backend`."""

from __future__ import annotations

from typing import Any, Protocol

from semires_operator.backends.pytorchjob import PyTorchJobs
from semires_operator.launch import Launch
from semires_operator.settings import Settings


class Backend(Protocol):
    """How an attempt becomes an object. What is read of it is the business of `seen.py`."""

    @property
    def kind(self) -> str: ...

    @property
    def path(self) -> str:
        """Group and version, as in apiVersion."""
        ...

    @property
    def plural(self) -> str: ...

    def build(self, launch: Launch, settings: Settings) -> dict[str, Any]:
        """The object to create. ConfigError if the document is too long."""
        ...


BACKENDS: dict[str, Backend] = {"PyTorchJob": PyTorchJobs()}


def build_child(launch: Launch, settings: Settings) -> dict[str, Any]:
    """The object that trains: it holds the GPUs of an attempt. ConfigError if the document is too long."""
    return BACKENDS[launch.job.spec.backend].build(launch, settings)
