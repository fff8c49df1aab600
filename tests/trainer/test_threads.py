"""Waiting threads give up their core soon, unless the user said how they shall wait."""

from __future__ import annotations

import os

import pytest

from semires_trainer.threads import SPINS, available_cores, share_cores


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        pytest.param({}, SPINS, id="nothing-said"),
        pytest.param({"GOMP_SPINCOUNT": "7"}, "7", id="count-said"),
        pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, None, id="policy-said"),
    ],
)
def test_spinning_is_short_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "restored afterwards")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    share_cores()

    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize(
    ("told", "cores"), [pytest.param("3", 3, id="of-a-pod"), pytest.param("0", 1, id="never-none")]
)
def test_a_pod_is_told_how_many_cores_are_its_own(monkeypatch: pytest.MonkeyPatch, told: str, cores: int) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", told)

    assert available_cores() == cores


def test_without_being_told_a_process_counts_the_cores_that_it_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)

    assert available_cores() == len(os.sched_getaffinity(0))
