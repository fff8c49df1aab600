"""Plays the parts that a control plane without nodes lacks: training-operator, kubelet, preflight and trainer.

Level-triggered: it looks at what is there and takes each object one step on, so it may be started, stopped and kept
from the API server at any time. What a pod comes to is written down beforehand in a `Script`.
"""

from __future__ import annotations

import calendar
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.api_client import ApiClient, Refused
from testbed.cluster import Object, condition

EVERY = 0.1
"""Seconds between two looks."""
CONTAINERS = {"training": "pytorch", "preflight": "preflight"}
IMAGE_ID = "registry/trainer@sha256:" + "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a pod ends."""

    exit_code: int = 0
    after: float = 0.3
    """Seconds that it runs."""
    reason: str = ""
    """Of the container, such as OOMKilled."""
    outcome: Mapping[str, object] = field(default_factory=dict)
    """Added to the outcome in its termination message."""


@dataclass(kw_only=True)
class Script:
    """What pods come to. It may be changed while it is played."""

    preflight: Callable[[int], End | None] = lambda attempt: End()
    """By attempt; None: it stays as it is."""
    training: Callable[[int], End | None] = lambda attempt: End()
    ip: str = ""
    """Of training pods; without one nobody asks them for progress."""


def tour() -> Script:
    """The first attempt fails, the second runs until it is stopped, the others succeed."""
    ends: dict[int, End | None] = {1: End(exit_code=1), 2: None}
    return Script(training=lambda attempt: ends.get(attempt, End()))


class Player:
    """Plays in a namespace, in a thread of its own. A context manager."""

    def __init__(self, kubeconfig: Path, namespace: str, script: Script | None = None) -> None:
        self.script = script or Script()
        self.training_pod: Object | None = None
        """The newest that runs."""
        self._api = ApiClient(kubeconfig, namespace)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Player:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)
        self._api.close()
        if self.error is not None:
            raise self.error

    def _play(self) -> None:
        while not self._over.wait(EVERY):
            try:
                self._look()
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                continue  # the API server is away
            except Refused as refused:
                if refused.code not in (404, 409, 429, 500, 503):
                    self.error = refused
                    return
            except BaseException as error:
                self.error = error
                return

    def _look(self) -> None:
        children = self._api.list("pytorchjobs")
        pods = self._api.list("pods")
        for pod in pods:
            self._take_on(pod)
        for child in children:
            self._control(child, [pod for pod in pods if _owner(pod) == child["metadata"]["uid"]])

    # -- training-operator

    def _control(self, child: Object, pods: list[Object]) -> None:
        over = any(condition(child, kind) == "True" for kind in ("Succeeded", "Failed"))
        suspended = child["spec"].get("runPolicy", {}).get("suspend", False)
        if over or suspended or "deletionTimestamp" in child["metadata"]:
            return
        if not pods:
            self._make_pod(child)
            return
        kind = pods[0].get("status", {}).get("phase")
        if kind in ("Running", "Succeeded", "Failed") and condition(child, kind) != "True":
            others = [] if kind == "Running" else [_condition("Running", "False")]
            status = {"conditions": [*others, _condition(kind, "True")]}
            self._api.patch("pytorchjobs", child["metadata"]["name"], {"status": status}, status=True)

    def _make_pod(self, child: Object) -> None:
        ((role, replica),) = child["spec"]["pytorchReplicaSpecs"].items()
        template, name = replica["template"], child["metadata"]["name"]
        owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": name}
        metadata = {key: template["metadata"][key] for key in ("labels", "annotations") if key in template["metadata"]}
        metadata["name"] = f"{name}-{role.lower()}-0"
        metadata["ownerReferences"] = [{**owner, "uid": child["metadata"]["uid"], "controller": True}]
        spec = {**template["spec"], "restartPolicy": "Never"}
        self._api.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    # -- kubelet and trainer

    def _take_on(self, pod: Object) -> None:
        labels, status = pod["metadata"].get("labels", {}), pod.get("status", {})
        role, attempt = labels.get("semires.dev/role", ""), int(labels.get("semires.dev/attempt", "0"))
        phase = status.get("phase")
        if role not in CONTAINERS or phase not in ("Pending", "Running"):
            return
        if phase == "Pending":
            self._run(pod, role)
        if phase == "Running":
            self.training_pod = pod if role == "training" else self.training_pod
            end = (self.script.training if role == "training" else self.script.preflight)(attempt)
            began = status["containerStatuses"][0]["state"]["running"]["startedAt"]
            if end is not None and time.time() >= _seconds(began) + end.after:
                end_pod(self._api, pod, end)

    def _run(self, pod: Object, role: str) -> None:
        status: Object = {"phase": "Running", **_containers(CONTAINERS[role], {"running": {"startedAt": _now()}})}
        if self.script.ip and role == "training":
            status |= {"podIP": self.script.ip, "podIPs": [{"ip": self.script.ip}]}
        self._set(pod, status)

    def _set(self, pod: Object, status: Object) -> None:
        self._api.patch("pods", pod["metadata"]["name"], {"status": status}, status=True)


