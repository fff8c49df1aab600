"""Edits of what an attempt runs by: the definition lets them pass while a job is suspended, for a moment even."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

MakeWorld = Callable[..., Any]


def test_an_edit_of_the_image_while_suspended_replaces_what_was_chosen(world: Any, worlds: Any) -> None:
    world.settings = worlds.Settings(trainer_image="registry.example/trainer:1")
    world.until("Running")
    world.edit(suspend=True)
    world.until("Suspended")
    world.edit(suspend=False, image="registry.example/mine:1")
    world.until("Running")
    chosen = world.status["provenance"]["image"]
    world.edit(suspend=True)
    world.until("Suspended")
    world.settings = worlds.Settings(trainer_image="registry.example/trainer:2")
    world.edit(suspend=False, image=None)
    world.until("Running")

    assert chosen == "registry.example/mine:1"
    assert world.status["provenance"]["image"] == "registry.example/trainer:2"


@pytest.mark.parametrize(
    ("training", "expected"), [pytest.param({}, 6, id="untouched"), pytest.param({"microBatch": 12}, None, id="edited")]
)
def test_an_edit_of_the_micro_batch_while_suspended_replaces_what_was_tried(
    world: Any, training: dict[str, Any], expected: int | None
) -> None:
    error = {"reason": "GpuMemory", "message": "Too little GPU memory.", "field": "", "microBatch": 6}
    world.until("Running")
    world.end_pod(world.training_pod(), 6, outcome={"error": error})
    world.until("Running")
    world.edit(suspend=True)
    world.until("Suspended")
    world.edit(suspend=False, training=training)
    world.until("Running")

    assert world.bodies[-1]["spec"]["containers"][0]["microBatch"] == expected


@pytest.mark.parametrize("looks", [pytest.param(0, id="nobody looked"), pytest.param(1, id="the stop had begun")])
def test_an_edit_in_a_moment_of_suspension_replaces_the_attempt(world: Any, worlds: Any, looks: int) -> None:
    world.until("Running")
    world.go(2)
    world.hung = True  # no checkpoint comes: the stop takes its time
    world.edit(suspend=True)
    for _ in range(looks):
        world.look()
    world.edit(suspend=False, image="registry.example/mine:1")
    world.look()
    assert world.status["stopping"]["reason"] == "Edit"
    world.hung = False
    world.until("Running")
    world.go(8)

    assert (world.status["attempt"], world.status["provenance"]["image"]) == (2, "registry.example/mine:1")
    assert [(one["ended"], one["counted"]) for one in world.status["attempts"]] == [("Stopped", False)]


def test_a_suspension_that_is_taken_back_without_an_edit_changes_nothing(world: Any) -> None:
    world.until("Running")
    world.hung = True
    world.edit(suspend=True)
    world.look()
    world.edit(suspend=False)
    world.go(3)

    assert (world.status["attempt"], world.status["phase"], world.status.get("stopping")) == (1, "Running", None)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"activeDeadlineSeconds": 86400}, id="deadline"),
        pytest.param({"failurePolicy": {"backoffLimit": 1}}, id="failure policy"),
        pytest.param({"preflight": {"cpu": "2"}}, id="preflight"),
    ],
)
def test_what_may_change_at_any_time_replaces_no_attempt(world: Any, edit: dict[str, Any]) -> None:
    world.until("Running")
    world.edit(**edit)
    world.go(3)

    assert (world.status["attempt"], world.status["phase"]) == (1, "Running")


def test_a_status_of_an_operator_that_did_not_write_what_the_attempt_runs_by_is_left_alone(world: Any) -> None:
    world.until("Running")
    del world.status["runBySha256"]
    world.edit(image="registry.example/mine:1")
    world.go(2)

    assert (world.status["attempt"], world.status["phase"]) == (1, "Running")
