"""Of several attempts one owns the output, and the others find out before they publish."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.errors import InfrastructureError, SemiresError
from semires_trainer.orders import Attempt
from semires_trainer.ownership import Ownership, Superseded
from semires_trainer.storage import Storage

MakeStorage = Callable[..., Storage]
MakeAttempt = Callable[..., Attempt]
Place = tuple[str, Callable[[], Storage]]


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An output, and how an attempt opens storage for it."""
    if request.param == "s3":
        return request.getfixturevalue("output"), itertools.cycle(request.getfixturevalue("rivals")).__next__
    return str(tmp_path / "out"), Storage


def owner(output: str, storage: Storage) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(storage.read_bytes(f"{output}/owner.json").data)
    return record


def publishes(ownership: Ownership) -> bool:
    """Whether an attempt may go on."""
    try:
        ownership.confirm()
    except Superseded:
        return False
    return True


def test_the_first_attempt_gets_number_1_and_keeps_the_output(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    ownership = Ownership(open_storage(), output, attempt("a"))

    assert ownership.claim() == attempt("a", 1)
    for _ in range(3):
        ownership.confirm()
    record = owner(output, open_storage())
    assert (record["attempt"], record["podUid"], record["jobUid"]) == (1, "pod-a", "job-1")


def test_an_attempt_without_a_number_takes_over_with_the_next_one(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    first, second = (Ownership(open_storage(), output, attempt(pod)) for pod in "ab")
    first.claim()

    assert second.claim().number == 2
    assert publishes(second)
    assert not publishes(first)


def test_a_job_that_was_made_again_takes_the_output_over_with_its_first_attempt(
    place: Place, attempt: MakeAttempt
) -> None:
    output, open_storage = place
    deleted = Ownership(open_storage(), output, attempt("a", 5))
    again = Ownership(open_storage(), output, replace(attempt("b", 1), job_uid="job-2"))
    deleted.claim()

    assert again.claim().number == 1
    assert publishes(again)
    assert not publishes(deleted)


def test_an_older_attempt_that_comes_back_is_told_who_owns_the_output(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    old, new = (Ownership(open_storage(), output, attempt(pod, number)) for pod, number in (("a", 1), ("b", 2)))
    old.claim()
    old.confirm()
    new.claim()

    with pytest.raises(Superseded) as lost:
        old.confirm()

    assert (lost.value.exit_code, lost.value.reason, lost.value.field) == (150, "Superseded", "spec.output")
    assert "attempt 2 (pod pod-b) owns the output, this is attempt 1 (pod pod-a)" in str(lost.value)
    new.confirm()


def test_an_older_attempt_cannot_claim(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    new = Ownership(open_storage(), output, attempt("b", 2))
    new.claim()

    with pytest.raises(Superseded, match=r"attempt 2 \(pod pod-b\) owns the output, this is attempt 1 \(pod pod-a\)"):
        Ownership(open_storage(), output, attempt("a", 1)).claim()

    new.confirm()


def test_a_restarted_pod_of_the_same_attempt_takes_over(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    before, after = (Ownership(open_storage(), output, attempt(pod, 3)) for pod in "ab")
    before.claim()

    assert after.claim().number == 3
    assert publishes(after)
    assert not publishes(before)


@pytest.mark.parametrize("number", [0, 5], ids=["local", "numbered"])
@pytest.mark.parametrize("count", [2, 8])
def test_of_attempts_that_start_at_once_exactly_one_publishes(
    place: Place, attempt: MakeAttempt, count: int, number: int
) -> None:
    output, open_storage = place
    owners = [Ownership(open_storage(), output, attempt(pod, number)) for pod in range(count)]
    together = threading.Barrier(count)

    def race(ownership: Ownership) -> tuple[int, list[bool]]:
        together.wait()
        claimed = ownership.claim().number
        mine = [publishes(ownership)]
        together.wait()
        return claimed, [*mine, publishes(ownership), publishes(ownership)]

    with ThreadPoolExecutor(count) as pool:
        ends = list(pool.map(race, owners))

    assert sorted(claimed for claimed, _ in ends) == ([number] * count if number else list(range(1, count + 1)))
    assert sorted(seen[1:] for _, seen in ends) == [[False, False]] * (count - 1) + [[True, True]]
    assert all(seen[0] >= seen[1] for _, seen in ends)  # who has lost once has lost for good


def test_of_numbered_attempts_the_newest_wins_a_race(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    owners = [Ownership(open_storage(), output, attempt(number, number)) for number in range(1, 9)]
    together = threading.Barrier(len(owners))

    def race(ownership: Ownership) -> bool:
        together.wait()
        try:
            ownership.claim()
        except Superseded:
            return False
        finally:
            together.wait()
        return publishes(ownership)

    with ThreadPoolExecutor(len(owners)) as pool:
        assert list(pool.map(race, owners)) == [False] * 7 + [True]


@pytest.mark.parametrize("call", ["claim", "confirm"])
def test_a_lost_answer_is_not_taken_for_a_loss(
    make_proxy: Callable[..., Any],
    make_storage: MakeStorage,
    storage: Storage,
    faults: ModuleType,
    output: str,
    attempt: MakeAttempt,
    call: str,
) -> None:
    proxy = make_proxy()
    ownership = Ownership(make_storage(endpoint_url=proxy.url, patience_seconds=10.0), output, attempt("a"))
    if call == "confirm":
        ownership.claim()
    lost: list[Any] = []

    def lose_first_write(request: Any) -> Any:
        if request.method == "PUT" and not lost:
            lost.append(request)
            return faults.RESET_ANSWER
        return None

    proxy.decide = lose_first_write
    getattr(ownership, call)()

    assert len(lost) == 1
    assert publishes(ownership)
    assert owner(output, storage)["attempt"] == 1


def test_a_confirmation_that_failed_midway_is_made_up_for_later(
    make_proxy: Callable[..., Any],
    make_storage: MakeStorage,
    faults: ModuleType,
    output: str,
    attempt: MakeAttempt,
) -> None:
    """The record was written, the answer was lost, and the storage was down for longer than anybody waits."""
    proxy = make_proxy()
    ownership = Ownership(make_storage(endpoint_url=proxy.url), output, attempt("a"))
    ownership.claim()
    proxy.decide = lambda request: faults.RESET_ANSWER if request.method == "PUT" else None
    with pytest.raises(SemiresError):
        ownership.confirm()
    proxy.decide = lambda _: None

    ownership.confirm()

    assert publishes(ownership)


def test_an_owner_record_that_was_deleted_is_written_again(place: Place, attempt: MakeAttempt) -> None:
    output, open_storage = place
    storage = open_storage()
    ownership = Ownership(storage, output, attempt("a"))
    ownership.claim()
    storage.delete(f"{output}/owner.json")

    ownership.confirm()

    assert owner(output, storage)["podUid"] == "pod-a"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"attempt": 1}',
        b'{"attempt": "x", "podUid": "p"}',
        b"\xff\xfe",
        b'{"attempt": 1e999, "podUid": "p"}',
    ],
    ids=["empty", "cut-short", "a-list", "null", "without-pod", "no-number", "not-utf-8", "infinite"],
)
def test_a_damaged_record_is_named_with_a_remedy(place: Place, attempt: MakeAttempt, content: bytes) -> None:
    output, open_storage = place
    storage = open_storage()
    storage.put_if_absent(f"{output}/owner.json", content)

    with pytest.raises(InfrastructureError, match=rf"{output}/owner\.json is no owner's record .*Delete it"):
        Ownership(storage, output, attempt("a")).claim()


def test_a_slash_at_the_end_of_an_output_makes_no_difference(
    storage: Storage, output: str, attempt: MakeAttempt
) -> None:
    first, second = Ownership(storage, f"{output}/", attempt("a")), Ownership(storage, output, attempt("b"))
    first.claim()

    assert second.claim().number == 2
