"""What the supervisor's page tells: from the progress file of rank 0 and from what this process knows itself."""

from __future__ import annotations

import datetime
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from semires_trainer.checkpoint_request import CheckpointRequests, asked_for_at, pass_request, withdraw_request
from semires_trainer.exposition import Attempt, Scene, Uploads, exposition, progress_document
from semires_trainer.orders import ControlFolder
from semires_trainer.progress_file import Reading, read_progress
from semires_trainer.publishing import Publishing
from semires_trainer.ranks import Ranks

logger = logging.getLogger(__name__)

PUBLISH = "publish"


@dataclass(kw_only=True)
class RunWatch:
    """Answers `serving.Watched` from any thread; the supervisor fills it in as the run goes on."""

    control: ControlFolder
    attempt: Attempt
    stage: str = "prepare"
    """What the supervisor does while no rank has reported."""
    is_publishing: bool = False
    """Whether the ranks have ended, and this process sends the results or waits for the storage."""
    ranks: Ranks | None = None
    publishing: Publishing | None = None
    requests: CheckpointRequests = field(default_factory=CheckpointRequests)
    passed: int = 0
    """Requests for a checkpoint that were passed on to the ranks."""

    def progress(self) -> dict[str, Any]:
        """The document of /progress."""
        return progress_document(self._scene(), stage=self.stage)

    def metrics(self) -> bytes:
        """Prometheus' text."""
        return exposition(self._scene())

    def health(self) -> dict[str, Any]:
        """Facts about the ranks and the uploads."""
        reading, ranks = self._reading(), self.ranks
        report = reading.report
        return {
            "stage": report.stage if report else self.stage,
            "secondsSinceProgress": round(time.time() - report.last_updated_time.timestamp(), 1) if report else None,
            "progressFile": reading.reason or "ok",
            "ranks": [
                {"rank": state.rank, "pid": state.pid, "state": state.state, "alive": state.is_alive}
                for state in (ranks.states() if ranks else [])
            ],
            "publishing": (self.publishing.failure or "ok") if self.publishing else "not begun",
        }

    def request_checkpoint(self) -> dict[str, Any]:
        """Pass the request on now, or when the minute is over."""
        answer = self.requests.ask()
        if answer.state == "Passed" and not self._pass():
            answer = self.requests.ask()
        return {"state": answer.state, "seconds": round(answer.seconds, 1)}

    def pass_due_request(self) -> None:
        """Pass a deferred request on when its time has come; to be called every second or so."""
        if self.requests.take_due():
            self._pass()

    def on_published(self, saved_at: float) -> None:
        """A checkpoint was published: it answers the request that waits if it was saved after that.

        `saved_at` is by the disk's clock, so the request's time must be too: that of this machine may differ.
        """
        asked_at = asked_for_at(self.control.checkpoint_request)
        if asked_at is not None and saved_at >= asked_at:
            withdraw_request(self.control.checkpoint_request)
            self.requests.published()

    def _pass(self) -> bool:
        """Tell the ranks. False if the disk refuses: the request then waits again."""
        self.passed += 1
        try:
            pass_request(self.control.checkpoint_request, self.passed)
        except OSError as error:
            self.requests.not_passed()
            logger.warning("A request for a checkpoint can't be passed on; it is tried again. %s", error)
            return False
        return True

    def _scene(self) -> Scene:
        report = self._reading().report
        uploads = self.publishing.uploads if self.publishing else Uploads()
        return Scene(attempt=self.attempt, report=report, uploads=uploads, now=time.time())

    def _reading(self) -> Reading:
        """What rank 0 told; once the ranks have ended, that this process publishes, and is alive."""
        reading = read_progress(self.control.progress)
        if reading.report is None or not self.is_publishing:
            return reading
        now = datetime.datetime.now(datetime.UTC)
        return Reading(reading.report.model_copy(update={"stage": PUBLISH, "last_updated_time": now}), "")
