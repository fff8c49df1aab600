"""From an answer of the API server that is no success to one of our errors. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from semires_operator.client.errors import (
    ClusterError,
    Conflict,
    Expired,
    Forbidden,
    JobNotFound,
    NotFound,
    NotInstalled,
    Refused,
    Unreachable,
)
from semires_operator.client.model import clean
from semires_operator.names import GROUP, KIND, PLURAL

INSTALL = "kubectl apply --server-side -k manifests/overlays/cluster"
PREFIX = re.compile(r"^(Invalid value|Forbidden|Required value)(: (\"[^\"]*\"|[^ :]*|object))?: ")
"""What the server puts before a message of the CRD's rules: a kind, and the value where there is one."""
TOO_MANY_REQUESTS, GONE = 429, 410


def status_of(body: str | bytes | None) -> dict[str, Any]:
    """The Status object of an answer; one made of the text where there is none."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        found = json.loads(text)
    except ValueError:
        return {"message": text.strip()[:500]}
    return found if isinstance(found, dict) else {"message": text.strip()[:500]}


def error_of(code: int, status: Mapping[str, Any], *, what: str, http_reason: str = "") -> ClusterError:
    """The error that an answer means. `what` names what was asked for: "SemiRESJob team-a/refcoco"."""
    message = clean(str(status.get("message") or http_reason or f"HTTP status {code}"))
    if code == 401:
        remedy = "Log in again; `kubectl auth whoami` says who you are"
        return Forbidden("the API server does not accept your credentials (401)", remedy=remedy)
    if code == 403:
        return _forbidden(message, what)
    if code == 404:
        return _not_found(status, message, what)
    if code == 409:
        return Conflict(f"{what}: {message}", remedy="Try again")
    if code == GONE:
        return Expired(message)
    if code == TOO_MANY_REQUESTS or code >= 500:
        return Unreachable(f"the API server could not answer ({code}): {message}", remedy="Try again in a minute")
    return _refused(status, message, what)


def _forbidden(message: str, what: str) -> ClusterError:
    """A missing right, or one of those that admission refuses by 403 too: a quota, a namespace that goes."""
    is_right = "cannot" in message and "User " in message
    if is_right:
        remedy = "Ask an administrator for this right, or name another namespace: -n NAMESPACE"
        return Forbidden(message, remedy=remedy)
    return Refused(f"{what} was refused: {message}")


def _not_found(status: Mapping[str, Any], message: str, what: str) -> ClusterError:
    details = status.get("details") or {}
    if details.get("kind") == "namespaces":
        name = clean(str(details.get("name", "")))
        remedy = f"Name another one: -n NAMESPACE, or make it: kubectl create namespace {name}"
        return NotFound(f'there is no namespace "{name}"', remedy=remedy)
    if not details.get("name"):
        remedy = f"Have an administrator install the operator: {INSTALL} (docs/install.md)"
        return NotInstalled(f"this cluster does not know {PLURAL}.{GROUP}", remedy=remedy)
    if details.get("kind") in {PLURAL, KIND}:
        return JobNotFound(f"there is no {what}")
    return NotFound(message)


def _refused(status: Mapping[str, Any], message: str, what: str) -> ClusterError:
    """Fields that the server refuses: the first as it is told, with its remedy, and which others."""
    causes = [cause for cause in (status.get("details") or {}).get("causes") or [] if cause.get("message")]
    if not causes:
        return Refused(f"{what} was refused: {message}")
    first, *others = causes
    more = ", ".join(dict.fromkeys(name for name in map(_field, others) if name not in {"", _field(first)}))
    text = PREFIX.sub("", clean(str(first["message"])))
    return Refused(f"{text.rstrip('.')}. (And {more})" if more else text, field=_field(first))


def _field(cause: Mapping[str, Any]) -> str:
    """The field of a cause; the server says <nil> for the whole object."""
    return clean(str(cause.get("field") or "")).replace("<nil>", "")
