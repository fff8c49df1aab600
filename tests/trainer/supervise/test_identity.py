"""Whose output it is, in a bucket that others may claim at the same moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from semires_trainer.config import Resolved, SemiRESJob, resolve, training_hash
from semires_trainer.errors import ConfigError
from semires_trainer.identity import RunIdentity, check_output, claim_output, confirm_output
from semires_trainer.storage import Storage

MakeJob = Callable[..., SemiRESJob]
MakeStorage = Callable[..., Storage]


@pytest.fixture
def trains(job: MakeJob, output: str) -> Callable[[int], Resolved]:
    """A resolved job with a seed of its own."""
    return lambda seed: resolve(job(output=output, seed=seed))


Trains = Callable[[int], Resolved]


def record_of(storage: Storage, output: str) -> dict[str, str]:
    record: dict[str, str] = json.loads(storage.read_bytes(f"{output}/run.json").data)
    return record


def test_a_record_is_written_once_and_found_again(storage: Storage, output: str, trains: Trains) -> None:
    first = claim_output(storage, output, trains(1), job_uid="job-1")
    written = storage.read_bytes(f"{output}/run.json").data

    again = claim_output(storage, output, trains(1), job_uid="job-2")

    assert again == first
    assert storage.read_bytes(f"{output}/run.json").data == written
    assert record_of(storage, output)["jobUid"] == "job-1"
    assert record_of(storage, output)["identity"] == training_hash(trains(1))


@pytest.mark.parametrize("left", ["checkpoints/step-00000004/manifest.json", "burn-in/model.json", "model/vocab.txt"])
def test_another_training_section_is_refused_naming_both(
    storage: Storage, output: str, trains: Trains, left: str
) -> None:
    claim_output(storage, output, trains(1))
    storage.put_if_absent(f"{output}/{left}", b"{}")
    first, second = (training_hash(trains(seed))[:12] for seed in (1, 2))

    with pytest.raises(ConfigError, match=f"holds the run {first}, but this manifest trains {second}") as refused:
        claim_output(storage, output, trains(2))

    assert (refused.value.exit_code, refused.value.field) == (2, "spec.output")
    assert record_of(storage, output)["identity"] == training_hash(trains(1))


@pytest.mark.parametrize("left", ["", "proposals/shard-0.bin", "owner.json", "outcome-a1.json", "checkpoints-old/x"])
def test_a_record_of_a_start_that_trained_nothing_is_replaced(
    storage: Storage, output: str, trains: Trains, left: str
) -> None:
    first = claim_output(storage, output, trains(1))
    if left:
        storage.put_if_absent(f"{output}/{left}", b"{}")

    second = claim_output(storage, output, trains(2))

    assert record_of(storage, output)["identity"] == second.identity == training_hash(trains(2))
    assert second.run_id != first.run_id


def test_an_output_that_was_emptied_begins_another_life(storage: Storage, output: str, trains: Trains) -> None:
    first = claim_output(storage, output, trains(1))
    storage.delete(f"{output}/run.json")

    assert claim_output(storage, output, trains(1)).run_id != first.run_id


def test_looking_at_an_output_writes_nothing(storage: Storage, output: str, trains: Trains) -> None:
    assert check_output(storage, output, training_hash(trains(1))) is None
    assert list(storage.list(output)) == []


def race(rivals: list[Storage], output: str, resolved: list[Resolved]) -> list[RunIdentity | ConfigError]:
    together = threading.Barrier(len(resolved))

    def claim(storage: Storage, each: Resolved) -> RunIdentity | ConfigError:
        together.wait()
        try:
            return claim_output(storage, output, each)
        except ConfigError as error:
            return error

    with ThreadPoolExecutor(len(resolved)) as pool:
        return list(pool.map(claim, rivals, resolved))


def test_the_same_run_started_eight_times_at_once_has_one_record(
    rivals: list[Storage], output: str, trains: Trains
) -> None:
    claims = race(rivals, output, [trains(1)] * 8)

    assert set(claims) == {claims[0]}
    assert isinstance(claims[0], RunIdentity)


def test_of_two_runs_that_start_at_once_on_a_used_output_one_wins(
    rivals: list[Storage], storage: Storage, output: str, trains: Trains
) -> None:
    """Something trained lies there without a record, so none of them may replace the other's."""
    storage.put_if_absent(f"{output}/model/model.json", b"{}")

    claims = race(rivals, output, [trains(1), trains(2)])

    [winner] = [claim for claim in claims if isinstance(claim, RunIdentity)]
    [loser] = [claim for claim in claims if isinstance(claim, ConfigError)]
    assert record_of(storage, output)["identity"] == winner.identity
    assert f"holds the run {winner.identity[:12]}" in str(loser)


def test_a_run_that_lost_the_race_for_an_empty_output_finds_out(
    make_storage: MakeStorage, storage: Storage, make_proxy: Callable[..., Any], output: str, trains: Trains
) -> None:
    """Both saw an empty output; the other's record arrives just before ours is written."""

    def overtake(request: Any) -> None:
        if request.method == "PUT":
            claim_output(storage, output, trains(1))

    slow = make_storage(endpoint_url=make_proxy(overtake).url)
    with pytest.raises(ConfigError, match=f"holds the run {training_hash(trains(1))[:12]}"):
        claim_output(slow, output, trains(2))

    assert record_of(storage, output)["identity"] == training_hash(trains(1))


def test_an_output_that_is_still_this_run_s_is_confirmed(storage: Storage, output: str, trains: Trains) -> None:
    claim_output(storage, output, trains(1))

    confirm_output(storage, output, training_hash(trains(1)))


@pytest.mark.parametrize("other", [2, None], ids=["another-run", "emptied"])
def test_an_output_that_was_taken_since_it_was_claimed_is_not_confirmed(
    storage: Storage, output: str, trains: Trains, other: int | None
) -> None:
    claim_output(storage, output, trains(1))
    if other is None:
        storage.delete(f"{output}/run.json")
    else:
        claim_output(storage, output, trains(other))
    found = training_hash(trains(other))[:12] if other else "none"

    with pytest.raises(ConfigError, match=f"holds the run {found}, but this manifest trains") as refused:
        confirm_output(storage, output, training_hash(trains(1)))

    assert (refused.value.exit_code, refused.value.field) == (2, "spec.output")
