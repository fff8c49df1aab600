"""The checkpoints of a stage as its loop sees them: saved, saved now, restored; on every rank the same answer.

Only rank 0 writes. A save between steps is its own business and no rank waits for it; at a stop, at the end of a stage
and before a restore all ranks meet, after the write has ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.checkpoint import TrainingState, load_checkpoint
from semires_trainer.checkpoint_folders import newest_valid, number_of, read_progress
from semires_trainer.checkpoint_writer import CheckpointWriter, Written
from semires_trainer.distributed import World
from semires_trainer.errors import InfrastructureError
from semires_trainer.replication import mirror
from semires_trainer.telemetry import Reporter

END_PAUSES_SECONDS = (1.0, 10.0)
"""Before each further attempt to write the end of a stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a stopped run leaves."""

    sentence: str
    """What was saved, what was lost, how to go on."""
    step: int | None
    """Optimizer steps of the whole run in the newest valid checkpoint; None if there is none."""


class CheckpointKeeper:
    """Saves and restores the state of one stage."""

    def __init__(
        self, root: Path, writer: CheckpointWriter, *, world: World, reporter: Reporter, first_step: int
    ) -> None:
        """`first_step`: steps of the run before the stage."""
        self._root = root
        self._writer = writer
        self._world = world
        self._reporter = reporter
        self._first_step = first_step

    def save(self, state: TrainingState) -> None:
        """Begin to write a checkpoint; for rank 0. A failure is told later and training goes on."""
        with self._reporter.waiting("checkpoint_stall_seconds"):
            self._writer.save(state, self._number_of(state))

    def settle(self) -> None:
        """Tell what became of the last one, if it has ended."""
        self._writer.settle()

    def save_now(self, state: TrainingState) -> Saved:
        """Write a checkpoint and wait for it; for all ranks. Says what is left if it can't be written."""
        saved: Saved = self._world.broadcast(self._save_and_wait(state) if self._world.is_main else None)
        return saved

    def save_end(self, state: TrainingState, *, pauses: Sequence[float] = END_PAUSES_SECONDS) -> None:
        """Write the end of the stage, for all ranks; InfrastructureError after several attempts: what follows would
        build on what a restart doesn't find.
        """
        failure: InfrastructureError | None = None
        if self._world.is_main:
            for pause in (0.0, *pauses):
                time.sleep(pause)
                self._save_and_wait(state)
                failure = self._writer.error
                if failure is None:
                    break
        failure = self._world.broadcast(failure)
        if failure is not None:
            raise failure

    def restore(self, state: TrainingState) -> bool:
        """Load the newest valid checkpoint if it is one of this stage; for all ranks."""
        self._writer.flush()
        newest = newest_checkpoint(self._root, self._world)
        if newest is None or read_progress(newest, identity=state.identity).stage != state.progress.stage:
            return False
        load_checkpoint(newest, state)
        self._reporter.message(f"Going on from {newest}.", checkpoint=str(newest))
        return True

    def _number_of(self, state: TrainingState) -> int:
        return self._first_step + state.progress.step

    def _save_and_wait(self, state: TrainingState) -> Saved:
        with self._reporter.waiting("checkpoint_stall_seconds"):
            self._writer.save(state, self._number_of(state))
            self._writer.flush()
        stage, step = state.progress.stage, state.progress.step
        if self._writer.error is None:
            sentence = f"Checkpoint of {stage} step {step} is in {self._root}; start again to go on."
            return Saved(sentence=sentence, step=self._number_of(state))
        newest = newest_valid(self._root)
        left = f"the last valid checkpoint is {newest}" if newest else "there is no earlier one"
        sentence = (
            f"{stage} step {step} could not be saved, {left}: what came after it is lost and done again at the next "
            f"start. {self._writer.error}."
        )
        return Saved(sentence=sentence, step=number_of(newest) if newest else None)


def newest_checkpoint(root: Path, world: World) -> Path | None:
    """The newest valid checkpoint of rank 0, brought to all nodes; None if there is none."""
    newest = newest_valid(root) if world.is_main else None
    name: str = world.broadcast(newest.name if newest else "")
    if not name:
        return None
    mirror(world, root / name)
    return root / name


def tell_written(written: Written, reporter: Reporter, *, failures: int) -> None:
    """Report one write: a message or a warning, and its figures."""
    progress, folder = written.progress, written.folder
    what = f"Checkpoint of {progress.stage} step {progress.step}"
    if written.error is not None:
        text = f"{what} could not be written; earlier ones stay and the next is tried at its time. {written.error}."
        reporter.warning(text, reason=written.error.reason, checkpoint_failures=failures)
    else:
        reporter.message(f"{what}: {folder}.", checkpoint=str(folder))
    if written.prune_error is not None:
        reporter.warning(f"Old checkpoints in {folder.parent} could not be deleted. {written.prune_error}.")
    figures = {
        "checkpoint/stall_seconds": written.stall_seconds,
        "checkpoint/write_seconds": written.write_seconds,
        "checkpoint/bytes": written.bytes,
        "checkpoint/failures": failures,
    }
    reporter.log_metrics(written.number, figures)


@contextmanager
def open_keeper(
    root: Path, *, world: World, reporter: Reporter, first_step: int, keep_last: int, milestones: Set[int]
) -> Iterator[CheckpointKeeper]:
    """The keeper of a stage; on leaving, also by an error, the write under way is finished."""
    writer = CheckpointWriter(
        root,
        keep_last=keep_last,
        milestones=milestones,
        tell=lambda written: tell_written(written, reporter, failures=writer.failures),
    )
    try:
        yield CheckpointKeeper(root, writer, world=world, reporter=reporter, first_step=first_step)
    finally:
        writer.close()
