"""When a silence of the ranks is too long."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from semires_trainer import launch
from semires_trainer.config import HealthPolicy, SemiRESJob
from semires_trainer.errors import ConfigError
from semires_trainer.progress_file import ProgressReport, replace_text
from semires_trainer.stopping import Stop
from semires_trainer.supervisor import Supervisor
from semires_trainer.watchdog import Watchdog, watchdog_of


def looks(*seen: tuple[float, int, bool], stalled: float = 10.0, startup: float = 100.0) -> list[float | None]:
    """What it says at each (time, beat, whether a step is done)."""
    dog = Watchdog(stalled_seconds=stalled, startup_seconds=startup)
    return [dog.look(beat=beat, started=started, now=now) for now, beat, started in seen]


@pytest.mark.parametrize(
    ("seen", "last"),
    [
        pytest.param([(0, 1, True), (10, 1, True)], None, id="just-within"),
        pytest.param([(0, 1, True), (11, 1, True)], 11.0, id="silent"),
        pytest.param([(0, 1, True), (9, 2, True), (18, 2, True)], None, id="moved-meanwhile"),
        pytest.param([(0, 1, True), (9, 2, True), (20, 2, True)], 11.0, id="silent-since-it-moved"),
        pytest.param([(0, -1, False), (99, -1, False)], None, id="starting"),
        pytest.param([(0, -1, False), (101, -1, False)], 101.0, id="never-started"),
        pytest.param([(0, 3, False), (50, 3, False), (51, 3, True)], 51.0, id="the-first-step-ends-the-grace"),
        pytest.param([(0, 9, True), (9, 0, False), (50, 0, False)], None, id="another-process-counts-from-0"),
        pytest.param([(0, 1, True), (11, 1, True), (12, 2, True)], None, id="moves-again"),
    ],
)
def test_silence_counts_from_the_last_beat(seen: list[tuple[float, int, bool]], last: float | None) -> None:
    assert looks(*seen)[-1] == last


def test_the_beginning_counts_as_a_beat() -> None:
    dog = watchdog_of(HealthPolicy(stalledSeconds=70, startupSeconds=80), {}, now=1000.0)

    assert dog.look(beat=-1, started=False, now=1080.0) is None
    assert dog.look(beat=-1, started=False, now=1081.0) == 81.0


def test_the_environment_wins_over_the_manifest() -> None:
    policy = HealthPolicy(stalledSeconds=70, startupSeconds=80)
    environment = {"SEMIRES_STALLED_SECONDS": "2.5", "SEMIRES_STARTUP_SECONDS": ""}

    dog = watchdog_of(policy, environment, now=0.0)

    assert (dog.stalled_seconds, dog.startup_seconds) == (2.5, 80)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"SEMIRES_STALLED_SECONDS: '{text}' is no number of seconds"):
        watchdog_of(HealthPolicy(), {"SEMIRES_STALLED_SECONDS": text}, now=0.0)


def test_a_report_that_is_only_touched_is_a_beat(job: Callable[..., SemiRESJob], tmp_path: Path) -> None:
    """Rank 0 goes on, on a full disk."""
    given = launch.supervision_of(
        job(output=str(tmp_path)), {}, processes="1", stages=("train",), endpoints={}, port=None
    )
    supervisor, began = Supervisor(given, Stop()), datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    supervisor.watchdog = Watchdog(stalled_seconds=10, startup_seconds=10)
    given.control.path.mkdir()
    report = ProgressReport(stage="train", last_updated_time=began, beat=3, started=True)
    replace_text(given.control.progress, report.to_json(), at=began.timestamp())
    assert supervisor.silence(0.0) is None

    os.utime(given.control.progress)

    assert supervisor.silence(11.0) is None
    assert supervisor.silence(22.0) == 11.0
