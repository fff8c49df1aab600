"""The publisher at work beside the ranks: one checkpoint at a time, and a storage that is down stops nobody."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from semires_trainer.errors import InfrastructureError, SemiresError
from semires_trainer.exposition import LastCheckpoint, Uploads
from semires_trainer.ledger import Entry
from semires_trainer.ownership import Superseded
from semires_trainer.publisher import Publisher, Upload
from semires_trainer.storage.failures import ExpiredToken, InvalidCredentials, StorageUnavailable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
POLL_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 60.0
WARN_SECONDS = 300.0
"""A failure that lasts is said again after this time."""


@dataclass
class Publishing:
    """Runs `publisher.publish_newest` in a thread until `finish`."""

    publisher: Publisher
    share: Callable[[], None] = lambda: None
    """Called after each look: sends what is no checkpoint and should not wait for one. Its failures are its own."""
    on_published: Callable[[float], None] = lambda _saved_at: None
    """Called after each checkpoint that was published, with the time when it was saved."""
    uploads: Uploads = field(default_factory=Uploads)
    """What publishing has cost since this attempt began, and the newest checkpoint in the output."""
    failure: str = ""
    """Why publishing does not work at the moment; empty if it does."""
    superseded: Superseded | None = None
    """Set once another attempt owns the output: nothing more is published."""

    def __post_init__(self) -> None:
        if self.publisher.entries:
            self.uploads = Uploads(last=last_checkpoint(self.publisher.entries[-1]))
        self._stop = threading.Event()
        self._warned_at = -WARN_SECONDS
        self._share_failure = ""
        self._thread = threading.Thread(target=self._run, name="publishing", daemon=True)

    @property
    def is_started(self) -> bool:
        """Whether it looks for checkpoints."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin to look for checkpoints."""
        self._thread.start()

    def _run(self) -> None:
        pause = LOOK_SECONDS
        while not self._stop.wait(pause) and self.superseded is None:
            try:
                self.publish_newest()
                pause = LOOK_SECONDS
                self._try_to_share()
            except Superseded as error:
                self.superseded = error
            except SemiresError as error:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                self._note(error)
            except Exception as error:
                # A bug ends the run if `finish` meets it again; until then the ranks go on, and the page says so.
                pause, text = LONGEST_PAUSE_SECONDS, f"Unexpected: {type(error).__name__}: {error}"
                if text != self.failure:
                    logger.exception("Checkpoints can't be published: this is a bug in semires. Please report it.")
                self.failure = text

    def publish_newest(self) -> bool:
        """Publish one checkpoint that the output lacks, and count what it took; False if there is none."""
        started = time.monotonic()
        try:
            upload = self.publisher.publish_newest(self._announce)
        except SemiresError:
            self.uploads = self.uploads.plus("failure", seconds=time.monotonic() - started, num_bytes=0)
            raise
        if self.failure:
            logger.info("Publishing works again.")
            self.failure = ""
        return upload is not None

    def _announce(self, upload: Upload) -> None:
        last = last_checkpoint(self.publisher.entries[-1])  # the published one may be older
        self.uploads = self.uploads.plus("success", seconds=upload.seconds, num_bytes=upload.moved, last=last)
        self.on_published(upload.saved_at)
        logger.info(
            "Checkpoint of %s step %d is verified in %s (%.1f MB sent in %.1f s).",
            *(upload.entry.stage, upload.entry.step, upload.entry.uri, upload.moved / 1e6, upload.seconds),
        )

    def _try_to_share(self) -> None:
        """A store that can't be written to costs others the masks, and this run nothing."""
        try:
            self.share()
        except SemiresError as error:
            if str(error) != self._share_failure:
                logger.warning("What this run could share is not sent; it is tried again. %s", error)
            self._share_failure = str(error)

    def _note(self, error: SemiresError) -> None:
        self.failure = f"{error.reason}: {error}"
        if time.monotonic() - self._warned_at >= WARN_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning("Checkpoints can't be published; training goes on and they will be later. %s", error)

    def finish(self, last: Callable[[], None], *, patience_seconds: float, is_aborted: Callable[[], bool]) -> None:
        """Publish what is left, then `last`; tries for `patience_seconds` while the storage is down
        or refuses credentials, which it took when the run began.

        Raises the last SemiresError if it does not come back, Superseded, any that waiting does not mend, and
        InfrastructureError once `is_aborted`: what is being sent then ends with this process.
        """
        self._stop.set()
        deadline = time.monotonic() + patience_seconds
        wait_for(lambda: not self._thread.is_alive() or is_aborted())
        pause = LOOK_SECONDS
        while not is_aborted():
            if self.superseded is not None:
                raise self.superseded
            try:
                if self.publish_newest():
                    continue  # others may have been overtaken while the storage was down
                self._try_to_share()
                last()
                return
            except (StorageUnavailable, ExpiredToken, InvalidCredentials) as error:
                self._note(error)
                if time.monotonic() >= deadline:
                    raise
            wait_for(is_aborted, seconds=pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise InfrastructureError("publishing was ended, as asked twice", remedy="Start again: it goes on from there")


def wait_for(condition: Callable[[], bool], *, seconds: float = math.inf) -> None:
    """Return when a condition holds, or after some seconds; signals are handled meanwhile."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(max(0.0, min(POLL_SECONDS, until - time.monotonic())))


def last_checkpoint(entry: Entry) -> LastCheckpoint:
    """An entry of the ledger as progress reports show it."""
    seconds = datetime.fromisoformat(entry.time).timestamp()
    return LastCheckpoint(uri=entry.uri, step=entry.number, sha256=entry.sha256, time=seconds)
