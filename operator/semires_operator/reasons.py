"""Every reason that a status, a condition or an event of ours may carry, with its meaning and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Reason(StrEnum):
    """A word for programs. What it means stands in `ABOUT`."""

    CHECKING_INPUTS = "CheckingInputs"
    WAITING_FOR_PODS = "WaitingForPods"
    QUEUED = "Queued"
    TRAINING = "Training"
    PODS_ENDING = "PodsEnding"
    WAITING_FOR_PREVIOUS_PODS = "WaitingForPreviousPods"
    SAVING_CHECKPOINT = "SavingCheckpoint"
    REMOVING_PODS = "RemovingPods"
    SUSPENDED = "Suspended"
    BACK_OFF = "BackOff"
    COMPLETED = "Completed"

    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_BACK_OFF = "ImagePullBackOff"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY_REFUSED = "PodSecurityRefused"
    SECRET_MISSING = "SecretMissing"
    CLAIM_MISSING = "ClaimMissing"
    SERVICE_ACCOUNT_MISSING = "ServiceAccountMissing"
    CONTAINER_CONFIG_INVALID = "ContainerConfigInvalid"
    CONTAINER_CREATING_TOO_LONG = "ContainerCreatingTooLong"
    WEBHOOK_UNAVAILABLE = "WebhookUnavailable"
    BACKEND_MISSING = "BackendMissing"
    ENDPOINT_NOT_ALLOWED = "EndpointNotAllowed"
    OUTPUT_NOT_KEPT = "OutputNotKept"
    NAME_CONFLICT = "NameConflict"
    WAITING_FOR_OLD_OBJECT = "WaitingForOldObject"
    CREATE_REFUSED = "CreateRefused"
    DELETE_REFUSED = "DeleteRefused"

    PROGRESS_STALE = "ProgressStale"
    STALLED = "Stalled"
    POD_STUCK = "PodStuck"
    CHECKPOINT_PUBLISHED = "CheckpointPublished"
    CHECKPOINT_OLD = "CheckpointOld"
    NO_CHECKPOINT_YET = "NoCheckpointYet"
    AS_EXPECTED = "AsExpected"

    SPEC_INVALID = "SpecInvalid"
    CONFIG_INVALID = "ConfigInvalid"
    DATA_INVALID = "DataInvalid"
    DIVERGED = "Diverged"
    STORAGE_DENIED = "StorageDenied"
    GPU_MEMORY = "GpuMemory"
    IMAGE_BROKEN = "ImageBroken"
    SUPERSEDED = "Superseded"
    FAILED_BY_RULE = "FailedByRule"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    FREE_RETRIES_EXHAUSTED = "FreeRetriesExhausted"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"
    PENDING_DEADLINE_EXCEEDED = "PendingDeadlineExceeded"

    UNEXPECTED = "Unexpected"
    OUT_OF_MEMORY = "OOMKilled"
    INFRASTRUCTURE = "Infrastructure"
    RANKS_HUNG = "RanksHung"
    TERMINATED = "Terminated"
    DISRUPTED = "Disrupted"
    POD_VANISHED = "PodVanished"
    CHILD_DELETED = "ChildDeleted"
    PREFLIGHT_DEADLINE_EXCEEDED = "PreflightDeadlineExceeded"


Section = Literal["course", "waiting", "watch", "failed", "attempt"]
"""The usual course; why it isn't running; while it runs; why the job failed; why an attempt ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a reason means."""

    section: Section
    meaning: str
    """One sentence."""
    remedy: str = "Nothing to do."
    """What a person does about it."""


def _course(meaning: str, remedy: str = "Nothing to do.") -> About:
    return About(section="course", meaning=meaning, remedy=remedy)


def _waiting(meaning: str, remedy: str) -> About:
    return About(section="waiting", meaning=meaning, remedy=remedy)


def _watch(meaning: str, remedy: str = "Nothing to do.") -> About:
    return About(section="watch", meaning=meaning, remedy=remedy)


def _failed(meaning: str, remedy: str) -> About:
    return About(section="failed", meaning=meaning, remedy=remedy)


def _attempt(meaning: str, remedy: str) -> About:
    return About(section="attempt", meaning=meaning, remedy=remedy)


