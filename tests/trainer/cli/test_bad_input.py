"""Every bad input ends with one line that names file, field, value and remedy, the right exit code, and no files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def check_one_line(result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line


MANIFEST_ERRORS = [
    pytest.param('percent: "50"', "percent: 50.5", ["labeled.percent", "50.5"], id="float-where-a-string-belongs"),
    pytest.param("percent: '50'", "percent: '100.5'", ["labeled.percent", "100.5"], id="percent-above-100"),
    pytest.param("percent: '50'", "percent: '0'", ["labeled.percent", "0"], id="percent-0"),
    pytest.param("kind: SemiRESJob", "kind: SemiRESJob\nkind: SemiRESJob", ["duplicate key", "kind"], id="duplicate"),
    pytest.param("name: RefCOCO\n", "name: RefCOCO\n    evaluate: [testC]\n", ["evaluate", "testC"], id="wrong-split"),
    pytest.param("burnInEpochs", "burnInEpoch", ["burnInEpoch", "burnInEpochs"], id="unknown-key"),
    pytest.param("apiVersion: ", "apiVersion: [", ["job.yaml"], id="not-yaml"),
]


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(("old", "new", "parts"), MANIFEST_ERRORS)
def test_a_wrong_manifest_names_the_field(
    semires, job: Path, command: str, old: str, new: str, parts: list[str]
) -> None:
    text = job.read_text().replace(old.replace('"', "'"), new)
    job.write_text(text)

    check_one_line(semires(command, job), 2, str(job), *parts)
    assert not (job.parent / "out").exists()


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        pytest.param("training.epochs", ["--set", "PATH=VALUE"], id="without-sign"),
        pytest.param("training.epoch=2", ["--set", "epoch", "epochs"], id="unknown-key"),
        pytest.param("training.epochs=many", ["--set", "training.epochs", "many"], id="not-a-number"),
        pytest.param("dataset.labeled.percent=101", ["--set", "percent", "101"], id="percent-above-100"),
    ],
)
def test_a_wrong_override_names_itself(semires, job: Path, value: str, parts: list[str]) -> None:
    check_one_line(semires("run", job, "--set", value), 2, *parts)


def test_an_absent_manifest_is_named(semires, tmp_path: Path) -> None:
    check_one_line(semires("run", tmp_path / "no.yaml"), 2, "no.yaml", "No such file")


def test_an_unknown_option_is_a_usage_error(semires, job: Path) -> None:
    assert semires("run", job, "--gpus", "4").exit_code == 2


@pytest.mark.parametrize("command", [["run"], ["propose"], ["data", "check"], ["data", "show"]], ids=" ".join)
def test_absent_annotations_are_named(semires, job: Path, data: Path, command: list[str]) -> None:
    (data / "refs(unc).p").unlink()

    check_one_line(semires(*command, job), 3, str(data), "refs(unc).p")


def test_no_labelled_image_is_an_error_with_the_least_percentage(semires, job: Path) -> None:
    check_one_line(semires("run", job, "--set", "dataset.labeled.percent=1"), 3, "0 labelled images", "12.5")


def test_an_absent_image_is_named(semires, job: Path, data: Path) -> None:
    victim = sorted((data / "images").iterdir())[0]
    victim.unlink()

    check_one_line(semires("run", job), 3, victim.name, "spec.dataset.images")


def test_a_dataset_with_damaged_files_names_each_of_them(semires, job: Path, data: Path) -> None:
    first, second, *_ = sorted((data / "images").iterdir())
    first.write_bytes(first.read_bytes()[:300])
    second.unlink()

    result = semires("data", "check", job)

    assert result.exit_code == 3
    errors = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert len(errors) == 3
    assert {first.name, second.name} == {name for name in (first.name, second.name) if name in "".join(errors[:2])}
    assert errors[-1].startswith("Error: 2 of ")


def test_a_mask_outside_its_image_is_named(semires, job: Path, data: Path) -> None:
    path = data / "instances.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = [[500, 500, 600, 500, 600, 600]]
    path.write_text(json.dumps(document))

    result = semires("data", "check", job)

    assert result.exit_code == 3
    assert f"annotation {document['annotations'][0]['id']} of image" in result.stderr


def test_an_unknown_split_lists_those_there_are(semires, job: Path) -> None:
    check_one_line(semires("data", "show", job, "--split", "testC"), 3, "testC", "train, val, testA, testB")


def test_several_processes_need_a_batch_that_can_be_dealt(semires, job: Path) -> None:
    result = semires("plan", job, "--nproc", "3")

    assert result.exit_code == 2
    assert "cannot be dealt evenly to 3 processes" in result.output


def test_a_folder_that_holds_something_else_is_not_overwritten(semires, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")

    result = semires("data", "synthetic", "--output", tmp_path / "mine", "--images", 1, "--eval-images", 1)

    assert result.exit_code == 3
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_pickle_that_calls_code_is_refused(semires, tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")

    check_one_line(semires("convert", "checkpoint", evil, tmp_path / "model"), 3, str(evil))
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "model").exists()


def test_proposals_are_converted_from_files_only(semires, job: Path) -> None:
    check_one_line(semires("convert", "proposals", job), 2, "Felzenszwalb", "Precomputed")


def test_evaluate_says_that_it_fetches_nothing(semires, job: Path, tmp_path: Path) -> None:
    far = ("--set", "dataset.images=s3://bucket/images.zip")

    result = semires("evaluate", job, "--checkpoint", tmp_path, *far)

    check_one_line(result, 2, "spec.dataset.images", "s3://bucket/images.zip", "--set dataset.images=FOLDER")


@pytest.mark.parametrize("value", ["lab", "lab=", "=http://127.0.0.1:1", "lab=ftp//x"])
def test_an_endpoint_that_is_none_is_named(semires, job: Path, value: str) -> None:
    check_one_line(semires("run", job, "--endpoint", value), 2, "--endpoint", value)
