"""The last lines of a failed container's log, fit for a status: short, printable, without credentials."""

from __future__ import annotations

import logging
import re

from semires_operator import kube
from semires_operator.status import MAX_LOG_TAIL

logger = logging.getLogger(__name__)

LINES, LIMIT_BYTES = 60, 256 * 1024
HIDDEN = "[removed]"
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""Of terminals: colours, titles, cursor."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
SECRETS = (
    # NAME=value, NAME: value, "name": "value", for names that tell that the value is secret
    re.compile(
        r"(?ix) (?P<kept> \b [\w.-]* (?: AWS_[A-Z_]+ | secret | token | passw(?:or)?d | passphrase | api[_-]?key |"
        r" access[_-]?key(?:[_-]?id)? | private[_-]?key | credentials? | signature ) (?: [_.-] [\w.-]* )?"
        r" [\"']? \s* [=:] \s* )"
        r"(?: \"[^\"]*\" | '[^']*' | [^\s,;&\"']+ )"
    ),
    re.compile(r"(?i)(?P<kept>\bauthorization[\"']?\s*[:=]\s*).*"),
    re.compile(r"(?i)(?P<kept>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?P<kept>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@]+@"),  # user and password of a URL
    re.compile(r"(?i)(?P<kept>[?&](?:x-amz-[a-z-]+|sig|signature|token|key)=)[^\s&\"']+"),
    re.compile(r"(?P<kept>)\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"),  # key ids of AWS
    re.compile(r"(?P<kept>)\b(?:hf|ghp|gho|ghs|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}"),  # tokens of well-known places
    re.compile(r"(?P<kept>)\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"),  # JSON web tokens
    re.compile(r"(?s)(?P<kept>)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"),
)
LONG = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{40,}={0,2}(?![A-Za-z0-9+/_=-])")
HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}|[0-9A-F]{40}")
"""Digests of git and sha256: they are no secrets, and help."""


def clean(text: str, *, limit: int = MAX_LOG_TAIL) -> str:
    """The end of a text, at most `limit` characters of whole lines, without control characters and credentials."""
    text = CONTROL.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    for pattern in SECRETS:
        text = pattern.sub(lambda match: match["kept"] + HIDDEN, text)
    text = LONG.sub(_unless_harmless, text).strip("\n")
    if len(text) <= limit:
        return text
    end = text[-limit:]
    _, line_end, whole = end.partition("\n")
    return whole if line_end and whole else end


def _unless_harmless(match: re.Match[str]) -> str:
    """A long word that looks random is taken for a secret; digests, paths and names are kept."""
    word = match.group()
    mixed = any(c.isupper() for c in word) and any(c.islower() for c in word) and any(c.isdigit() for c in word)
    path = word.count("/") > 1 and max(map(len, word.split("/"))) < 32
    return word if HEX.fullmatch(word) or not mixed or path else HIDDEN


async def log_tail(api: kube.Api, namespace: str, pod: str, container: str) -> str:
    """The cleaned end of a container's log; empty if there is none any more."""
    try:
        text = await api.logs(namespace, pod, container, lines=LINES, limit_bytes=LIMIT_BYTES)
    except kube.ApiError as error:
        logger.info("No log of pod %s: %s.", pod, error)
        return ""
    return clean(text)
