"""From a job as the cluster shows it, with its status, to bodies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from semires_operator.actions import Unbuildable
from semires_operator.builder import Bodies
from semires_operator.endpoints import parse_endpoints
from semires_operator.reasons import Reason
from semires_operator.seen import Job, job_of
from semires_operator.settings import Settings
from semires_operator.status import Preflight

LIST = parse_endpoints("default: {url: 'http://s3:7070'}\nlab: {url: 'http://lab:7070', namespaces: [team-b]}")
BODIES = Bodies(lambda: LIST)
ON_A_CLAIM = {
    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "results"}}],
    "volumeMounts": [{"name": "v", "mountPath": "/results"}],
}


def make(status: dict[str, Any] | None = None, **sections: Any) -> Job:
    spec = {
        "dataset": {"name": "Custom", "annotations": "s3://d/a", "images": "s3://d/i", "labeled": {"percent": "1"}},
        "proposals": {"generator": "Felzenszwalb"},
        "output": "s3://r/o",
        **sections,
    }
    created = datetime(2030, 1, 1, tzinfo=UTC).isoformat().replace("+00:00", "Z")
    metadata = {"name": "job", "namespace": "team-a", "uid": "uid", "creationTimestamp": created}
    return job_of({"metadata": metadata, "spec": spec, "status": status or {}})


def container_of(body: dict[str, Any]) -> dict[str, Any]:
    (replica,) = body["spec"]["pytorchReplicaSpecs"].values()
    found: dict[str, Any] = replica["template"]["spec"]["containers"][0]
    return found


def variables_of(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


def test_image_and_micro_batch_are_those_of_the_status(settings: Settings) -> None:
    job = make({"attempt": 2, "microBatch": 3, "provenance": {"image": "old@sha256:1"}}, image="new:1")

    container = container_of(BODIES.build_child(job, 2, settings, None))

    assert container["image"] == "old@sha256:1"
    assert '"microBatch":3' in variables_of(container)["SEMIRES_DOCUMENT"]
    assert variables_of(container)["SEMIRES_ATTEMPT"] == "2"


def test_the_first_attempt_takes_the_jobs_image(settings: Settings) -> None:
    assert container_of(BODIES.build_child(make(image="new:1"), 1, settings, None))["image"] == "new:1"


def test_what_preflight_measured_sizes_the_disk(settings: Settings) -> None:
    measured = Preflight(attempt=1, ephemeral_storage_bytes=10 << 30)

    container = container_of(BODIES.build_child(make(), 1, settings, measured))

    assert container["resources"]["requests"]["ephemeral-storage"] == str(18 << 30)


def test_an_endpoint_of_another_namespace_is_not_built(settings: Settings) -> None:
    with pytest.raises(Unbuildable, match=r"spec\.storage\.endpoint.*default") as caught:
        BODIES.build_preflight(make(storage={"endpoint": "lab"}), 1, settings)
    assert caught.value.reason == Reason.ENDPOINT_NOT_ALLOWED


def test_a_job_without_storage_uses_the_default(settings: Settings) -> None:
    variables = variables_of(container_of(BODIES.build_child(make(), 1, settings, None)))

    assert variables["SEMIRES_ENDPOINT_URL"] == "http://s3:7070"


def test_a_job_without_anything_on_s3_needs_no_endpoint(settings: Settings) -> None:
    bodies = Bodies(lambda: parse_endpoints(""))
    dataset = {"name": "Custom", "annotations": "/data/a", "images": "/data/i", "labeled": {"percent": "1"}}

    body = bodies.build_child(make(dataset=dataset, output="/results", pod=ON_A_CLAIM), 1, settings, None)

    assert "SEMIRES_ENDPOINT_URL" not in variables_of(container_of(body))
    with pytest.raises(Unbuildable, match="it may use none"):
        bodies.build_child(make(), 1, settings, None)


@pytest.mark.parametrize(
    ("spec", "is_kept"),
    [
        pytest.param({"output": "s3://results/a"}, True, id="s3"),
        pytest.param({"output": "runs/a"}, False, id="home folder"),
        pytest.param({"output": "/results/a"}, False, id="nothing mounted"),
        pytest.param({"output": "/results/a", "pod": ON_A_CLAIM}, True, id="claim"),
        pytest.param({"output": "file:///results/a", "pod": ON_A_CLAIM}, True, id="claim as a URI"),
        pytest.param({"output": "/results-of-all", "pod": ON_A_CLAIM}, False, id="beside the claim"),
        pytest.param(
            {
                "output": "/results",
                "pod": {"volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": ON_A_CLAIM["volumeMounts"]},
            },
            False,
            id="emptyDir",
        ),
        pytest.param(
            {
                "output": "/results",
                "pod": {**ON_A_CLAIM, "volumeMounts": [{"name": "v", "mountPath": "/results", "readOnly": True}]},
            },
            False,
            id="read-only",
        ),
        pytest.param({"output": "/var/cache/semires/a", "cache": {"claim": "c"}}, True, id="claim of the cache"),
        pytest.param({"output": "/var/cache/semires/a"}, False, id="cache of the pod"),
    ],
)
def test_results_that_would_be_lost_with_the_pod_are_refused(
    settings: Settings, spec: dict[str, Any], is_kept: bool
) -> None:
    if is_kept:
        assert BODIES.build_preflight(make(**spec), 1, settings)
        return
    with pytest.raises(Unbuildable, match=r"spec\.output: .* is a path in the pod") as caught:
        BODIES.build_preflight(make(**spec), 1, settings)
    assert caught.value.reason == Reason.OUTPUT_NOT_KEPT


def test_a_spec_that_cannot_be_read_is_told(settings: Settings) -> None:
    with pytest.raises(Unbuildable, match=r"spec\.resources\.nodes") as caught:
        BODIES.build_child(make(resources={"nodes": 0}), 1, settings, None)
    assert caught.value.reason == Reason.SPEC_INVALID


def test_a_document_that_is_too_long_is_told(settings: Settings) -> None:
    uri = "s3://b/" + "\U0001f600" * 2000
    dataset = {"name": "Custom", "annotations": uri, "images": uri, "labeled": {"imageIdsFile": uri}}

    proposals = {"sam": {"weights": uri}, "store": uri}

    with pytest.raises(Unbuildable, match="imageIdsFile") as caught:
        BODIES.build_preflight(make(dataset=dataset, output=uri, proposals=proposals), 1, settings)
    assert caught.value.reason == Reason.SPEC_INVALID
