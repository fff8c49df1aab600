"""How a run ended, in 4 KiB."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semires_trainer.errors import ConfigError, GpuMemoryError
from semires_trainer.orders import Attempt
from semires_trainer.outcome import LONGEST_BYTES, End, encoded, end_of, outcome_json, read_end, worst, write_end

ATTEMPT = Attempt(job="small", job_uid="3c4e", number=2, pod_uid="77ab")
texts = st.text(max_size=3000) | st.sampled_from(["ü" * 1500, "\U0001f600" * 1500, '"\\' * 1500, "\x00" * 1500])
scores = st.fixed_dictionaries(
    {"model": st.sampled_from(["burn-in", "teacher"]), "split": st.text(max_size=40), "oIoU": st.floats(0, 100)}
)
references = st.none() | st.fixed_dictionaries(
    {"uri": st.text(max_size=1024), "step": st.integers(0), "oIoU": st.none()}
)
ends = st.none() | st.builds(
    End,
    exit_code=st.sampled_from([1, 2, 3, 6, 130, 143, 150]),
    reason=st.sampled_from(["ConfigInvalid", "RankLost"]),
    message=texts,
    field=st.text(max_size=300),
    micro_batch=st.none() | st.integers(1, 64),
    saved_step=st.none() | st.integers(0, 10**9),
)


@given(end=ends, results=st.lists(scores, max_size=60), best=references, last=references)
def test_an_outcome_always_fits_into_a_termination_message(
    end: End | None, results: list[dict[str, Any]], best: dict[str, Any] | None, last: dict[str, Any] | None
) -> None:
    outcome = outcome_json(ATTEMPT, end, results=results, best_checkpoint=best, last_checkpoint=last)
    told = json.loads(encoded(outcome))

    assert len(encoded(outcome)) <= LONGEST_BYTES
    assert (told["jobUid"], told["attempt"], told["podUid"]) == ("3c4e", 2, "77ab")
    assert told["exitCode"] == (end.exit_code if end else 0)


def test_what_is_short_is_told_in_full() -> None:
    end = End(exit_code=6, reason="GpuMemory", message="Too little memory für S.", field="spec.x", micro_batch=3)
    results = [{"model": "teacher", "split": "val", "oIoU": 61.5}]

    outcome = outcome_json(ATTEMPT, end, results=results, last_checkpoint={"uri": "s3://b/c", "step": 7})

    assert outcome["error"] == {
        "reason": "GpuMemory",
        "message": "Too little memory für S.",
        "field": "spec.x",
        "microBatch": 3,
    }
    assert outcome["results"] == results
    assert outcome["lastCheckpoint"] == {"uri": "s3://b/c", "step": 7}
    assert "stopped" not in outcome


def test_a_long_message_keeps_its_beginning() -> None:
    end = End(exit_code=2, reason="ConfigInvalid", message="Remedy first. " + "\U0001f600" * 5000)

    told = json.loads(encoded(outcome_json(ATTEMPT, end)))["error"]["message"]

    assert told.startswith("Remedy first. \U0001f600\U0001f600")


def test_results_give_way_before_the_reason_does() -> None:
    end = End(exit_code=3, reason="DataInvalid", message="x" * 1400)
    results = [{"model": "teacher", "split": f"split-{number}", "oIoU": 50.0} for number in range(100)]

    outcome = outcome_json(ATTEMPT, end, results=results)

    assert outcome["error"]["message"] == "x" * 1400
    assert outcome["results"] == results[: len(outcome["results"])]
    assert outcome["results"]


@pytest.mark.parametrize("code", [130, 143])
def test_a_stop_is_no_error_and_names_the_step_that_was_saved(code: int) -> None:
    outcome = outcome_json(ATTEMPT, End(exit_code=code, reason="Stopped", message="Saved.", saved_step=12))

    assert outcome["stopped"] == {"message": "Saved.", "savedStep": 12}
    assert "error" not in outcome


RANKED = [
    End(exit_code=2, reason="ConfigInvalid", message=""),
    End(exit_code=143, reason="Stopped", message=""),
    End(exit_code=1, reason="Unexpected", message=""),
    End(exit_code=150, reason="DiskFull", message=""),
    End(exit_code=150, reason="PeerLost", message=""),
]


@pytest.mark.parametrize(("more", "less"), list(itertools.combinations(RANKED, 2)), ids=lambda end: end.reason)
def test_the_end_that_tells_more_is_the_one_that_counts(more: End, less: End) -> None:
    assert worst([more, less]) is worst([less, more]) is more


def test_of_no_end_there_is_no_worst() -> None:
    assert worst([]) is None


def test_an_end_survives_the_file_between_rank_and_supervisor(tmp_path: Path) -> None:
    error = GpuMemoryError("too little", field="spec.training.microBatch", remedy="Halve it")
    error.micro_batch = 4

    write_end(tmp_path / "end-0.json", end_of(error))

    assert read_end(tmp_path / "end-0.json") == End(
        exit_code=6,
        reason="GpuMemory",
        message="spec.training.microBatch: too little. Halve it",
        field="spec.training.microBatch",
        micro_batch=4,
    )
    assert read_end(tmp_path / "end-1.json") is None


def test_an_error_keeps_its_code_and_reason() -> None:
    end = end_of(ConfigError("wrong", field="spec.output"))

    assert (end.exit_code, end.reason, end.field) == (2, "ConfigInvalid", "spec.output")
