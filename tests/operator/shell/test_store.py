"""The store shows what the watches told, newest wins, and a list finds what they missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from semires_operator.names import child_name, preflight_name
from semires_operator.store import Store, trimmed

LABELS = {"semires.dev/job": "a", "semires.dev/job-uid": "job-1", "semires.dev/attempt": "1"}


def body(uid: str = "u1", version: int = 1, **metadata: Any) -> dict[str, Any]:
    given = {"name": f"n-{uid}", "namespace": "team", "uid": uid, "resourceVersion": str(version), "labels": LABELS}
    return {"metadata": {**given, **metadata}, "spec": {}, "status": {"version": version}}


def shown(store: Store) -> list[int]:
    return sorted(raw["status"]["version"] for raw in store.of("Pod", "job-1"))


def test_an_object_is_found_by_its_job_and_names_it():
    store = Store()

    assert store.put("Pod", body()) == ("team", "a")
    assert shown(store) == [1]


def test_an_older_version_does_not_replace_a_newer_one():
    store = Store()
    store.put("Pod", body(version=10))
    store.put("Pod", body(version=9))

    assert shown(store) == [10]


def test_an_object_that_is_gone_does_not_come_back():
    store = Store()
    store.put("Pod", body(version=1))
    store.drop("Pod", body(version=1))
    store.put("Pod", body(version=2))

    assert shown(store) == []


def test_an_object_that_loses_its_label_belongs_to_no_job():
    store = Store()
    store.put("Pod", body(version=1))
    store.put("Pod", body(version=2, labels={}))

    assert shown(store) == []


@pytest.mark.parametrize(
    ("listed", "differing"),
    [
        pytest.param([body("u1", 5), body("u2", 6)], 0, id="the-same"),
        pytest.param([body("u1", 5), body("u2", 8)], 1, id="newer"),
        pytest.param([body("u1", 5)], 1, id="gone"),
        pytest.param([body("u1", 5), body("u2", 6), body("u3", 7)], 1, id="new"),
        pytest.param([body("u1", 4), body("u2", 6)], 0, id="older-than-ours"),
    ],
)
def test_a_list_tells_what_was_missed(listed, differing):
    store = Store()
    store.put("Pod", body("u1", 5))
    store.put("Pod", body("u2", 6))

    assert store.differs("Pod", None, listed, "10") == differing


def test_what_is_newer_than_the_list_is_not_taken_for_gone():
    store = Store()
    store.put("Pod", body("u1", 11))

    assert store.differs("Pod", None, [], "10") == 0
    assert store.replace("Pod", None, [], "10") == []
    assert shown(store) == [11]


def test_a_list_of_one_namespace_says_nothing_of_others():
    store = Store()
    store.put("Pod", body("u1", 5))

    assert store.differs("Pod", "other", [], "10") == 0


def test_a_list_replaces_what_there_is_and_names_the_jobs_concerned():
    store = Store()
    store.put("Pod", body("u1", 5))

    keys = store.replace("Pod", None, [body("u2", 7, labels={**LABELS, "semires.dev/job": "b"})], "10")

    assert keys == [("team", "a"), ("team", "b")]
    assert shown(store) == [7]


@pytest.mark.parametrize(("kind", "name"), [("PyTorchJob", child_name("a", 1)), ("Job", preflight_name("a", 1))])
def test_a_workload_belongs_to_the_job_of_its_child(kind, name):
    store = Store()
    owner = {"kind": kind, "uid": "p1", "name": name}
    store.put(kind, body("p1"))

    key = store.put("Workload", body("w1", labels={}, ownerReferences=[owner]))

    assert key == ("team", "a")
    assert len(store.of("Workload", "p1")) == 1


def test_a_workload_may_be_seen_before_its_preflight_job():
    store = Store()
    owner = {"kind": "Job", "uid": "p1", "name": "a-p12"}
    store.put("Workload", body("w1", labels={}, ownerReferences=[owner]))

    assert len(store.of("Workload", "p1")) == 1


@pytest.mark.parametrize("name", ["x", "nightly-p", "a-p0", "a-p1-x", "a-a1"])
def test_workloads_of_others_are_not_kept(name):
    store = Store()
    owner = {"kind": "Job", "uid": "x", "name": name}
    store.put("Workload", body("w1", labels={}, ownerReferences=[owner]))

    assert store.differs("Workload", None, [], "10") == 0


def test_a_pod_is_kept_without_what_nobody_reads():
    pod = body()
    pod["metadata"]["managedFields"] = [{"fieldsV1": {"f:metadata": {}}}] * 20
    pod["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 10_000}
    pod["spec"] = {
        "nodeName": "node-1",
        "containers": [{"name": "pytorch", "env": [{"name": "SEMIRES_DOCUMENT", "value": "x" * 90_000}]}],
    }

    kept = trimmed("Pod", pod)

    assert kept["spec"] == {"nodeName": "node-1", "containers": [{"name": "pytorch"}]}
    assert len(json.dumps(kept)) < 500


def test_a_job_of_this_name_is_known_until_it_is_deleted():
    store = Store()
    job = body("j1", labels={}, name="a")
    store.put("SemiRESJob", job)
    known = store.jobs()
    store.drop("SemiRESJob", job)

    assert known == [("team", "a")]
    assert store.jobs() == []


def test_a_kind_that_was_not_served_for_a_while_comes_back():
    store = Store()
    store.put("Pod", body())

    assert store.drop_all("Pod") == [("team", "a")]
    assert shown(store) == []
    store.put("Pod", body())
    assert shown(store) == [1]
