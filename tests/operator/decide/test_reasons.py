"""Every reason is reached, and explained in docs/operations.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from semires_operator.actions import Unbuildable
from semires_operator.builder import Bodies as RealBodies
from semires_operator.endpoints import WITHOUT_A_LIST
from semires_operator.observed import Backend, Refusal, Taken, Warning_
from semires_operator.reasons import ABOUT, CONDITIONS, Reason

MakeWorld = Callable[..., Any]


def told(world: Any) -> set[str]:
    """Every reason that the status has now."""
    found = {world.status["reason"], *(condition["reason"] for condition in world.status["conditions"])}
    failure = world.status.get("lastFailure")
    return found | ({failure["reason"]} if failure else set())


def waiting(**pod: Any) -> Callable[[Any], None]:
    """A training pod that does not start."""

    def play(world: Any) -> None:
        world.until("Pending")
        world.go()
        world.idle = True
        world.change_pod(world.training_pod(), phase="Pending", **pod)
        world.go()

    return play


def refused(message: str, code: int = 403) -> Callable[[Any], None]:
    """A child that the API server refuses."""

    def play(world: Any) -> None:
        world.refuse = {"Create": Refusal(action="Create Job/x", code=code, reason="Forbidden", message=message)}
        world.go(2)

    return play


def ends(code: int | None, *, outcome: dict[str, Any] | None = None, **pod: Any) -> Callable[[Any], None]:
    """A training pod that ends by itself."""

    def play(world: Any) -> None:
        world.until("Running")
        world.end_pod(world.training_pod(), code, outcome=outcome, **pod)
        world.tick()
        world.look()

    return play


def until(phase: str) -> Callable[[Any], None]:
    return lambda world: world.until(phase)


def play_queue(world: Any) -> None:
    world.kueue = True
    world.until("Queued")


def play_eviction(world: Any) -> None:
    world.until("Running")
    world.evict(world.training_pod())
    world.nodes_work = False
    world.go()
    world.nodes_work = True
    world.until("Retrying")


def play_end_to_be_read(world: Any) -> None:
    world.until("Running")
    world.change_child(world.child(), state="Failed", finished=world.now)
    world.nodes_work = False
    world.go()


def play_previous_pod(world: Any) -> None:
    world.until("Running")
    pod = world.training_pod()
    world.end_pod(pod, 1)
    world.until("Retrying")
    world.nodes_work = False
    world.pods["late"] = replace(pod, name="late", uid="late", deleting_since=world.now, grace_seconds=600)
    world.go()


def play_stop(world: Any) -> None:
    world.until("Running")
    world.hung = True
    world.edit(suspend=True)
    world.go()


def play_removal(world: Any) -> None:
    world.until("Running")
    world.stage, world.nodes_work = "proposals", False
    world.edit(suspend=True)
    world.go()


def play_suspended(world: Any) -> None:
    world.edit(suspend=True)
    world.look()


def play_conflict(world: Any) -> None:
    world.taken = Taken(kind="Job", name="refcoco-p1", owner="Deployment/other")
    world.go(2)


def play_old_object(world: Any) -> None:
    world.taken = Taken(kind="Job", name="refcoco-p1", owner="SemiRESJob/refcoco", deleting=True)
    world.go(2)


def play_no_backend(world: Any) -> None:
    world.backend = Backend(pytorchjobs=False)
    world.go()


def play_endpoint(world: Any) -> None:
    class Bodies:
        def build_preflight(self, *_: Any) -> Any:
            raise Unbuildable("EndpointNotAllowed", 'spec.storage.endpoint: "x" is not allowed; use default.')

    world.builder = Bodies()
    world.go()


def play_lost_output(world: Any) -> None:
    world.builder = RealBodies(lambda: WITHOUT_A_LIST)
    world.edit(output="runs/refcoco")
    world.go()


def play_refused_deletion(world: Any) -> None:
    world.refuse = {"Delete": Refusal(action="Delete PyTorchJob/x", code=403, reason="Forbidden", message="no")}
    world.until("Running")
    world.stage, world.hung = "proposals", True
    world.edit(suspend=True)
    world.go(2)


def play_silence(world: Any) -> None:
    world.until("Running")
    world.deaf = True
    world.go(20)


def play_stall(world: Any) -> None:
    world.edit(healthPolicy={"stalledSeconds": 60})
    world.until("Running")
    world.go()
    world.hung = True
    world.go(13)


def play_stuck(world: Any) -> None:
    world.until("Running")
    world.nodes_work = False
    world.evict(world.training_pod())
    world.go(70)


def play_old_checkpoint(world: Any) -> None:
    world.until("Running")
    world.go(7)
    world.hung = world.deaf = True
    world.go()
    world.now += timedelta(hours=3)
    world.look()


def play_bad_spec(world: Any) -> None:
    world.edit(dataset={"name": "RefCoco"})
    world.look()


def play_rule(world: Any) -> None:
    world.edit(failurePolicy={"rules": [{"exitCodes": [1], "action": "Fail"}]})
    ends(1)(world)


def play_backoff_limit(world: Any) -> None:
    world.edit(failurePolicy={"backoffLimit": 0})
    ends(1)(world)


def play_many_losses(world: Any) -> None:
    world.settings = replace(world.settings, max_free_retries=1)
    for _ in range(2):
        world.until("Running")
        world.end_pod(world.training_pod(), 150)
        world.go(3)
    world.until("Failed")


def play_active_deadline(world: Any) -> None:
    world.edit(activeDeadlineSeconds=30)
    world.until("Failed")


def play_pending_deadline(world: Any) -> None:
    world.idle = True
    world.edit(pendingDeadlineSeconds=30)
    world.until("Failed")


def play_vanished(world: Any) -> None:
    world.until("Running")
    world.vanish(world.training_pod())
    world.change_child(world.child(), state="Failed", finished=world.now)
    world.go(8)


def play_deleted_child(world: Any) -> None:
    world.until("Running")
    world.delete("refcoco-a1")
    world.until("Retrying")


def play_slow_check(world: Any) -> None:
    world.look()
    world.idle = True
    world.tick()
    check = world.children["refcoco-p1"]
    world.change_child(check, state="Failed", reason="DeadlineExceeded", finished=world.now)
    world.pods.clear()
    world.go(7)


def play_mount(world: Any) -> None:
    waiting(waiting="ContainerCreating")(world)
    message = 'MountVolume.SetUp failed for volume "credentials" : secret "s3-credentials" not found'
    name = world.training_pod().name
    world.warnings = (Warning_(kind="Pod", name=name, reason="FailedMount", message=message, time=world.now),)
    world.go()


def play_slow_node(world: Any) -> None:
    waiting(waiting="ContainerCreating")(world)
    world.go(62)


GPU = {"error": {"reason": "GpuMemory", "message": "No smaller micro-batch.", "field": ""}}
SUPERSEDED = {"error": {"reason": "Superseded", "message": "Job other owns the output.", "field": ""}}
HUNG = {"error": {"reason": "RanksHung", "message": "Nothing moved.", "field": ""}}
SCENES: dict[Reason, Callable[[Any], None]] = {
    Reason.CHECKING_INPUTS: until("Preflight"),
    Reason.WAITING_FOR_PODS: until("Pending"),
    Reason.QUEUED: play_queue,
    Reason.TRAINING: until("Running"),
    Reason.PODS_ENDING: play_end_to_be_read,
    Reason.WAITING_FOR_PREVIOUS_PODS: play_previous_pod,
    Reason.SAVING_CHECKPOINT: play_stop,
    Reason.REMOVING_PODS: play_removal,
    Reason.SUSPENDED: play_suspended,
    Reason.BACK_OFF: play_eviction,
    Reason.COMPLETED: until("Succeeded"),
    Reason.UNSCHEDULABLE: waiting(unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    Reason.IMAGE_PULL_BACK_OFF: waiting(waiting="ErrImagePull", waiting_message="not found"),
    Reason.QUOTA_EXCEEDED: refused('pods "x" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=4'),
    Reason.POD_SECURITY_REFUSED: refused('pods "x" is forbidden: violates PodSecurity "restricted:latest"'),
    Reason.SECRET_MISSING: play_mount,
    Reason.CLAIM_MISSING: waiting(unschedulable='0/1 nodes are available: persistentvolumeclaim "cache" not found.'),
    Reason.SERVICE_ACCOUNT_MISSING: refused(
        'pods "x" is forbidden: error looking up service account team-a/trainer: serviceaccount "trainer" not found'
    ),
    Reason.CONTAINER_CONFIG_INVALID: waiting(
        waiting="CreateContainerConfigError", waiting_message="container has runAsNonRoot and image will run as root"
    ),
    Reason.CONTAINER_CREATING_TOO_LONG: play_slow_node,
    Reason.WEBHOOK_UNAVAILABLE: refused('Internal error occurred: failed calling webhook "validator": refused', 500),
    Reason.BACKEND_MISSING: play_no_backend,
    Reason.ENDPOINT_NOT_ALLOWED: play_endpoint,
    Reason.OUTPUT_NOT_KEPT: play_lost_output,
    Reason.NAME_CONFLICT: play_conflict,
    Reason.WAITING_FOR_OLD_OBJECT: play_old_object,
    Reason.CREATE_REFUSED: refused("denied the request: no GPUs on Sundays"),
    Reason.DELETE_REFUSED: play_refused_deletion,
    Reason.PROGRESS_STALE: play_silence,
    Reason.STALLED: play_stall,
    Reason.POD_STUCK: play_stuck,
    Reason.CHECKPOINT_PUBLISHED: until("Succeeded"),
    Reason.CHECKPOINT_OLD: play_old_checkpoint,
    Reason.NO_CHECKPOINT_YET: until("Preflight"),
    Reason.AS_EXPECTED: until("Running"),
    Reason.SPEC_INVALID: play_bad_spec,
    Reason.CONFIG_INVALID: ends(2),
    Reason.DATA_INVALID: ends(3),
    Reason.DIVERGED: ends(4),
    Reason.STORAGE_DENIED: ends(5),
    Reason.GPU_MEMORY: ends(6, outcome=GPU),
    Reason.IMAGE_BROKEN: ends(127),
    Reason.SUPERSEDED: ends(150, outcome=SUPERSEDED),
    Reason.FAILED_BY_RULE: play_rule,
    Reason.BACKOFF_LIMIT_EXCEEDED: play_backoff_limit,
    Reason.FREE_RETRIES_EXHAUSTED: play_many_losses,
    Reason.ACTIVE_DEADLINE_EXCEEDED: play_active_deadline,
    Reason.PENDING_DEADLINE_EXCEEDED: play_pending_deadline,
    Reason.UNEXPECTED: ends(1),
    Reason.OUT_OF_MEMORY: ends(137, reason="OOMKilled"),
    Reason.INFRASTRUCTURE: ends(150),
    Reason.RANKS_HUNG: ends(150, outcome=HUNG),
    Reason.TERMINATED: ends(143),
    Reason.DISRUPTED: play_eviction,
    Reason.POD_VANISHED: play_vanished,
    Reason.CHILD_DELETED: play_deleted_child,
    Reason.PREFLIGHT_DEADLINE_EXCEEDED: play_slow_check,
}


@pytest.mark.parametrize("reason", [pytest.param(reason, id=reason.value) for reason in Reason])
def test_every_reason_is_reached_and_told(world: Any, reason: Reason) -> None:
    SCENES[reason](world)

    assert reason.value in told(world)
    assert world.requeue is not None or world.status["phase"] in {"Failed", "Succeeded", "Suspended"}


@pytest.mark.parametrize(
    "reason", [pytest.param(reason, id=reason.value) for reason, about in ABOUT.items() if about.section == "waiting"]
)
def test_what_is_waited_for_is_told_within_a_minute_once_and_as_an_event(world: Any, reason: Reason) -> None:
    SCENES[reason](world)
    before = world.writes
    world.go(20)

    assert world.writes == before
    assert [note[:2] for note in world.notes].count(
        ("Normal" if reason is Reason.WAITING_FOR_OLD_OBJECT else "Warning", reason.value)
    ) == 1
    assert 5 <= world.requeue <= 60
    remedy = ABOUT[reason].remedy
    told_by_itself = reason in {
        Reason.WAITING_FOR_OLD_OBJECT,
        Reason.ENDPOINT_NOT_ALLOWED,
        Reason.BACKEND_MISSING,
        Reason.OUTPUT_NOT_KEPT,
    }
    assert told_by_itself or remedy in world.status["message"]


def test_every_reason_and_condition_has_a_meaning_and_a_remedy(world: Any) -> None:
    world.until("Succeeded")

    assert set(ABOUT) == set(Reason) == set(SCENES)
    assert [condition["type"] for condition in world.status["conditions"]] == list(CONDITIONS)
    assert all(about.meaning.endswith(".") and about.remedy.endswith(".") for about in ABOUT.values())
