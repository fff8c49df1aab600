"""An API server with the controllers of Kubernetes, without nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from testbed.api_cluster import ApiCluster
from testbed.cluster import Cluster, KubectlError

CONFIG_MAPS = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get"]}]
SLACK = 3
"""Other tests run beside this one."""
Make = Callable[..., dict[str, Any]]


def test_it_is_up_within_ten_seconds(own_api_cluster: ApiCluster) -> None:
    assert own_api_cluster.start_seconds < 10 * SLACK


def test_it_leaves_no_process_and_no_file(own_api_cluster: ApiCluster) -> None:
    with ApiCluster() as cluster:
        identities = [cluster.processes.identity(name) for name in cluster.processes.names()]

    assert len(identities) == 3
    assert not any(identity.alive for identity in identities)
    assert not cluster.folder.exists()


def test_pytorchjobs_are_known(api_cluster: Cluster, api_namespace: str, pytorchjob: Make) -> None:
    api_cluster.create(pytorchjob(api_namespace, "job"))

    assert api_cluster.get("pytorchjob", "job", "-n", api_namespace)["spec"]["nprocPerNode"] == "4"


def test_what_the_schema_forbids_is_refused(api_cluster: Cluster, api_namespace: str, pytorchjob: Make) -> None:
    wrong = pytorchjob(api_namespace, "job")
    wrong["spec"]["nprocPerNode"] = 4

    with pytest.raises(KubectlError, match=r"spec\.nprocPerNode.*must be of type string"):
        api_cluster.create(wrong)


def test_an_account_may_do_what_its_rules_say_and_nothing_else(
    api_cluster: Cluster, api_namespace: str, config_map: Make
) -> None:
    user = api_cluster.service_account(api_namespace, "writer", rules=CONFIG_MAPS)

    api_cluster.create(config_map(api_namespace, "mine"), user=user)
    with pytest.raises(KubectlError, match="forbidden"):
        api_cluster.get("secrets", "-n", api_namespace, user=user)


def test_writes_are_counted_by_user(own_api_cluster: ApiCluster, api_namespace: str, config_map: Make) -> None:
    user = own_api_cluster.service_account(api_namespace, "counted", rules=CONFIG_MAPS)
    own_api_cluster.create(config_map(api_namespace, "one"), user=user)
    own_api_cluster.get("configmap", "one", "-n", api_namespace, user=user)

    account = f"system:serviceaccount:{api_namespace}:counted"
    assert [event["objectRef"]["name"] for event in own_api_cluster.audited(account)] == ["one"]
    assert len(own_api_cluster.audited(account, verbs=["get"])) == 1


def test_what_a_deleted_object_owns_goes_with_it(
    api_cluster: Cluster, api_namespace: str, pytorchjob: Make, config_map: Make
) -> None:
    api_cluster.create(pytorchjob(api_namespace, "owner"))
    owner = api_cluster.get("pytorchjob", "owner", "-n", api_namespace)
    api_cluster.create(config_map(api_namespace, "owned", owner))

    api_cluster.kubectl("delete", "pytorchjob", "owner", "-n", api_namespace)

    api_cluster.wait_until_gone("configmap", "owned", api_namespace, seconds=20)


@pytest.mark.parametrize("kill", [pytest.param(False, id="asked"), pytest.param(True, id="killed")])
def test_the_api_server_comes_back_with_all_it_had(
    own_api_cluster: ApiCluster, api_namespace: str, config_map: Make, kill: bool
) -> None:
    own_api_cluster.create(config_map(api_namespace, "kept"))

    own_api_cluster.restart_apiserver(kill=kill)

    assert own_api_cluster.get("configmap", "kept", "-n", api_namespace)


def test_a_stopped_api_server_does_not_answer(own_api_cluster: ApiCluster) -> None:
    own_api_cluster.stop_apiserver(kill=True)
    answers = own_api_cluster.answers("/readyz")
    own_api_cluster.start_apiserver()

    assert not answers


def test_a_killed_etcd_comes_back_with_all_it_had(
    own_api_cluster: ApiCluster, api_namespace: str, config_map: Make
) -> None:
    own_api_cluster.create(config_map(api_namespace, "kept"))

    own_api_cluster.kill_etcd()
    own_api_cluster.start_etcd()
    own_api_cluster.wait_for_apiserver()

    assert own_api_cluster.wait_for_object("configmap", "kept", api_namespace)


def test_a_wait_that_ends_in_vain_says_what_was_seen(api_cluster: Cluster) -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.1 s: node nowhere is there\. There is no such object\."):
        api_cluster.wait_for_object("node", "nowhere", seconds=0.1, what="is there")
