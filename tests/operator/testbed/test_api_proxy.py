"""The proxy in front of the API server: what it counts, and what it does to requests."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed import api_proxy, programs
from testbed.api_cluster import ApiCluster
from testbed.api_proxy import ApiProxy, BlackHole, Errors, KillAt, parse

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def proxy(own_api_cluster: ApiCluster, tmp_path: Path) -> Iterator[ApiProxy]:
    running = ApiProxy(own_api_cluster.server, own_api_cluster.authority, tmp_path)
    yield running
    running.close()


@pytest.fixture
def by_proxy(own_api_cluster: ApiCluster, proxy: ApiProxy, tmp_path: Path) -> Path:
    """The administrator's kubeconfig by way of the proxy."""
    return proxy.kubeconfig_for(own_api_cluster.kubeconfig, tmp_path / "proxy.kubeconfig")


@pytest.fixture
def ask(own_api_cluster: ApiCluster, proxy: ApiProxy, by_proxy: Path) -> Callable[..., int]:
    """The status of one request, without the retries of kubectl."""
    token = json.loads(by_proxy.read_text())["users"][0]["user"]["token"]
    trust = ssl.create_default_context(cafile=str(own_api_cluster.authority.certificate))

    def send(path: str, body: dict[str, Any] | None = None, method: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        content = json.dumps(body).encode() if body else None
        request = urllib.request.Request(proxy.url + path, data=content, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, context=trust, timeout=20) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    return send


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("GET", "/readyz", ("get", "", "", "", ""), id="no resource"),
        pytest.param("GET", "/api/v1/nodes", ("list", "", "nodes", "", ""), id="list"),
        pytest.param("GET", "/api/v1/namespaces/a", ("get", "", "namespaces", "a", ""), id="a namespace itself"),
        pytest.param("GET", "/api/v1/namespaces/a/pods?watch=true", ("watch", "a", "pods", "", ""), id="watch"),
        pytest.param("GET", "/api/v1/namespaces/a/pods/p/log", ("get", "a", "pods", "p", "log"), id="subresource"),
        pytest.param(
            "PATCH",
            "/apis/semires.dev/v1alpha1/namespaces/a/semiresjobs/j/status",
            ("patch", "a", "semiresjobs", "j", "status"),
            id="patch of a status",
        ),
        pytest.param("POST", "/apis/batch/v1/namespaces/a/jobs", ("create", "a", "jobs", "", ""), id="create"),
        pytest.param("DELETE", "/apis/batch/v1/namespaces/a/jobs/j", ("delete", "a", "jobs", "j", ""), id="delete"),
        pytest.param(
            "DELETE", "/apis/batch/v1/namespaces/a/jobs", ("deletecollection", "a", "jobs", "", ""), id="delete all"
        ),
    ],
)
def test_requests_are_told_in_the_words_of_kubernetes(method: str, path: str, expected: tuple[str, ...]) -> None:
    found = parse(method, path, index=0)

    assert (found.verb, found.namespace, found.resource, found.name, found.subresource) == expected


def test_requests_are_counted_by_verb(
    own_api_cluster: ApiCluster, proxy: ApiProxy, by_proxy: Path, api_namespace: str, config_map: Make
) -> None:
    own_api_cluster.create(config_map(api_namespace, "one"), user=by_proxy)
    own_api_cluster.get("configmap", "one", "-n", api_namespace, user=by_proxy)
    own_api_cluster.get("configmaps", "-n", api_namespace, user=by_proxy)

    assert proxy.counts(resource="configmaps") == {"create": 1, "get": 1, "list": 1}


def test_a_part_of_the_requests_is_refused(proxy: ApiProxy, ask: Callable[..., int]) -> None:
    proxy.interference = Errors(seed=1)

    statuses = [ask("/api/v1/namespaces/default") for _ in range(100)]

    assert set(statuses) == {200, 429, 500}
    assert 20 <= 100 - statuses.count(200) <= 40


def test_only_writes_are_refused_for_a_conflict(
    proxy: ApiProxy, ask: Callable[..., int], api_namespace: str, config_map: Make
) -> None:
    proxy.interference = Errors(seed=1, rate=1)
    path = f"/api/v1/namespaces/{api_namespace}/configmaps"

    statuses = {ask(path, config_map(api_namespace, "one")) for _ in range(30)}

    assert statuses == {409, 429, 500}


@pytest.mark.parametrize("after", [pytest.param(False, id="before it is done"), pytest.param(True, id="after")])
def test_a_client_is_killed_at_its_nth_request(
    own_api_cluster: ApiCluster, proxy: ApiProxy, by_proxy: Path, api_namespace: str, config_map: Make, after: bool
) -> None:
    objects = [config_map(api_namespace, f"number-{number}") for number in range(3)]
    command = [str(programs.KUBECTL.path), "--kubeconfig", str(by_proxy), "create", "--validate=false", "-f", "-"]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    proxy.interference = KillAt(1, client.kill, after=after, matches=lambda request: request.verb == "create")
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode()
    _, errors = client.communicate(content, timeout=60)

    found = own_api_cluster.items("configmaps", "-n", api_namespace)
    names = {one["metadata"]["name"] for one in found} - {"kube-root-ca.crt"}

    assert client.returncode == -9, errors
    assert names == ({"number-0", "number-1"} if after else {"number-0"})


def test_watches_are_cut_and_nothing_else(
    own_api_cluster: ApiCluster, proxy: ApiProxy, by_proxy: Path, api_namespace: str
) -> None:
    command = [str(programs.KUBECTL.path), "--kubeconfig", str(by_proxy), "-n", api_namespace]
    with subprocess.Popen([*command, "get", "configmaps", "--watch"], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        cut = _wait_for_a_watch(proxy)
        client.wait(timeout=20)

    assert cut == 1
    assert own_api_cluster.get("configmap", "kube-root-ca.crt", "-n", api_namespace, user=by_proxy)


def _wait_for_a_watch(proxy: ApiProxy) -> int:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if proxy.counts()["watch"]:
            return proxy.cut_watches()
        time.sleep(0.02)
    raise TimeoutError("kubectl did not watch within 10 s")


def test_in_a_black_hole_nothing_is_answered_until_it_is_released(proxy: ApiProxy, ask: Callable[..., int]) -> None:
    proxy.interference = BlackHole()
    ended = []
    client = threading.Thread(target=lambda: ended.append(_failure(lambda: ask("/readyz"))))
    client.start()
    client.join(timeout=0.5)
    held = client.is_alive()

    proxy.interference = api_proxy.Interference()
    proxy.release()
    client.join(timeout=10)

    assert held
    assert isinstance(ended[0], OSError)
    assert ask("/readyz") == 200


def _failure(call: Callable[[], object]) -> OSError | None:
    try:
        call()
    except OSError as error:
        return error
    return None


def test_a_client_is_reset_while_the_api_server_is_away(
    own_api_cluster: ApiCluster, proxy: ApiProxy, ask: Callable[..., int]
) -> None:
    own_api_cluster.stop_apiserver(kill=True)
    failure = _failure(lambda: ask("/readyz"))
    own_api_cluster.start_apiserver()

    assert failure is not None
    assert ask("/readyz") == 200
