"""Why it isn't running: one reason and one sentence, from what the API server, controllers, scheduler and kubelet say.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from semires_operator.observed import Child, Pod, Refusal, Taken, Warning_, Workload
from semires_operator.reasons import ABOUT, Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why."""

    reason: Reason
    message: str
    """What was found, and what to do."""


SIGNS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile(r"exceeded quota|failed quota"), Reason.QUOTA_EXCEEDED),
    (re.compile(r"violates PodSecurity"), Reason.POD_SECURITY_REFUSED),
    (re.compile(r"service ?account \S+ ?not found|looking up service account", re.I), Reason.SERVICE_ACCOUNT_MISSING),
    (re.compile(r"secrets? \S+ not found", re.I), Reason.SECRET_MISSING),
    (re.compile(r"persistentvolumeclaims? .*not found|unbound .*PersistentVolumeClaim", re.I), Reason.CLAIM_MISSING),
    (re.compile(r"failed calling webhook"), Reason.WEBHOOK_UNAVAILABLE),
    (re.compile(r"could not find the requested resource|no matches for kind"), Reason.BACKEND_MISSING),
)
"""What Kubernetes writes -> what it means; the first that is found wins."""
CONFLICT = 409
NOT_PULLED = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
NOT_CONFIGURED = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
NOT_CREATED = {"FailedCreate", "FailedCreatePod"}
PULLED_IN_VAIN = re.compile(r"^.*?(ErrImagePull|ImagePullBackOff): ", re.S)
"""Newer kubelets repeat the cause behind these words, older ones do not."""
OFTEN_SECONDS, SELDOM_SECONDS, SELDOM_AFTER_SECONDS = 180.0, 480.0, 1200.0
"""How long a warning about a pod holds after it was last repeated, at first and once the pod has been set up for long.

A kubelet tries to mount again after 2 min 2 s at most, and warns each time. After 25 events about a pod, which takes
it 20 minutes and longer, it tells no more than one each 5 minutes: then 7 minutes may lie between two.
"""


def explain_refusal(refusal: Refusal) -> Explanation:
    """Why a write was refused."""
    if refusal.action.startswith("Delete"):
        reason = Reason.DELETE_REFUSED
    elif refusal.code == CONFLICT:
        is_going = "being deleted" in refusal.message
        reason = Reason.WAITING_FOR_OLD_OBJECT if is_going else Reason.NAME_CONFLICT
    else:
        reason = _by_sign(refusal.message, Reason.CREATE_REFUSED)
    code = f" ({refusal.code} {refusal.reason})" if refusal.code else ""
    return _explanation(reason, f"{refusal.action} was refused{code}: {refusal.message}")


def explain_taken(taken: Taken) -> Explanation:
    """Why a child can't have its name."""
    if taken.deleting:
        message = f"{taken.kind} {taken.name} of {taken.owner} is still being deleted."
        return Explanation(reason=Reason.WAITING_FOR_OLD_OBJECT, message=message)
    return _explanation(Reason.NAME_CONFLICT, f"{taken.kind} {taken.name} exists and belongs to {taken.owner}.")


def explain_queue(child: Child, workload: Workload | None) -> Explanation:
    """Why a child is held back."""
    if workload is None:
        message = f"{child.name} was suspended by somebody else; this operator never sets its `suspend`."
    elif workload.admitted:
        message = f"Kueue has admitted {workload.name}; it will start {child.name}."
    else:
        message = f"Kueue holds {child.name} back: {_words(workload.reason, workload.message) or 'not looked at yet'}"
    return Explanation(reason=Reason.QUEUED, message=message)


def explain_waiting(
    child: Child, pods: Iterable[Pod], warnings: Iterable[Warning_], *, now: datetime, creating_seconds: float
) -> Explanation | None:
    """Why pods of a child don't run; None while nothing is wrong."""
    told = [warning for warning in warnings if warning.time >= child.created]
    waiting = [pod for pod in pods if pod.phase == "Pending"]
    for pod in waiting:
        about = [warning for warning in told if (warning.kind, warning.name) == ("Pod", pod.name)]
        found = _of_pod(pod, about, now=now, creating_seconds=creating_seconds)
        if found:
            return found
    for warning in told:
        if not waiting and warning.name == child.name and warning.reason in NOT_CREATED:
            return _explanation(_by_sign(warning.message, Reason.CREATE_REFUSED), warning.message)
    return None


def explain_stuck(pod: Pod) -> Explanation:
    """Why a pod that should have ended is still there."""
    state = {True: "is Ready", False: "is not Ready", None: "can't be seen"}[pod.node_ready]
    return _explanation(Reason.POD_STUCK, f"Pod {pod.name} should have ended; its node {pod.node} {state}.")


def _of_pod(pod: Pod, warnings: list[Warning_], *, now: datetime, creating_seconds: float) -> Explanation | None:
    """First match wins."""
    waited = now - (pod.assigned or pod.created)
    if pod.waiting in NOT_PULLED:
        detail = PULLED_IN_VAIN.sub("", pod.waiting_message) or pod.waiting
        return _explanation(Reason.IMAGE_PULL_BACK_OFF, f"Pod {pod.name}: {detail}")
    if pod.waiting in NOT_CONFIGURED:
        reason = _by_sign(pod.waiting_message, Reason.CONTAINER_CONFIG_INVALID)
        return _explanation(reason, f"Pod {pod.name}: {_words(pod.waiting, pod.waiting_message)}")
    if pod.unschedulable:
        reason = _by_sign(pod.unschedulable, Reason.UNSCHEDULABLE)
        return _explanation(reason, f"Pod {pod.name}: {pod.unschedulable}")
    holds = timedelta(seconds=OFTEN_SECONDS if waited.total_seconds() < SELDOM_AFTER_SECONDS else SELDOM_SECONDS)
    warnings = [warning for warning in warnings if now - warning.time <= holds]
    for warning in warnings:
        reason = _by_sign(warning.message, Reason.CONTAINER_CREATING_TOO_LONG)
        if reason is not Reason.CONTAINER_CREATING_TOO_LONG:
            return _explanation(reason, f"Pod {pod.name}: {warning.message}")
    if pod.node and waited >= timedelta(seconds=creating_seconds):
        newest = f": {_words(warnings[0].reason, warnings[0].message)}" if warnings else ""
        message = f"Pod {pod.name} has been set up on node {pod.node} for too long{newest}"
        return _explanation(Reason.CONTAINER_CREATING_TOO_LONG, message)
    return None


def _by_sign(text: str, other: Reason) -> Reason:
    return next((reason for sign, reason in SIGNS if sign.search(text)), other)


def _explanation(reason: Reason, found: str) -> Explanation:
    """What was found, then what to do about it."""
    return Explanation(reason=reason, message=f"{found.rstrip('. ')}. {ABOUT[reason].remedy}")


def _words(reason: str, message: str) -> str:
    return ": ".join(filter(None, (reason, message)))
