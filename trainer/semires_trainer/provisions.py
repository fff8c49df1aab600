"""What a supervisor brings to its node before the ranks start: inputs, and the proposals that others have made."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.config import Resolved
from semires_trainer.fetch import FetchProgress, Places, fetch_inputs
from semires_trainer.inputs import local_path
from semires_trainer.proposals.build import build_key
from semires_trainer.sharing import SharedStore
from semires_trainer.storage import Storage
from semires_trainer.telemetry import Reporter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Provisions:
    """Brings things to `cache`, which all runs of the machine share."""

    storage: Storage
    cache: Path
    reporter: Reporter
    should_stop: Callable[[], bool]
    """Asked while something is under way, which then ends with StopRequested or `storage.parallel.Cancelled`."""

    def fetch(self, resolved: Resolved) -> Places:
        """Bring what the job reads, with a bar for each input."""
        show = FetchBar(self.reporter)
        try:
            folder = self.cache / "inputs"
            return fetch_inputs(resolved, self.storage, folder, report=show, should_stop=self.should_stop)
        finally:
            show.close()

    def bring_store(self, located: Resolved) -> tuple[Path, Callable[[], None]]:
        """The local folder of the proposal store, and what sends new proposals to a store that lies on S3."""
        uri = located.proposals.store
        if not uri.startswith("s3://"):
            return local_path(uri), share_nothing
        root = self.cache / "proposals" / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:16]
        store = SharedStore(key=build_key(located.proposals), storage=self.storage, uri=uri, root=root)
        moved = store.pull(self.should_stop)
        logger.info("The proposal store %s has sent %d shards, %d bytes.", uri, moved.files, moved.bytes)
        return root, store.push


def share_nothing() -> None:
    """Proposals stay here: their store is a folder."""


class FetchBar:
    """Shows each input as a stage of the reporter while it arrives."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._open = contextlib.ExitStack()
        self._field = ""
        self._shown = 0

    def __call__(self, progress: FetchProgress) -> None:
        """Follow an input; a new one closes the one before."""
        if progress.field != self._field:
            self.close()
            self._field, self._shown = progress.field, 0
            total = max(1, progress.bytes)
            self._open.enter_context(self._reporter.stage(f"fetch {progress.field}", total, unit="byte"))
        self._reporter.advance(max(0, progress.bytes_done - self._shown))
        self._shown = max(self._shown, progress.bytes_done)

    def close(self) -> None:
        """Close the last one."""
        self._open.close()
