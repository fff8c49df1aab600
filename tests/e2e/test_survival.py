"""A job that is killed and suspended while its operator dies."""

from __future__ import annotations

import itertools

import pytest
from e2e import inputs
from e2e.stories import Survived
from e2e.world import World, condition_of, moment, sha256

pytestmark = pytest.mark.timeout(1800)


def test_a_killed_job_ends_well(survived: Survived) -> None:
    assert condition_of(survived.job, "Complete")["status"] == "True"
    assert survived.job["status"]["attempt"] == 3


def test_the_history_tells_what_happened(survived: Survived) -> None:
    killed, stopped, done = survived.job["status"]["attempts"]

    assert (killed["ended"], killed["failure"]["exitCode"], killed["counted"]) == ("Failed", 137, True)
    assert (stopped["ended"], stopped["counted"]) == ("Stopped", False)
    assert done["ended"] == "Succeeded"


def test_the_next_attempt_goes_on_where_the_newest_checkpoint_ends(world: World, survived: Survived) -> None:
    place = survived.after_kill["uri"].rpartition("/")[2]

    assert any(told.startswith("Going on from") and place[:13] in told for told in world.messages("survivor", 2))


def test_a_suspended_job_has_no_pods(survived: Survived) -> None:
    # One that has ended holds no GPU; the kubelet may not have let go of its name yet.
    assert [pod["status"]["phase"] for pod in survived.pods if pod["status"]["phase"] not in inputs.ENDED] == []
    assert condition_of(survived.suspended, "Suspended")["status"] == "True"


def test_the_stop_has_left_a_new_checkpoint(survived: Survived) -> None:
    last = survived.suspended["status"]["lastCheckpoint"]

    assert moment(last["time"]) >= moment(survived.stopping["requestedAt"])
    assert last["step"] == survived.after_stop["number"]


def test_a_resumed_job_goes_on_from_the_checkpoint_of_its_stop(world: World, survived: Survived) -> None:
    place = survived.after_stop["uri"].rpartition("/")[2]

    assert any(told.startswith("Going on from") and place[:13] in told for told in world.messages("survivor", 3))


def test_three_attempts_give_the_same_bits_as_one(world: World, survived: Survived) -> None:
    weights = [sha256(world.read(f"{world.output(name)}/model/model.safetensors")) for name in ("chain", "survivor")]

    assert weights[0] == weights[1]


def test_no_child_was_made_twice(world: World, survived: Survived) -> None:
    made = [
        event["objectRef"]["name"]
        for event in world.operator_writes()
        if event["verb"] == "create" and event["objectRef"].get("name", "").startswith("survivor")
    ]

    assert sorted(made) == [f"survivor-{role}{attempt}" for role, attempt in itertools.product("ap", (1, 2, 3))]


def test_another_replica_takes_over_in_time(survived: Survived) -> None:
    assert max(survived.takeovers) <= 20, survived.takeovers
