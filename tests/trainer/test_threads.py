"""Waiting threads give up their core soon, unless the user said how they shall wait."""

from __future__ import annotations

import os

import pytest

from semires_trainer.threads import SPINS, share_cores


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
