"""Publishing beside ranks that replace and delete, attempts that take over, and connections that break."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.errors import SemiresError
from semires_trainer.ownership import Superseded
from semires_trainer.publisher import Publisher
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import StorageUnavailable
from semires_trainer.storage.settings import MIB

MakePublisher = Callable[..., Publisher]


def publish(publisher: Publisher) -> int | None:
    """Publish the newest checkpoint; its number, None if there was nothing to do."""
    upload = publisher.publish_newest()
    return upload.entry.number if upload else None


def test_nothing_is_visible_before_what_it_relies_on(
    make_publisher: MakePublisher,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    outputs: ModuleType,
    work: Path,
) -> None:
    """Models, then files, then the right to publish, then the manifest, then the ledger, then what goes away."""
    proxy = make_proxy()
    confirmed_after: list[int] = []
    publisher = make_publisher(
        through=make_storage(endpoint_url=proxy.url),
        confirm=lambda: confirmed_after.append(len(proxy.exchanges())),
        keep_last=1,
    )
    outputs.write_checkpoint(work, 3)
    publish(publisher)
    outputs.write_checkpoint(work, 6)
    outputs.write_model(work, "model")
    confirmed_after.clear()
    proxy.forget()

    publish(publisher)

    def moment(method: str, part: str) -> list[int]:
        return [
            number
            for number, exchange in enumerate(proxy.exchanges())
            if exchange.request.method == method and part in exchange.request.path
        ]

    versions, manifest, ledger = (
        moment("PUT", "/versions/"),
        moment("PUT", "/manifest.json"),
        moment("PUT", "/checkpoints.json"),
    )
    files = sorted(set(moment("PUT", "/checkpoints/step-00000006")) - set(manifest))
    deleted = moment("DELETE", "/checkpoints/step-00000003")
    assert (len(versions), len(files), len(manifest), len(ledger), len(deleted)) == (3, 3, 1, 1, 4)
    assert moment("PUT", "/model.json") == versions[-1:]
    assert versions[-1] < files[0]
    assert files[-1] < confirmed_after[0] <= manifest[0] < ledger[0] < deleted[0]


def test_a_checkpoint_saved_again_never_touches_the_one_that_is_listed(
    make_publisher: MakePublisher,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
) -> None:
    """Evaluating at the same step saves again: other bytes under the same number."""
    proxy = make_proxy()
    publisher = make_publisher(through=make_storage(endpoint_url=proxy.url), keep_last=1)
    outputs.write_checkpoint(work, 5)
    publish(publisher)
    seen: list[str] = []
    proxy.decide = lambda request: seen.extend(outputs.faults_of(bucket_folder, output))
    outputs.write_checkpoint(work, 5, content=1, oiou=33.0)

    assert publish(publisher) == 5

    assert seen == []
    assert outputs.faults_of(bucket_folder, output) == []
    assert [entry["metric"] for entry in outputs.ledger(bucket_folder)] == [33.0]
    assert len([name for name in outputs.names(bucket_folder) if name.startswith("checkpoints/")]) == 1


def test_an_attempt_that_lost_the_output_damages_nothing_there(
    make_publisher: MakePublisher,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    outputs: ModuleType,
    work: Path,
    output: str,
    tmp_path: Path,
    bucket_folder: Path,
) -> None:
    """It is halted before any one change, while the next attempt publishes the same step with other bytes."""
    newer_work = tmp_path / "newer"
    outputs.write_checkpoint(newer_work, 6, content=1)
    proxy, direct = make_proxy(), make_storage()
    halting = make_storage(endpoint_url=proxy.url)
    seen = 0

    def publish_both(place: str, halted_at: int) -> bool:
        """Whether the older one was halted at all."""
        nonlocal seen
        outputs.write_checkpoint(work, 3)
        publish(make_publisher(to=place, through=direct))
        outputs.write_checkpoint(work, 6)
        outputs.write_model(work, "model")
        older = make_publisher(to=place, through=halting, keep_last=1, confirm=lambda: give_up_if(seen >= halted_at))
        seen = 0

        def halt(request: Any) -> None:
            nonlocal seen
            seen += request.method in ("PUT", "DELETE")
            if seen == halted_at and request.method in ("PUT", "DELETE"):
                nobody = {"outgoing": tmp_path / "newer-out", "confirm": lambda: None}
                Publisher(direct, place, newer_work, keep_last=2, **nobody).publish_newest()

        proxy.decide = halt
        try:
            older.publish_newest()
        except SemiresError:
            assert seen >= halted_at
        proxy.decide = lambda _: None
        shutil.rmtree(work / "checkpoints")
        shutil.rmtree(work / "model")
        return seen >= halted_at

    def give_up_if(lost: bool) -> None:
        if lost:
            raise Superseded("a newer attempt owns the output")

    halted_at = 1
    while publish_both(f"{output}/{halted_at}", halted_at):
        assert outputs.faults_of(bucket_folder / str(halted_at), f"{output}/{halted_at}") == []
        halted_at += 1
    assert halted_at - 1 == 3 + 3 + 1 + 1 + 4  # model, files, manifest, ledger, what goes away


def test_a_publisher_that_is_cut_off_at_any_point_leaves_an_output_that_another_one_completes(
    make_publisher: MakePublisher,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    faults: ModuleType,
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
) -> None:
    """Between any two changes of the output nothing more gets through."""
    proxy, direct = make_proxy(), make_storage()
    cut_off = make_storage(endpoint_url=proxy.url)

    def publish_with_one_cut(place: str, allowed: int) -> bool:
        """Whether the first publisher got through after all."""
        folder = bucket_folder / str(allowed)
        outputs.write_checkpoint(work, 3)
        publish(make_publisher(to=place, through=direct))
        outputs.write_checkpoint(work, 6)
        outputs.write_model(work, "model")
        publisher, left = make_publisher(to=place, through=cut_off, keep_last=1), allowed

        def cut(request: Any) -> Any:
            nonlocal left
            left -= request.method in ("PUT", "DELETE")
            return faults.RESET_REQUEST if left < 0 else None

        proxy.decide = cut
        with contextlib.suppress(SemiresError):
            publish(publisher)
        proxy.decide = lambda _: None
        assert outputs.faults_of(folder, place) == [], f"after {allowed} changes"
        assert outputs.numbers(folder) in ([3], [6]), f"after {allowed} changes"

        publish(make_publisher(to=place, through=direct, keep_last=1))
        assert outputs.numbers(folder) == [6]
        outputs.write_checkpoint(work, 9)
        publish(make_publisher(to=place, through=direct, keep_last=1))
        assert outputs.faults_of(folder, place) == []
        assert {name.split("-")[0] for name in outputs.names(folder)} == {"checkpoints/step", "versions/model"}
        assert len(outputs.names(folder)) == 2
        shutil.rmtree(work / "checkpoints")
        shutil.rmtree(work / "model")
        return left >= 0

    allowed = 0
    while not publish_with_one_cut(f"{output}/{allowed}", allowed):
        allowed += 1
    assert allowed == 3 + 3 + 1 + 1 + 4  # model, files, manifest, ledger, what goes away


def test_after_a_damaged_checkpoint_was_passed_over_the_new_ones_count(
    make_publisher: MakePublisher, outputs: ModuleType, storage: Storage, work: Path, output: str, bucket_folder: Path
) -> None:
    """The run went back to 10 because 20 can't be read: what is newer than its next checkpoint is given up."""
    for number in (10, 20):
        outputs.write_checkpoint(work, number)
        publish(make_publisher())
    outputs.prune(work, 20)
    outputs.write_checkpoint(work, 12, content=1)

    publisher = make_publisher(keep_last=1)
    publish(publisher)

    assert outputs.numbers(bucket_folder) == [12]
    assert publisher.entries[-1].number == 12
    assert outputs.faults_of(bucket_folder, output) == []


