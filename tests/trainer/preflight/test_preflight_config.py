"""A manifest that can't be run as it is: exit code 2."""

from __future__ import annotations

from typing import Any

import pytest


def test_a_document_that_is_none_is_told_without_a_job(scene: Any) -> None:
    told = scene.run(SEMIRES_DOCUMENT="{}")

    assert (told.code, told.error["field"], told.outcome["job"]) == (2, "SEMIRES_DOCUMENT_SHA256", "?")


def test_a_wrong_value_is_named(scene: Any) -> None:
    scene.set("training.emaDecay", 0.5)

    told = scene.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (2, "ConfigInvalid", "spec.training.emaDecay")


@pytest.mark.parametrize(
    ("variables", "resources", "processes"),
    [
        pytest.param({"PET_NPROC_PER_NODE": "3"}, {}, 3, id="as the variables say"),
        pytest.param({"PET_NPROC_PER_NODE": "3", "PET_NNODES": "2:2"}, {}, 6, id="on two nodes"),
        pytest.param({}, {"gpusPerNode": 3}, 3, id="as the manifest says"),
        pytest.param({}, {"gpusPerNode": 4, "nodes": 2}, 8, id="two nodes of the manifest"),
    ],
)
def test_batches_that_cannot_be_dealt_are_refused(
    scene: Any, variables: dict[str, str], resources: dict[str, int], processes: int
) -> None:
    scene.set("resources", resources)

    told = scene.run(**variables)

    assert (told.code, told.error["field"]) == (2, "spec.training.burnInBatch")
    assert f"a global batch of 4 cannot be dealt evenly to {processes} processes" in told.message


def test_an_unknown_endpoint_is_named(scene: Any) -> None:
    scene.set("storage.endpoint", "lab")

    told = scene.run(SEMIRES_ENDPOINT_URL="")

    assert (told.code, told.error["field"]) == (2, "spec.storage.endpoint")


def test_an_output_of_another_run_is_refused_with_both_hashes(scene: Any) -> None:
    record = b'{"identity": "%s", "runId": "other"}' % (b"a" * 64)
    scene.put("out/run.json", record)
    scene.put("out/checkpoints/step-00000001/state.json", b"{}")

    told = scene.run()

    assert (told.code, told.error["field"]) == (2, "spec.output")
    assert f"holds the run aaaaaaaaaaaa, but this manifest trains {scene.identity[:12]}" in told.message
    assert scene.get("out/run.json") == record


def test_several_mistakes_are_told_at_once(scene: Any) -> None:
    scene.set("dataset.images", f"{scene.uri}/nothing")
    scene.set("model.vocab", f"{scene.uri}/no-vocab.txt")

    told = scene.run()

    assert (told.code, told.error["reason"]) == (3, "NoSuchKey")
    assert "more, see the log: spec." in told.message
    assert {"spec.dataset.images", "spec.model.vocab"} <= set(
        told.message.replace(":", " ").replace(",", " ").replace(")", " ").split()
    )
