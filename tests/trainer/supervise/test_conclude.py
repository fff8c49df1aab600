"""The end of a run, after its ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from semires_trainer import launch
from semires_trainer.config import SemiRESJob
from semires_trainer.stopping import Stop
from semires_trainer.supervisor import Supervisor


def test_the_page_tells_that_results_are_published(job: Callable[..., SemiRESJob], tmp_path: Path) -> None:
    """They may take longer than ranks may be silent."""
    given = launch.supervision_of(
        job(output=str(tmp_path)), {}, processes="1", stages=("train",), endpoints={}, port=None
    )
    supervisor = Supervisor(given, Stop())
    told: list[bool] = []

    def finish(_last: Callable[[], None], **_: Any) -> None:
        told.append(supervisor.watch.is_publishing)

    publishing: Any = SimpleNamespace(finish=finish, publisher=SimpleNamespace(entries=()))
    supervisor.watch.publishing = publishing

    assert supervisor.conclude(None)["exitCode"] == 0
    assert told == [True]
