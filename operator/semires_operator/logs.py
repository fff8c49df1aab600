"""The last lines of a failed container's log, fit for a status: short, printable, without credentials."""

from __future__ import annotations

import logging
import re

from semires_operator import kube
from semires_operator.redaction import without_credentials
from semires_operator.status import MAX_LOG_TAIL

logger = logging.getLogger(__name__)

LINES, LIMIT_BYTES = 60, 256 * 1024
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""Of terminals: colours, titles, cursor."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(text: str, *, limit: int = MAX_LOG_TAIL) -> str:
    """The end of a text, at most `limit` characters of whole lines, without control characters and credentials."""
    text = CONTROL.sub("", ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = without_credentials(text).strip("\n")
    if len(text) <= limit:
        return text
    end = text[-limit:]
    _, line_end, whole = end.partition("\n")
    return whole if line_end and whole else end


async def log_tail(api: kube.Api, namespace: str, pod: str, container: str) -> str:
    """The cleaned end of a container's log; empty if there is none any more."""
    try:
        text = await api.logs(namespace, pod, container, lines=LINES, limit_bytes=LIMIT_BYTES)
    except kube.ApiError as error:
        logger.info("No log of pod %s: %s.", pod, error)
        return ""
    return clean(text)
