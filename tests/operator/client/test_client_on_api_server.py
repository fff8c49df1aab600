"""The client and the commands on a real API server with the real CRD."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from semires_operator.client import Client, Forbidden, Job, JobGone, JobNotFound, NoLog, NotFound, NotInstalled, Refused
from semires_operator.client import gateway as client_gateway

Set = Callable[..., None]


@pytest.fixture
def client(api_cluster, api_namespace: str) -> Iterator[Client]:
    with Client(api_namespace, kubeconfig=api_cluster.kubeconfig) as made:
        yield made


@pytest.fixture
def manifest(make_document, tmp_path: Path) -> Path:
    document = make_document()
    path = tmp_path / "job.yaml"
    head = {key: document[key] for key in ("apiVersion", "kind")}
    spec = {**document["spec"], "training": {"epochs": 40}}
    path.write_text(yaml.safe_dump({**head, "metadata": {"name": "refcoco"}, "spec": spec}))
    return path


@pytest.fixture
def run(api_cluster, api_namespace: str, semires) -> Callable[..., Result]:
    """Run a command in the namespace of the test."""

    def run_command(*arguments: object) -> Result:
        return semires(*arguments, "-n", api_namespace, "--kubeconfig", api_cluster.kubeconfig)

    return run_command


@pytest.fixture
def set_status(api_cluster, api_namespace: str) -> Set:
    """Write the status of the job, as the operator would."""

    def write(**status: Any) -> None:
        place = ("-n", api_namespace, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        api_cluster.kubectl("patch", "srj", "refcoco", *place)

    return write


def test_what_is_submitted_comes_back_typed(client: Client, manifest: Path) -> None:
    made = client.submit(manifest)
    found = client.get("refcoco")

    assert found.uid == made.uid
    assert found.manifest().spec.training.epochs == 40
    assert (found.status.phase, found.status.observed_generation) == ("Pending", 0)
    assert [job.name for job in client.list()] == ["refcoco"]
    assert ("refcoco", client.namespace) in [(job.name, job.namespace) for job in client.list(everywhere=True)]


def test_the_servers_defaults_are_no_change(client: Client, manifest: Path) -> None:
    client.submit(manifest)

    assert client.apply(manifest).outcome == "unchanged"


def test_a_dry_run_stores_nothing(client: Client, manifest: Path) -> None:
    assert client.apply(manifest, dry_run=True).outcome == "created"
    assert client.list() == ()

    client.submit(manifest)
    dry = client.apply(manifest, overrides=[("spec.activeDeadlineSeconds", "60")], dry_run=True)

    assert dry.job.spec["activeDeadlineSeconds"] == 60
    assert "activeDeadlineSeconds" not in client.get("refcoco").spec


def test_policies_may_change(client: Client, manifest: Path) -> None:
    client.submit(manifest)

    applied = client.apply(manifest, overrides=[("spec.failurePolicy.backoffLimit", "7")])

    assert [str(change) for change in applied.changes] == ["spec.failurePolicy.backoffLimit (3 -> 7)"]
    assert client.get("refcoco").spec["failurePolicy"]["backoffLimit"] == 7


def test_what_is_trained_may_not_change(run, manifest: Path) -> None:
    run("submit", manifest)

    result = run("submit", manifest, "--set", "training.epochs=3", "--set", "output=s3://results/other")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "spec.training.epochs" in result.stderr
    assert "spec.output" in result.stderr
    assert "what is trained cannot change" in result.stderr
    assert "Invalid value" not in result.stderr
    assert "Forbidden" not in result.stderr


def test_a_suspended_job_stays_suspended_when_it_is_submitted_again(client: Client, manifest: Path) -> None:
    client.submit(manifest)

    assert client.suspend("refcoco").is_suspended
    assert client.apply(manifest).outcome == "unchanged"
    assert client.get("refcoco").is_suspended
    assert not client.resume("refcoco").is_suspended


def test_the_columns_are_those_of_kubectl(
    run, api_cluster, api_namespace: str, manifest: Path, set_status: Set
) -> None:
    run("submit", manifest)
    display = {"progress": "43%", "eta": "3h02m", "epoch": "12/40", "oIoU": "52.18", "labeled": "1%", "refine": "CPI-U"}
    set_status(phase="Running", attempt=2, child="refcoco-a2", progress={"stage": "train"}, display=display)

    ours = [line.split() for line in run("list", "-o", "wide").stdout.splitlines()]
    theirs = [
        line.split() for line in api_cluster.kubectl("get", "srj", "-n", api_namespace, "-o", "wide").splitlines()
    ]

    assert ours[0] == theirs[0]
    age = ours[0].index("AGE")
    assert [word for place, word in enumerate(ours[1]) if place < age] == theirs[1][:age]
    assert "refcoco-a2" in ours[1]


def test_a_condition_is_waited_for(client: Client, manifest: Path, set_status: Set, make_condition) -> None:
    client.submit(manifest)
    turns: list[str] = []

    with at_the_same_time(
        lambda: set_status(phase="Running", observedGeneration=1),
        lambda: set_status(phase="Succeeded", observedGeneration=1, conditions=[make_condition("Complete")]),
    ):
        job = client.wait("refcoco", timeout=30, on_change=lambda job: turns.append(job.status.phase))

    assert job.is_complete
    assert turns[-1] == "Succeeded"


def test_waiting_outlives_cut_watches(
    api_cluster, own_api_cluster, api_namespace: str, manifest: Path, set_status: Set, make_condition, tmp_path: Path
) -> None:
    from testbed.api_proxy import ApiProxy

    with ExitStack() as stack:
        proxy = ApiProxy(own_api_cluster.server, own_api_cluster.authority, tmp_path)
        stack.callback(proxy.close)
        through = proxy.kubeconfig_for(api_cluster.kubeconfig, tmp_path / "proxied.kubeconfig")
        client = stack.enter_context(Client(api_namespace, kubeconfig=through))
        client.submit(manifest)
        done = {"phase": "Succeeded", "conditions": [make_condition("Complete")]}
        stack.enter_context(at_the_same_time(proxy.cut_watches, proxy.cut_watches, lambda: set_status(**done)))

        assert client.wait("refcoco", timeout=30).is_complete


def test_waiting_outlives_a_restart_of_the_api_server(
    client: Client, own_api_cluster, manifest: Path, set_status: Set, make_condition
) -> None:
    client.submit(manifest)
    done = {"phase": "Succeeded", "conditions": [make_condition("Complete")]}

    with at_the_same_time(lambda: own_api_cluster.restart_apiserver(kill=True), lambda: set_status(**done)):
        assert client.wait("refcoco", timeout=60).is_complete


def test_a_job_that_is_deleted_ends_the_wait(client: Client, manifest: Path) -> None:
    client.submit(manifest)

    with at_the_same_time(lambda: client.delete("refcoco")), pytest.raises(JobGone):
        client.wait("refcoco", timeout=30)


def test_events_are_those_of_the_job(client: Client, api_cluster, manifest: Path) -> None:
    job = client.submit(manifest)
    api_cluster.create(
        event_about(job, "one", reason="Training", message="All pods run."),
        event_about(job, "two", reason="Other", message="Of another.", uid="another"),
    )

    assert [(event.type, event.reason, event.message) for event in client.events(job)] == [
        ("Normal", "Training", "All pods run.")
    ]


def test_a_job_without_pods_has_no_log(client: Client, manifest: Path) -> None:
    client.submit(manifest)

    with pytest.raises(NoLog, match=r"no pod of refcoco to read \(Pending\). Wait for it: semires logs refcoco -"):
        list(client.logs("refcoco"))


def test_a_misspelt_name_is_told_with_the_right_one(run, manifest: Path) -> None:
    run("submit", manifest)

    for command in ("describe", "logs", "suspend", "resume", "wait"):
        result = run(command, "refcocco")
        assert result.exit_code == 2
        assert 'Did you mean "refcoco"?' in result.stderr


def test_a_namespace_that_is_not_there_is_told(api_cluster, manifest: Path) -> None:
    with Client("nowhere", kubeconfig=api_cluster.kubeconfig) as client, pytest.raises(NotFound, match='"nowhere"'):
        client.submit(manifest)


def test_a_cluster_without_the_definition_is_told_how_to_install_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_gateway, "VERSION", "v9")  # which this cluster does not serve

    with pytest.raises(NotInstalled, match="kubectl apply --server-side -k"):
        client.list()


def test_a_missing_right_is_told_with_user_and_verb(api_cluster, api_namespace: str, manifest: Path) -> None:
    kubeconfig = api_cluster.service_account(api_namespace, "reader", rules=READ)

    with Client(kubeconfig=kubeconfig) as client:
        assert client.list() == ()
        with pytest.raises(Forbidden, match=r'User ".*:reader" cannot create resource "semiresjobs"'):
            client.submit(manifest)
        with pytest.raises(JobNotFound):
            client.get("refcoco")


def test_a_wrong_field_is_refused_by_the_server_too(client: Client, manifest: Path) -> None:
    job = client.submit(manifest)
    spec = {**job.spec, "sed": 1}

    with pytest.raises(Refused, match=r'unknown field "spec.sed"'):
        client._gateway.write_job("replace", client.namespace, {**job.document, "spec": spec}, dry_run=False)


def test_describe_tells_a_job_that_nobody_has_seen(run, manifest: Path) -> None:
    run("submit", manifest)

    result = run("describe", "refcoco")

    assert result.exit_code == 0
    assert result.stdout.startswith("refcoco  in test-")
    assert "preset Paper" in result.stdout


READ = [{"apiGroups": ["semires.dev"], "resources": ["semiresjobs"], "verbs": ["get", "list", "watch"]}]


def event_about(job: Job, name: str, *, reason: str, message: str, uid: str = "") -> dict[str, Any]:
    about = {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "name": job.name, "namespace": job.namespace}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": job.namespace},
        "involvedObject": {**about, "uid": uid or job.uid},
        **{"type": "Normal", "reason": reason, "message": message},
        "lastTimestamp": "2026-11-25T10:00:00Z",
    }


@contextmanager
def at_the_same_time(*things: Callable[[], object]) -> Iterator[None]:
    """Do things one after the other, half a second apart, while the test goes on."""

    def do() -> None:
        for thing in things:
            time.sleep(0.5)
            thing()

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join(timeout=90)
