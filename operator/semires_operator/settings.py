"""Everything that an administrator may set, read once from the environment. The only reader of the environment.

Each field is the variable SEMIRES_OPERATOR_<FIELD IN CAPITALS>. A Service called semires-operator puts variables of the
same prefix into pods beside it (SEMIRES_OPERATOR_PORT, SEMIRES_OPERATOR_SERVICE_HOST, ...): those are not settings.
"""

from __future__ import annotations

import difflib
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from semires_trainer import __version__

PREFIX = "SEMIRES_OPERATOR_"
SERVICE_LINK = re.compile(rf"{PREFIX}(SERVICE_.*|PORT|PORT_.*)")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,499}")
LARGEST_PORT = 65535
CHOICES = {
    "image_pull_policy": ("Always", "IfNotPresent", "Never"),
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR"),
    "log_format": ("json", "text"),
}


class SettingsError(ValueError):
    """A variable that can't be used: the message names it, its value and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How this operator works. Durations are in seconds."""

    namespaces: tuple[str, ...] = ()
    """Namespaces whose jobs it runs, separated by commas; empty: all of the cluster."""
    namespace: str = "semires-system"
    """Its own namespace: where its Lease is."""
    identity: str = "semires-operator"
    """Name of its pod: who holds the Lease. Default: the host's name."""

    trainer_image: str = f"semires-trainer:{__version__}"
    """Image of jobs that name none."""
    image_pull_policy: str = "IfNotPresent"
    """Of the pods it creates: Always, IfNotPresent, Never."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the jobs' namespaces with which the image is pulled, besides spec.pod.imagePullSecrets."""
    endpoints_file: Path | None = None
    """YAML file with the S3 endpoints that jobs may name. None: only AWS itself, by the name `default`."""

    http_port: int = 8080
    """Port of /metrics, /healthz and /readyz."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING, ERROR."""
    log_format: str = "json"
    """json: an object a line; text: for people."""

    lease_name: str = "semires-operator"
    """The Lease that one replica holds."""
    lease_seconds: float = 12
    """A Lease that was not renewed for this long may be taken over."""
    lease_renew_seconds: float = 8
    """A leader that could not renew for this long stops."""
    lease_retry_seconds: float = 2
    """Time between two attempts to renew or to take over."""

    workers: int = 8
    """Jobs that are looked at at the same time."""
    poll_seconds: float = 5
    """Time between two questions to a trainer for its progress."""
    progress_interval_seconds: float = 10
    """Least time between two writes of progress into a status."""
    discovery_seconds: float = 30
    """Time between two looks at which kinds the cluster serves."""

    checkpoint_wait_seconds: float = 120
    """How long a stop waits for the checkpoint it has asked for."""
    max_free_retries: int = 50
    """Lost attempts that are repeated without counting towards failurePolicy.backoffLimit."""
    backoff_first_seconds: float = 10
    """Wait before the first repetition; it doubles each time."""
    backoff_longest_seconds: float = 600
    """It doubles up to this."""
    stuck_seconds: float = 300
    """A pod on a node that is not ready blocks the next attempt until this long after its grace period."""
    container_creating_seconds: float = 300
    """A pod that is being set up for this long is told."""

    def __post_init__(self) -> None:
        for name, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            _check(name, value)
        if not self.lease_seconds > self.lease_renew_seconds > self.lease_retry_seconds:
            raise _error(
                "lease_seconds",
                self.lease_seconds,
                "is not greater than LEASE_RENEW_SECONDS, or that not greater than LEASE_RETRY_SECONDS",
                "Take 12, 8 and 2, or a multiple of them",
            )
        if self.backoff_longest_seconds < self.backoff_first_seconds:
            problem = f"is less than {variable_of('backoff_first_seconds')}"
            raise _error("backoff_longest_seconds", self.backoff_longest_seconds, problem, "Raise it, or lower that")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """The settings in an environment; empty means the default.

        SettingsError for a value that can't be used and for a name with our prefix that is no setting.
        """
        readers = {variable_of(field.name): (field.name, _READERS[str(field.type)]) for field in fields(cls)}
        given: dict[str, Any] = {"identity": socket.gethostname()}
        for variable, text in environ.items():
            if not variable.startswith(PREFIX) or SERVICE_LINK.fullmatch(variable):
                continue
            if variable not in readers:
                raise SettingsError(f"{variable} is not a setting. {_suggestion(variable, list(readers))}")
            name, read = readers[variable]
            if text.strip():
                given[name] = read(name, text.strip())
        return cls(**given)

    def watches(self, namespace: str) -> bool:
        """Whether jobs of this namespace are run by this operator."""
        return not self.namespaces or namespace in self.namespaces


def variable_of(field: str) -> str:
    """The variable of a field."""
    return PREFIX + field.upper()


def _error(field: str, value: object, problem: str, remedy: str) -> SettingsError:
    return SettingsError(f"{variable_of(field)}={value} {problem}. {remedy}")


def _suggestion(variable: str, known: list[str]) -> str:
    near = difflib.get_close_matches(variable, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Remove it; settings are {', '.join(sorted(known))}"


def _integer(field: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise _error(field, text, "is not a whole number", "Write digits only")
    return int(text)


def _seconds(field: str, text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise _error(field, text, "is not a number of seconds", "Write digits, such as 12 or 0.5")
    return float(text)


def _words(_field: str, text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


_READERS: dict[str, Callable[[str, str], Any]] = {
    "int": _integer,
    "float": _seconds,
    "str": lambda _field, text: text,
    "tuple[str, ...]": _words,
    "Path | None": lambda _field, text: Path(text),
}


def _check(field: str, value: object) -> None:
    """One value by itself."""
    if field in CHOICES and value not in CHOICES[field]:
        raise _error(field, value, "is not one of the possible values", f"Choose from {', '.join(CHOICES[field])}")
    if field in {"namespaces", "namespace"}:
        for word in value if isinstance(value, tuple) else (value,):
            _match(field, word, LABEL, "a namespace", "Write names separated by commas, such as team-a,team-b")
    if field == "image_pull_secrets" and isinstance(value, tuple):
        for word in value:
            _match(field, word, NAME, "a Secret's name", "Write names separated by commas")
    if field == "lease_name":
        _match(field, value, NAME, "a name", "Use lower-case letters, digits, dots and dashes")
    if field == "trainer_image":
        _match(field, value, IMAGE, "an image", "Write REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST")
    if field == "http_port" and not (isinstance(value, int) and 1 <= value <= LARGEST_PORT):
        raise _error(field, value, "is no port", f"Choose from 1 to {LARGEST_PORT}")
    if isinstance(value, int | float) and value <= 0 and field != "max_free_retries":
        raise _error(field, value, "is not positive", "Choose a greater number, or leave it out for the default")


def _match(field: str, value: object, pattern: re.Pattern[str], what: str, remedy: str) -> None:
    if not pattern.fullmatch(str(value)):
        raise _error(field, value, f"is not {what}", remedy)
