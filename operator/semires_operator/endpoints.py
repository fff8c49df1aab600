"""The S3 services that jobs may name: the administrator's list. The operator never dials them; trainers do.

    default:                                  # the name in spec.storage.endpoint
      url: https://s3.example.com:9000
      region: us-east-1                       # optional
      pathStyle: true                         # default; false: buckets are host names, as at AWS
      caBundle: |                             # optional: trusted instead of the image's authorities
        -----BEGIN CERTIFICATE-----
        ...
      namespaces: [team-a, team-b]            # default: All

Without a list there is one endpoint, `default`: AWS itself, as the trainer's credentials reach it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

logger = logging.getLogger(__name__)

ALL: Literal["All"] = "All"
LONGEST_CA_BUNDLE = 64 << 10
"""Bytes. It travels in an annotation of the pod: all annotations together may have 256 KiB."""
CERTIFICATES = re.compile(r"(\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----)+\s*")


class EndpointsError(ValueError):
    """A list that can't be used: the message names file, endpoint, field and remedy."""


def _service_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f'"{text}" is no URL: {error}') from error
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None or parts.password is not None:
        raise ValueError(f'"{parts.scheme}://{host}" is not http:// or https:// with a host and without credentials')
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "$" in text:
        raise ValueError("has more than scheme, host and port: buckets are named by the jobs")
    return text.rstrip("/")


def _certificates(text: str) -> str:
    if not CERTIFICATES.fullmatch(text):
        raise ValueError("is not PEM with certificates only; a private key does not belong here")
    return text


Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class Endpoint(BaseModel):
    """An S3 service."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)

    url: Annotated[str, Field(max_length=512), AfterValidator(_service_url)] = ""
    """http:// or https://, host and port. Empty is AWS itself, and not to be had in a list."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] | None = None
    """Region of jobs that name none."""
    path_style: bool = True
    """Whether buckets stand in the path: true anywhere but at AWS."""
    ca_bundle: Annotated[str, Field(max_length=LONGEST_CA_BUNDLE), AfterValidator(_certificates)] | None = None
    """Certificates in PEM that vouch for the service."""
    namespaces: Annotated[list[Namespace], Field(strict=False, max_length=1000)] | Literal["All"] = ALL
    """Where jobs may use it."""

    def is_open_to(self, namespace: str) -> bool:
        """Whether jobs of a namespace may use it."""
        return self.namespaces == ALL or namespace in self.namespaces


AWS = Endpoint(path_style=False)
_LIST = TypeAdapter(dict[Name, Endpoint])


@dataclass(frozen=True, kw_only=True, slots=True)
class NotAllowed:
    """An endpoint that is not in the list, or not for this namespace."""

    name: str
    allowed: tuple[str, ...]
    """What jobs of this namespace may name."""

    def __str__(self) -> str:
        known = f"it may use {', '.join(self.allowed)}" if self.allowed else "it may use none"
        return (
            f'spec.storage.endpoint: "{self.name}" is not an endpoint of this namespace; {known}. '
            "Choose one of these, or ask the administrator to add it to the operator's list of endpoints."
        )


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The list."""

    by_name: Mapping[str, Endpoint]

    def find(self, name: str, *, namespace: str) -> Endpoint | NotAllowed:
        """The endpoint of this name for jobs of a namespace, or what these may name instead."""
        found = self.by_name.get(name)
        if found is not None and found.is_open_to(namespace):
            return found
        allowed = sorted(known for known, endpoint in self.by_name.items() if endpoint.is_open_to(namespace))
        return NotAllowed(name=name, allowed=tuple(allowed))


WITHOUT_A_LIST = Endpoints({"default": AWS})


def parse_endpoints(text: str, *, source: str = "endpoints") -> Endpoints:
    """The list in a YAML text; EndpointsError names `source`, endpoint, field and remedy."""
    try:
        found = _LIST.validate_python(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" line {place.line + 1}" if place else ""
        raise EndpointsError(f"{source}{line} is not YAML. Check its indentation") from error
    except ValidationError as error:
        raise EndpointsError(f"{source}: {_first_problem(error)}") from error
    for name, endpoint in found.items():
        if not endpoint.url:
            remedy = "Give http(s)://HOST:PORT; for AWS https://s3.REGION.amazonaws.com with pathStyle: false"
            raise EndpointsError(f"{source}: {name}.url is missing. {remedy}")
    return Endpoints(found)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the list"
    known = ", ".join(field.alias or name for name, field in Endpoint.model_fields.items())
    return f"{place}: {first['msg'].removeprefix('Value error, ')}. An endpoint has a name and the fields {known}"


class EndpointsFile:
    """The list in a file that may change at any time: a ConfigMap's, which is exchanged as a whole."""

    def __init__(self, path: Path | None) -> None:
        """Read it. EndpointsError or OSError if it can't be used: an operator must not start with it."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._endpoints = WITHOUT_A_LIST
        self.problem = ""
        """Why the newest version is not used; empty if it is."""
        if path is not None:
            self._seen = self._version(path)
            self._endpoints = self._read(path)

    def current(self) -> Endpoints:
        """The newest list that could be used. A broken version is told once, and keeps the one before."""
        if self._path is None:
            return self._endpoints
        try:
            version = self._version(self._path)
            if version != self._seen:
                self._seen = version
                self._endpoints = self._read(self._path)
                self.problem = ""
                logger.info("The list of endpoints was read again: %s.", ", ".join(sorted(self._endpoints.by_name)))
        except (OSError, EndpointsError) as error:
            if str(error) != self.problem:
                self.problem = str(error)
                logger.error("The list of endpoints is kept as it was, because of its new version: %s.", error)
        return self._endpoints

    @staticmethod
    def _version(path: Path) -> tuple[int, int, int]:
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    @staticmethod
    def _read(path: Path) -> Endpoints:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EndpointsError(f"{path} is not UTF-8. Save it as UTF-8") from error
        return parse_endpoints(text, source=str(path))
