"""Sections only a cluster reads; `semires run` names those it ignores. `pod` is a closed list of typed
fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from semires_trainer.spec.pod import Pod
from semires_trainer.spec.scalars import (
    DnsLabel,
    DnsName,
    Flag,
    FormText,
    Natural,
    Quantity,
    Seconds,
    Section,
    Unique,
    contradiction,
)

__all__ = [
    "Cache",
    "Cluster",
    "FailurePolicy",
    "FailureRule",
    "HealthPolicy",
    "Pod",
    "Preflight",
    "Resources",
    "Storage",
]

ExitCode = Annotated[int, Field(strict=True, ge=1, le=255)]
PodReason = Annotated[
    str, FormText(pattern=r"^[A-Za-z]+$", words="write one word, such as OOMKilled or Evicted", max_length=64)
]
Region = Annotated[str, FormText(pattern=r"^[a-z0-9-]+$", words="write a region, such as eu-central-1", max_length=32)]
GpuResource = Annotated[
    str,
    FormText(
        pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
        words="write domain/name, such as nvidia.com/gpu",
        max_length=128,
    ),
]
Image = Annotated[
    str,
    FormText(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
        words="write registry/name:tag or registry/name@sha256:...",
        max_length=500,
    ),
]


class Storage(Section):
    """How s3:// is reached. Not needed for plain paths."""

    endpoint: DnsLabel = "default"
    """Name of an endpoint from the administrator's list; locally given by --endpoint NAME=URL."""
    region: Region | None = None
    """Region, if the endpoint's own does not fit."""
    credentials_secret: DnsName | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and optionally AWS_SESSION_TOKEN."""
    service_account_name: DnsName | None = None
    """ServiceAccount that grants access, instead of a Secret."""

    @model_validator(mode="after")
    def _one_identity(self) -> Storage:
        if self.credentials_secret and self.service_account_name:
            raise contradiction(
                "serviceAccountName",
                "credentialsSecret and serviceAccountName exclude each other",
                "remove one of them",
            )
        return self


class Resources(Section):
    """Size of the training pods."""

    nodes: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """Pods, one per node."""
    gpus_per_node: Annotated[int, Field(strict=True, ge=0, le=16)] = 4
    """GPUs of each pod; 0 trains on the CPU."""
    gpu_resource: GpuResource = "nvidia.com/gpu"
    """Name of the GPU resource."""
    cpu: Quantity = "16"
    """CPUs of each pod."""
    memory: Quantity = "64Gi"
    """Memory of each pod."""
    ephemeral_storage: Quantity | None = None
    """Local disk of each pod. Default: what the preflight has measured, and room for temporary files."""
    shm: Quantity = "8Gi"
    """Size of /dev/shm, counted as memory."""


class FailureRule(Section):
    """What to do about one kind of failure. Exactly one of exitCodes, podReasons."""

    exit_codes: Annotated[tuple[ExitCode, ...], Field(min_length=1, max_length=64), Unique()] | None = None
    """Exit codes of the trainer, 1 to 255."""
    pod_reasons: Annotated[tuple[PodReason, ...], Field(min_length=1, max_length=32), Unique()] | None = None
    """Reasons of the pod, e.g. OOMKilled, Evicted."""
    action: Literal["Retry", "RetryFree", "Fail"]
    """Retry counts towards backoffLimit, RetryFree does not, Fail ends the job."""

    @model_validator(mode="after")
    def _one_condition(self) -> FailureRule:
        if (self.exit_codes is None) == (self.pod_reasons is None):
            raise contradiction("", "exactly one of exitCodes, podReasons is needed", "split the rule or complete it")
        return self


class FailurePolicy(Section):
    """How often a failed attempt is repeated."""

    backoff_limit: Annotated[int, Field(strict=True, ge=0, le=100)] = 3
    """Counted failures after which the job fails."""
    rules: Annotated[tuple[FailureRule, ...], Field(max_length=20)] = ()
    """Exceptions; the first that matches wins."""


class HealthPolicy(Section):
    """What to do about a run that is alive but makes no progress."""

    stalled_seconds: Annotated[int, Field(strict=True, ge=60, le=86400)] = 1800
    """Time without any progress after which the ranks count as hung and the attempt ends, on a cluster or not."""
    startup_seconds: Annotated[int, Field(strict=True, ge=60, le=86400)] = 3600
    """The same before the first training step of an attempt."""
    action: Literal["Report", "Restart"] = "Restart"
    """Report sets the condition Degraded; Restart also saves and starts a counted attempt."""


class Preflight(Section):
    """The check before each attempt, on a CPU and within seconds."""

    mode: Literal["Run", "Skip"] = "Run"
    """Skip starts GPUs unchecked."""
    deadline_seconds: Annotated[int, Field(strict=True, ge=10, le=86400)] = 600
    """Time the check has."""
    cpu: Quantity = "1"
    """CPUs of the check."""
    memory: Quantity = "2Gi"
    """Memory of the check."""


class Cache(Section):
    """Where inputs are kept on the node. At most one of claim, sizeLimit."""

    claim: DnsName | None = None
    """PersistentVolumeClaim, shared by attempts and jobs."""
    size_limit: Quantity | None = None
    """Size of a cache that is lost with the pod."""

    @model_validator(mode="after")
    def _one_form(self) -> Cache:
        if self.claim and self.size_limit:
            raise contradiction("sizeLimit", "claim and sizeLimit exclude each other", "remove one of them")
        return self


class Cluster(Section):
    """The cluster-only keys of `spec`; `Spec` inherits them."""

    image: Image | None = None
    """Container image. Default: the trainer image of the operator's release."""
    resources: Resources = Resources()
    """Size of the training pods."""
    pod: Pod = Pod()
    """Scheduling, environment and volumes of the training pods."""
    queue: DnsName | None = None
    """Kueue LocalQueue."""
    suspend: Flag = False
    """True saves a checkpoint, gives the GPUs back and waits."""
    active_deadline_seconds: Seconds | None = None
    """Running time summed over attempts after which the job is stopped and fails."""
    pending_deadline_seconds: Seconds | None = None
    """Time an attempt may wait for its pods."""
    failure_policy: FailurePolicy = FailurePolicy()
    """How often a failed attempt is repeated."""
    health_policy: HealthPolicy = HealthPolicy()
    """What to do about a run without progress."""
    preflight: Preflight = Preflight()
    """The check before each attempt."""
    ttl_seconds_after_finished: Natural | None = None
    """Delete the job this long after it finished; left out keeps it. Results are never deleted."""
    backend: Literal["PyTorchJob"] = "PyTorchJob"
    """Kind of the child that runs an attempt."""
    cache: Cache = Cache()
    """Where inputs are kept on the node."""
