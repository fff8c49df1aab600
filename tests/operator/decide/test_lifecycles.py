"""Whole lives of a job, as a controller and a trainer would have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from semires_operator.builder import Bodies
from semires_operator.endpoints import WITHOUT_A_LIST

MakeWorld = Callable[..., Any]


def phases(world: Any, ticks: int) -> list[str]:
    """The phases that follow one another."""
    found: list[str] = []
    world.look()
    for _ in range(ticks):
        if found[-1:] != [world.status["phase"]]:
            found.append(world.status["phase"])
        world.go()
    return found


def test_a_job_is_checked_trained_and_done(world: Any) -> None:
    found = phases(world, 40)

    assert found == ["Preflight", "Pending", "Running", "Succeeded"]
    assert world.made == ["refcoco-p1", "refcoco-a1"]
    assert world.status["results"] == [
        {"model": "teacher", "split": "val", "size": "480", "oIoU": "47.3125", "mIoU": "50"}
    ]
    assert world.status["display"]["oIoU"] == "47.31"
    assert world.condition("Complete")["status"] == world.condition("Finished")["status"] == "True"


def test_a_usual_life_is_told_in_a_few_events(world: Any) -> None:
    world.until("Succeeded")

    assert [reason for _, reason, _ in world.notes] == [
        "CheckingInputs",
        "WaitingForPods",
        "Training",
        "PodsEnding",
        "Completed",
    ]


def test_a_suspended_job_saves_stops_and_goes_on_where_it_was(world: Any) -> None:
    world.until("Running")
    world.go(7)
    world.edit(suspend=True)
    found = phases(world, 12)

    assert found == ["Running", "Stopping", "Suspended"] or found == ["Stopping", "Suspended"]
    assert world.asked == 1
    assert not world.live_attempts
    assert world.saved == 7

    world.edit(suspend=False)
    world.until("Succeeded")

    assert world.status["attempt"] == 2
    assert world.status["failures"] == 0
    assert world.status["freeRetries"] == 0
    assert world.status["attempts"][0]["ended"] == "Stopped"


def test_a_killed_pod_is_repeated_and_counted(world: Any) -> None:
    world.until("Running")
    world.end_pod(world.training_pod(), 137, reason="OOMKilled")
    world.until("Retrying")

    assert world.status["failures"] == 1
    assert world.status["lastFailure"]["reason"] == "OOMKilled"

    world.until("Succeeded")
    assert world.made == ["refcoco-p1", "refcoco-a1", "refcoco-p2", "refcoco-a2"]


def test_a_drained_pod_is_repeated_free_of_charge(world: Any) -> None:
    world.until("Running")
    world.evict(world.training_pod())
    world.until("Retrying")

    assert world.status["failures"] == 0
    assert world.status["freeRetries"] == 1
    assert world.status["attempts"][0]["ended"] == "Lost"


def test_a_wrong_key_fails_the_job_in_one_sentence_without_another_attempt(world: Any) -> None:
    world.until("Preflight")
    world.tick()
    error = {"reason": "StorageDenied", "message": "s3://data: access denied.", "field": "spec.storage"}
    world.end_pod(next(iter(world.pods.values())), 5, outcome={"error": error})
    world.until("Failed")

    assert (world.status["reason"], world.status["message"]) == ("StorageDenied", "s3://data: access denied.")
    assert world.status["attempt"] == 1
    assert world.made == ["refcoco-p1"]


def test_too_many_failures_end_the_job(make_world: MakeWorld) -> None:
    world = make_world(failurePolicy={"backoffLimit": 1})
    for _ in range(2):
        world.until("Running")
        world.end_pod(world.training_pod(), 1)
        world.go(3)
    world.until("Failed")

    assert world.status["reason"] == "BackoffLimitExceeded"
    assert world.status["attempt"] == 2


def test_gpu_memory_halves_the_micro_batch_free_of_charge(world: Any) -> None:
    world.until("Running")
    error = {"reason": "GpuMemory", "message": "Too little GPU memory.", "field": "", "microBatch": 6}
    world.end_pod(world.training_pod(), 6, outcome={"error": error})
    world.until("Succeeded")

    assert world.status["failures"] == 0
    assert world.bodies[-1]["spec"]["containers"][0]["microBatch"] == 6


def test_what_is_done_already_needs_no_gpu(world: Any) -> None:
    world.step = world.saved = 20
    world.until("Succeeded")

    assert world.made == ["refcoco-p1"]
    assert world.status["results"]


def test_a_success_whose_pod_vanished_is_read_from_the_output_by_the_next_check(world: Any) -> None:
    world.until("Running")
    world.step = world.saved = 20
    world.change_child(world.child(), state="Succeeded", finished=world.now)
    world.vanish(world.training_pod())
    world.until("Succeeded")

    assert world.made == ["refcoco-p1", "refcoco-a1", "refcoco-p2"]
    assert world.status["results"]


def test_kueue_holds_a_job_back_admits_it_and_evicts_it(world: Any) -> None:
    world.kueue = True
    world.until("Queued")
    world.change_child(world.child(), suspended_by_others=False, state="Created")
    world.until("Running")
    world.go(3)
    world.change_child(world.child(), suspended_by_others=True, state="Suspended")
    world.until("Queued")

    assert world.status["attempt"] == 1
    assert world.status["activeSeconds"] > 0
    assert "runningSince" not in world.status

    world.change_child(world.child(), suspended_by_others=False, state="Created")
    world.until("Succeeded")
    assert world.made == ["refcoco-p1", "refcoco-a1"]


def test_running_time_is_summed_over_attempts(make_world: MakeWorld) -> None:
    world = make_world(activeDeadlineSeconds=60)
    world.until("Running")
    world.go(4)
    world.evict(world.training_pod())
    world.until("Failed")

    assert world.status["reason"] == "ActiveDeadlineExceeded"
    assert world.status["attempt"] == 2
    assert 60 <= world.status["activeSeconds"] <= 80
    assert world.asked > 0


def test_a_longer_deadline_withdraws_the_stop(make_world: MakeWorld) -> None:
    world = make_world(activeDeadlineSeconds=30)
    world.hung = True
    world.until("Stopping")
    world.edit(activeDeadlineSeconds=3000)
    world.look()

    assert world.status["phase"] == "Running"
    assert "stopping" not in world.status


def test_a_stop_waits_for_a_checkpoint_no_longer_than_its_deadline(world: Any) -> None:
    world.until("Running")
    world.hung = True
    world.edit(suspend=True)
    world.go(20)

    assert world.status["phase"] == "Stopping"
    assert world.asked == 20

    world.go(12)
    assert world.status["phase"] == "Suspended"


def test_a_stop_before_training_waits_for_nothing(world: Any) -> None:
    world.stage = "proposals"
    world.until("Running")
    world.edit(suspend=True)
    world.go(4)

    assert world.status["phase"] == "Suspended"
    assert world.asked == 0


def test_pods_that_never_run_end_the_job_at_the_pending_deadline(make_world: MakeWorld) -> None:
    world = make_world(pendingDeadlineSeconds=60, preflight={"mode": "Skip"})
    world.idle = True
    world.until("Failed")

    assert world.status["reason"] == "PendingDeadlineExceeded"
    assert (world.now - world.job.created).total_seconds() <= 80


def test_a_hung_run_is_restarted_and_counted(make_world: MakeWorld) -> None:
    world = make_world(healthPolicy={"stalledSeconds": 60})
    world.until("Running")
    world.go(2)
    world.hung = True
    world.go(13)
    assert world.condition("Degraded")["reason"] == "Stalled"

    world.until("Stopping")
    world.until("Retrying")
    assert world.status["failures"] == 1

    world.hung = False
    world.until("Succeeded")


def test_a_hung_run_is_only_told_if_that_is_wanted(make_world: MakeWorld) -> None:
    world = make_world(healthPolicy={"stalledSeconds": 60, "action": "Report"})
    world.until("Running")
    world.hung = True
    world.go(60)

    assert (world.status["phase"], world.status["reason"]) == ("Running", "Stalled")
    assert world.condition("Degraded")["status"] == "True"
    assert world.status["attempt"] == 1


def test_a_trainer_that_cannot_be_asked_is_never_stopped(make_world: MakeWorld) -> None:
    world = make_world(healthPolicy={"stalledSeconds": 60})
    world.until("Running")
    world.go(2)
    world.hung = world.deaf = True
    world.go(100)

    assert world.status["phase"] == "Running"
    assert world.status["progress"]["stale"]
    assert world.condition("Progressing")["status"] == "Unknown"
    assert world.condition("Degraded")["status"] == "False"


def test_a_pod_stuck_on_a_lost_node_is_told_and_blocks_nothing_after_a_while(world: Any) -> None:
    world.until("Running")
    pod = world.training_pod()
    world.nodes_ready = False
    world.evict(pod, reason="DeletionByTaintManager")
    world.go(10)
    assert world.status["attempt"] == 1
    world.until("Retrying")

    assert (world.now - pod.created).total_seconds() > 330
    assert world.status["attempts"][0]["ended"] == "Lost"
    world.until("Running")
    assert world.status["attempt"] == 2
    assert pod.uid in world.pods


@pytest.mark.parametrize("ready", [pytest.param(True, id="ready"), pytest.param(None, id="not-to-be-seen")])
def test_a_pod_stuck_on_any_other_node_blocks_and_is_told(world: Any, ready: bool | None) -> None:
    world.until("Running")
    world.nodes_ready, world.nodes_work = ready, False
    world.evict(world.training_pod())
    world.go(100)

    assert world.status["attempt"] == 1
    assert world.status["reason"] == "PodStuck"
    assert "node-1" in world.condition("Degraded")["message"]


def test_a_finished_job_is_deleted_after_its_ttl(make_world: MakeWorld) -> None:
    world = make_world(ttlSecondsAfterFinished=60)
    world.until("Succeeded")
    assert world.requeue == pytest.approx(60, abs=1)

    world.go(11)
    assert not world.gone
    world.go(2)
    assert world.gone


def test_a_job_that_is_deleted_is_left_alone(world: Any) -> None:
    world.until("Running")
    world.deleting = True
    decision = world.decide()

    assert decision.status == world.status
    assert (decision.actions, decision.notes, decision.requeue_after) == ((), (), None)


def test_nothing_is_written_at_rest(world: Any) -> None:
    world.kueue = True
    world.until("Queued")
    world.go(3)
    before = world.writes
    world.go(100)

    assert world.writes == before


def test_progress_is_written_at_most_each_interval(world: Any) -> None:
    world.until("Running")
    before = world.writes
    world.go(12)  # 60 seconds, and two checkpoints on the way

    assert world.writes - before <= 8


def test_the_image_of_the_first_attempt_is_kept(world: Any, worlds: Any) -> None:
    world.settings = worlds.Settings(trainer_image="registry.example/trainer:1")
    world.until("Running")
    digest = "sha256:" + "a" * 64
    world.change_pod(world.training_pod(), image_id=f"registry.example/trainer@{digest}")
    world.go()
    world.settings = worlds.Settings(trainer_image="registry.example/trainer:2")
    world.end_pod(world.training_pod(), 1)
    world.until("Succeeded")

    images = [body["spec"]["containers"][0]["image"] for body in world.bodies]
    assert images[:2] == ["registry.example/trainer:1"] * 2
    assert images[2:] == [f"registry.example/trainer@{digest}"] * 2
    assert world.status["provenance"]["documentSha256"] == worlds.SHA256


def test_children_of_earlier_attempts_are_deleted_when_the_next_begins(world: Any) -> None:
    world.until("Running")
    world.end_pod(world.training_pod(), 1)
    world.until("Retrying")
    assert "refcoco-a1" in world.children

    world.until("Running")
    assert "refcoco-a1" not in world.children


def test_a_deleted_child_is_replaced_by_another_attempt(world: Any) -> None:
    world.until("Running")
    world.delete("refcoco-a1")
    world.until("Succeeded")

    assert world.status["attempt"] == 2
    assert world.status["lastFailure"]["reason"] == "ChildDeleted"
    assert world.status["failures"] == 0


def test_a_deleted_check_is_made_again(world: Any) -> None:
    world.until("Preflight")
    world.tick()
    world.delete("refcoco-p1")
    world.until("Succeeded")

    assert world.made == ["refcoco-p1", "refcoco-p1", "refcoco-a1"]


def test_a_check_may_be_left_out(make_world: MakeWorld) -> None:
    world = make_world(preflight={"mode": "Skip"})
    world.until("Succeeded")

    assert world.made == ["refcoco-a1"]
    assert world.status["preflight"] == {"attempt": 1, "skipped": True, "stagesDone": [], "warnings": []}


def test_a_pending_deadline_ends_no_run_that_has_begun(make_world: MakeWorld) -> None:
    world = make_world(pendingDeadlineSeconds=30)
    world.until("Running")
    world.go(10)
    world.change_child(world.child(), suspended_by_others=True, state="Suspended")
    world.until("Queued")
    world.change_child(world.child(), suspended_by_others=False, state="Created")
    world.until("Succeeded")

    assert world.status["attempt"] == 1


def test_a_stuck_pod_stays_told_while_the_next_attempt_runs(world: Any) -> None:
    world.until("Running")
    world.nodes_ready = False
    world.evict(world.training_pod(), reason="DeletionByTaintManager")
    world.until("Retrying")
    world.until("Running")

    assert world.condition("Degraded")["reason"] == "PodStuck"
    assert "node-1" in world.condition("Degraded")["message"]


def test_the_real_bodies_carry_image_micro_batch_and_document(world: Any) -> None:
    world.builder = Bodies(lambda: WITHOUT_A_LIST)
    world.until("Running")
    error = {"reason": "GpuMemory", "message": "Too little GPU memory.", "field": "", "microBatch": 6}
    first = world.status["provenance"]["documentSha256"]
    world.end_pod(world.training_pod(), 6, outcome={"error": error})
    world.until("Succeeded")

    assert world.made == ["refcoco-p1", "refcoco-a1", "refcoco-p2", "refcoco-a2"]
    assert world.status["provenance"]["documentSha256"] != first
    assert '"microBatch":6' in str(world.bodies[-1])


def test_an_endpoint_that_is_not_allowed_creates_nothing(make_world: MakeWorld) -> None:
    world = make_world(storage={"endpoint": "elsewhere", "credentialsSecret": "s3"})
    world.builder = Bodies(lambda: WITHOUT_A_LIST)
    world.go(20)

    assert (world.made, world.status["reason"]) == ([], "EndpointNotAllowed")
    assert "it may use default" in world.status["message"]
    assert world.writes == 1
