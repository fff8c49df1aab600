"""Every name that the operator gives: labels, children, environment. Pure."""

from __future__ import annotations

GROUP, VERSION = "semires.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND, PLURAL, SINGULAR, SHORT_NAME = "SemiRESJob", "semiresjobs", "semiresjob", "srj"
CATEGORIES = ("all", "semires")
MANAGER = "semires-operator"
"""Field manager of our writes, and reporting component of our events."""

JOB_LABEL = f"{GROUP}/job"
JOB_UID_LABEL = f"{GROUP}/job-uid"
"""On every child and pod of ours: pods are watched by it."""
ATTEMPT_LABEL = f"{GROUP}/attempt"
ROLE_LABEL = f"{GROUP}/role"
PREFLIGHT, TRAINING = "preflight", "training"
"""Values of ROLE_LABEL, and names of the containers' roles."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
DOCUMENT_ANNOTATION = f"{GROUP}/document-sha256"
"""On every child and pod: sha256 of the document that the pod is given."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""On the PyTorchJob itself: Kueue does not look at its pods."""

TRAINER_CONTAINER, PREFLIGHT_CONTAINER = "pytorch", "preflight"
"""training-operator takes its exit code from the container of this very name."""
PORT, PORT_NAME = 9464, "progress"


def child_name(job: str, attempt: int) -> str:
    """Name of the PyTorchJob of an attempt; at most 54 characters for a job of 45 and an attempt below 10^6."""
    return f"{job}-a{attempt}"


def preflight_name(job: str, attempt: int) -> str:
    """Name of the preflight Job of an attempt."""
    return f"{job}-p{attempt}"


def child_labels(job: str, job_uid: str, attempt: int, role: str) -> dict[str, str]:
    """Labels of a child and of its pods."""
    return {
        JOB_LABEL: job,
        JOB_UID_LABEL: job_uid,
        ATTEMPT_LABEL: str(attempt),
        ROLE_LABEL: role,
        MANAGED_BY_LABEL: MANAGER,
    }
