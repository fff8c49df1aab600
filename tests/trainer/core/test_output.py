"""What a run leaves behind, and whose folder it is."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semires_trainer.checkpoint_folders import checkpoints_of, is_valid
from semires_trainer.config import resolved_to_dict, training_hash
from semires_trainer.errors import ConfigError
from semires_trainer.identity import claim_output
from semires_trainer.metrics_log import read_records, series
from semires_trainer.predict import Predictor
from semires_trainer.results import read_results
from semires_trainer.storage import Storage


def test_a_run_leaves_the_files_that_the_architecture_lists(finished: Path) -> None:
    files = Counter(path.relative_to(finished).parts[0] for path in finished.rglob("*") if path.is_file())
    files.pop(".run")  # the control folder

    assert files == {
        "run.json": 1,
        "checkpoints": 2 * 5,
        "burn-in": 3,
        "model": 3,
        "results.json": 1,
        "metrics.jsonl": 1,
        "events": 1,
        "curves.png": 1,
        "overlays": 15 + 1,
    }


def test_the_last_two_checkpoints_are_kept_and_valid(finished: Path) -> None:
    kept = checkpoints_of(finished / "checkpoints")

    assert [folder.name for folder in kept] == ["step-00000009", "step-00000012"]
    assert all(is_valid(folder) for folder in kept)


def test_results_hold_every_model_split_and_size(finished: Path) -> None:
    results = read_results(finished / "results.json")

    found = {(score.model, score.split, score.size) for score in results.scores}
    assert found == {
        (model, split, size)
        for model in ("burn-in", "teacher")
        for split in ("val", "testA")
        for size in ("64", "original")
    }
    assert set(results.details["models"]) == {"burn-in", "teacher"}


def test_the_record_tells_what_was_trained_and_with_what(finished: Path, data: Path, harness: ModuleType) -> None:
    record = json.loads((finished / "run.json").read_text())
    resolved = harness.resolved_of(harness.document_of(data, finished))

    assert record["identity"] == training_hash(resolved)
    assert record["resolved"] == resolved_to_dict(resolved)
    assert record["libraries"]["torch"]


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param("burn-in/loss", [2, 4, 6], id="burn-in"),
        pytest.param("burn-in/val_oiou", [3, 6], id="evaluations"),
        pytest.param("train/unsupervised", [8, 10, 12], id="mutual-learning"),
        pytest.param("train/labeled_helped_share", [8, 10, 12], id="corrections"),
        pytest.param("train/learning_rate", [8, 10, 12], id="learning-rate"),
    ],
)
def test_metrics_count_the_steps_of_the_whole_run(finished: Path, name: str, steps: list[int]) -> None:
    assert series(read_records(finished / "metrics.jsonl"), name)[0] == steps


def test_tensorboard_shows_what_the_metrics_file_holds(finished: Path) -> None:
    events = EventAccumulator(str(finished / "events"))
    events.Reload()
    steps, values = series(read_records(finished / "metrics.jsonl"), "train/loss")

    assert [event.step for event in events.Scalars("train/loss")] == steps
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(values, rel=1e-6)
    assert set(events.Tags()["scalars"]) >= {"burn-in/val_oiou", "train/val_oiou", "train/matched_share"}
    assert not [tag for tag in events.Tags()["scalars"] if "stop" in tag]


@pytest.mark.parametrize("name", ["curves.png", "overlays/sheet.png", "overlays/example-00.png"])
def test_pictures_are_drawn(finished: Path, name: str) -> None:
    with Image.open(finished / name) as picture:
        picture.load()

    assert min(picture.size) > 100


@pytest.mark.parametrize("folder", ["model", "burn-in"])
def test_a_model_folder_predicts(finished: Path, data: Path, folder: str) -> None:
    picture = next((data / "images").glob("val*"))

    with Image.open(picture) as image:
        prediction = Predictor(finished / folder)(image.convert("RGB"), "the red circle")

    assert prediction.mask_HW.shape == (64, 64)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"training__learningRate": "2e-3"}, id="learning-rate"),
        pytest.param({"training__seed": 1}, id="seed"),
        pytest.param({"dataset__labeled": {"percent": "60"}}, id="labelled-share"),
        pytest.param({"model__textDropout": "0"}, id="text-dropout"),
    ],
)
def test_a_folder_of_another_run_is_refused_naming_both(
    finished: Path, data: Path, harness: ModuleType, changes: dict[str, Any]
) -> None:
    mine = harness.document_of(data, finished)
    other = harness.changed(mine, **changes)
    first, second = (training_hash(harness.resolved_of(document))[:12] for document in (mine, other))

    with pytest.raises(ConfigError, match=rf"holds the run {first}, but this manifest trains {second}") as refused:
        harness.train(other)

    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "training",
    [
        pytest.param({"workers": 1}, id="workers"),
        pytest.param({"microBatch": 4}, id="micro-batch"),
        pytest.param({"checkpoint": {"intervalSteps": 2}, "logIntervalSteps": 7}, id="intervals"),
    ],
)
def test_how_a_run_is_run_may_change(
    finished: Path, data: Path, harness: ModuleType, storage: Storage, training: dict[str, Any]
) -> None:
    resolved = harness.resolved_of(harness.document_of(data, finished, **training))

    identity = claim_output(storage, str(finished), resolved).identity

    assert identity == json.loads((finished / "run.json").read_text())["identity"]


def test_a_record_of_a_start_that_trained_nothing_is_replaced(
    data: Path, output: Path, harness: ModuleType, storage: Storage
) -> None:
    """The first manifest named a file that was not there; its correction is another identity."""
    first, second = (harness.resolved_of(harness.document_of(data, output, seed=seed)) for seed in (1, 2))
    claim_output(storage, str(output), first)

    claim_output(storage, str(output), second)

    assert json.loads((output / "run.json").read_text())["identity"] == training_hash(second)


@pytest.mark.parametrize("content", ["", "[]", "{}"], ids=["empty", "a-list", "without-identity"])
def test_a_damaged_record_is_an_error_that_names_it(
    data: Path, output: Path, harness: ModuleType, storage: Storage, content: str
) -> None:
    output.mkdir()
    (output / "run.json").write_text(content)

    with pytest.raises(ConfigError, match=r"run\.json cannot be read as a run's record"):
        claim_output(storage, str(output), harness.resolved_of(harness.document_of(data, output)))


def test_a_damaged_results_file_is_written_again(finished: Path, data: Path, output: Path, harness: ModuleType) -> None:
    shutil.copytree(finished, output)
    (output / "results.json").write_text("{")

    harness.train(harness.document_of(data, output), stages=("evaluate",))

    assert (output / "results.json").read_text() == (finished / "results.json").read_text()


def test_supervised_training_alone_publishes_the_burn_in_model_as_the_result(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    harness.train(harness.document_of(data, output, epochs=0, burnInEpochs=1), stages=("train", "evaluate"))

    burn_in, teacher = (
        [score.overall_iou for score in read_results(output / "results.json").scores if score.model == model]
        for model in ("burn-in", "teacher")
    )
    assert burn_in == teacher


def test_a_run_may_start_from_the_model_of_another(
    finished: Path, data: Path, output: Path, harness: ModuleType
) -> None:
    """initFrom skips burn-in: teacher and student start from that model."""
    document = harness.document_of(data, output, burnInEpochs=0, epochs=1)
    document["spec"]["model"]["initFrom"] = str(finished / "burn-in")

    watch = harness.train(document)

    assert watch.losses["burn-in"] == []
    assert len(watch.losses["train"]) == harness.STEPS_PER_EPOCH
    assert (output / "model" / "model.json").is_file()
