"""A run goes on where its output ends, on another machine or after its own was cut off."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.checkpoint_folders import fault_of, manifest_text, newest_valid
from semires_trainer.ledger import Entry
from semires_trainer.publisher import Publisher
from semires_trainer.restore import begin_anew_unless, restore
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import StorageUnavailable

Restore = Callable[..., Entry | None]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The work folder of the machine that goes on."""
    return tmp_path / "here"


@pytest.fixture
def bring_back(storage: Storage, output: str, here: Path) -> Restore:
    def bring(*, through: Storage = storage, run_id: str = "run-1") -> Entry | None:
        begin_anew_unless(run_id, here)
        return restore(through, output, here)

    return bring


@pytest.fixture
def published(make_publisher: Callable[..., Publisher], outputs: ModuleType, work: Path, bucket_folder: Path) -> Path:
    """An output with two checkpoints, each with a model of its own; where the server keeps it."""
    for number in (3, 6):
        outputs.write_checkpoint(work, number)
        outputs.write_model(work, "burn-in", content=number)
        if number == 6:
            outputs.write_model(work, "model")
        (work / "events").mkdir(exist_ok=True)
        (work / "events" / "events.out.tfevents.1").write_bytes(bytes(number))
        (work / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(number)))
        make_publisher().publish_newest()
    return bucket_folder


def place(published: Path, number: int, name: str = "") -> Path:
    """A file of a published checkpoint, or the folder."""
    [folder] = published.glob(f"checkpoints/step-{number:08d}*")
    return folder / name


def version(outputs: ModuleType, published: Path, output: str, number: int, name: str) -> Path:
    """The folder of a model that belongs to a published checkpoint."""
    [uri] = [entry["models"][name] for entry in outputs.ledger(published) if entry["number"] == number]
    return published / uri.removeprefix(f"{output}/")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_empty_work_folder_gets_all_that_the_newest_checkpoint_needs(
    published: Path, bring_back: Restore, here: Path, work: Path
) -> None:
    (published / "results.json").write_text("{}")

    entry = bring_back()

    assert entry is not None
    assert entry.number == 6
    for name in ("checkpoints/step-00000006", "burn-in", "model", "events"):
        assert content(here / name) == content(work / name)
    assert (here / "metrics.jsonl").read_bytes() == (work / "metrics.jsonl").read_bytes()
    assert (here / "results.json").read_text() == "{}"
    assert [path.name for path in (here / "checkpoints").iterdir()] == ["step-00000006"]
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == [".run-id", ".run-id.lock"]


def test_what_was_brought_back_is_not_published_again(
    published: Path, bring_back: Restore, here: Path, storage: Storage, output: str
) -> None:
    bring_back()

    publisher = Publisher(storage, output, here, outgoing=here / ".run" / "outgoing", confirm=lambda: None, keep_last=2)
    assert publisher.publish_newest() is None


