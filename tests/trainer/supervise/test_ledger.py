"""The list of checkpoints in an output, and which of them stay."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semires_trainer.errors import InfrastructureError
from semires_trainer.ledger import Entry, entries_of, read_ledger, retained, write_ledger
from semires_trainer.storage import Storage


def entry(number: int, **changes: Any) -> Entry:
    made = Entry(
        number=number,
        step=number,
        epoch=0,
        stage="train",
        metric=None,
        uri=f"s3://b/o/checkpoints/step-{number:08d}",
        sha256=f"{number:064x}",
        bytes=10,
        time="2026-01-02T03:04:05+00:00",
    )
    return replace(made, **changes)


entries = st.lists(
    st.builds(
        entry,
        st.integers(0, 500),
        stage=st.sampled_from(["burn-in", "train"]),
        metric=st.none() | st.floats(0, 100),
        milestone=st.booleans(),
    ),
    unique_by=lambda each: each.number,
)


@given(listed=entries, keep_last=st.integers(1, 5))
def test_what_stays_is_the_newest_the_best_of_each_stage_and_milestones(listed: list[Entry], keep_last: int) -> None:
    ordered = sorted(listed, key=lambda each: each.number)

    kept = retained(listed, keep_last=keep_last)

    wanted = [*ordered[-keep_last:], *(each for each in ordered if each.milestone)]
    scored = [(each.stage, each.metric) for each in listed if each.metric is not None]
    best = {(stage, max(metric for of, metric in scored if of == stage)) for stage, _ in scored}
    others = [(each.stage, each.metric) for each in kept if each not in wanted]
    assert [each for each in ordered if each in kept] == list(kept)
    assert all(each in kept for each in wanted)
    assert best <= {(each.stage, each.metric) for each in kept}
    assert set(others) <= best
    assert len(set(others)) == len(others)


@given(listed=entries.filter(bool), keep_last=st.integers(-1, 3))
def test_the_newest_always_stays(listed: list[Entry], keep_last: int) -> None:
    assert max(listed, key=lambda each: each.number) in retained(listed, keep_last=keep_last)


@given(listed=entries, keep_last=st.integers(1, 5))
def test_what_stays_stays_when_it_is_looked_at_again(listed: list[Entry], keep_last: int) -> None:
    kept = retained(listed, keep_last=keep_last)

    assert retained(kept, keep_last=keep_last) == kept


def test_of_equally_good_checkpoints_the_first_is_the_best() -> None:
    kept = retained([entry(1, metric=0.0), entry(2, metric=0.0), entry(3)], keep_last=1)

    assert [each.number for each in kept] == [1, 3]


def test_a_ledger_is_read_as_it_was_written(storage: Storage, output: str) -> None:
    listed = [
        entry(20, metric=41.5, milestone=True, models={"model": f"{output}/versions/model-0a"}),
        entry(3, stage="burn-in"),
    ]

    written = write_ledger(storage, output, listed, etag="")

    assert read_ledger(storage, f"{output}/") == ((listed[1], listed[0]), written)


def test_an_output_without_a_ledger_has_no_checkpoints(storage: Storage, output: str) -> None:
    assert read_ledger(storage, output) == ((), "")


@pytest.mark.parametrize("where", ["s3", "folder"])
def test_a_ledger_that_somebody_else_changed_is_not_overwritten(
    storage: Storage, output: str, tmp_path: Path, where: str
) -> None:
    place = output if where == "s3" else str(tmp_path / "out")
    first = write_ledger(storage, place, [entry(1)], etag="")
    assert first is not None
    second = write_ledger(storage, place, [entry(1), entry(2)], etag=first)
    assert second is not None

    assert write_ledger(storage, place, [entry(9)], etag=first) is None
    assert write_ledger(storage, place, [entry(9)], etag="") is None
    assert read_ledger(storage, place) == ((entry(1), entry(2)), second)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param("{", "", id="cut-short"),
        pytest.param("[]", "", id="a-list"),
        pytest.param("null", "", id="null"),
        pytest.param('{"schemaVersion": 2, "checkpoints": []}', "schemaVersion 2 is not 1", id="newer"),
        pytest.param('{"schemaVersion": 1}', "checkpoints", id="without-checkpoints"),
        pytest.param('{"schemaVersion": 1, "checkpoints": [{}]}', "required", id="empty-entry"),
        pytest.param('{"schemaVersion": 1, "checkpoints": [7]}', "", id="no-entry"),
    ],
)
def test_what_is_no_ledger_is_named_with_a_remedy(storage: Storage, output: str, content: str, problem: str) -> None:
    storage.put_if_absent(f"{output}/checkpoints.json", content.encode())

    with pytest.raises(InfrastructureError, match=rf"checkpoints\.json is no ledger of checkpoints \(.*{problem}"):
        read_ledger(storage, output)


@pytest.mark.parametrize(
    "change",
    [
        {"number": "7"},
        {"number": -1},
        {"number": 1.5},
        {"number": True},
        {"uri": None},
        {"sha256": "none"},
        {"time": "yesterday"},
        {"metric": "good"},
        {"metric": float("nan")},
        {"models": ["model"]},
        {"models": {"model": 1}},
    ],
    ids=str,
)
def test_an_entry_that_would_mislead_a_run_is_refused(change: dict[str, Any]) -> None:
    written = {**asdict(entry(1)), **change}

    with pytest.raises((ValueError, TypeError)):
        entries_of({"schemaVersion": 1, "checkpoints": [written]})