ABOUT: dict[Reason, About] = {
    Reason.CHECKING_INPUTS: _course(
        "The preflight Job checks configuration, storage, weights and data before GPUs are taken.",
        "Nothing to do; it takes seconds, at most `spec.preflight.deadlineSeconds`.",
    ),
    Reason.WAITING_FOR_PODS: _course("The PyTorchJob is created; its pods are not running yet and nothing is wrong."),
    Reason.QUEUED: _course(
        "Somebody, usually Kueue, holds the PyTorchJob back; the message has Kueue's reason.",
        "Wait, or look at the queue: `kubectl describe workload`. Without Kueue: find out who set `suspend`.",
    ),
    Reason.TRAINING: _course("All pods run."),
    Reason.PODS_ENDING: _course("The attempt has ended; its pods' last words are waited for."),
    Reason.WAITING_FOR_PREVIOUS_PODS: _course(
        "The next attempt begins once all pods of the last one are gone: two may never write at once.",
        "Nothing to do. If it lasts, look at the pod that the message names.",
    ),
    Reason.SAVING_CHECKPOINT: _course("A stop is under way: a checkpoint is waited for, for a bounded time."),
    Reason.REMOVING_PODS: _course("A stop is under way: the pods are being removed."),
    Reason.SUSPENDED: _course("`spec.suspend` is true; nothing runs.", "Set it to false to go on from the checkpoint."),
    Reason.BACK_OFF: _course(
        "An attempt failed and the next one begins at `status.retryAt`.",
        "Read `status.lastFailure`; `kubectl describe` shows its log's last lines.",
    ),
    Reason.COMPLETED: _course("All is done: results and the best checkpoint stand in the status."),
    Reason.UNSCHEDULABLE: _waiting(
        "No node has room for the pod; the message has the scheduler's words.",
        "Free GPUs, add nodes, or ask for less: `spec.resources`, `spec.pod.nodeSelector`, `spec.pod.tolerations`.",
    ),
    Reason.IMAGE_PULL_BACK_OFF: _waiting(
        "The node can't pull the image.",
        "Correct `spec.image`, or give `spec.pod.imagePullSecrets`: set `spec.suspend`, edit, and unset it.",
    ),
    Reason.QUOTA_EXCEEDED: _waiting(
        "A ResourceQuota of the namespace leaves no room for the pod.", "Free some of it, or have it raised."
    ),
    Reason.POD_SECURITY_REFUSED: _waiting(
        "The namespace's Pod Security Standard, or another policy, refuses the pod.",
        "Ours satisfy `restricted`: take out what `spec.pod` adds, or use another namespace.",
    ),
    Reason.SECRET_MISSING: _waiting(
        "A Secret that the pod mounts is not there.",
        "Create it in the job's namespace, or correct `spec.storage.credentialsSecret`; the pod goes on by itself.",
    ),
    Reason.CLAIM_MISSING: _waiting(
        "A PersistentVolumeClaim is not there or not bound.",
        "Create it in the job's namespace, or correct `spec.cache.claim` or `spec.pod.volumes`.",
    ),
    Reason.SERVICE_ACCOUNT_MISSING: _waiting(
        "The ServiceAccount is not there.",
        "Create it in the job's namespace, or correct `spec.storage.serviceAccountName`.",
    ),
    Reason.CONTAINER_CONFIG_INVALID: _waiting(
        "The node refuses to start the container; the message has its words.",
        "Correct `spec.image` or `spec.pod`: the image must run as a user other than root, for example.",
    ),
    Reason.CONTAINER_CREATING_TOO_LONG: _waiting(
        "The node has been setting the pod up for more than 5 minutes.",
        "`kubectl describe pod`: a slow image pull, a volume that can't be mounted, or a network plugin.",
    ),
    Reason.WEBHOOK_UNAVAILABLE: _waiting(
        "An admission webhook that must agree does not answer.",
        "Look at the webhook's own pods, often training-operator or Kueue; creating is tried again by itself.",
    ),
    Reason.BACKEND_MISSING: _waiting(
        "This cluster does not know PyTorchJob.", "Install Kubeflow training-operator v1; the job goes on by itself."
    ),
    Reason.ENDPOINT_NOT_ALLOWED: _waiting(
        "`spec.storage.endpoint` names no endpoint that this namespace may use.",
        "Use one of the names in the message, or have the administrator add it to the operator's list.",
    ),
    Reason.OUTPUT_NOT_KEPT: _waiting(
        "`spec.output` is a path in the pod: checkpoints and results would be lost with it.",
        "Delete the job and give it an output on S3; or suspend it and mount a PersistentVolumeClaim at that path "
        "(`spec.pod.volumes`, `spec.pod.volumeMounts`).",
    ),
    Reason.NAME_CONFLICT: _waiting(
        "An object that is not this job's has the name of its child.", "Delete that object, or rename the job."
    ),
    Reason.WAITING_FOR_OLD_OBJECT: _waiting(
        "An object of an earlier job of the same name is still being deleted.", "Nothing to do; it ends by itself."
    ),
    Reason.CREATE_REFUSED: _waiting(
        "The API server refuses to create the child; the message has its words.",
        "Do what the message says: permissions of the operator, another admission policy, a namespace that ends.",
    ),
    Reason.DELETE_REFUSED: _waiting(
        "The API server refuses to delete the child; the message has its words.",
        "Do what the message says; it is tried again by itself.",
    ),
    Reason.PROGRESS_STALE: _watch(
        "The trainer can't be asked; figures are the last known. The run itself is not touched.",
        "If it lasts: a NetworkPolicy must let the operator reach port 9464 of the pod.",
    ),
    Reason.STALLED: _watch(
        "The trainer answers, but has made no progress for `spec.healthPolicy.stalledSeconds`.",
        "With action Restart it is restarted by itself. With Report: look at the log, which has the ranks' stacks.",
    ),
    Reason.POD_STUCK: _watch(
        "A pod should have ended but its node does not say so; its node is named. Nothing is force-deleted.",
        "Repair or remove the node. On a NotReady node the pod blocks nothing: a late write of it is fenced off.",
    ),
    Reason.CHECKPOINT_PUBLISHED: _watch("The newest verified checkpoint is young enough to lose little."),
    Reason.CHECKPOINT_OLD: _watch(
        "The newest verified checkpoint is more than two hours old: a crash now would lose as much.",
        "Lower `intervalSteps` or `intervalEpochs` of `spec.training.checkpoint` in the next job; check the storage.",
    ),
    Reason.NO_CHECKPOINT_YET: _watch("There is no checkpoint yet."),
    Reason.AS_EXPECTED: _watch("Nothing is wrong."),
    Reason.SPEC_INVALID: _failed(
        "This operator can't read the spec, although it was stored: it was written for another version of the CRD.",
        "Correct the field that the message names; the job then starts by itself.",
    ),
    Reason.CONFIG_INVALID: _failed(
        "The trainer refuses the configuration (exit code 2).",
        "Correct the field that is named (`status.lastFailure.field`), in a new job.",
    ),
    Reason.DATA_INVALID: _failed(
        "Data or weights are missing, damaged or contradictory (exit code 3).",
        "Repair the file and record that are named; then a new job.",
    ),
    Reason.DIVERGED: _failed(
        "Losses were not finite (exit code 4).", "A lower `learningRate`, `precision: FP32`, or another `nanPolicy`."
    ),
    Reason.STORAGE_DENIED: _failed(
        "Storage refused access for good (exit code 5).", "Check the keys in the Secret and what they may do."
    ),
    Reason.GPU_MEMORY: _failed(
        "A GPU has too little memory (exit code 6); no smaller micro-batch exists, or it would not help.",
        "A GPU with more memory, or a smaller model or image size. While a smaller one exists it is tried for free.",
    ),
    Reason.IMAGE_BROKEN: _failed(
        "The image does not have the trainer's command (exit code 126 or 127).", "Correct `spec.image`, in a new job."
    ),
    Reason.SUPERSEDED: _failed(
        "Another job, or a run elsewhere, has taken over `spec.output` while this one trained: two that went on would "
        "take turns.",
        "Find the other one (`owner.json` in the output), and give one of them another output.",
    ),
    Reason.FAILED_BY_RULE: _failed(
        "A rule of `spec.failurePolicy.rules` with action Fail matched.", "Read `status.lastFailure`."
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: _failed(
        "More attempts failed than `spec.failurePolicy.backoffLimit` allows.",
        "Read `status.attempts`. A new job of the same output goes on from the last checkpoint.",
    ),
    Reason.FREE_RETRIES_EXHAUSTED: _failed(
        "50 attempts were lost to disruptions or infrastructure.",
        "Find out what removes the pods: `status.attempts` has the reasons and nodes.",
    ),
    Reason.ACTIVE_DEADLINE_EXCEEDED: _failed(
        "The running time of all attempts reached `spec.activeDeadlineSeconds`; a checkpoint was asked for.",
        "A new job of the same output and a longer deadline goes on from it.",
    ),
    Reason.PENDING_DEADLINE_EXCEEDED: _failed(
        "An attempt waited for its pods for longer than `spec.pendingDeadlineSeconds`.",
        "The message says what it waited for.",
    ),
    Reason.UNEXPECTED: _attempt(
        "The trainer ended in a way that has no other name: a bug, perhaps. Counted.",
        "Read `status.lastFailure.logTail`; report it.",
    ),
    Reason.OUT_OF_MEMORY: _attempt(
        "The kernel killed the container for memory. Counted.",
        "Raise `spec.resources.memory`, or lower `spec.training.workers`.",
    ),
    Reason.INFRASTRUCTURE: _attempt(
        "Something outside the run failed (exit code 150): a GPU, a rank, a disk, the storage; or the node refused the "
        "pod. Free of charge.",
        "If it comes again on the same node, look at the node.",
    ),
    Reason.RANKS_HUNG: _attempt(
        "No rank moved for `spec.healthPolicy.stalledSeconds`. Counted.", "The log has the stacks of all ranks."
    ),
    Reason.TERMINATED: _attempt(
        "The trainer was told to stop (exit code 143 or 130), not by this operator. Free of charge.",
        "Usually a drain; look for who deleted the pod if it comes again.",
    ),
    Reason.DISRUPTED: _attempt(
        "The pod was evicted, preempted, deleted, or lost with its node. Free of charge.",
        "Usually a drain or a preemption: a higher `spec.pod.priorityClassName` helps against the latter.",
    ),
    Reason.POD_VANISHED: _attempt(
        "The pod was gone before its end could be read. Free of charge.",
        "Look for who force-deletes pods or removes nodes.",
    ),
    Reason.CHILD_DELETED: _attempt(
        "Somebody deleted the child of the attempt. Free of charge.", "To pause a job, set `spec.suspend` instead."
    ),
    Reason.PREFLIGHT_DEADLINE_EXCEEDED: _attempt(
        "The preflight took longer than `spec.preflight.deadlineSeconds`. Counted.",
        "Raise it, or look at the storage; many images take longer.",
    ),
}

CONDITIONS: dict[str, tuple[str, str]] = {
    "Complete": ("All stages are done; results stand in the status.", "Read `status.results`."),
    "Failed": (
        "The job has failed and does not go on by itself.",
        "Its reason and message say why; `status.lastFailure` has the details.",
    ),
    "Finished": ("Complete or Failed: `kubectl wait --for=condition=Finished` covers both.", "Look which of them."),
    "Suspended": ("`spec.suspend` is true and nothing runs any more.", "Set it to false to go on."),
    "Running": ("All pods of the current attempt run.", "If False, its reason says why."),
    "Progressing": (
        "The job moves towards its end. Unknown while the trainer can't be asked; False while it waits or stalls.",
        "If False for long, its reason says what to do.",
    ),
    "CheckpointFresh": (
        "While it runs: the newest verified checkpoint is less than two hours old. Unknown if there is none yet.",
        "If False, a crash would lose more than that.",
    ),
    "Degraded": (
        "Something needs a person although the job is not Failed: a stalled run, a stuck pod, a spec that this "
        "operator can't read while its pods run.",
        "Its message names the pod, node or field.",
    ),
}
"""Type -> (meaning, what to do)."""


def is_warning(reason: Reason) -> bool:
    """Whether an event of this reason is a Warning: a person may have to do something."""
    return ABOUT[reason].section in {"waiting", "failed"} and reason is not Reason.WAITING_FOR_OLD_OBJECT
