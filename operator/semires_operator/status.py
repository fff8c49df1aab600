"""`status` of a SemiRESJob: the schema that the CRD is generated from, and what `decide` remembers between looks.

Every bound here is also one of the CRD; `decide` keeps to them by cutting, never by failing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MAX_ATTEMPTS = 10
"""Of the history: the newest are kept."""
MAX_MESSAGE, MAX_LOG_TAIL = 2048, 4096
"""Characters."""

Phase = Literal["Pending", "Queued", "Preflight", "Running", "Stopping", "Suspended", "Retrying", "Succeeded", "Failed"]
Word = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(max_length=253)]
Sentence = Annotated[str, Field(max_length=MAX_MESSAGE)]
Uri = Annotated[str, Field(max_length=2048)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Percent = Annotated[int, Field(ge=0, le=100)]
Decimal = Annotated[str, Field(max_length=64, pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$")]
Sha256 = Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Condition(_Part):
    """A condition as in metav1."""

    type: Word
    """Complete, Failed, Finished, Suspended, Running, Progressing, CheckpointFresh, Degraded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Word
    """Why, for programs."""
    message: Sentence = ""
    """Why, for people, and what to do."""
    last_transition_time: AwareDatetime
    """When status last changed."""
    observed_generation: Count = 0
    """Generation of the job it was judged by."""


class Checkpoint(_Part):
    """A checkpoint that was published and verified."""

    uri: Uri
    """Where it is."""
    step: Count
    """Optimizer steps of the whole run that it holds."""
    sha256: Sha256 | None = None
    """Of its manifest.json."""
    time: AwareDatetime | None = None
    """When it was published."""


class Metric(_Part):
    """A figure of the run, as in Kubeflow's TrainerStatus."""

    name: Word
    """loss, learningRate, imagesPerSecond, matchRatio, oIoU, mIoU."""
    value: Decimal
    """Its last value; oIoU and mIoU in percent."""


class Progress(_Part):
    """How far the current or last attempt is, as its trainer told."""

    stage: Word = ""
    """fetch, proposals, burn-in, train, evaluate."""
    epoch: Count | None = None
    """Of the training stage, from 1."""
    epochs: Count | None = None
    """Of the training stage."""
    step: Count = 0
    """Optimizer steps done, of the whole run."""
    steps: Count = 0
    """Optimizer steps of the whole run."""
    progress_percentage: Percent = 0
    """Share of the run's time that is done."""
    estimated_remaining_seconds: Count | None = None
    """By the speeds known now."""
    metrics: Annotated[tuple[Metric, ...], Field(max_length=16)] = ()
    """Last values."""
    last_updated_time: AwareDatetime | None = None
    """When the trainer last told where it is."""
    stale: bool = False
    """True while the trainer can't be asked: the figures are the last known."""


class Score(_Part):
    """What a model reached on a split."""

    model: Word
    """burn-in or teacher."""
    split: Word
    """val, testA, ..."""
    size: Word
    """training or original."""
    overall_iou: Annotated[Decimal, Field(alias="oIoU")]
    """oIoU in percent."""
    mean_iou: Annotated[Decimal, Field(alias="mIoU")]
    """mIoU in percent."""


class Failure(_Part):
    """How an attempt failed."""

    reason: Word
    """A word for programs: the trainer's, or the pod's."""
    message: Sentence = ""
    """What happened, and what to do."""
    field: Annotated[str, Field(max_length=256)] = ""
    """The field of the manifest to change."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Of the trainer; absent if it never ran."""
    node: Name = ""
    """Where it ran."""
    log_tail: Annotated[str, Field(max_length=MAX_LOG_TAIL)] = ""
    """The last lines of its log, without credentials."""


class Attempt(_Part):
    """One attempt that has ended."""

    number: Count
    """1, 2, ..."""
    ended: Literal["Succeeded", "Failed", "Stopped", "Lost"]
    """How: Stopped on request, Lost to a disruption or for an unknown reason."""
    counted: bool = False
    """Whether it counts towards failurePolicy.backoffLimit."""
    started_at: AwareDatetime | None = None
    """When its trainer began."""
    ended_at: AwareDatetime | None = None
    """When it was seen to have ended."""
    failure: Failure | None = None
    """Why it did not succeed."""


class Stopping(_Part):
    """A stop under way: a checkpoint is asked for, then the pods are removed."""

    reason: Literal["Suspend", "Edit", "ActiveDeadline", "PendingDeadline", "Health"]
    """Who wants it."""
    waited_for: Sentence = ""
    """What the attempt waited for when it began."""
    requested_at: AwareDatetime
    """Since when."""
    deadline: AwareDatetime
    """The pods are removed then at the latest."""


