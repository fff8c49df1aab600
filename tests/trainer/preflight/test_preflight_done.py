"""What earlier attempts have left is found, and believed only as far as it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.atomic import file_sha256
from semires_trainer.config import parse_job, resolve
from semires_trainer.proposals.build import build_key
from semires_trainer.proposals.store import ProposalStore
from semires_trainer.publisher import Publisher
from semires_trainer.storage import Storage

Publish = Callable[..., Any]


@pytest.fixture
def publish(scene: Any, make_storage: Callable[..., Storage], outputs: ModuleType, tmp_path: Path) -> Publish:
    """Publish a checkpoint as a run does; returns its line in the ledger."""
    work = tmp_path / "work"
    publisher = Publisher(
        make_storage(),
        f"{scene.uri}/out",
        work,
        outgoing=work / ".run" / "outgoing",
        confirm=lambda: None,
        keep_last=3,
    )

    def publish(number: int, **state: Any) -> Any:
        outputs.write_checkpoint(work, number, identity=scene.identity, **state)
        return publisher.publish_newest().entry

    return publish


def test_a_run_goes_on_from_its_newest_checkpoint(scene: Any, publish: Publish) -> None:
    publish(2, stage="burn-in")
    newest = publish(7, stage="train")

    told = scene.run()

    assert told.code == 0, told.outcome
    reference = {"uri": newest.uri, "step": 7, "sha256": newest.sha256, "time": newest.time}
    assert told.found["lastCheckpoint"] == reference
    assert (told.found["stagesDone"], told.found["complete"]) == (["burn-in"], False)


@pytest.mark.parametrize(
    ("state", "done"),
    [
        pytest.param({"stage": "burn-in"}, [], id="in burn-in"),
        pytest.param({"stage": "burn-in", "finished": True}, ["burn-in"], id="after burn-in"),
        pytest.param({"stage": "train", "finished": True}, ["burn-in", "train"], id="after training"),
    ],
)
def test_the_state_of_the_checkpoint_tells_the_stages(
    scene: Any, publish: Publish, state: dict[str, Any], done: list[str]
) -> None:
    publish(4, **state)

    assert scene.run().found["stagesDone"] == done


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda scene, name: scene.delete(f"{name}/student.safetensors"), id="a file is missing"),
        pytest.param(lambda scene, name: scene.put(f"{name}/student.safetensors", b"short"), id="a file is short"),
        pytest.param(lambda scene, name: scene.put(f"{name}/manifest.json", b"{}"), id="another manifest"),
        pytest.param(lambda scene, name: scene.put(f"{name}/state.json", b"{}"), id="another state"),
        pytest.param(
            lambda scene, name: [scene.delete(each) for each in scene.names(name)], id="the checkpoint is gone"
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    scene: Any, publish: Publish, damage: Callable[[Any, str], Any]
) -> None:
    publish(2)
    newest = publish(4)
    damage(scene, newest.uri.removeprefix(f"{scene.uri}/"))

    told = scene.run()

    assert told.code == 0, told.outcome
    assert told.found["lastCheckpoint"]["step"] == 2
    assert told.found["warnings"][0].startswith(f"Checkpoint {newest.uri} is damaged and will be passed over")


def test_if_no_checkpoint_is_whole_the_run_starts_anew(scene: Any, publish: Publish) -> None:
    entry = publish(2)
    scene.delete(f"{entry.uri.removeprefix(f'{scene.uri}/')}/manifest.json")

    told = scene.run()

    assert told.found["lastCheckpoint"] is None
    assert told.found["warnings"][-1] == "No checkpoint is whole: the run starts from the beginning."


def test_a_damaged_ledger_is_told(scene: Any) -> None:
    scene.put("out/checkpoints.json", b"[]")

    told = scene.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (150, "Infrastructure", "spec.output")
    assert "checkpoints.json is no ledger of checkpoints" in told.message


def test_a_checkpoint_of_another_run_is_refused(scene: Any, publish: Publish) -> None:
    publish(2)
    scene.set("training.seed", 5)

    told = scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.output")
    assert "belongs to another training configuration" in told.message


def outcome(number: int, *, job: str = "job-uid", code: int = 150, **more: Any) -> bytes:
    content = {"schemaVersion": 1, "job": "tiny", "jobUid": job, "attempt": number, "podUid": "p", "exitCode": code}
    return json.dumps({**content, "results": [], "bestCheckpoint": None, "lastCheckpoint": None, **more}).encode()


def test_the_outcome_of_the_newest_earlier_attempt_is_told(scene: Any) -> None:
    scene.put("out/outcome-a1.json", outcome(1, error={"reason": "RankLost", "message": "gone", "field": ""}))
    scene.put("out/outcome-a3.json", outcome(3))

    assert scene.run().found["previousOutcome"]["error"]["reason"] == "RankLost"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(outcome(2, job="another"), id="of another job"),
        pytest.param(b"no JSON", id="no JSON"),
        pytest.param(b"[1]", id="another document"),
        pytest.param(outcome(2) + b" " * 70_000, id="too long"),
    ],
)
def test_another_outcome_is_none(scene: Any, content: bytes) -> None:
    scene.put("out/outcome-a2.json", content)

    told = scene.run()

    assert (told.code, told.found["previousOutcome"]) == (0, None)


def test_what_is_told_fits_a_termination_message(scene: Any, publish: Publish) -> None:
    publish(2)
    scores = [
        {"model": "teacher", "split": f"split{n}", "size": "original", "oIoU": 1 / 3, "mIoU": 1 / 7} for n in range(20)
    ]
    error = {"reason": "RankLost", "message": "x" * 1500, "field": "y" * 200}
    scene.put("out/outcome-a2.json", outcome(2, error=error, results=scores))

    told = scene.run()

    assert told.code == 0
    assert told.found["lastCheckpoint"]["step"] == 2
    assert told.found["previousOutcome"]["error"]["message"] == "x" * 300
    assert 5 < len(told.found["previousOutcome"]["results"]) <= 20


def put_proposals(scene: Any, tmp_path: Path, images: int, *, store: str) -> None:
    """Records of images, in the real format."""
    section = resolve(parse_job(scene.document)).proposals
    made = ProposalStore(tmp_path / "made", build_key(section))
    writer = made.writer(images_per_shard=4)
    for number in range(images):
        writer.add(f"{number:064x}", [], height=4, width=4)
    writer.flush()
    for path in made.folder.iterdir():
        scene.put(f"{store}/{made.folder.name}/{path.name}", path.read_bytes())


@pytest.mark.parametrize(
    ("images", "done"),
    [pytest.param(10, ["proposals"], id="all"), pytest.param(9, [], id="one is missing")],
)
def test_records_in_the_store_of_the_output_are_counted(
    scene: Any, tmp_path: Path, images: int, done: list[str]
) -> None:
    put_proposals(scene, tmp_path, images, store="out/proposals")

    assert scene.run().found["stagesDone"] == done


def test_a_shared_store_tells_only_of_a_run_that_has_trained(scene: Any, publish: Publish, tmp_path: Path) -> None:
    scene.set("proposals.store", f"{scene.uri}/shared")
    put_proposals(scene, tmp_path, 10, store="shared")

    before = scene.run().found["stagesDone"]
    publish(2)
    after = scene.run().found["stagesDone"]

    assert ("proposals" in before, "proposals" in after) == (False, True)


def test_a_damaged_shard_is_named(scene: Any, tmp_path: Path) -> None:
    put_proposals(scene, tmp_path, 4, store="out/proposals")
    (name,) = [name for name in scene.names("out/proposals") if name.endswith(".safetensors")]
    scene.put(name, b"damaged")

    told = scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.proposals.store")


def test_another_output_is_complete_only_with_its_own_models(scene: Any, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(b'{"sha256": {}}')
    scene.put("out/model/model.json", b'{"sha256": {}}')
    models = {"teacher": file_sha256(tmp_path / "model.json")}

    def is_complete(**details: Any) -> bool:
        content = {"details": {"identity": scene.identity, "models": models, **details}}
        scene.put("out/results.json", json.dumps(content).encode())
        return bool(scene.run().found["complete"])

    assert is_complete()
    assert not is_complete(identity="0" * 64)
    assert not is_complete(models={"teacher": "0" * 64})
    assert not is_complete(models={})
    assert not is_complete(models=None)
