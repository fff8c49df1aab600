"""Lines of the log: an object of JSON each, which names the job that is worked on."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO, Any, Literal

JOB: ContextVar[tuple[str, str] | None] = ContextVar("job", default=None)
"""Namespace and name of the job that is worked on in this task."""
QUIET = ("kopf", "aiohttp", "asyncio")
"""Libraries of which only warnings are worth a line."""
EXPECTED = (
    "OS signals are ignored: running not in the main thread.",
    "Unresolved resources cannot be served",
)
"""Warnings of kopf about what we mean to do: signals are ours, and kinds may be absent."""


class JsonFormatter(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        job = JOB.get()
        if job is not None:
            line["namespace"], line["job"] = job
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        job = JOB.get()
        where = f" [{'/'.join(job)}]" if job is not None else ""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        text = f"{time} {record.levelname:<7}{where} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def write_log(*, level: str, form: Literal["json", "text"] | str, stream: IO[str] | None = None) -> None:
    """Write the log of this process to a stream, standard error if none is given."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(lambda record: not record.getMessage().startswith(EXPECTED))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