class Preflight(_Part):
    """What the check before the attempt found."""

    attempt: Count
    """The attempt it was made for."""
    skipped: bool = False
    """spec.preflight.mode is Skip."""
    ephemeral_storage_bytes: Count | None = None
    """Local disk that the run needs."""
    images: Count | None = None
    """Images that are trained on."""
    labeled: Count | None = None
    """Of these, labelled ones."""
    stages_done: Annotated[tuple[Word, ...], Field(max_length=8)] = ()
    """Stages that need not be done again."""
    warnings: Annotated[tuple[Annotated[str, Field(max_length=512)], ...], Field(max_length=8)] = ()
    """What is odd, but no reason to stop."""


class Provenance(_Part):
    """From what the results came."""

    image: Annotated[str, Field(max_length=512)] = ""
    """The image of all attempts: with digest once a node has told it. Another one only after an edit of spec.image."""
    requested_image: Annotated[str, Field(max_length=512)] = ""
    """spec.image when that was chosen; empty if it was the operator's default."""
    document_sha256: Sha256 | None = None
    """Of the document that the last attempt was given."""
    operator_version: Word = ""
    """Of the operator that made the last attempt."""


class Display(_Part):
    """Figures as the printer columns show them: JSONPath can't write "12/40"."""

    epoch: Word = ""
    """12/40: epoch of the training stage, and how many there are."""
    progress: Word = ""
    """31%; with a question mark while the trainer can't be asked."""
    eta: Word = ""
    """5h02m: time that the run still needs, by the speeds known now."""
    overall_iou: Annotated[Word, Field(alias="oIoU")] = ""
    """47.31: oIoU of the final model, before that of the last evaluation; in percent."""
    labeled: Word = ""
    """1%, or the number of labelled images."""
    refine: Word = ""
    """CPI-U: the strategy of refinement, given or the preset's."""


class Status(_Part):
    """How far, how good, what's wrong."""

    observed_generation: Count = 0
    """Generation of the spec that this status speaks of."""
    phase: Phase = "Pending"
    """One word."""
    reason: Word = ""
    """Why it is in this phase, for programs: docs/operations.md explains each."""
    message: Sentence = ""
    """One sentence for people: what it waits for, what went wrong, what to do."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Conditions as in metav1, one per type."""
    attempt: Count = 0
    """Number of the current or last attempt; 0 before the first."""
    child: Name = ""
    """The PyTorchJob of that attempt, once there is one."""
    failures: Count = 0
    """Attempts that count towards failurePolicy.backoffLimit."""
    free_retries: Count = 0
    """Attempts in all that were lost and do not count: at most 50."""
    retry_at: AwareDatetime | None = None
    """When the next attempt may begin."""
    micro_batch: Count | None = None
    """training.microBatch of the next attempt, after GPU memory ran out. An edit of that field replaces it."""
    requested_micro_batch: Count | None = None
    """training.microBatch when the attempt began."""
    run_by_sha256: Sha256 | None = None
    """Of the spec that the attempt began with, without fields that may change at any time."""
    start_time: AwareDatetime | None = None
    """When the first trainer began."""
    completion_time: AwareDatetime | None = None
    """When the job finished."""
    attempt_created_at: AwareDatetime | None = None
    """Since when the current attempt waits for its pods: it was begun, it passed its preflight, or it was evicted."""
    running_since: AwareDatetime | None = None
    """When the trainer of the current attempt began."""
    active_seconds: Count = 0
    """Running time of the attempts that have ended."""
    stopping: Stopping | None = None
    """The stop under way."""
    preflight: Preflight | None = None
    """What the last check found."""
    progress: Progress | None = None
    """How far it is."""
    last_checkpoint: Checkpoint | None = None
    """The newest verified checkpoint."""
    best_checkpoint: Checkpoint | None = None
    """The one of the best teacher, after success."""
    results: Annotated[tuple[Score, ...], Field(max_length=64)] = ()
    """What the models reached, after success."""
    last_failure: Failure | None = None
    """How the last failed attempt failed."""
    attempts: Annotated[tuple[Attempt, ...], Field(max_length=MAX_ATTEMPTS)] = ()
    """Attempts that have ended, oldest first; at most 10 are kept."""
    provenance: Provenance | None = None
    """From what the results came."""
    display: Display | None = None
    """What the printer columns show."""
