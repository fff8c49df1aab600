"""What a publisher brings to an output, in which order, and what it takes away."""

from __future__ import annotations

import json
import os
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

MakePublisher = Callable[..., Publisher]


@pytest.fixture
def make_publisher(storage: Storage, output: str, work: Path) -> MakePublisher:
    """A publisher of the work folder; nobody disputes the output."""

    def make(*, to: str = output, through: Storage = storage, keep_last: int = 2, **more: Any) -> Publisher:
        given = {"outgoing": work / ".run" / "outgoing", "confirm": lambda: None, "keep_last": keep_last, **more}
        return Publisher(through, to, work, **given)

    return make


def publish(publisher: Publisher) -> int | None:
    """Publish the newest checkpoint; its number, None if there was nothing to do."""
    upload = publisher.publish_newest()
    return upload.entry.number if upload else None


def test_a_checkpoint_is_brought_to_the_output_with_what_belongs_to_it(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    folder = outputs.write_checkpoint(work, 12, oiou=41.5, epoch=2)
    outputs.write_model(work, "burn-in")
    (work / "metrics.jsonl").write_text('{"step": 12}\n')
    (work / "events").mkdir()
    (work / "events" / "events.out.tfevents.1").write_bytes(b"tf")

    upload = make_publisher().publish_newest()

    assert upload is not None
    [entry] = outputs.ledger(bucket_folder)
    assert outputs.faults_of(bucket_folder, output) == []
    assert entry["uri"].startswith(f"{output}/checkpoints/step-00000012")
    assert (entry["number"], entry["epoch"], entry["stage"], entry["metric"]) == (12, 2, "train", 41.5)
    assert entry["sha256"] == outputs.sha256((folder / "manifest.json").read_bytes())
    assert entry["bytes"] == sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")
    assert list(entry["models"]) == ["burn-in"]
    assert (bucket_folder / "metrics.jsonl").read_text() == '{"step": 12}\n'
    assert (bucket_folder / "events" / "events.out.tfevents.1").read_bytes() == b"tf"
    assert upload.saved_at == pytest.approx((folder / "manifest.json").stat().st_mtime)
    assert upload.moved > entry["bytes"]


@pytest.mark.parametrize(
    ("state", "metric"),
    [
        pytest.param({}, None, id="never"),
        pytest.param({"evaluated_step": 12, "oiou": 0.0}, 0.0, id="now-and-nothing-found"),
        pytest.param({"evaluated_step": 9, "oiou": 40.0}, None, id="earlier"),
    ],
)
def test_a_checkpoint_has_the_metric_of_its_own_step_only(
    make_publisher: MakePublisher,
    outputs: ModuleType,
    work: Path,
    bucket_folder: Path,
    state: dict[str, Any],
    metric: float | None,
) -> None:
    outputs.write_checkpoint(work, 12, **state)

    publish(make_publisher())

    assert [entry["metric"] for entry in outputs.ledger(bucket_folder)] == [metric]


def test_what_is_published_is_left_alone(make_publisher: MakePublisher, outputs: ModuleType, work: Path) -> None:
    publisher = make_publisher()
    assert publish(publisher) is None
    outputs.write_checkpoint(work, 12)

    assert publish(publisher) == 12
    assert publish(publisher) is None
    assert publish(make_publisher()) is None


def test_only_the_newest_checkpoint_is_published(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path
) -> None:
    for number in (3, 20, 6):
        outputs.write_checkpoint(work, number)

    publish(make_publisher())

    assert outputs.numbers(bucket_folder) == [20]


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


def test_retention_keeps_the_newest_the_best_and_milestones_and_removes_the_rest(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    publisher = make_publisher()
    for number, oiou, milestone in (
        (1, 10.0, True),
        (2, 30.0, False),
        (3, 20.0, False),
        (4, 25.0, False),
        (5, None, False),
    ):
        outputs.write_checkpoint(work, number, oiou=oiou, milestone=milestone)
        outputs.write_model(work, "model", content=number)
        publish(publisher)

    assert outputs.numbers(bucket_folder) == [1, 2, 4, 5]
    assert outputs.faults_of(bucket_folder, output) == []
    listed = {entry["uri"] for entry in outputs.ledger(bucket_folder)}
    listed |= {uri for entry in outputs.ledger(bucket_folder) for uri in entry["models"].values()}
    assert {f"{output}/{name}" for name in outputs.names(bucket_folder)} == listed


def test_a_model_that_several_checkpoints_share_stays_until_the_last_of_them_goes(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    publisher = make_publisher(keep_last=1)
    outputs.write_model(work, "burn-in", content=1)
    for number in (1, 2):
        outputs.write_checkpoint(work, number)
        publish(publisher)
    shared = [name for name in outputs.names(bucket_folder) if name.startswith("versions/")]
    assert len(shared) == 1
    outputs.write_model(work, "burn-in", content=2)
    outputs.write_checkpoint(work, 3)

    publish(publisher)

    assert outputs.faults_of(bucket_folder, output) == []
    assert shared[0] not in outputs.names(bucket_folder)


def test_parts_of_a_killed_attempt_are_removed_but_not_what_is_newer(
    make_publisher: MakePublisher, outputs: ModuleType, storage: Storage, work: Path, output: str, bucket_folder: Path
) -> None:
    """Another attempt may be about to publish what is newer."""
    for name in ("checkpoints/step-00000002/student.safetensors", "versions/model-0123/model.json"):
        storage.put_if_absent(f"{output}/{name}", b"left behind")
    storage.put_if_absent(f"{output}/checkpoints/step-00000009/student.safetensors", b"on its way")
    storage.put_if_absent(f"{output}/checkpoints-of-mine/step-00000001/x", b"not ours")
    outputs.write_checkpoint(work, 5)

    publish(make_publisher())

    left = outputs.names(bucket_folder)
    assert "checkpoints/step-00000002" not in left
    assert "versions/model-0123" not in left
    assert {"checkpoints/step-00000009", "checkpoints-of-mine/step-00000001"} <= left


def test_a_mark_of_a_folder_that_a_web_console_made_disturbs_nobody(
    make_publisher: MakePublisher, outputs: ModuleType, storage: Storage, work: Path, output: str, bucket_folder: Path
) -> None:
    assert list(storage.list(output)) == []
    client = storage._objects._s3.client  # our API makes none
    for name in ("checkpoints/", "versions/", "checkpoints/old/"):
        client.put_object(Bucket="bucket", Key=f"{output.removeprefix('s3://bucket/')}/{name}", Body=b"")
    outputs.write_checkpoint(work, 5)

    assert publish(make_publisher()) == 5


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


@pytest.mark.parametrize("name", ["student.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_not_published(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path, name: str
) -> None:
    outputs.write_checkpoint(work, 3)
    publisher = make_publisher()
    publish(publisher)
    outputs.flip_bit(outputs.write_checkpoint(work, 6) / name)

    with pytest.raises(SemiresError, match=rf"{name} (is damaged|can't be read)"):
        publisher.publish_newest()

    assert outputs.numbers(bucket_folder) == [3]
    assert not any(
        "00000006" in name
        for name in os.listdir(bucket_folder / "checkpoints")
        if (bucket_folder / "checkpoints" / name / "manifest.json").exists()
    )


@pytest.mark.parametrize(
    ("path", "content"),
    [
        pytest.param("checkpoints/step-00000006/manifest.json", "{", id="manifest-cut-short"),
        pytest.param("checkpoints/step-00000006/manifest.json", "[]", id="manifest-is-a-list"),
        pytest.param(
            "checkpoints/step-00000006/manifest.json", '{"../../x": {"sha256": "0", "bytes": 1}}', id="elsewhere"
        ),
        pytest.param("checkpoints/step-00000006/manifest.json", '{"x": 1}', id="manifest-without-sums"),
        pytest.param("model/model.json", "", id="empty-model"),
        pytest.param("model/model.json", '{"sha256": 3}', id="model-without-sums"),
    ],
)
def test_a_damaged_list_of_files_is_named(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path, path: str, content: str
) -> None:
    outputs.write_checkpoint(work, 6)
    outputs.write_model(work, "model")
    (work / path).write_text(content)

    with pytest.raises(SemiresError, match=f"{Path(path).name} is no list of files"):
        make_publisher().publish_newest()

    assert outputs.numbers(bucket_folder) == []


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


def test_the_rest_is_published_at_the_end(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path
) -> None:
    outputs.write_model(work, "model")
    for name in ("results.json", "metrics.jsonl", "curves.png", "overlays/sheet.png", "events/e.1"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(name)
    for name in (
        ".run/orders.json",
        "proposals/shard-0.bin",
        "overlays/.hidden",
        ".new.tmp/x",
        "checkpoints/step-00000001/x",
    ):
        (work / name).parent.mkdir(exist_ok=True, parents=True)
        (work / name).write_text(name)
    publisher = make_publisher()

    moved = publisher.publish_files()
    publisher.publish_bytes("outcome-a1.json", b"{}")

    found = {str(path.relative_to(bucket_folder)) for path in bucket_folder.rglob("*") if path.is_file()}
    assert found == {
        *("results.json", "metrics.jsonl", "curves.png", "overlays/sheet.png", "events/e.1", "outcome-a1.json"),
        *("model/model.safetensors", "model/vocab.txt", "model/model.json"),
    }
    assert moved > 0
    assert publisher.publish_files() == 0
    assert sorted(path.name for path in (work / ".run" / "outgoing").iterdir()) in ([], ["file"])


def test_results_of_an_attempt_that_lost_the_output_are_not_published(
    make_publisher: MakePublisher, work: Path, storage: Storage, output: str
) -> None:
    def confirm() -> None:
        raise Superseded("a newer attempt owns the output")

    (work / "results.json").write_text("{}")

    with pytest.raises(Superseded):
        make_publisher(confirm=confirm).publish_files()

    assert list(storage.list(output)) == []


def test_a_full_disk_is_told_as_what_it_is(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs.write_checkpoint(work, 6)
    (work / "metrics.jsonl").write_text("{}\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    publisher = make_publisher()
    for publish_it in (publisher.publish_newest, publisher.publish_files):
        with pytest.raises(SemiresError, match="no space left on the disk") as told:
            publish_it()
        assert (told.value.reason, told.value.exit_code) == ("DiskFull", 150)


def test_what_an_earlier_process_left_to_be_sent_takes_no_room(make_publisher: MakePublisher, work: Path) -> None:
    left = work / ".run" / "outgoing" / "step-00000003"
    left.mkdir(parents=True)
    (left / "student.safetensors").write_bytes(b"0" * 1000)

    make_publisher()

    assert not left.exists()


@pytest.mark.parametrize("form", ["{}", "file://{}"])
class TestAnOutputThatIsTheWorkFolder:
    """Nothing is copied, and the ranks prune."""

    def test_entries_follow_what_exists(
        self, make_publisher: MakePublisher, outputs: ModuleType, work: Path, form: str
    ) -> None:
        publisher = make_publisher(to=form.format(work), keep_last=1)
        for number in (3, 6, 9):
            outputs.write_checkpoint(work, number, oiou=float(number))
            outputs.write_model(work, "model")
            assert publish(publisher) == number
            if number == 6:
                outputs.prune(work, 3)

        assert outputs.numbers(work) == [6, 9]
        assert outputs.faults_of(work, str(work)) == []
        assert publish(publisher) is None
        assert publisher.publish_files() == 0
        assert sorted(path.name for path in work.iterdir() if not path.name.startswith(".")) == [
            "checkpoints",
            "checkpoints.json",
            "model",
        ]

    def test_a_damaged_checkpoint_is_not_listed(
        self, make_publisher: MakePublisher, outputs: ModuleType, work: Path, form: str
    ) -> None:
        publisher = make_publisher(to=form.format(work))
        outputs.flip_bit(outputs.write_checkpoint(work, 6) / "student.safetensors")

        with pytest.raises(SemiresError, match=r"newest checkpoint is damaged: .*student.safetensors does not have"):
            publisher.publish_newest()

        assert outputs.numbers(work) == []

    def test_a_checkpoint_that_was_passed_over_is_no_longer_listed(
        self, make_publisher: MakePublisher, outputs: ModuleType, work: Path, form: str
    ) -> None:
        publisher = make_publisher(to=form.format(work))
        for number in (3, 6):
            outputs.write_checkpoint(work, number)
            publish(publisher)
        outputs.prune(work, 6)
        outputs.write_checkpoint(work, 4)

        assert publish(publisher) == 4
        assert outputs.numbers(work) == [3, 4]


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
