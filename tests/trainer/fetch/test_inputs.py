"""Files and folders of a job: once per node, whole, under names that change with their content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from semires_trainer.config import Resolved
from semires_trainer.data.load import load_dataset
from semires_trainer.errors import DataError
from semires_trainer.fetch import Places, fetch_inputs, localize
from semires_trainer.fetch.places import _ATTRIBUTES
from semires_trainer.fetch.sources import HUB_FILES, WEIGHT_FILES, FolderSource, check_names
from semires_trainer.inputs import input_uris
from semires_trainer.models import weights
from semires_trainer.signals import StopRequested
from semires_trainer.storage import Stat, Storage
from semires_trainer.storage.failures import ChecksumMismatch, DiskFull, NoSuchKey, ObjectChanged

from .conftest import NAMES, USED, Bucket, Watched, dataset, fetched_images, originals

Jobs = Callable[..., Resolved]
WEIGHTS = b"PK weights" * 1000
SAM = {"model": "ViTB", "weights": "x", "sha256": hashlib.sha256(WEIGHTS).hexdigest()}


def sam(uri: str, **changes: str) -> dict[str, Any]:
    return {"generator": "SAM", "sam": {**SAM, "weights": uri, **changes}}


def test_paths_and_hub_repositories_stay_what_they_are(make_job: Jobs, tmp_path: Path) -> None:
    resolved = make_job(dataset__images="file:///data/images", model__swin="hf://timm/swin", model__bert="hf://a/b")

    places = fetch_inputs(resolved, Storage(), tmp_path / "cache", should_stop=lambda: False)

    assert places.paths["spec.dataset.images"] == "/data/images"
    assert places.paths["spec.dataset.annotations"] == resolved.dataset.annotations
    assert (places.paths["spec.model.swin"], places.paths["spec.model.bert"]) == ("hf://timm/swin", "hf://a/b")
    assert not (tmp_path / "cache").exists()


def test_every_input_of_a_manifest_can_be_put_elsewhere(make_job: Jobs) -> None:
    with_sam = make_job(proposals=sam("w.pth"), dataset__labeled={"imageIdsFile": "ids.txt"}, model__swin="swin")
    with_folder = make_job(proposals={"generator": "Precomputed", "precomputed": {"path": "p"}}, model__initFrom="m")

    for resolved in (with_sam, with_folder):
        fields = [field for field, _ in input_uris(resolved)]
        moved = localize(resolved, Places(paths={field: f"/here/{field}" for field in fields}))
        assert input_uris(moved) == [(field, f"/here/{field}") for field in fields]
        assert dataclasses.replace(
            moved, dataset=resolved.dataset, model=resolved.model, proposals=resolved.proposals
        ) == (resolved)
    assert {field for job in (with_sam, with_folder) for field, _ in input_uris(job)} | {"spec.model.bert"} == set(
        _ATTRIBUTES
    )


def test_places_survive_json(make_job: Jobs, tmp_path: Path) -> None:
    places = fetch_inputs(make_job(), Storage(), tmp_path, should_stop=lambda: False)

    assert Places.from_json(json.loads(json.dumps(places.as_json()))) == places


def test_of_refers_folder_only_the_two_files_of_the_data_set_are_fetched(
    bucket: Bucket, watched: Watched, make_job: Jobs, tmp_path: Path
) -> None:
    resolved = make_job(dataset__annotations=bucket.put_annotations(tmp_path / "written"))

    places = watched.fetch(resolved)

    assert watched.contents() == ["instances.json", "refs(unc).p"]
    assert load_dataset(localize(resolved, places).dataset).refs == dataset().refs


def test_the_folder_of_the_data_set_itself_may_be_named(
    bucket: Bucket, watched: Watched, make_job: Jobs, tmp_path: Path
) -> None:
    resolved = make_job(dataset__annotations=bucket.put_annotations(tmp_path / "written") + "/refcoco/")

    assert load_dataset(localize(resolved, watched.fetch(resolved)).dataset).refs == dataset().refs


def test_annotations_and_images_may_both_be_remote(
    bucket: Bucket, watched: Watched, make_job: Jobs, tmp_path: Path
) -> None:
    annotations = bucket.put_annotations(tmp_path / "written")
    labelled = {"imageIdsFile": bucket.put("ids.txt", b"1\n2\n")}

    places = watched.fetch(
        make_job(dataset__annotations=annotations, dataset__images=bucket.put_images(), dataset__labeled=labelled)
    )

    assert fetched_images(places) == originals(USED)


def test_a_custom_data_set_is_one_file(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    image = {"id": 1, "file_name": NAMES[1], "height": 24, "width": 32, "split": "train"}
    outline = [[2, 2, 12, 2, 12, 10]]
    objects = [{"id": 1, "image_id": 1, "bbox": [2, 2, 10, 8], "segmentation": outline, "expressions": ["a box"]}]
    uri = bucket.put("objects.json", json.dumps({"images": [image], "annotations": objects}).encode())

    places = watched.fetch(
        make_job(
            **{"dataset__name": "Custom", "dataset__annotations": uri, "dataset__images": bucket.put_images()},
            **{"dataset__evaluate": ["train"], "dataset__labeled": {"percent": "100"}},
        )
    )

    assert Path(places.paths["spec.dataset.annotations"]).name == "objects.json"
    assert fetched_images(places) == originals([NAMES[1]])


def test_weights_keep_their_name_and_are_fetched_once(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    resolved = make_job(proposals=sam(bucket.put("sam_vit_b.pth", WEIGHTS)))

    first, second = watched.fetch(resolved), watched.fetch(resolved)

    path = Path(first.paths["spec.proposals.sam.weights"])
    assert (path.name, path.read_bytes()) == ("sam_vit_b.pth", WEIGHTS)
    assert second.paths == first.paths
    assert (first.fetched_files, first.fetched_bytes) == (1, len(WEIGHTS))
    assert (second.fetched_files, second.fetched_bytes, second.found_bytes) == (0, 0, len(WEIGHTS))
    assert watched.contents() == []


def test_weights_that_were_damaged_here_are_fetched_again(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    resolved = make_job(proposals=sam(bucket.put("sam.pth", WEIGHTS)))
    path = Path(watched.fetch(resolved).paths["spec.proposals.sam.weights"])
    path.write_bytes(bytes(len(WEIGHTS)))

    watched.fetch(resolved)

    assert path.read_bytes() == WEIGHTS


def test_weights_with_another_sha256_are_refused_by_field(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    uri = bucket.put("sam.pth", WEIGHTS)
    published = {name: value for name, value in SAM.items() if name != "sha256"}

    with pytest.raises(ChecksumMismatch, match=r"^spec\.proposals\.sam\.weights: s3://.* is not the right content"):
        watched.fetch(make_job(proposals={"generator": "SAM", "sam": {**published, "weights": uri}}))

    assert not list(watched.cache.rglob("sam.pth"))


@pytest.mark.parametrize(
    ("field", "path", "below"),
    [
        pytest.param("spec.model.initFrom", "model__initFrom", "", id="file"),
        pytest.param("spec.model.initFrom", "model__initFrom", "/model.safetensors", id="file-of-a-folder"),
    ],
)
def test_a_web_page_is_not_taken_for_weights(
    field: str, path: str, below: str, bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    uri = bucket.put(f"lavt.pth{below}", b"<!DOCTYPE html><title>Sign in</title>").removesuffix(below)

    with pytest.raises(ChecksumMismatch, match=rf"{field}: s3://.*lavt\.pth{below} is not .* web page"):
        watched.fetch(make_job(**{path: uri}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param(
            {"dataset__images": "x"}, r"dataset\.images: there is no object .*/x and nothing below", id="images"
        ),
        pytest.param(
            {"dataset__annotations": "x"},
            r"dataset\.annotations: there is no object .*/x/refcoco/refs\(unc\)\.p and no .*/x/refs\(unc\)\.p",
            id="refer",
        ),
        pytest.param({"model__vocab": "vocab.txt"}, r"model\.vocab: there is no object .*vocab\.txt", id="vocabulary"),
        pytest.param({"proposals": sam("{}/x.pth")}, r"proposals\.sam\.weights: there is no object .*x\.pth", id="sam"),
    ],
)
def test_what_is_not_there_is_told_with_its_field_before_anything_is_fetched(
    changes: dict[str, Any], problem: str, bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    placed = json.loads(json.dumps(changes).replace("{}", bucket.uri))
    placed = {path: f"{bucket.uri}/{value}" if isinstance(value, str) else value for path, value in placed.items()}
    there = {"model__swin": bucket.put("swin.pth", WEIGHTS)}

    with pytest.raises(NoSuchKey, match=rf"^spec\.{problem}"):
        watched.fetch(make_job(**there, **placed))

    assert watched.contents() == []


def put_bert(bucket: Bucket) -> str:
    for name in (
        "config.json",
        "vocab.txt",
        "model.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
        "onnx/model.onnx",
    ):
        bucket.put(f"bert/{name}", f"content of {name}".encode())
    bucket.put("bert/", b"")  # some tools make folders so
    return f"{bucket.uri}/bert"


def test_of_a_hub_folder_what_is_read_is_fetched(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    resolved = make_job(model__bert=put_bert(bucket), model__vocab=None)

    first, second = watched.fetch(resolved), watched.fetch(resolved)

    folder = Path(first.paths["spec.model.bert"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert (first.fetched_files, second.fetched_files, second.found_files) == (3, 0, 3)
    assert second.paths == first.paths


def test_the_names_of_weights_are_those_that_the_reader_looks_for() -> None:
    assert WEIGHT_FILES == weights.WEIGHT_FILES
    assert HUB_FILES == ("config.json", "vocab.txt")


def test_a_file_that_is_replaced_makes_another_folder(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    resolved = make_job(model__bert=put_bert(bucket), model__vocab=None)
    before = Path(watched.fetch(resolved).paths["spec.model.bert"])
    bucket.put("bert/config.json", b"other settings")

    after = Path(watched.fetch(resolved).paths["spec.model.bert"])

    assert (before / "config.json").read_bytes() == b"content of config.json"
    assert (after / "config.json").read_bytes() == b"other settings"


def test_a_folder_with_large_files_arrives_whole(
    bucket: Bucket, watched: Watched, make_job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.fetch.files.SMALL_BYTES", 1000)
    bucket.put("model/model.safetensors", WEIGHTS)
    bucket.put("model/extra/notes.txt", b"notes")
    bucket.put("model/model.json", b"{}")

    places = watched.fetch(make_job(model__initFrom=f"{bucket.uri}/model"))

    folder = Path(places.paths["spec.model.initFrom"])
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"model.safetensors": WEIGHTS, "extra/notes.txt": b"notes", "model.json": b"{}"}
    assert not list(folder.parent.glob(f".{folder.name}.part"))


@pytest.mark.parametrize("with_vocabulary", [True, False])
def test_a_checkpoint_without_vocabulary_brings_that_of_bert(
    with_vocabulary: bool, bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    bucket.put("model/model.json", b"{}")
    if with_vocabulary:
        bucket.put("model/vocab.txt", b"words")
    resolved = make_job(model__initFrom=f"{bucket.uri}/model", model__bert=put_bert(bucket), model__vocab=None)

    places = watched.fetch(resolved)

    assert ("spec.model.bert" in places.paths) == (not with_vocabulary)
    assert watched.contents() == sorted(["model.json", "vocab.txt"])


@pytest.mark.parametrize("name", ["../x", "a//b", "/etc/x", "a/./b", "a/..", "a\nb"])
def test_names_that_lead_out_of_a_folder_are_refused(name: str) -> None:
    source = FolderSource(uri="s3://bucket/x", files={name: Stat(uri=f"s3://bucket/x/{name}", size=1, etag="")})

    with pytest.raises(DataError, match=r"s3://bucket/x holds an object named .* no file in a folder"):
        check_names(source)


def test_an_object_that_is_replaced_while_it_is_fetched_is_fetched_anew(
    bucket: Bucket, watched: Watched, make_job: Jobs
) -> None:
    uri = bucket.put("lavt.pth", WEIGHTS)
    replaced = iter([WEIGHTS[::-1]])

    def replace_once(request: Any) -> None:
        if request.range and (content := next(replaced, None)):
            bucket.put("lavt.pth", content)

    watched.proxy.decide = replace_once

    places = watched.fetch(make_job(model__initFrom=uri))

    assert Path(places.paths["spec.model.initFrom"]).read_bytes() == WEIGHTS[::-1]


def test_an_object_that_is_replaced_all_the_time_is_given_up(bucket: Bucket, watched: Watched, make_job: Jobs) -> None:
    uri = bucket.put("lavt.pth", WEIGHTS)
    numbers = iter(range(1, 1000))
    watched.proxy.decide = lambda request: (
        bucket.put("lavt.pth", WEIGHTS + bytes(next(numbers))) and None if request.range else None
    )

    with pytest.raises(ObjectChanged, match=r"^spec\.model\.initFrom: "):
        watched.fetch(make_job(model__initFrom=uri))


def test_a_disk_without_room_is_told_before_images_are_fetched(
    bucket: Bucket, watched: Watched, make_job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=23_999))

    with pytest.raises(DiskFull, match=r"spec\.dataset\.images: .* needs 24000 bytes, 23999 are free"):
        watched.fetch(make_job(dataset__images=bucket.put_images()))

    assert watched.contents() == []


def test_it_ends_soon_after_it_was_asked_to_while_the_server_fails(
    bucket: Bucket, watched: Watched, make_job: Jobs, faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.storage.client.ATTEMPTS", 1)
    uri = bucket.put_images()
    refused = []

    def refuse(request: Any) -> Any:
        if request.path.endswith(".jpg"):
            refused.append(request)
            return faults.Answer(status=503, code="SlowDown")
        return None

    watched.proxy.decide = refuse

    with pytest.raises(StopRequested, match="Stopped on request"):
        watched.fetch(make_job(dataset__images=uri), should_stop=lambda: bool(refused))


def test_what_arrived_before_it_was_stopped_is_kept(
    bucket: Bucket, watched: Watched, make_job: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.fetch.images.THREADS", 1)
    resolved = make_job(dataset__images=bucket.put_images())
    with pytest.raises(StopRequested):
        watched.fetch(resolved, should_stop=lambda: any(report.files_done >= 3 for report in watched.reports))

    again = watched.fetch(resolved)

    assert (again.found_files, again.fetched_files) == (3, 5)
