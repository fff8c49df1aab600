"""What the cluster shows of one job, in the words of the operator. Plain values: everything that decides reads these.

`seen.py` makes them of the API's objects; nothing here or above knows how those look.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

ChildState = Literal["Created", "Running", "Suspended", "Succeeded", "Failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A preflight Job or the PyTorchJob of an attempt."""

    name: str
    uid: str
    attempt: int
    created: datetime
    state: ChildState
    reason: str = ""
    """Why, in its controller's word: DeadlineExceeded, ..."""
    message: str = ""
    """What its controller says of the state."""
    suspended_by_others: bool = False
    """Created or Suspended because somebody (Kueue) set `suspend`; never by us."""
    deleting: bool = False
    finished: datetime | None = None
    """When it was first said to have Succeeded or Failed."""

    @property
    def ended(self) -> bool:
        """Whether its controller will start no pod for it any more."""
        return self.state in {"Succeeded", "Failed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """An object that has the name of a child and is not ours."""

    kind: str
    name: str
    owner: str
    """Kind/name of its controller, or "nobody"."""
    deleting: bool = False
    """Or its owner is gone: it will vanish by itself, wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod of the job."""

    name: str
    uid: str
    role: Literal["preflight", "training"]
    attempt: int
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    created: datetime
    ip: str = ""
    """Empty also for pods on the host's network: they are never asked."""
    node: str = ""
    assigned: datetime | None = None
    """When it was given its node."""
    node_ready: bool | None = None
    """None where nodes can't be seen (namespaced mode) or none is assigned."""
    started: datetime | None = None
    """When the container began."""
    finished: datetime | None = None
    """When the container ended."""
    deleting_since: datetime | None = None
    """When deletion was asked for."""
    grace_seconds: float = 30
    exit_code: int | None = None
    reason: str = ""
    """Of the ended container or of the pod: OOMKilled, Error, Evicted, ..."""
    termination_message: str = ""
    message: str = ""
    """Of the pod: why its node refused or ended it."""
    disrupted: str = ""
    """Reason of a true DisruptionTarget condition."""
    waiting: str = ""
    """Reason of the waiting container: ImagePullBackOff, ContainerCreating, ..."""
    waiting_message: str = ""
    unschedulable: str = ""
    """Message of PodScheduled=False."""
    image_id: str = ""
    """Image with digest, as the node resolved it."""

    @property
    def alive(self) -> bool:
        """Whether its containers may still run."""
        return self.phase not in {"Succeeded", "Failed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Warning_:
    """The newest Warning event of a kind about a child or pod of the job."""

    kind: str
    """Of the object it is about: Job, PyTorchJob, Pod."""
    name: str
    reason: str
    """FailedCreate, FailedCreatePod, FailedMount, FailedScheduling, ..."""
    message: str
    time: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Kueue's Workload of a child."""

    name: str
    admitted: bool
    reason: str = ""
    """Of QuotaReserved=False."""
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A write of ours that the API server refused."""

    action: str
    """Create PyTorchJob/name, ..."""
    code: int
    """HTTP status; 0 when there was no answer."""
    reason: str
    """Reason of the API's Status object."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A valid answer of a training pod's /progress: checked, stripped, of this job and attempt."""

    time: datetime
    """When it was given."""
    attempt: int
    pod: str
    document: dict[str, Any]
    """The fields of status.progress and status.lastCheckpoint, as `progress.py` leaves them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """Which of the kinds that the operator does not own are served by this cluster."""

    pytorchjobs: bool = True
    workloads: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything about one job. The children are those of the attempt in its status; pods are of any attempt."""

    preflight: Child | None = None
    child: Child | None = None
    old_children: tuple[Child, ...] = ()
    """PyTorchJobs of earlier attempts that are still there."""
    taken: Taken | None = None
    pods: tuple[Pod, ...] = ()
    workload: Workload | None = None
    """Of the PyTorchJob; of the preflight Job while there is no PyTorchJob."""
    warnings: tuple[Warning_, ...] = ()
    """Asked for only while a pod that should be there is not running."""
    answer: Answer | None = None
    log_tail: str = ""
    """Last lines of a failed training container, stripped; asked for when `wants_log` of decide.py says so."""
    refusal: Refusal | None = None
    backend: Backend = field(default_factory=Backend)
