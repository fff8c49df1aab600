"""What the operator puts into a pod is read by the trainer's own parser: it finds the same job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from semires_operator.document import LONGEST_BYTES, document_of
from semires_operator.endpoints import Endpoint
from semires_operator.volumes import CA_BUNDLE, CREDENTIALS
from semires_trainer.config import CLUSTER_ONLY_FIELDS, SemiRESJob, parse_job, resolve, training_hash
from semires_trainer.connection import storage_settings
from semires_trainer.errors import ConfigError
from semires_trainer.orders import attempt_of, is_one_node
from semires_trainer.pod_run import LONGEST_DOCUMENT, port_of
from semires_trainer.pod_run import document_of as parse_document

Template = Callable[..., dict[str, Any]]
EnvironmentOf = Callable[[dict[str, Any]], dict[str, str]]
REPOSITORY = Path(__file__).parents[3]
MANIFESTS = sorted([*REPOSITORY.glob("manifests/examples/*.yaml"), *REPOSITORY.glob("examples/*.yaml")])
JOBS = [
    pytest.param(document["spec"], id=f"{path.parent.name}/{path.stem}")
    for path in MANIFESTS
    for document in yaml.safe_load_all(path.read_text())
    if document and document["kind"] == "SemiRESJob"
]

names = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and all(ord(letter) > 31 for letter in text))
uris = st.one_of(
    st.builds(lambda tail: f"s3://bucket/{tail}", names),
    st.sampled_from(["s3://b/$(HOME)/$$x/$(SEMIRES_JOB_UID)", '/data/"quoted"/\\u0024', "s3://b/ü/漢/😀"]),
)
specs = st.fixed_dictionaries(
    {
        "output": uris,
        "dataset": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["RefCOCO", "GRefUMD", "Custom"]),
                "annotations": uris,
                "images": uris,
                "labeled": st.one_of(
                    st.builds(lambda seed: {"percent": "0.5", "seed": seed}, st.integers(0, 9)),
                    st.builds(lambda ids: {"imageIds": sorted(ids)}, st.sets(st.integers(0, 9999), min_size=1)),
                    st.builds(lambda uri: {"imageIdsFile": uri}, uris),
                ),
            },
            optional={"badImageLimit": st.integers(0, 20), "unlabeledLimit": st.integers(1, 10**6)},
        ),
        "proposals": st.one_of(
            st.builds(lambda uri: {"sam": {"weights": uri, "predIouThreshold": "0.5"}}, uris),
            st.just({"generator": "Felzenszwalb"}),
            st.just({"generator": "Felzenszwalb", "felzenszwalb": {}, "store": "s3://b/masks"}),
        ),
    },
    optional={
        "training": st.fixed_dictionaries(
            {"preset": st.sampled_from(["Paper", "OfficialCPI", "OfficialIOM"])},
            optional={
                "epochs": st.integers(1, 50),
                "microBatch": st.integers(1, 64),
                "emaDecay": st.sampled_from(["0.99", "9.96e-1"]),
                "optimizedTextLayers": st.sampled_from([10, 3]),
                "checkpoint": st.just({"intervalSteps": 5}),
            },
        ),
        "storage": st.fixed_dictionaries(
            {}, optional={"endpoint": st.just("lab"), "region": st.just("eu"), "credentialsSecret": st.just("keys")}
        ),
        "healthPolicy": st.builds(
            lambda stalled, action: {"stalledSeconds": stalled, "action": action},
            st.sampled_from([1800, 90]),
            st.sampled_from(["Report", "Restart"]),
        ),
        "resources": st.builds(
            lambda nodes, gpus: {"nodes": nodes, "gpusPerNode": gpus}, st.integers(1, 3), st.integers(0, 8)
        ),
        "pod": st.just({"env": [{"name": "HOME", "value": "/x"}, {"name": "A", "value": "$(HOME)"}]}),
    },
)


def assert_same_job(found: SemiRESJob, job: SemiRESJob) -> None:
    assert resolve(found) == resolve(job)
    assert training_hash(resolve(found)) == training_hash(resolve(job))
    limits = ("stalled_seconds", "startup_seconds")
    assert [getattr(found.spec.health_policy, name) for name in limits] == [
        getattr(job.spec.health_policy, name) for name in limits
    ]
    storages = [job.spec.storage and (job.spec.storage.endpoint, job.spec.storage.region) for job in (found, job)]
    assert storages[0] == storages[1]


@pytest.mark.parametrize("spec", JOBS)
def test_the_trainer_finds_the_job_of_an_example(
    spec: dict[str, Any], make_job: Callable[..., SemiRESJob], training_pod: Template, environment_of: EnvironmentOf
) -> None:
    environment = environment_of(training_pod(**spec))

    assert_same_job(parse_document(environment), make_job(**spec))


@given(spec=specs, attempt=st.integers(1, 999_999))
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_trainer_finds_any_job(
    spec: dict[str, Any],
    attempt: int,
    make_job: Callable[..., SemiRESJob],
    training_pod: Template,
    preflight_pod: Template,
    environment_of: EnvironmentOf,
) -> None:
    job = make_job(**spec)

    for template in (training_pod({"attempt": attempt}, **spec), preflight_pod({"attempt": attempt}, **spec)):
        environment = environment_of(template)
        assert_same_job(parse_document(environment), job)
        told = attempt_of("refcoco-1pct", environment)
        assert (told.number, told.job_uid) == (attempt, "11111111-2222-3333-4444-555555555555")
        names = [variable["name"] for variable in template["spec"]["containers"][0]["env"]]
        assert len(names) == len(set(names))


def test_no_field_that_only_a_cluster_reads_travels(make_job: Callable[..., SemiRESJob]) -> None:
    cluster = {
        "resources": {"gpusPerNode": 2},
        "pod": {"labels": {"a": "b"}},
        "queue": "q",
        "suspend": True,
        "storage": {"endpoint": "lab", "credentialsSecret": "keys"},
        "healthPolicy": {"stalledSeconds": 90, "action": "Report"},
        "image": "x",
    }

    spec = json.loads(document_of(make_job(**cluster)).text)["spec"]

    assert spec.keys() == {"dataset", "proposals", "output", "storage", "healthPolicy"}
    assert (spec["storage"], spec["healthPolicy"]) == ({"endpoint": "lab"}, {"stalledSeconds": 90})
    assert not {path for path in CLUSTER_ONLY_FIELDS if path in spec}


def test_preflight_is_told_its_deadline(preflight_pod: Template, environment_of: EnvironmentOf) -> None:
    found = parse_document(environment_of(preflight_pod(preflight={"deadlineSeconds": 60, "memory": "1Gi"})))

    assert found.spec.preflight.deadline_seconds == 60
    assert found.spec.preflight.memory == "2Gi"


def test_the_same_job_gives_the_same_bytes(make_job: Callable[..., SemiRESJob]) -> None:
    job = make_job(training={"epochs": 3, "preset": "Paper"})
    again = parse_job(json.loads(json.dumps(job.model_dump(mode="json", by_alias=True, exclude_none=True))))

    assert document_of(job) == document_of(again)
    assert document_of(job).sha256 == hashlib.sha256(document_of(job).text.encode()).hexdigest()


def test_a_smaller_micro_batch_reaches_the_trainer(
    make_job: Callable[..., SemiRESJob], training_pod: Template, environment_of: EnvironmentOf
) -> None:
    found = parse_document(environment_of(training_pod({"micro_batch": 3}, training={"microBatch": 6})))

    assert found.spec.training.micro_batch == 3
    assert training_hash(resolve(found)) == training_hash(resolve(make_job()))


def test_the_longest_list_of_images_fits(training_pod: Template, environment_of: EnvironmentOf) -> None:
    ids = list(range(2**31 - 5001, 2**31 - 1))
    dataset = {"name": "Custom", "annotations": "s3://d/a", "images": "s3://d/i", "labeled": {"imageIds": ids}}

    assert (
        len(parse_document(environment_of(training_pod(dataset=dataset))).spec.dataset.labeled.image_ids or ()) == 5000
    )


def test_a_document_that_is_too_long_names_the_remedy(training_pod: Template) -> None:
    uri = "s3://bucket/" + "\U0001f600" * 2000
    dataset = {"name": "Custom", "annotations": uri, "images": uri, "labeled": {"imageIdsFile": uri}}

    with pytest.raises(ConfigError, match="imageIdsFile") as caught:
        training_pod(dataset=dataset, output=uri, proposals={"sam": {"weights": uri}, "store": uri})
    assert (caught.value.field, LONGEST_BYTES) == ("spec", LONGEST_DOCUMENT)


def test_the_endpoint_reaches_the_trainer(training_pod: Template, environment_of: EnvironmentOf, lab: Endpoint) -> None:
    template = training_pod({"endpoint": lab}, storage={"endpoint": "lab", "credentialsSecret": "keys"})
    environment = environment_of(template)
    found = storage_settings(parse_document(environment).spec.storage, {}, environment)

    assert (found.endpoint_url, found.region, found.path_style) == (lab.url, lab.region, False)
    assert (str(found.ca_bundle), str(found.credentials_folder)) == (CA_BUNDLE, CREDENTIALS)


def test_without_a_list_the_trainer_speaks_to_aws(training_pod: Template, environment_of: EnvironmentOf) -> None:
    environment = environment_of(training_pod(storage={"serviceAccountName": "trainer"}))
    found = storage_settings(parse_document(environment).spec.storage, {}, environment)

    assert (found.endpoint_url, found.path_style, found.credentials_folder) == ("", False, None)


def test_the_trainer_serves_where_the_operator_asks(training_pod: Template, environment_of: EnvironmentOf) -> None:
    template = training_pod()

    assert port_of(environment_of(template)) == template["spec"]["containers"][0]["ports"][0]["containerPort"] == 9464


@pytest.mark.parametrize(
    ("resources", "nodes", "ranks", "one_node"),
    [
        pytest.param({}, "1", "4", True, id="four GPUs"),
        pytest.param({"gpusPerNode": 0}, "1", "1", True, id="CPU"),
        pytest.param({"nodes": 2, "gpusPerNode": 8}, "2:2", "8", False, id="two nodes"),
    ],
)
def test_preflight_is_told_the_ranks_of_the_training_pods(
    resources: dict[str, int],
    nodes: str,
    ranks: str,
    one_node: bool,
    preflight_pod: Template,
    environment_of: EnvironmentOf,
) -> None:
    environment = environment_of(preflight_pod(resources=resources))

    assert (environment["PET_NNODES"], environment["PET_NPROC_PER_NODE"]) == (nodes, ranks)
    assert is_one_node(environment) == one_node
