"""Publishing beside the ranks: a storage that is down, forbidden or somebody else's."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from semires_trainer import publishing
from semires_trainer.errors import InfrastructureError, SemiresError
from semires_trainer.ownership import Superseded
from semires_trainer.publisher import Publisher
from semires_trainer.publishing import Publishing
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import AccessDenied, ExpiredToken, InvalidCredentials, StorageUnavailable

MakePublisher = Callable[..., Publisher]
MakePublishing = Callable[..., Publishing]
SECONDS = 20.0


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "LONGEST_PAUSE_SECONDS", 0.05)


@pytest.fixture
def proxy(make_proxy: Callable[..., Any]) -> Any:
    return make_proxy()


@pytest.fixture
def make_publishing(
    make_publisher: MakePublisher, make_storage: Callable[..., Storage], proxy: Any
) -> Iterator[MakePublishing]:
    """Publishing through the proxy, ended at the end."""
    begun = []

    def make(on_published: Callable[[float], None] = lambda _: None, **more: Any) -> Publishing:
        publisher = make_publisher(**{"through": make_storage(endpoint_url=proxy.url), **more})
        begun.append(Publishing(publisher, on_published=on_published))
        return begun[-1]

    yield make
    proxy.decide = lambda _: None
    for each in begun:
        each._stop.set()
        if each.is_started:
            each._thread.join()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def finish(of: Publishing, *, patience: float = 0.0, aborted: bool = False) -> list[str]:
    """What was published at the very end."""
    done: list[str] = []
    of.finish(lambda: done.append("the rest"), patience_seconds=patience, is_aborted=lambda: aborted)
    return done


def successes(of: Publishing) -> int:
    return of.uploads.tallies["success"].count


def test_each_new_checkpoint_is_published_and_counted(
    make_publishing: MakePublishing, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    saved: list[float] = []
    running = make_publishing(saved.append)
    running.start()
    for count, number in enumerate((3, 6, 9), start=1):
        outputs.write_checkpoint(work, number)
        until(lambda count=count: successes(running) == count)

    assert finish(running) == ["the rest"]
    assert len(saved) == 3
    assert saved == sorted(saved)
    assert outputs.numbers(bucket_folder) == [6, 9]
    last = running.uploads.last
    assert last is not None
    assert (last.step, last.uri) == (9, outputs.ledger(bucket_folder)[-1]["uri"])
    tally = running.uploads.tallies["success"]
    assert tally.num_bytes > 3 * 2000
    assert tally.seconds > 0
    assert running.uploads.tallies["failure"].count == 0
    assert not running._thread.is_alive()


def test_what_earlier_attempts_published_is_the_last_checkpoint_at_first(
    make_publishing: MakePublishing, make_publisher: MakePublisher, outputs: ModuleType, work: Path
) -> None:
    outputs.write_checkpoint(work, 3)
    make_publisher().publish_newest()

    running = make_publishing()

    assert running.uploads.last is not None
    assert running.uploads.last.step == 3
    assert successes(running) == 0


def test_a_storage_that_is_down_delays_nobody_and_is_caught_up_with(
    make_publishing: MakePublishing,
    faults: ModuleType,
    proxy: Any,
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    running = make_publishing()
    outputs.write_checkpoint(work, 3)
    running.start()
    until(lambda: successes(running) == 1)

    proxy.decide = lambda _: faults.RESET_REQUEST
    for number, oiou in ((6, 50.0), (9, None), (12, None)):
        outputs.write_checkpoint(work, number, oiou=oiou)
        failures = running.uploads.tallies["failure"].count
        until(lambda failures=failures: running.uploads.tallies["failure"].count > failures)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "can't be published; training goes on" in told[0].getMessage()
    assert "StorageUnavailable" in running.failure
    assert running.superseded is None
    assert outputs.numbers(bucket_folder) == [3]

    proxy.decide = lambda _: None
    until(lambda: successes(running) == 2)

    assert finish(running) == ["the rest"]
    assert running.failure == ""
    assert "Publishing works again." in caplog.messages
    assert outputs.numbers(bucket_folder) == [6, 9, 12]
    assert outputs.faults_of(bucket_folder, output) == []
    assert running.uploads.last is not None
    assert running.uploads.last.step == 12


def test_at_the_end_what_was_overtaken_is_published_before_the_rest(
    make_publishing: MakePublishing, outputs: ModuleType, work: Path, bucket_folder: Path
) -> None:
    running = make_publishing(keep_last=1)
    for number, oiou in ((3, 50.0), (6, 40.0), (9, None)):
        outputs.write_checkpoint(work, number, oiou=oiou)
    found: list[list[int]] = []

    running.finish(lambda: found.append(outputs.numbers(bucket_folder)), patience_seconds=0.0, is_aborted=lambda: False)

    assert found == [[3, 9]]
    assert successes(running) == 2
    assert running.uploads.last is not None
    assert running.uploads.last.step == 9


def test_at_the_end_a_storage_that_is_down_is_waited_for(
    make_publishing: MakePublishing,
    faults: ModuleType,
    proxy: Any,
    outputs: ModuleType,
    work: Path,
    bucket_folder: Path,
) -> None:
    running = make_publishing()
    running.start()
    refused: list[Any] = []

    def refuse_for_a_while(request: Any) -> Any:
        refused.append(request)
        return faults.RESET_REQUEST if len(refused) < 8 else None

    proxy.decide = refuse_for_a_while
    outputs.write_checkpoint(work, 3)

    assert finish(running, patience=SECONDS) == ["the rest"]
    assert len(refused) > 8
    assert outputs.numbers(bucket_folder) == [3]


@pytest.mark.parametrize("refusal", [StorageUnavailable, InvalidCredentials, ExpiredToken])
def test_what_comes_after_the_checkpoint_is_waited_for_too(
    make_publishing: MakePublishing, refusal: type[SemiresError]
) -> None:
    tries = []

    def last() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise refusal("not now")

    make_publishing().finish(last, patience_seconds=SECONDS, is_aborted=lambda: False)

    assert len(tries) == 3


def test_a_storage_that_stays_down_is_given_up_with_its_reason(
    make_publishing: MakePublishing, faults: ModuleType, proxy: Any, outputs: ModuleType, work: Path
) -> None:
    running = make_publishing()
    outputs.write_checkpoint(work, 3)
    proxy.decide = lambda _: faults.Answer(status=503, code="SlowDown")
    done: list[str] = []

    with pytest.raises(StorageUnavailable, match="the server fails on") as given_up:
        running.finish(lambda: done.append("x"), patience_seconds=0.2, is_aborted=lambda: False)

    assert given_up.value.exit_code == 150
    assert done == []
    assert running.uploads.tallies["failure"].count >= 2


@pytest.mark.parametrize("started", [True, False], ids=["while-it-sends", "while-it-waits"])
def test_who_asks_twice_waits_for_nothing(
    make_publishing: MakePublishing, faults: ModuleType, proxy: Any, outputs: ModuleType, work: Path, started: bool
) -> None:
    """The request under way hangs, or the storage is down and would be tried again for half an hour."""
    hangs, asked = threading.Event(), threading.Event()

    def hang(_: Any) -> Any:
        asked.set()
        if started:
            hangs.wait(SECONDS)
        return faults.RESET_REQUEST

    running = make_publishing()
    outputs.write_checkpoint(work, 3)
    proxy.decide = hang
    if started:
        running.start()
        assert asked.wait(SECONDS)
    done: list[str] = []
    try:
        with pytest.raises(InfrastructureError, match="ended, as asked twice"):
            running.finish(lambda: done.append("x"), patience_seconds=1800.0, is_aborted=asked.is_set)
    finally:
        hangs.set()

    assert done == []


def test_an_attempt_that_lost_the_output_stops_publishing_for_good(
    make_publishing: MakePublishing, proxy: Any, outputs: ModuleType, work: Path, bucket_folder: Path
) -> None:
    def confirm() -> None:
        raise Superseded("attempt 2 owns the output")

    running = make_publishing(confirm=confirm)
    running.start()
    outputs.write_checkpoint(work, 3)
    until(lambda: running.superseded is not None)
    running._thread.join(SECONDS)
    proxy.forget()
    outputs.write_checkpoint(work, 6)
    done: list[str] = []

    with pytest.raises(Superseded, match="attempt 2 owns the output"):
        running.finish(lambda: done.append("x"), patience_seconds=SECONDS, is_aborted=lambda: False)

    assert done == []
    assert proxy.exchanges() == []
    assert outputs.numbers(bucket_folder) == []


def test_an_attempt_that_lost_the_output_finds_out_at_the_end(
    make_publishing: MakePublishing, outputs: ModuleType, work: Path
) -> None:
    def confirm() -> None:
        raise Superseded("attempt 2 owns the output")

    running = make_publishing(confirm=confirm)
    outputs.write_checkpoint(work, 3)

    with pytest.raises(Superseded):
        finish(running, patience=SECONDS)


def test_denied_access_is_told_while_training_goes_on_and_ends_the_run_with_5(
    make_publishing: MakePublishing,
    faults: ModuleType,
    proxy: Any,
    outputs: ModuleType,
    work: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxy.decide = lambda request: faults.Answer(status=403, code="AccessDenied") if request.method == "PUT" else None
    running = make_publishing()
    running.start()
    outputs.write_checkpoint(work, 3)
    until(lambda: running.uploads.tallies["failure"].count >= 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "AccessDenied" in running.failure

    with pytest.raises(SemiresError, match=r"access to .* is denied\. Grant the identity") as denied:
        finish(running, patience=SECONDS)

    assert (denied.value.reason, denied.value.exit_code) == ("AccessDenied", 5)


def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_its_results_and_the_one_before(
    make_publishing: MakePublishing,
    outputs: ModuleType,
    work: Path,
    bucket_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = make_publishing()
    outputs.write_checkpoint(work, 3)
    outputs.flip_bit(outputs.write_checkpoint(work, 6) / "student.safetensors")
    running.start()
    until(lambda: successes(running) == 1)

    assert finish(running) == ["the rest"]

    assert outputs.numbers(bucket_folder) == [3]
    assert running.failure == ""
    assert running.uploads.tallies["failure"].count == 0
    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "step-00000006 is damaged and not published" in warning


def test_after_a_damaged_checkpoint_the_next_one_is_published(
    make_publishing: MakePublishing, outputs: ModuleType, work: Path, bucket_folder: Path
) -> None:
    running = make_publishing()
    outputs.flip_bit(outputs.write_checkpoint(work, 3) / "student.safetensors")
    running.start()
    outputs.write_checkpoint(work, 6)
    until(lambda: successes(running) == 1)

    assert finish(running) == ["the rest"]
    assert outputs.numbers(bucket_folder) == [6]


def test_what_cannot_be_shared_stops_no_checkpoint(
    make_publishing: MakePublishing,
    outputs: ModuleType,
    work: Path,
    bucket_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def share() -> None:
        tries.append(successes(running))
        raise AccessDenied(f"access to s3://store/{min(len(tries), 2)} is denied")

    running = make_publishing()
    running.share = share
    outputs.write_checkpoint(work, 3)
    running.start()
    until(lambda: len(tries) >= 4)
    outputs.write_checkpoint(work, 6)

    assert finish(running) == ["the rest"]

    assert tries[0] == 1  # checkpoints first
    assert outputs.numbers(bucket_folder) == [3, 6]
    assert running.failure == ""
    assert running.uploads.tallies["failure"].count == 0
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [f"s3://store/{number} is denied" in text for number, text in enumerate(told, start=1)] == [True, True]


def test_a_bug_is_told_at_once_and_met_again_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def broken(_on_listed: object) -> None:
        tries.append(1)
        raise ZeroDivisionError("not a failure we know")

    running = Publishing(SimpleNamespace(entries=(), publish_newest=broken))  # type: ignore[arg-type]
    running.start()
    until(lambda: running.failure)

    tries.clear()
    until(lambda: len(tries) > 1)

    assert running.failure == "Unexpected: ZeroDivisionError: not a failure we know"
    assert [bool(record.exc_info) for record in caplog.records] == [True]
    with pytest.raises(ZeroDivisionError):
        finish(running)
