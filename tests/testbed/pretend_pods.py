"""How pods live on nodes that do not exist: kwok's stages, steered by annotations of the pod.

For pods of a PyTorchJob the annotations are `pytorchjob.testbed/<word>`, for those of a Job `job.testbed/<word>`:
  seconds    how long the pod runs ("3s"; without it, the cluster's default)
  exit-code  the container ends with this instead of 0, and the pod has Failed
  reason     of the container's end, such as OOMKilled ("Error" without it); only beside exit-code
  message    the container's termination message
  waiting    the container never starts, for this reason, such as ImagePullBackOff
  stop       how long the pod takes to go once it is deleted ("2s"; without it, no time)
"""

from __future__ import annotations

from typing import Any

KINDS = ("PyTorchJob", "Job")
"""Owners whose pods come to an end."""

Stage = dict[str, Any]

_RUNNING = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) | Quote }}
conditions:
{{ range $type := list "Initialized" "Ready" "ContainersReady" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ printf "%s@sha256:%064d" .image 0 | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""  # noqa: E501

_WAITING = """
{{ $reason := index .metadata.annotations "@prefix@/waiting" }}
phase: Pending
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: false
  started: false
  restartCount: 0
  state: {waiting: {reason: {{ $reason | Quote }}, message: {{ printf "pretended: %s" $reason | Quote }}}}
{{ end }}
"""

_ENDED = """
{{ $now := Now }}
{{ $root := . }}
{{ $annotations := or .metadata.annotations dict }}
{{ $code := or ( index $annotations "@prefix@/exit-code" ) "0" }}
{{ $reason := or ( index $annotations "@prefix@/reason" ) "@reason@" }}
{{ $message := or ( index $annotations "@prefix@/message" ) "" }}
phase: @phase@
conditions:
{{ range $type := list "Ready" "ContainersReady" }}
- {type: {{ $type }}, status: "False", reason: @condition@, lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range $index, $item := .spec.containers }}
- name: {{ $item.name | Quote }}
  image: {{ $item.image | Quote }}
  imageID: {{ printf "%s@sha256:%064d" $item.image 0 | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: {{ $code }}
      reason: {{ $reason | Quote }}
      message: {{ $message | Quote }}
      startedAt: {{ $root.status.startTime | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
"""

_NODE = """
{{ $now := Now }}
conditions:
{{ range NodeConditions }}
- lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
  message: {{ .message | Quote }}
  reason: {{ .reason | Quote }}
  status: {{ .status | Quote }}
  type: {{ .type | Quote }}
{{ end }}
addresses:
- {type: InternalIP, address: {{ NodeIP | Quote }}}
phase: Running
"""


def stages(*, run_seconds: float) -> list[Stage]:
    """All stages of nodes and pods; `run_seconds` is how long a pod runs that does not say."""
    node = _stage(
        "node-ready", "Node", [_not_in('.status.conditions.[] | select( .type == "Ready" ) | .status', "True")]
    )
    node["spec"]["next"] = {"statusTemplate": _NODE}
    waits = [_missing(_annotation(prefix, "waiting")) for prefix in map(_prefix, KINDS)]
    run = _stage("pod-run", "Pod", [_missing(".metadata.deletionTimestamp"), _missing(".status.podIP"), *waits])
    run["spec"]["next"] = {"statusTemplate": _RUNNING}
    return [node, run, *(stage for kind in KINDS for stage in _stages_of(kind, run_seconds)), *_deletions()]


def node(name: str, *, gpus: int, resource: str) -> dict[str, Any]:
    """A node with room for many pods, and with `gpus` of `resource`."""
    room = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "4Ti", "pods": "110", resource: str(gpus)}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "type": "kwok",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": room, "capacity": room},
    }


def _stages_of(kind: str, run_seconds: float) -> list[Stage]:
    prefix, name = _prefix(kind), kind.lower()
    fails = _annotation(prefix, "exit-code")
    running = [
        _missing(".metadata.deletionTimestamp"),
        _in(".status.phase", "Running"),
        _in(".metadata.ownerReferences.[].kind", kind),
    ]
    delay = {
        "durationMilliseconds": round(run_seconds * 1000),
        "durationFrom": {"expressionFrom": _annotation(prefix, "seconds")},
    }
    succeed = _stage(f"{name}-pod-succeeds", "Pod", [*running, _missing(fails)])
    succeed["spec"] |= {"delay": delay, "next": {"statusTemplate": _ended(prefix, "Succeeded", "Completed")}}
    fail = _stage(f"{name}-pod-fails", "Pod", [*running, _there(fails)])
    fail["spec"] |= {"delay": delay, "next": {"statusTemplate": _ended(prefix, "Failed", "Error")}}
    wait = _stage(
        f"{name}-pod-waits",
        "Pod",
        [
            _missing(".metadata.deletionTimestamp"),
            _missing(".status.containerStatuses"),
            _there(_annotation(prefix, "waiting")),
        ],
    )
    wait["spec"]["next"] = {"statusTemplate": _WAITING.replace("@prefix@", prefix)}
    return [succeed, fail, wait]


def _deletions() -> list[Stage]:
    """Finalizers stay: the Job controller takes its own away, as on a real node."""
    asked = " // ".join(_annotation(_prefix(kind), "stop") for kind in KINDS)
    delay = {"durationMilliseconds": 0, "durationFrom": {"expressionFrom": asked}}
    delete = _stage("pod-goes", "Pod", [_there(".metadata.deletionTimestamp")])
    delete["spec"] |= {"delay": delay, "next": {"delete": True}}
    return [delete]


def _stage(name: str, kind: str, expressions: list[dict[str, Any]]) -> Stage:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
        },
    }


def _ended(prefix: str, phase: str, reason: str) -> str:
    words = {"@prefix@": prefix, "@phase@": phase, "@reason@": reason, "@condition@": f"Pod{phase}"}
    text = _ENDED
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _prefix(kind: str) -> str:
    return f"{kind.lower()}.testbed"


def _annotation(prefix: str, word: str) -> str:
    return f'.metadata.annotations["{prefix}/{word}"]'


def _missing(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "DoesNotExist"}


def _there(key: str) -> dict[str, Any]:
    return {"key": key, "operator": "Exists"}


def _in(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


def _not_in(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "NotIn", "values": list(values)}
