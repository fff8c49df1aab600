"""The document of an attempt: what its trainer reads, as one line of JSON in an environment variable. Pure.

Only what the user has set travels, and only what a trainer reads. So an image that was recorded at the first attempt
understands the document of an operator that is newer. Defaults of an API version therefore never change.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from semires_trainer.config import CLUSTER_ONLY_FIELDS, SemiRESJob
from semires_trainer.errors import ConfigError

LONGEST_BYTES = 96 << 10
"""What a trainer accepts. Linux takes 128 KiB a variable: MAX_ARG_STRLEN of execve(2)."""

READ_BY_PREFLIGHT = ("preflight", "deadlineSeconds")
"""A field that only a cluster reads, and preflight: it ends in time to say why it did not get further."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A job as its trainer reads it."""

    text: str
    """JSON in ASCII without a dollar sign: Kubernetes would expand $(NAME) in the value of a variable."""
    sha256: str
    """Of the text, in hexadecimal."""


def document_of(job: SemiRESJob, *, micro_batch: int | None = None) -> Document:
    """The document of a job: the same job gives the same bytes.

    `micro_batch` replaces spec.training.microBatch, after GPU memory ran out. ConfigError if the document is longer
    than a trainer accepts.
    """
    content = trained_part(job)
    if micro_batch is not None:
        content["spec"].setdefault("training", {})["microBatch"] = micro_batch
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).replace("$", "\\u0024")
    if len(text) > LONGEST_BYTES:
        raise ConfigError(
            f"what is trained takes {len(text)} bytes of JSON, at most {LONGEST_BYTES} fit into a pod",
            field="spec",
            remedy="Put long lists into a file: spec.dataset.labeled.imageIdsFile",
        )
    return Document(text=text, sha256=hashlib.sha256(text.encode()).hexdigest())


def trained_part(job: SemiRESJob) -> dict[str, Any]:
    """The manifest without defaults, metadata other than the name, and fields that only a cluster reads."""
    whole = job.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    spec = whole["spec"]
    section, name = READ_BY_PREFLIGHT
    kept = {key: value for key, value in spec.get(section, {}).items() if key == name}
    for path in CLUSTER_ONLY_FIELDS:
        section, _, name = path.rpartition(".")
        (spec.get(section, {}) if section else spec).pop(name, None)
    if kept:
        spec[READ_BY_PREFLIGHT[0]] = kept
    return {
        "apiVersion": whole["apiVersion"],
        "kind": whole["kind"],
        "metadata": {"name": job.metadata.name},
        "spec": spec,
    }