def test_what_the_output_has_is_not_given_up_for_an_older_one_because_its_copy_here_is_damaged(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    publisher = make_publisher()
    outputs.write_checkpoint(work, 9)
    publish(publisher)
    outputs.write_checkpoint(work, 6)
    outputs.flip_bit(outputs.write_checkpoint(work, 9, content=1) / "student.safetensors")

    assert [publish(publisher) for _ in range(2)] == [6, None]
    assert outputs.numbers(bucket_folder) == [6, 9]
    assert outputs.faults_of(bucket_folder, output) == []


def test_what_is_pruned_while_an_overtaken_checkpoint_is_sent_stays_in_the_ledger(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    """The ranks go on meanwhile: none of the newer checkpoints in the ledger is in the work folder any more."""
    outputs.write_checkpoint(work, 3, oiou=50.0)
    outputs.write_checkpoint(work, 6)

    def go_on() -> None:
        if outputs.numbers(bucket_folder) == [6] and (work / "checkpoints" / "step-00000006").exists():
            outputs.write_checkpoint(work, 9)
            outputs.prune(work, 6)

    publisher = make_publisher(confirm=go_on)

    assert [publish(publisher) for _ in range(2)] == [6, 3]
    assert outputs.numbers(bucket_folder) == [3, 6]
    assert publish(publisher) == 9
    assert outputs.faults_of(bucket_folder, output) == []


@pytest.fixture
def cut_off(
    make_publisher: MakePublisher,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    faults: ModuleType,
    outputs: ModuleType,
    work: Path,
) -> tuple[Publisher, Any]:
    """A publisher, cut off after the first of three parts of student.safetensors, and its proxy."""
    proxy = make_proxy()
    through = make_storage(endpoint_url=proxy.url, upload_part_bytes=5 * MIB, transfers=1)
    publisher = make_publisher(through=through)
    outputs.write_checkpoint(work, 6, size=11 * MIB)
    proxy.decide = lambda request: faults.RESET_REQUEST if request.moves_content and proxy.parts() else None
    with pytest.raises(StorageUnavailable):
        publisher.publish_newest()
    proxy.decide = lambda _: None
    assert len(proxy.parts()) == 1
    proxy.forget()
    return publisher, proxy


def test_a_checkpoint_that_was_cut_off_goes_on_with_the_parts_that_are_missing(
    cut_off: tuple[Publisher, Any], outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    publisher, proxy = cut_off

    upload = publisher.publish_newest()

    assert upload is not None
    sent = [re.findall(r"(student|optimizer).*partNumber=(\d)", part.request.path)[0] for part in proxy.parts()]
    student, optimizer = ([number for name, number in sent if name == which] for which in ("student", "optimizer"))
    assert (student, optimizer) == (["2", "3"], ["1", "2", "3"])
    assert 17 * MIB <= upload.moved < 18 * MIB
    assert outputs.faults_of(bucket_folder, output) == []
    assert not list((work / ".run" / "outgoing").glob("step-*"))


def test_what_was_cut_off_and_overtaken_takes_no_room(
    cut_off: tuple[Publisher, Any], outputs: ModuleType, work: Path
) -> None:
    publisher, _ = cut_off
    assert [path.name for path in (work / ".run" / "outgoing").glob("step-*")] == ["step-00000006"]
    outputs.write_checkpoint(work, 9)
    outputs.prune(work, 6)

    assert publish(publisher) == 9
    assert not list((work / ".run" / "outgoing").glob("step-*"))


def test_a_checkpoint_that_was_cut_off_and_saved_again_is_sent_from_its_beginning(
    cut_off: tuple[Publisher, Any], outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    publisher, proxy = cut_off
    outputs.write_checkpoint(work, 6, size=11 * MIB, content=1)

    assert publish(publisher) == 6
    assert len(proxy.parts()) == 6
    assert outputs.faults_of(bucket_folder, output) == []


def test_a_model_that_is_replaced_while_it_is_linked_is_not_left_out(
    make_publisher: MakePublisher,
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checkpoint could not go on without it."""
    outputs.write_checkpoint(work, 6)
    outputs.write_model(work, "model")
    link, replaced = os.link, []

    def link_late(name: str, target: Path, **more: Any) -> None:
        link(name, target, **more)
        if target.parent.name == "model" and not replaced:
            replaced.append(outputs.write_model(work, "model", content=1))

    monkeypatch.setattr(os, "link", link_late)

    assert publish(make_publisher()) == 6
    assert replaced
    assert [list(entry["models"]) for entry in outputs.ledger(bucket_folder)] == [["model"]]
    assert outputs.faults_of(bucket_folder, output) == []


def test_a_checkpoint_that_is_pruned_while_it_is_sent_is_published_whole(
    make_publisher: MakePublisher,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
) -> None:
    outputs.write_checkpoint(work, 6)
    outputs.write_model(work, "model")

    def take_away(request: Any) -> None:
        if request.method == "PUT" and (work / "model").exists():
            shutil.rmtree(work / "model")
            outputs.prune(work, 6)

    publisher = make_publisher(through=make_storage(endpoint_url=make_proxy(take_away).url))

    assert publish(publisher) == 6
    assert outputs.faults_of(bucket_folder, output) == []


def test_a_checkpoint_that_is_replaced_while_it_is_linked_is_taken_whole(
    make_publisher: MakePublisher,
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ranks save again between two links: files of both would not belong together."""
    outputs.write_checkpoint(work, 6)
    link, replaced = os.link, []

    def link_late(*arguments: Any, **more: Any) -> None:
        link(*arguments, **more)
        if not replaced:
            replaced.append(outputs.write_checkpoint(work, 6, content=1, oiou=50.0))

    monkeypatch.setattr(os, "link", link_late)
    publisher = make_publisher()
    publish(publisher)
    publish(publisher)

    assert outputs.numbers(bucket_folder) == [6]
    assert outputs.faults_of(bucket_folder, output) == []
    newest = outputs.sha256((work / "checkpoints" / "step-00000006" / "manifest.json").read_bytes())
    assert outputs.ledger(bucket_folder)[0]["sha256"] == newest


@pytest.mark.parametrize("step", ["aside", "gone"])
def test_a_checkpoint_that_is_being_replaced_is_looked_at_again_later(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path, step: str
) -> None:
    """POSIX replaces no folder at once: for a moment there is none of that name."""
    folder = outputs.write_checkpoint(work, 6)
    aside = folder.with_name(f"{folder.name}.replaced")
    folder.rename(aside)
    if step == "gone":
        shutil.rmtree(aside)
    publisher = make_publisher()
    publish(publisher)
    outputs.write_checkpoint(work, 6, content=1)

    assert publish(publisher) == 6
    assert outputs.numbers(bucket_folder) == [6]
    assert outputs.faults_of(bucket_folder, output) == []
    assert not [name for name in outputs.names(bucket_folder) if "replaced" in name]


def test_results_of_an_attempt_that_lost_the_output_are_not_published(
    make_publisher: MakePublisher, work: Path, storage: Storage, output: str
) -> None:
    def confirm() -> None:
        raise Superseded("a newer attempt owns the output")

    (work / "results.json").write_text("{}")

    with pytest.raises(Superseded):
        make_publisher(confirm=confirm).publish_files()

    assert list(storage.list(output)) == []


def test_a_ledger_that_somebody_changed_is_written_again_by_its_owner(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path, storage: Storage, output: str
) -> None:
    publisher = make_publisher()
    outputs.write_checkpoint(work, 3)
    publish(publisher)
    blob = storage.read_bytes(f"{output}/checkpoints.json")
    storage.compare_and_swap(f"{output}/checkpoints.json", b'{"schemaVersion": 1, "checkpoints": []}', etag=blob.etag)
    outputs.write_checkpoint(work, 6)

    assert publish(publisher) == 6
    assert outputs.numbers(bucket_folder) == [3, 6]


def test_a_ledger_that_another_attempt_changed_ends_this_one(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path, storage: Storage, output: str
) -> None:
    """The other one came after the files were sent: the first question is answered yes, the second no."""
    answers = [True, False]

    def confirm() -> None:
        if not answers.pop(0):
            raise Superseded("a newer attempt owns the output")
        storage.put_if_absent(f"{output}/checkpoints.json", b'{"schemaVersion": 1, "checkpoints": []}')

    outputs.write_checkpoint(work, 3)

    with pytest.raises(Superseded):
        make_publisher(confirm=confirm).publish_newest()

    assert json.loads((bucket_folder / "checkpoints.json").read_bytes())["checkpoints"] == []
