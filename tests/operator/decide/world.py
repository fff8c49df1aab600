"""A cluster in memory for one job: its objects, a controller, nodes and a trainer that moves one step a tick.

Nothing happens by itself: a test says when time passes (`tick`), when the operator looks (`look`), and what goes wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from semires_operator import names
from semires_operator.actions import AskCheckpoint, Create, Decision, Delete
from semires_operator.decide import decide, wants_log
from semires_operator.observed import Backend, Child, Observed, Pod, Refusal, Taken, Warning_, Workload
from semires_operator.progress import read_answer
from semires_operator.seen import Job, job_of, status_of
from semires_operator.settings import Settings
from semires_operator.status import Preflight, Status

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = 5.0
"""Seconds."""
STEPS = 20
"""Of a whole run."""
GRACE = 30.0
SHA256 = "0" * 64
SPEC: dict[str, Any] = {
    "dataset": {
        "name": "RefCOCO",
        "annotations": "s3://data/refer",
        "images": "s3://data/train2014",
        "labeled": {"percent": "1"},
    },
    "proposals": {"sam": {"model": "ViTH", "weights": "s3://models/sam_vit_h_4b8939.pth"}},
    "output": "s3://results/refcoco-1pct",
    "storage": {"credentialsSecret": "s3-credentials"},
}


class Bodies:
    """Makes the least that the world understands."""

    def build_preflight(self, job: Job, attempt: int, settings: Settings) -> dict[str, Any]:
        return _body("Job", names.preflight_name(job.name, attempt), attempt, job)

    def build_child(self, job: Job, attempt: int, settings: Settings, preflight: Preflight | None) -> dict[str, Any]:
        return _body("PyTorchJob", names.child_name(job.name, attempt), attempt, job)


def _body(kind: str, name: str, attempt: int, job: Job) -> dict[str, Any]:
    image = job.status.provenance.image if job.status.provenance else ""
    container = {"image": image, "microBatch": job.status.micro_batch}
    return {
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {names.ATTEMPT_LABEL: str(attempt)},
            "annotations": {names.DOCUMENT_ANNOTATION: SHA256},
        },
        "spec": {"containers": [container]},
    }


class Lost(Exception):
    """The operator died."""


@dataclass
class World:
    """Everything there is."""

    spec: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(SPEC)))
    settings: Settings = field(default_factory=Settings)
    builder: Any = field(default_factory=Bodies)
    now: datetime = START
    status: dict[str, Any] = field(default_factory=dict)
    generation: int = 1
    deleting: bool = False
    gone: bool = False
    children: dict[str, Child] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    kueue: bool = False
    """Children are born suspended."""
    workload: Workload | None = None
    taken: Taken | None = None
    warnings: tuple[Warning_, ...] = ()
    backend: Backend = field(default_factory=Backend)
    refuse: dict[str, Refusal] = field(default_factory=dict)
    """Kind of action -> why it is refused."""
    deaf: bool = False
    """Trainers can't be asked."""
    hung: bool = False
    """Trainers answer but don't get on."""
    idle: bool = False
    """Nodes start no pod."""
    nodes_work: bool = True
    """False: no node does anything any more."""
    step: int = 0
    saved: int = 0
    saved_at: datetime | None = None
    moved_at: datetime | None = None
    stage: str = "train"
    log: str = ""
    nodes_ready: bool | None = True
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    """Attempt's phase, reason and message of every event."""
    writes: int = 0
    made: list[str] = field(default_factory=list)
    """Names of the objects that were created, in order."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    requeue: float | None = None
    numbers: Any = field(default_factory=count)
    parsed: tuple[dict[str, Any], Job] | None = None

    # -- the operator

    @property
    def job(self) -> Job:
        """As the API server has it."""
        metadata: dict[str, Any] = {
            "name": "refcoco",
            "namespace": "team-a",
            "uid": "job-uid",
            "generation": self.generation,
            "creationTimestamp": START.isoformat(),
        }
        if self.parsed is None or self.parsed[0] is not self.spec:
            self.parsed = self.spec, job_of({"metadata": metadata, "spec": self.spec})
        job = replace(self.parsed[1], status=status_of(self.status), generation=self.generation)
        return replace(job, deleting=self.deleting)

    @property
    def seen(self) -> Observed:
        """What the operator sees."""
        job = self.job
        attempt = job.status.attempt
        trainings = [child for child in self.children.values() if "-a" in child.name]
        checks = {child.attempt: child for child in self.children.values() if "-p" in child.name}
        seen = Observed(
            preflight=checks.get(attempt),
            child=next((child for child in trainings if child.attempt == attempt), None),
            old_children=tuple(child for child in trainings if child.attempt < attempt),
            taken=self.taken,
            pods=tuple(replace(pod, node_ready=self.nodes_ready) for pod in self.pods.values()),
            workload=self.workload,
            warnings=self.warnings,
            backend=self.backend,
        )
        answers = [self._answer(pod) for pod in seen.pods if self._can_answer(pod, attempt)]
        seen = replace(seen, answer=next(filter(None, answers), None))
        return replace(seen, log_tail=self.log) if wants_log(job, seen) else seen

    def _can_answer(self, pod: Pod, attempt: int) -> bool:
        running = pod.phase == "Running" and pod.role == "training" and pod.attempt == attempt
        return running and not self.deaf

    def _answer(self, pod: Pod) -> Any:
        document = {
            "schemaVersion": 1,
            "jobUid": "job-uid",
            "attempt": pod.attempt,
            "podUid": pod.uid,
            "stage": self.stage,
            "epoch": 1,
            "epochs": 40,
            "step": self.step,
            "steps": STEPS,
            "progressPercentage": 100 * self.step // STEPS,
            "estimatedRemainingSeconds": (STEPS - self.step) * int(TICK),
            "metrics": [{"name": "loss", "value": "0.5"}],
            "lastUpdatedTime": (self.moved_at or self.now).isoformat(),
            "lastCheckpoint": self._checkpoint(),
        }
        content = json.dumps(document).encode()
        return read_answer(content, job_uid="job-uid", attempt=pod.attempt, pod=pod.name, pod_uid=pod.uid, now=self.now)

    def _checkpoint(self) -> dict[str, Any] | None:
        if self.saved_at is None:
            return None
        return {
            "uri": f"s3://results/step-{self.saved}",
            "step": self.saved,
            "sha256": SHA256,
            "time": self.saved_at.isoformat(),
        }

    def decide(self, **changes: Any) -> Decision:
        """What would be decided now."""
        return decide(self.job, replace(self.seen, **changes), self.settings, self.now, self.builder)

    def look(self, *, lose_status: bool = False, lose_actions_after: int | None = None) -> Decision:
        """The operator looks, writes and acts; it may die before it has written, or between two actions."""
        decision = self.decide()
        Status.model_validate(decision.status)
        if lose_status:
            return decision
        self._write(decision)
        actions = decision.actions if lose_actions_after is None else decision.actions[:lose_actions_after]
        for action in actions:
            refusal = self.refuse.get(type(action).__name__)
            if refusal:
                decision = self.decide(refusal=refusal)
                self._write(decision)
                break
            self._act(action)
        return decision

    def _write(self, decision: Decision) -> None:
        self.writes += decision.status != self.status
        self.status = decision.status
        self.requeue = decision.requeue_after
        self.notes += [(note.type, note.reason, note.message) for note in decision.notes]

    def _act(self, action: Any) -> None:
        if isinstance(action, Create):
            self._create(action.body)
        elif isinstance(action, Delete):
            self.delete(action.name, uid=action.uid)
        elif isinstance(action, AskCheckpoint):
            self.asked += 1
            if not self.hung:
                self.saved, self.saved_at = self.step, self.now

    def _create(self, body: Mapping[str, Any]) -> None:
        name = body["metadata"]["name"]
        if name in self.children or (self.taken and self.taken.name == name):
            return
        self.made.append(name)
        self.bodies.append(dict(body))
        held = self.kueue and body["kind"] == "PyTorchJob"
        self.children[name] = Child(
            name=name,
            uid=f"uid-{next(self.numbers)}",
            attempt=int(body["metadata"]["labels"][names.ATTEMPT_LABEL]),
            created=self.now,
            state="Suspended" if held else "Created",
            suspended_by_others=held,
        )

    def delete(self, name: str, *, uid: str | None = None) -> None:
        """Delete a child, or the job; pods follow."""
        if name == "refcoco":
            self.gone = True
            return
        child = self.children.get(name)
        if child and uid in {None, child.uid}:
            del self.children[name]
            self._end_pods(child)

    # -- what people and things do to it

    def edit(self, **fields: Any) -> None:
        """Change the spec."""
        self.spec = {**self.spec, **fields}
        self.generation += 1

    def training_pod(self) -> Pod:
        """The one that trains, or trained last."""
        return [pod for pod in self.pods.values() if pod.role == "training"][-1]

    def child(self) -> Child:
        """The newest PyTorchJob."""
        return [child for child in self.children.values() if "-a" in child.name][-1]

    def change_pod(self, pod: Pod, **fields: Any) -> None:
        """Something happens to a pod."""
        self.pods[pod.uid] = replace(pod, **fields)

    def change_child(self, child: Child, **fields: Any) -> None:
        """Something happens to a child."""
        self.children[child.name] = replace(child, **fields)

    def end_pod(self, pod: Pod, code: int, *, outcome: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """A container ends."""
        message = json.dumps(self.outcome(pod, code, **(outcome or {})))
        phase = "Succeeded" if code == 0 else "Failed"
        told = {"reason": "Completed" if code == 0 else "Error", "termination_message": message, **fields}
        self.change_pod(pod, phase=phase, exit_code=code, finished=self.now, **told)

    def outcome(self, pod: Pod, code: int, **more: Any) -> dict[str, Any]:
        """A trainer's last word."""
        return {
            "schemaVersion": 1,
            "job": "refcoco",
            "jobUid": "job-uid",
            "attempt": pod.attempt,
            "podUid": pod.uid,
            "exitCode": code,
            "results": [{"model": "teacher", "split": "val", "size": "480", "oIoU": 47.3125, "mIoU": 50}]
            if code == 0
            else [],
            "bestCheckpoint": self._checkpoint() if code == 0 else None,
            "lastCheckpoint": self._checkpoint(),
            **more,
        }

    def check(self, pod: Pod, **more: Any) -> dict[str, Any]:
        """A preflight's last word."""
        found = {"complete": False, "stagesDone": [], "lastCheckpoint": self._checkpoint(), "images": 100}
        return self.outcome(pod, 0, results=[], preflight={**found, **more})

    def evict(self, pod: Pod, *, grace: float = GRACE, reason: str = "EvictionByEvictionAPI") -> None:
        """A drain."""
        self.change_pod(pod, deleting_since=self.now, grace_seconds=grace, disrupted=reason)

    def vanish(self, pod: Pod) -> None:
        """A forced deletion."""
        del self.pods[pod.uid]

    def _end_pods(self, child: Child) -> None:
        role = "training" if "-a" in child.name else "preflight"
        for pod in list(self.pods.values()):
            if (pod.role, pod.attempt) == (role, child.attempt) and pod.deleting_since is None:
                self.change_pod(pod, deleting_since=self.now, grace_seconds=GRACE)

    # -- time

    def tick(self, seconds: float = TICK) -> None:
        """Time passes: controllers and nodes do their part."""
        self.now += timedelta(seconds=seconds)
        for child in list(self.children.values()):
            self._control(child)
        for pod in list(self.pods.values()) if self.nodes_work else ():
            self._node(pod)

    def _control(self, child: Child) -> None:
        """training-operator and the controller of Jobs."""
        role = "training" if "-a" in child.name else "preflight"
        pods = [pod for pod in self.pods.values() if (pod.role, pod.attempt) == (role, child.attempt)]
        if child.ended or child.deleting:
            return
        if child.suspended_by_others:
            self._end_pods(child)
        elif any(pod.phase == "Succeeded" for pod in pods):
            self.change_child(child, state="Succeeded", finished=self.now)
        elif any(pod.phase == "Failed" or pod.deleting_since for pod in pods):
            self.change_child(child, state="Failed", reason="BackoffLimitExceeded", finished=self.now)
        elif not pods:
            self._new_pod(child, role)
        else:
            running = any(pod.phase == "Running" for pod in pods)
            self.change_child(child, state="Running" if running else "Created")

    def _new_pod(self, child: Child, role: Any) -> None:
        uid = f"pod-{next(self.numbers)}"
        name = f"{child.name}-master-0"
        self.pods[uid] = Pod(
            name=name, uid=uid, role=role, attempt=child.attempt, phase="Pending", created=self.now, node="node-1"
        )

    def _node(self, pod: Pod) -> None:
        """A kubelet, and what runs in the pod."""
        if pod.deleting_since is not None:
            is_over = self.now >= pod.deleting_since + timedelta(seconds=min(pod.grace_seconds, TICK))
            if self.nodes_ready is not False and (is_over or not pod.alive):
                del self.pods[pod.uid]
        elif pod.phase == "Pending" and not self.idle:
            self.change_pod(pod, phase="Running", started=self.now, ip="10.0.0.1")
            if pod.role == "training":
                self.step, self.moved_at = self.saved, self.now
        elif pod.phase == "Running" and pod.role == "preflight":
            done = self.step >= STEPS and self.saved >= STEPS
            ended = {"complete": True, "previousOutcome": self.outcome(pod, 0)} if done else {}
            told = json.dumps(self.check(pod, **ended))
            self.change_pod(pod, phase="Succeeded", exit_code=0, finished=self.now, termination_message=told)
        elif pod.phase == "Running" and not self.hung:
            self._train(pod)

    def _train(self, pod: Pod) -> None:
        self.step, self.moved_at = self.step + 1, self.now
        if self.step % 5 == 0:
            self.saved, self.saved_at = self.step, self.now
        if self.step >= STEPS:
            self.end_pod(pod, 0)

    def go(self, ticks: int = 1) -> None:
        """Time passes, and the operator looks each time."""
        for _ in range(ticks):
            self.tick()
            if not self.gone:
                self.look()

    def until(self, phase: str, *, at_most: int = 400) -> None:
        """Until the status says so."""
        self.look()
        for _ in range(at_most):
            if self.status.get("phase") == phase:
                return
            self.go()
        raise AssertionError(f"{phase} was never reached: {self.status}")

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the status."""
        return next(condition for condition in self.status["conditions"] if condition["type"] == kind)

    @property
    def live_attempts(self) -> set[int]:
        """Attempts with a training pod that may write; one that is stuck on a lost node is fenced off."""
        overdue = timedelta(seconds=self.settings.stuck_seconds)
        return {
            pod.attempt
            for pod in self.pods.values()
            if pod.role == "training"
            and pod.alive
            and not (
                self.nodes_ready is False
                and pod.deleting_since
                and self.now > pod.deleting_since + timedelta(seconds=pod.grace_seconds) + overdue
            )
        }
