"""What a publisher brings to an output, in which order, and what it takes away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.errors import SemiresError, WeightsError
from semires_trainer.publisher import Publisher
from semires_trainer.storage import Storage

MakePublisher = Callable[..., Publisher]


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


def test_retention_keeps_the_newest_the_best_and_milestones_and_removes_the_rest(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    publisher = make_publisher(keep_every=4)
    for number, oiou in ((4, 10.0), (5, 30.0), (6, 20.0), (7, 25.0), (9, None)):
        outputs.write_checkpoint(work, number, oiou=oiou)
        outputs.write_model(work, "model", content=number)
        publish(publisher)

    assert outputs.numbers(bucket_folder) == [4, 5, 7, 9]
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


def damage(outputs: ModuleType, path: Path, content: str | None) -> None:
    """Flip a bit, put other content in place, or remove the file (None)."""
    if content == "flip":
        outputs.flip_bit(path)
    elif content is None:
        path.unlink()
    else:
        path.write_text(content)


DAMAGE = [
    pytest.param("student.safetensors", "flip", id="weights"),
    pytest.param("student.safetensors", None, id="no-weights"),
    pytest.param("state.json", "flip", id="state"),
    pytest.param("state.json", None, id="no-state"),
    pytest.param("manifest.json", None, id="no-manifest"),
    pytest.param("manifest.json", "{", id="manifest-cut-short"),
    pytest.param("manifest.json", "[]", id="manifest-is-a-list"),
    pytest.param("manifest.json", '{"../../x": {"sha256": "0", "bytes": 1}}', id="elsewhere"),
    pytest.param("manifest.json", '{"x": 1}', id="manifest-without-sums"),
    pytest.param("manifest.json", "{}", id="empty-manifest"),
]


@pytest.mark.parametrize(("name", "content"), DAMAGE)
def test_instead_of_a_damaged_checkpoint_the_one_before_it_is_published(
    make_publisher: MakePublisher,
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: str | None,
) -> None:
    publisher = make_publisher()
    for number in (3, 6, 9):
        outputs.write_checkpoint(work, number)
        if number == 3:
            publish(publisher)
    damage(outputs, work / "checkpoints" / "step-00000009" / name, content)

    assert [publish(publisher) for _ in range(3)] == [6, None, None]

    assert outputs.numbers(bucket_folder) == [3, 6]
    assert outputs.faults_of(bucket_folder, output) == []
    assert not list(bucket_folder.glob("checkpoints/step-00000009*/manifest.json"))
    [warning] = [record for record in caplog.records if record.name == "semires_trainer.publisher"]
    assert f"Checkpoint {work}/checkpoints/step-00000009 is damaged and not published" in warning.getMessage()


def test_a_damaged_checkpoint_that_is_saved_again_is_published(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    """A run that went back behind it comes to the same step again."""
    publisher = make_publisher()
    outputs.flip_bit(outputs.write_checkpoint(work, 6) / "student.safetensors")
    assert publish(publisher) is None
    outputs.write_checkpoint(work, 6)

    assert publish(publisher) == 6
    assert outputs.faults_of(bucket_folder, output) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("model.safetensors", "flip", id="weights"),
        pytest.param("vocab.txt", None, id="no-vocabulary"),
        pytest.param("model.json", None, id="no-list"),
        pytest.param("model.json", "", id="empty-list"),
        pytest.param("model.json", '{"sha256": 3}', id="list-without-sums"),
    ],
)
def test_a_damaged_model_is_named_and_no_checkpoint_is_blamed(
    make_publisher: MakePublisher,
    outputs: ModuleType,
    work: Path,
    output: str,
    bucket_folder: Path,
    name: str,
    content: str | None,
) -> None:
    outputs.write_checkpoint(work, 6)
    damage(outputs, outputs.write_model(work, "model") / name, content)
    publisher = make_publisher()
    for publish_it in (publisher.publish_newest, publisher.publish_files):
        with pytest.raises(WeightsError, match=rf"the model {work}/model is damaged \(.*{name}"):
            publish_it()
    assert outputs.numbers(bucket_folder) == []
    outputs.write_model(work, "model", content=1)

    assert publish(publisher) == 6
    assert outputs.faults_of(bucket_folder, output) == []


def test_of_overtaken_checkpoints_those_are_published_that_would_have_been_kept(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, output: str, bucket_folder: Path
) -> None:
    """As in the test of retention, but the storage was down until the last of them was there."""
    for number, oiou in ((4, 10.0), (5, 30.0), (6, 20.0), (7, 25.0), (9, None)):
        outputs.write_checkpoint(work, number, oiou=oiou)
    publisher = make_publisher(keep_every=4)

    assert [publish(publisher) for _ in range(5)] == [9, 4, 5, 7, None]

    assert outputs.numbers(bucket_folder) == [4, 5, 7, 9]
    assert outputs.faults_of(bucket_folder, output) == []
    assert [entry.number for entry in publisher.entries] == [4, 5, 7, 9]


def test_a_damaged_checkpoint_takes_no_overtaken_one_s_place(
    make_publisher: MakePublisher, outputs: ModuleType, work: Path, bucket_folder: Path
) -> None:
    for number in (3, 6, 9):
        outputs.write_checkpoint(work, number)
    outputs.flip_bit(work / "checkpoints" / "step-00000006" / "optimizer.safetensors")
    publisher = make_publisher()

    assert [publish(publisher) for _ in range(3)] == [9, 3, None]
    assert outputs.numbers(bucket_folder) == [3, 9]


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
        outputs.write_checkpoint(work, 3)
        outputs.flip_bit(outputs.write_checkpoint(work, 6) / "student.safetensors")

        assert [publish(publisher) for _ in range(2)] == [3, None]
        assert outputs.numbers(work) == [3]

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
