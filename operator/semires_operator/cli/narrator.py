"""What is said while a job is waited for: a line at each turn, and on a terminal a live line with its progress."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status as LiveLine
from rich.text import Text

from semires_operator.cli.words import bar, phase_text, plain
from semires_operator.client.model import Job
from semires_trainer.eta import format_seconds


class Narrator:
    """Tells each turn of a job once, on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._told = ""
        self._live = LiveLine("", console=self._console) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, job: Job) -> None:
        """Say what is new."""
        status = job.status
        turn = f"{status.phase} {status.reason} {status.attempt}"
        if turn != self._told:
            self._told = turn
            attempt = f" (attempt {status.attempt})" if status.attempt > 1 else ""
            line = Text.assemble(phase_text(status.phase), attempt)
            if status.message:
                line.append(": ").append_text(plain(" ".join(status.message.split())))
            self._console.print(line, soft_wrap=not self._console.is_terminal)
        if self._live is not None:
            self._live.update(live_line(job))


def live_line(job: Job) -> Text:
    """Phase, bar and time left on one line."""
    line, progress = phase_text(job.status.phase), job.status.progress
    if progress is not None and job.status.phase == "Running":
        line.append(f" {progress.stage} ").append_text(bar(progress.progress_percentage, width=20))
        line.append(f" {progress.progress_percentage} %")
        if progress.estimated_remaining_seconds is not None:
            line.append(f", {format_seconds(progress.estimated_remaining_seconds)} left")
    return line
