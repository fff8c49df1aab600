"""Annotations that can't be used and images that are not there: exit code 3."""

from __future__ import annotations

from typing import Any

import pytest


def test_missing_images_are_counted_and_the_first_three_named(scene: Any, data: Any) -> None:
    names = sorted(path.name for path in (data / "images").glob("train_*"))
    for name in names[:5]:
        scene.delete(f"images/{name}")

    told = scene.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (3, "DataInvalid", "spec.dataset.images")
    assert f"5 of 18 images are not in {scene.uri}/images, first: " in told.message
    assert sum(name in told.message for name in names[:5]) == 3
    assert (told.found["images"], told.found["labeled"]) == (10, 5)


def test_a_missing_local_image_is_named(local_scene: Any, tmp_path: Any, data: Any) -> None:
    (tmp_path / "images").mkdir()
    local_scene.set("dataset.images", str(tmp_path / "images"))

    told = local_scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.dataset.images")
    assert "images are not in" in told.message


def test_a_local_path_that_is_not_there_is_named(local_scene: Any, tmp_path: Any) -> None:
    local_scene.set("dataset.images", str(tmp_path / "nothing"))

    told = local_scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.dataset.images")
    assert "nothing does not exist" in told.message


def test_an_archive_that_is_none_is_refused(scene: Any) -> None:
    scene.set("dataset.images", scene.put("train2014.zip", b"<html>404</html>" * 100))

    told = scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.dataset.images")
    assert "is neither a zip file nor a tar file" in told.message


@pytest.mark.parametrize("name", ["refs(unc).p", "instances.json"])
def test_damaged_annotations_are_named(scene: Any, name: str) -> None:
    scene.put(f"refer/refcoco/{name}", b"damaged")

    told = scene.run()

    assert (told.code, told.error["reason"]) == (3, "DataInvalid")
    assert name in told.message


def test_absent_annotations_are_named(scene: Any) -> None:
    scene.set("dataset.annotations", f"{scene.uri}/nowhere")

    told = scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.dataset.annotations")


def test_a_percentage_that_labels_nothing_is_refused(scene: Any) -> None:
    scene.set("dataset.labeled.percent", "0.5")

    told = scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.dataset.labeled.percent")