def end_pod(api: ApiClient, pod: Object, end: End) -> None:
    """The container of a running pod ends."""
    labels = pod["metadata"]["labels"]
    role, attempt = labels["semires.dev/role"], int(labels["semires.dev/attempt"])
    message = outcome_of(pod, attempt, exit_code=end.exit_code, preflight=role == "preflight", **end.outcome)
    reason = end.reason or ("Error" if end.exit_code else "Completed")
    times = {"startedAt": pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"], "finishedAt": _now()}
    ended = {"exitCode": end.exit_code, "reason": reason, "message": message, **times}
    status: Object = {"phase": "Failed" if end.exit_code else "Succeeded"}
    status |= _containers(CONTAINERS[role], {"terminated": ended})
    api.patch("pods", pod["metadata"]["name"], {"status": status}, status=True)


def outcome_of(pod: Object, attempt: int, *, exit_code: int, preflight: bool, **more: object) -> str:
    """A termination message as the trainer writes it."""
    labels = pod["metadata"]["labels"]
    found = {"complete": False, "stagesDone": [], "images": 10, "labeled": 1, "warnings": []}
    document = {
        "schemaVersion": 1,
        "job": labels["semires.dev/job"],
        "jobUid": labels["semires.dev/job-uid"],
        "attempt": attempt,
        "podUid": pod["metadata"]["uid"],
        "exitCode": exit_code,
        "results": [],
        "bestCheckpoint": None,
        "lastCheckpoint": None,
        **({"preflight": found} if preflight else {}),
        **more,
    }
    return json.dumps(document)


def progress_of(pod: Object | None) -> bytes:
    """What a trainer in this pod answers."""
    return json.dumps(progress_document(pod)).encode() if pod else b""


def progress_document(pod: Object, **changed: Any) -> Object:
    """The progress of a trainer in this pod, a quarter done; `changed` fields replace those."""
    labels = pod["metadata"]["labels"]
    return {
        "schemaVersion": 1,
        "jobUid": labels["semires.dev/job-uid"],
        "attempt": int(labels["semires.dev/attempt"]),
        "podUid": pod["metadata"]["uid"],
        "stage": "train",
        "epoch": 1,
        "epochs": 4,
        "step": 10,
        "steps": 40,
        "progressPercentage": 25,
        "metrics": [{"name": "loss", "value": "0.5"}],
        "lastUpdatedTime": _now(),
        "lastCheckpoint": None,
        **changed,
    }


def _owner(pod: Object) -> str:
    return next((str(one["uid"]) for one in pod["metadata"].get("ownerReferences", ())), "")


def _condition(kind: str, status: str) -> Object:
    times = {"lastUpdateTime": _now(), "lastTransitionTime": _now()}
    return {"type": kind, "status": status, "reason": f"PyTorchJob{kind}", "message": "", **times}


def _containers(name: str, state: Object) -> Object:
    ready = "running" in state
    found = {"name": name, "image": "i", "imageID": IMAGE_ID, "ready": ready, "restartCount": 0, "state": state}
    return {"containerStatuses": [found]}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _seconds(text: str) -> float:
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
