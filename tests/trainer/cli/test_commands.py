"""What the remaining commands do when all is well."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from semires_trainer.models.convert import to_official
from semires_trainer.models.deploy import load_model


def test_evaluate_gives_figures_per_split_and_size(semires, job: Path, model_folder: Path) -> None:
    result = semires("evaluate", job, "--checkpoint", model_folder, "--split", "val", "--split", "testB", "--json")

    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["scores"]
    assert [(score["split"], score["size"]) for score in scores] == [
        *(("val", "64"), ("val", "original"), ("testB", "64"), ("testB", "original"))
    ]
    assert all(0 <= score["oIoU"] <= 100 for score in scores)
    assert not (job.parent / "out").exists()


def test_evaluate_needs_no_training_images(semires, job: Path, model_folder: Path, data: Path) -> None:
    for path in (data / "images").glob("*train*"):
        path.unlink()

    assert semires("evaluate", job, "--checkpoint", model_folder, "--split", "val").exit_code == 0


def test_evaluate_refuses_a_split_that_is_not_there(semires, job: Path, model_folder: Path) -> None:
    result = semires("evaluate", job, "--checkpoint", model_folder, "--split", "test")

    assert result.exit_code == 2
    assert '"test"' in result.stderr


def test_the_synthetic_benchmark_is_written_once(semires, tmp_path: Path) -> None:
    arguments = ("data", "synthetic", "--output", tmp_path / "s", "--images", 2, "--eval-images", 1, "--size", 64)

    assert "written" in semires(*arguments).stdout
    assert "is there already" in semires(*arguments).stdout
    assert len(list((tmp_path / "s" / "images").iterdir())) == 5


def test_a_sound_dataset_passes_the_check(semires, job: Path) -> None:
    result = semires("data", "check", job, "--json")

    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["problems"] == []
    assert report["splits"]["train"]["images"] == 8


def test_examples_are_drawn_on_a_sheet(semires, job: Path, tmp_path: Path) -> None:
    result = semires("data", "show", job, "--count", 3, "--sheet", tmp_path / "sheet.png")

    assert result.exit_code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900


def test_an_official_checkpoint_becomes_a_model_folder(semires, model_folder: Path, data: Path, tmp_path: Path) -> None:
    model, _ = load_model(model_folder)
    torch.save(to_official(model), tmp_path / "official.pth")

    result = semires(
        *("convert", "checkpoint", tmp_path / "official.pth", tmp_path / "new"),
        *("--vocab", data / "vocab.txt", "--image-size", 64, "--text-heads", 1),
    )

    assert result.exit_code == 0, result.output
    converted, info = load_model(tmp_path / "new")
    assert info.image_size == 64
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), converted.state_dict().values(), strict=True)
    )


def test_fields_that_only_a_cluster_reads_are_named(semires, job: Path) -> None:
    job.write_text(job.read_text() + "  queue: gold\n")

    result = semires("plan", job)

    assert result.exit_code == 0
    assert "Ignored, only a cluster reads them: spec.queue." in result.stderr
