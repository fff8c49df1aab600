"""Makes the bodies of an attempt for `decide`: the job and its status, and the administrator's list of endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semires_operator.actions import Unbuildable
from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.endpoints import AWS, Endpoint, Endpoints, NotAllowed
from semires_operator.launch import Launch, image_of
from semires_operator.reasons import Reason
from semires_operator.seen import Job
from semires_operator.settings import Settings
from semires_operator.status import Preflight
from semires_trainer.config import Metadata, SemiRESJob
from semires_trainer.errors import ConfigError


class Bodies:
    """The `Builder` that `decide` is given."""

    def __init__(self, endpoints: Callable[[], Endpoints]) -> None:
        """endpoints: the list as it is now."""
        self._endpoints = endpoints

    def build_preflight(self, job: Job, attempt: int, settings: Settings) -> dict[str, Any]:
        """The preflight Job of an attempt. Unbuildable names field, value and remedy."""
        launch = self._launch(job, attempt, settings, None)
        try:
            return build_preflight(launch, settings)
        except ConfigError as error:
            raise Unbuildable(Reason.SPEC_INVALID, str(error)) from error

    def build_child(self, job: Job, attempt: int, settings: Settings, preflight: Preflight | None) -> dict[str, Any]:
        """The PyTorchJob of an attempt. Unbuildable names field, value and remedy."""
        launch = self._launch(job, attempt, settings, preflight)
        try:
            return build_child(launch, settings)
        except ConfigError as error:
            raise Unbuildable(Reason.SPEC_INVALID, str(error)) from error

    def _launch(self, job: Job, attempt: int, settings: Settings, preflight: Preflight | None) -> Launch:
        if job.spec is None:
            raise Unbuildable(Reason.SPEC_INVALID, job.problem)
        endpoint: Endpoint | NotAllowed = AWS
        if job.spec.storage is not None:
            endpoint = self._endpoints().find(job.spec.storage.endpoint, namespace=job.namespace)
        if isinstance(endpoint, NotAllowed):
            raise Unbuildable(Reason.ENDPOINT_NOT_ALLOWED, str(endpoint))
        metadata = Metadata(name=job.name)
        manifest = SemiRESJob(api_version="semires.dev/v1alpha1", kind="SemiRESJob", metadata=metadata, spec=job.spec)
        recorded = job.status.provenance.image if job.status.provenance else ""
        return Launch(
            job=manifest,
            uid=job.uid,
            namespace=job.namespace,
            attempt=attempt,
            image=recorded or image_of(manifest, settings),
            endpoint=endpoint,
            micro_batch=job.status.micro_batch,
            preflight=preflight,
        )
