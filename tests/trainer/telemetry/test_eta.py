"""The estimate of the time left is arithmetic on measured speeds."""

from __future__ import annotations

import pytest

from semires_trainer.eta import EtaEstimator, Phase, format_seconds


def measured(estimator: EtaEstimator, name: str, *, units: int, seconds_each: float) -> None:
    for _ in range(units):
        estimator.add(name, 1, seconds_each)


def test_nothing_measured_gives_no_estimate() -> None:
    assert EtaEstimator([Phase(name="train", units=10)]).remaining_seconds() is None


def test_the_rest_of_a_phase_costs_what_its_units_cost_so_far() -> None:
    estimator = EtaEstimator([Phase(name="train", units=10)])
    measured(estimator, "train", units=4, seconds_each=2.0)

    assert estimator.remaining_seconds() == pytest.approx(12.0)
    assert estimator.fraction_done() == pytest.approx(0.4)


def test_a_slow_first_unit_is_forgotten_once_another_is_known() -> None:
    estimator = EtaEstimator([Phase(name="train", units=12)])
    estimator.add("train", 1, 60.0)
    assert estimator.remaining_seconds() == pytest.approx(660.0)

    estimator.add("train", 1, 1.0)

    assert estimator.remaining_seconds() == pytest.approx(10.0)


def test_a_phase_not_begun_is_scaled_by_how_wrong_the_guesses_were() -> None:
    phases = [
        Phase(name="burn-in", units=4, seconds_per_unit=1.0),
        Phase(name="train", units=5, seconds_per_unit=3.0),
    ]
    estimator = EtaEstimator(phases)
    measured(estimator, "burn-in", units=4, seconds_each=10.0)

    assert estimator.remaining_seconds() == pytest.approx(5 * 3.0 * 10)


def test_recent_speed_counts_more_than_old_speed() -> None:
    estimator = EtaEstimator([Phase(name="train", units=10_000)])
    measured(estimator, "train", units=100, seconds_each=1.0)
    measured(estimator, "train", units=100, seconds_each=10.0)

    seconds_each = (estimator.remaining_seconds() or 0) / 9_800

    assert 9.5 < seconds_each < 10.0


def test_skipped_units_are_done_but_say_nothing_about_speed() -> None:
    estimator = EtaEstimator([Phase(name="propose", units=100)])
    estimator.skip("propose", 90)

    assert estimator.remaining_seconds() is None

    measured(estimator, "propose", units=2, seconds_each=3.0)

    assert estimator.remaining_seconds() == pytest.approx(24.0)


def test_more_work_than_planned_extends_the_plan_and_never_turns_negative() -> None:
    estimator = EtaEstimator([Phase(name="train", units=2)])
    measured(estimator, "train", units=5, seconds_each=1.0)

    assert estimator.remaining_seconds() == 0
    assert estimator.fraction_done() == 1.0


def test_a_phase_that_nobody_planned_counts_from_when_it_is_announced() -> None:
    estimator = EtaEstimator()
    estimator.expect("evaluate", 4)
    measured(estimator, "evaluate", units=1, seconds_each=5.0)

    assert estimator.remaining_seconds() == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(None, "?", id="unknown"),
        pytest.param(7.6, "8s", id="seconds"),
        pytest.param(59.7, "1m00s", id="rounds-up-to-a-minute"),
        pytest.param(250, "4m10s", id="minutes"),
        pytest.param(3600 * 3 + 300, "3h05m", id="hours"),
        pytest.param(86400 * 2 + 3600 * 4, "2d04h", id="days"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text
