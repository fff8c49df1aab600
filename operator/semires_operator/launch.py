"""Everything that the bodies of an attempt are made of. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from semires_operator.document import Document, document_of
from semires_operator.endpoints import AWS, Endpoint
from semires_operator.names import API_VERSION, DOCUMENT_ANNOTATION, KIND, child_labels
from semires_operator.settings import Settings
from semires_operator.status import Preflight
from semires_trainer.config import Resources, SemiRESJob, Spec


@dataclass(frozen=True, kw_only=True)
class Launch:
    """An attempt of a job. The same values give the same bodies, byte for byte."""

    job: SemiRESJob
    uid: str
    """Of the SemiRESJob."""
    namespace: str
    attempt: int
    """1, 2, ..."""
    image: str
    """`image_of` at the first attempt; then what status.provenance has recorded."""
    endpoint: Endpoint = field(default=AWS)
    """What spec.storage.endpoint names in the administrator's list."""
    micro_batch: int | None = None
    """Replaces spec.training.microBatch, after GPU memory ran out."""
    preflight: Preflight | None = None
    """What the check of this attempt has found; None before it and without one."""
    upload_seconds: float | None = None
    """How long the last upload of a whole checkpoint took, if that is known."""

    @property
    def name(self) -> str:
        """Of the job."""
        return self.job.metadata.name

    @property
    def resources(self) -> Resources:
        """Size of the training pods."""
        return self.job.spec.resources

    @property
    def ranks_per_node(self) -> int:
        """One a GPU. Without GPUs one: it uses all CPUs of its pod, and any batch can be dealt to it."""
        return self.resources.gpus_per_node or 1

    @cached_property
    def document(self) -> Document:
        """What the trainer reads. ConfigError if it is too long."""
        return document_of(self.job, micro_batch=self.micro_batch)

    def labels(self, role: str) -> dict[str, str]:
        """Of a child and its pods."""
        return child_labels(self.name, self.uid, self.attempt, role)

    def annotations(self) -> dict[str, str]:
        """Of a child and of its pods. ConfigError if the document is too long."""
        return {DOCUMENT_ANNOTATION: self.document.sha256}

    def owner(self) -> dict[str, object]:
        """The SemiRESJob as controller. It does not block the owner's deletion."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


def image_of(spec: Spec, settings: Settings) -> str:
    """The image of a job that has not run yet."""
    return spec.image or settings.trainer_image
