"""Checkpoints written beside training: a copy on the step path, everything that touches the disk on a thread.

At most one is under way; the next waits for it. The thread reads only the copy, so it cannot change a number. What
became of a write is told on the caller's thread: at the next `settle`, `flush` or `save`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.checkpoint import Contents, HostBuffers, TrainingState, contents_of, save_checkpoint
from semires_trainer.checkpoint_folders import Progress, folder_of, prune_checkpoints, remove_leftovers
from semires_trainer.errors import InfrastructureError
from semires_trainer.storage.failures import explain_os_error

logger = logging.getLogger(__name__)

FREE_SPACE = "Free space or lower spec.training.checkpoint.keepLast; see that the disk can be written to"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What became of one write."""

    progress: Progress
    number: int
    """Optimizer steps of the whole run."""
    folder: Path
    """Where the checkpoint is, or would be."""
    bytes: int
    stall_seconds: float
    """Time that the step path waited: for an earlier write, and for the copy."""
    write_seconds: float
    error: InfrastructureError | None = None
    """Why there is no such checkpoint."""
    prune_error: InfrastructureError | None = None
    """Why old ones could not be deleted."""


class CheckpointWriter:
    """Writes the checkpoints of one stage into `root` and deletes old ones."""

    def __init__(
        self,
        root: Path,
        *,
        keep_last: int,
        milestones: Set[int] = frozenset(),
        tell: Callable[[Written], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`milestones`: numbers kept for good, besides the best of the stage. `tell` is called on the caller's thread,
        once for each write.
        """
        self._root = root
        self._keep_last = keep_last
        self._milestones = milestones
        self._tell = tell
        self._clock = clock
        self._buffers = HostBuffers()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._under_way: Future[Written] | None = None
        self._last: Written | None = None
        self.failures = 0
        """Writes that failed since the start."""

    @property
    def error(self) -> InfrastructureError | None:
        """Why the last write failed; None if it did not."""
        return None if self._last is None else self._last.error

    def save(self, state: TrainingState, number: int) -> None:
        """Copy the state and begin to write it; nothing happens if the last write holds just this progress."""
        started = self._clock()
        self.flush()
        if self._last is not None and self._last.error is None and self._last.progress == state.progress:
            return
        copy = self._buffers.copy(contents_of(state))
        stall = self._clock() - started
        self._under_way = self._thread.submit(self._write, copy, state.progress, number, stall)

    def settle(self) -> None:
        """Tell what became of a write that has ended; does not wait."""
        if self._under_way is not None and self._under_way.done():
            self.flush()

    def flush(self) -> None:
        """Wait for the write under way and tell what became of it. Raises nothing: a failure is in `error`."""
        if self._under_way is None:
            return
        under_way, self._under_way = self._under_way, None
        self._last = under_way.result()
        if self._last.error is not None:
            self.failures += 1
            if not isinstance(self._last.error.__cause__, OSError):
                # Here, not on the thread: where logs go need not be ready for several.
                logger.error("Writing %s failed. Please report it.", self._last.folder, exc_info=self._last.error)
        self._tell(self._last)

    def close(self) -> None:
        """Flush, then end the thread."""
        self.flush()
        self._thread.shutdown()

    def _write(self, contents: Contents, progress: Progress, number: int, stall_seconds: float) -> Written:
        started = self._clock()
        error = _failure_of(lambda: self._replace(contents, number), self._root)
        prune_error = None if error else _failure_of(lambda: self._prune(progress, number), self._root)
        return Written(
            progress=progress,
            number=number,
            folder=folder_of(self._root, number),
            bytes=contents.bytes,
            stall_seconds=stall_seconds,
            write_seconds=self._clock() - started,
            error=error,
            prune_error=prune_error,
        )

    def _replace(self, contents: Contents, number: int) -> None:
        # What a killed process left would take the room that this one needs.
        remove_leftovers(self._root)
        save_checkpoint(self._root, contents, number=number)

    def _prune(self, progress: Progress, number: int) -> None:
        best = set() if progress.best_step is None else {number - progress.step + progress.best_step}
        prune_checkpoints(self._root, keep_last=self._keep_last, keep_numbers=self._milestones | best)


def _failure_of(act: Callable[[], None], root: Path) -> InfrastructureError | None:
    """Why `act` failed. A bug fails too: it must neither vanish on the thread nor end a training that goes well."""
    try:
        act()
    except OSError as error:
        return _caused(disk_failure(error, root), error)
    except Exception as error:
        return _caused(InfrastructureError(f"{type(error).__name__}: {error}", remedy="Please report it"), error)
    return None


def disk_failure(error: OSError, path: Path) -> InfrastructureError:
    """What an error of the disk under `path` means; DiskFull if it is full."""
    found = explain_os_error(error, where=str(path))
    kind = type(found) if isinstance(found, InfrastructureError) else InfrastructureError
    return kind(found.message, remedy=FREE_SPACE)


def _caused(failure: InfrastructureError, cause: Exception) -> InfrastructureError:
    failure.__cause__ = cause
    return failure
