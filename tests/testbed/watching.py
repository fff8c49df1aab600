"""Events of `kubectl get --watch`, as they come: one process for a whole wait, where polling would start one a look."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

_CHUNK_BYTES = 2**16


class Watch:
    """A kubectl that watches. A context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command` is a whole `kubectl get`, without what makes it watch."""
        words = [*command, "--watch", "--output-watch-events", "--output", "json"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def events(self, deadline: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """ADDED, MODIFIED or DELETED, and the object; until `deadline` (monotonic), or until kubectl ends."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        text, decoder = "", json.JSONDecoder()
        while (left := deadline - time.monotonic()) > 0 and select.select([output], [], [], left)[0]:
            chunk = os.read(output, _CHUNK_BYTES)
            if not chunk:
                return
            text += chunk.decode()
            while text := text.lstrip():
                try:
                    event, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    break  # the rest of it is on its way
                text = text[end:]
                yield event["type"], event["object"]
