"""The bodies of an attempt from what is known of a job: what `decide` asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semires_operator.actions import Unbuildable
from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.document import trained_part
from semires_operator.endpoints import AWS, Endpoint, Endpoints, NotAllowed
from semires_operator.launch import Launch, image_of
from semires_operator.names import API_VERSION, KIND
from semires_operator.reasons import Reason
from semires_operator.seen import Job
from semires_operator.settings import Settings
from semires_operator.status import Preflight
from semires_operator.volumes import output_is_kept
from semires_trainer.config import SemiRESJob
from semires_trainer.errors import ConfigError


class Bodies:
    """Makes bodies. Their image and their micro-batch are those that stand in the job's status."""

    def __init__(self, endpoints: Callable[[], Endpoints]) -> None:
        """`endpoints` gives the administrator's list as it is now: EndpointsFile.current."""
        self._endpoints = endpoints

    def build_preflight(self, job: Job, attempt: int, settings: Settings) -> dict[str, Any]:
        """The preflight Job of an attempt. Unbuildable names field, value and remedy."""
        return _built(build_preflight, self._launch(job, attempt, settings, None), settings)

    def build_child(self, job: Job, attempt: int, settings: Settings, preflight: Preflight | None) -> dict[str, Any]:
        """The object that trains. Unbuildable names field, value and remedy."""
        return _built(build_child, self._launch(job, attempt, settings, preflight), settings)

    def _launch(self, job: Job, attempt: int, settings: Settings, preflight: Preflight | None) -> Launch:
        if job.spec is None:
            raise Unbuildable(Reason.SPEC_INVALID, job.problem)
        manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": job.name}, "spec": job.spec}
        whole, recorded = SemiRESJob.model_validate(manifest), job.status.provenance
        if not output_is_kept(whole.spec):
            raise Unbuildable(Reason.OUTPUT_NOT_KEPT, _lost_output(whole.spec.output))
        return Launch(
            job=whole,
            uid=job.uid,
            namespace=job.namespace,
            attempt=attempt,
            image=(recorded and recorded.image) or image_of(whole.spec, settings),
            endpoint=self._endpoint(whole, job.namespace),
            micro_batch=job.status.micro_batch,
            preflight=preflight,
        )

    def _endpoint(self, job: SemiRESJob, namespace: str) -> Endpoint:
        """What `spec.storage.endpoint` names: `default` in a job without that section, if it has anything on S3."""
        storage = job.spec.storage
        if storage is None and "s3://" not in str(trained_part(job)):
            return AWS
        found = self._endpoints().find(storage.endpoint if storage else "default", namespace=namespace)
        if isinstance(found, NotAllowed):
            raise Unbuildable(Reason.ENDPOINT_NOT_ALLOWED, str(found))
        return found


def _lost_output(output: str) -> str:
    return (
        f"spec.output: {output} is a path in the pod: checkpoints and results would be lost with it. Delete the job "
        "and give it an output on S3 (s3://BUCKET/PREFIX); or suspend it and mount a PersistentVolumeClaim at that "
        "path (spec.pod.volumes, spec.pod.volumeMounts)."
    )


def _built(build: Callable[[Launch, Settings], dict[str, Any]], launch: Launch, settings: Settings) -> dict[str, Any]:
    try:
        return build(launch, settings)
    except ConfigError as error:
        raise Unbuildable(Reason.SPEC_INVALID, str(error)) from error