DAMAGE: list[Any] = [
    pytest.param("student.safetensors", "flip", id="weights-damaged"),
    pytest.param("state.json", "flip", id="state-damaged"),
    pytest.param("manifest.json", "flip", id="manifest-damaged"),
    pytest.param("optimizer.safetensors", "remove", id="file-gone"),
    pytest.param("manifest.json", "remove", id="manifest-gone"),
    pytest.param("burn-in/model.safetensors", "flip", id="model-damaged"),
    pytest.param("burn-in/model.json", "flip", id="model's-list-damaged"),
    pytest.param("model/vocab.txt", "remove", id="model's-file-gone"),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_it(
    published: Path,
    bring_back: Restore,
    outputs: ModuleType,
    here: Path,
    output: str,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    """The older one has another burn-in model, and no other."""
    of_older = content(version(outputs, published, output, 3, "burn-in"))
    model, _, file = name.rpartition("/")
    path = version(outputs, published, output, 6, model) / file if model else place(published, 6, name)
    path.unlink() if damage == "remove" else outputs.flip_bit(path)

    entry = bring_back()

    assert entry is not None
    assert entry.number == 3
    newest = newest_valid(here / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000003"
    assert content(here / "burn-in") == of_older
    assert not (here / "model").exists()
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"{output}/checkpoints/step-00000006" in warning.getMessage()
    assert "is damaged and passed over" in warning.getMessage()


def test_if_all_checkpoints_are_damaged_the_run_begins_anew(
    published: Path, bring_back: Restore, outputs: ModuleType, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (3, 6):
        outputs.flip_bit(place(published, number, "student.safetensors"))

    assert bring_back() is None
    assert not list((here / "checkpoints").iterdir())
    assert not (here / "model").exists()
    assert not (here / "burn-in").exists()
    assert len(caplog.records) == 2


def test_an_output_without_checkpoints_gives_none(bring_back: Restore, here: Path) -> None:
    assert bring_back() is None
    assert sorted(path.name for path in here.iterdir()) == [".run-id", ".run-id.lock"]


@pytest.mark.parametrize("number", [6, 9], ids=["level", "ahead"])
def test_a_work_folder_that_is_as_far_stays_as_it_is(
    published: Path,
    bring_back: Restore,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    outputs: ModuleType,
    here: Path,
    number: int,
) -> None:
    bring_back()
    outputs.write_checkpoint(here, number, content=7)
    outputs.write_model(here, "model", content=7)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    proxy = make_proxy()

    assert bring_back(through=make_storage(endpoint_url=proxy.url)) is None

    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
    assert {exchange.request.path.rpartition("/")[2] for exchange in proxy.exchanges()} == {"checkpoints.json"}


@pytest.mark.parametrize("number", [3, 6, 9], ids=["behind", "level-but-damaged", "ahead-but-damaged"])
def test_a_work_folder_that_is_behind_or_damaged_is_brought_up_to_date(
    published: Path, bring_back: Restore, outputs: ModuleType, here: Path, work: Path, number: int
) -> None:
    bring_back()
    shutil.rmtree(here / "checkpoints")
    folder = outputs.write_checkpoint(here, number)
    if number >= 6:
        outputs.flip_bit(folder / "student.safetensors")

    entry = bring_back()

    assert entry is not None
    assert entry.number == 6
    assert newest_valid(here / "checkpoints") == here / "checkpoints" / "step-00000006"
    assert content(here / "burn-in") == content(work / "burn-in")


@pytest.mark.parametrize("run_id", ["run-2", ""])
def test_a_work_folder_of_another_life_of_the_output_is_emptied(
    bring_back: Restore, outputs: ModuleType, here: Path, run_id: str
) -> None:
    """Proposals are worth keeping: they depend on pictures alone."""
    bring_back(run_id="run-1")
    kept = ("proposals/shard-0.bin", ".run/orders.json", ".run-node-1/orders.json")
    outputs.write_checkpoint(here, 9)
    outputs.write_model(here, "model")
    for name in ("metrics.jsonl", *kept, ".burn-in.tmp/x"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("x")
    if not run_id:
        (here / ".run-id").unlink()

    assert bring_back(run_id=run_id or "run-1") is None

    left = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    assert left == {*kept, ".run-id", ".run-id.lock"}


def test_nodes_that_share_a_work_folder_empty_it_once(outputs: ModuleType, here: Path) -> None:
    """What one of them has begun to write stays."""
    outputs.write_checkpoint(here, 9)
    nodes = range(8)
    together = threading.Barrier(len(nodes))

    def begin(node: int) -> None:
        together.wait()
        begin_anew_unless("run-2", here)
        (here / f"node-{node}").write_text("x")

    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(begin, nodes))

    assert {path.name for path in here.iterdir()} == {*(f"node-{node}" for node in nodes), ".run-id", ".run-id.lock"}
    assert (here / ".run-id").read_text() == "run-2\n"


def test_a_work_folder_of_the_same_life_is_kept(bring_back: Restore, outputs: ModuleType, here: Path) -> None:
    bring_back()
    outputs.write_checkpoint(here, 9)

    assert bring_back() is None
    assert newest_valid(here / "checkpoints") == here / "checkpoints" / "step-00000009"


def rewrite(path: Path, text: str) -> str:
    """An object of other content, whose sha256 nobody recorded; its sha256."""
    path.unlink(missing_ok=True)
    path.write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def relist(published: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the newest line of the ledger."""
    document = json.loads((published / "checkpoints.json").read_bytes())
    change(document["checkpoints"][-1])
    rewrite(published / "checkpoints.json", json.dumps(document))


@pytest.mark.parametrize("name", ["../../../stolen", "/tmp/stolen", ".hidden", ""])
@pytest.mark.parametrize("where", ["checkpoint", "model"])
def test_lists_that_name_files_elsewhere_are_refused(
    published: Path,
    bring_back: Restore,
    outputs: ModuleType,
    output: str,
    here: Path,
    caplog: pytest.LogCaptureFixture,
    where: str,
    name: str,
) -> None:
    """Even if every sha256 of them is right."""
    digest = outputs.sha256(b"x")
    if where == "checkpoint":
        path = place(published, 6, "manifest.json")
        listed = json.loads(path.read_bytes()) | {name: {"sha256": digest, "bytes": 1}}
        right = rewrite(path, manifest_text(listed))
        relist(published, lambda entry: entry.update(sha256=right))
    else:
        folder = version(outputs, published, output, 6, "model")
        path = folder / "model.json"
        listed = json.loads(path.read_bytes())["sha256"] | {name: digest}
        right = rewrite(path, json.dumps({"sha256": listed}))
        named = folder.rename(folder.with_name(f"model-{right[:16]}"))
        relist(published, lambda entry: entry["models"].update(model=f"{output}/versions/{named.name}"))

    entry = bring_back()

    assert entry is not None
    assert entry.number == 3
    [warning] = caplog.messages
    assert "is no list of files" in warning
    assert not list(here.parent.rglob("*stolen*"))
    assert not Path("/tmp/stolen").exists()
    assert not list(here.rglob(".hidden"))


def test_a_mark_of_a_folder_that_a_web_console_made_disturbs_nobody(
    published: Path, bring_back: Restore, storage: Storage, output: str
) -> None:
    client = storage._objects._s3.client  # our API makes none
    client.put_object(Bucket="bucket", Key=f"{output.removeprefix('s3://bucket/')}/events/", Body=b"")

    entry = bring_back()

    assert entry is not None
    assert entry.number == 6


def test_a_storage_that_is_down_is_no_reason_to_begin_anew(
    published: Path,
    bring_back: Restore,
    make_storage: Callable[..., Storage],
    make_proxy: Callable[..., Any],
    faults: ModuleType,
    here: Path,
) -> None:
    """At any request: the checkpoint appears whole or not at all, and the next attempt brings the rest."""
    proxy = make_proxy()
    through = make_storage(endpoint_url=proxy.url)
    allowed = 0
    while True:
        left = allowed

        def cut(request: Any) -> Any:
            nonlocal left
            left -= request.method == "GET"
            return faults.RESET_REQUEST if left < 0 else None

        proxy.decide = cut
        try:
            entry = bring_back(through=through)
        except StorageUnavailable:
            assert not list(here.glob("checkpoints/step-*"))
            allowed += 3
            continue
        break

    assert entry is not None
    assert entry.number == 6
    assert fault_of(here / "checkpoints" / "step-00000006") is None
    assert allowed >= 12
