"""A job with which nothing is wrong."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import Any

import pytest


def test_a_new_job_is_counted_and_nothing_is_done(scene: Any) -> None:
    told = scene.run()

    assert told.code == 0, told.outcome
    assert told.outcome | {"preflight": None} == {
        **{"schemaVersion": 1, "job": "tiny", "jobUid": "job-uid", "attempt": 3, "podUid": "pod-uid", "exitCode": 0},
        **{"results": [], "bestCheckpoint": None, "lastCheckpoint": None, "preflight": None},
    }
    assert told.found | {"ephemeralStorageBytes": 0} == {
        **{"complete": False, "stagesDone": [], "lastCheckpoint": None, "images": 10, "labeled": 5},
        **{"ephemeralStorageBytes": 0, "previousOutcome": None, "warnings": []},
    }
    assert told.found["ephemeralStorageBytes"] > 1 << 30


def test_nothing_is_left_in_the_output(scene: Any) -> None:
    scene.run()

    assert scene.names("out") == []


def test_a_probe_of_a_killed_preflight_is_removed(scene: Any) -> None:
    scene.put("out/.preflight-job-uid", b"another")

    assert scene.run().code == 0
    assert scene.names("out") == []


def test_paths_need_no_bucket(local_scene: Any) -> None:
    told = local_scene.run(SEMIRES_ENDPOINT_URL="http://127.0.0.1:9", SEMIRES_CREDENTIALS="/nowhere")

    assert told.code == 0, told.outcome
    assert (told.found["images"], told.found["labeled"]) == (10, 5)
    assert told.found["ephemeralStorageBytes"] == 1 << 30


def test_all_images_may_lie_in_a_zip(scene: Any, data: Any) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for picture in (data / "images").iterdir():
            archive.write(picture, f"train2014/{picture.name}")
    scene.set("dataset.images", scene.put("train2014.zip", buffer.getvalue()))

    assert scene.run().code == 0


def test_of_a_tar_a_warning_says_that_it_was_not_read(scene: Any, data: Any) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(data / "images", "train2014")
    scene.set("dataset.images", scene.put("train2014.tar", buffer.getvalue()))

    told = scene.run()

    assert told.code == 0
    assert told.found["warnings"][0].startswith("A tar has no directory: whether s3://")


def test_weights_of_the_hub_are_not_checked_and_a_warning_says_so(scene: Any) -> None:
    scene.set("model", {"imageSize": 64, "maxTokens": 16})

    told = scene.run()

    assert told.code == 0
    assert told.found["warnings"] == [
        "Not checked, as the run fetches it from the hub: hf://timm/swin_base_patch4_window12_384.ms_in22k, "
        "hf://google-bert/bert-base-uncased."
    ]


@pytest.mark.parametrize("name", ["job", "attempt"])
def test_the_log_is_json_lines_with_the_job(scene: Any, name: str) -> None:
    with scene.start() as process:
        _, log = process.communicate(timeout=60)

    assert process.returncode == 0
    assert {json.loads(line)[name] for line in log.splitlines()} <= {"tiny", 3}
