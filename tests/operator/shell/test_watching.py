"""Watches tell what changes, survive what clusters do, and write nothing."""

from __future__ import annotations

import time

import pytest
from testbed.api_proxy import Errors
from testbed.cluster import pytorchjob_definition
from testbed.waiting import wait_until

from semires_operator import watches


@pytest.fixture
def replica(start_replica, trainer, proxied, connection_of_file):
    """By way of the proxy, which is closed first: it would notice the end of a watch under TLS late."""
    return start_replica(connection_of_file(proxied), address=trainer.address)


def test_watching_writes_nothing(hand, replica, proxy, api_cluster, api_namespace):
    """kopf adds no annotation, finalizer or event to anything, not even when something of its own is there."""
    finalizer = "kopf.zalando.org/KopfFinalizerMarker"
    hand.submit(suspend=True)
    hand.patch("semiresjob", "a", {"metadata": {"finalizers": [finalizer]}})
    hand.wait_for_phase("a", "Suspended")
    hand.patch("semiresjob", "a", {"metadata": {"labels": {"touched": "yes"}}})
    time.sleep(3)

    patched = [one.request for one in proxy.exchanges() if one.request.writes and one.request.resource == "semiresjobs"]
    metadata = hand.find("semiresjob", "a")["metadata"]
    hand.patch("semiresjob", "a", {"metadata": {"finalizers": None}})
    assert {one.subresource for one in patched} == {"status"}
    assert "annotations" not in metadata
    assert metadata["finalizers"] == [finalizer]


def test_pods_are_watched_by_label_only(hand, replica, proxy):
    hand.submit()
    hand.wait_for_phase("a", "Preflight")

    reads = [one.request for one in proxy.exchanges() if one.request.verb in {"list", "watch"}]
    assert {one.resource for one in reads} <= {"semiresjobs", "pytorchjobs", "jobs", "pods", "events"}
    assert all(one.namespace == hand.namespace for one in reads)


def test_a_cut_watch_loses_nothing(hand, replica, proxy):
    for number in range(5):
        proxy.cut_watches()
        hand.submit(f"j{number}", suspend=True)

    for number in range(5):
        assert hand.wait_for_phase(f"j{number}", "Suspended")


def test_a_third_of_all_answers_may_be_errors(hand, trainer, replica, proxy):
    proxy.interference = Errors(seed=1)
    hand.submit()
    job = hand.find("job", "a-p1")
    hand.pass_preflight("a-p1")
    trainer.show(hand.start("a-a1"))
    hand.end_training("a-a1")
    proxy.interference = Errors(seed=1, rate=0)

    assert hand.wait_for_phase("a", "Succeeded", seconds=60)
    assert job["metadata"]["uid"] == hand.find("job", "a-p1")["metadata"]["uid"]


def test_what_no_watch_has_told_is_found_by_comparing(hand, start_replica, trainer, connection, monkeypatch):
    """The watch of SemiRESJobs is deaf; a list finds the job, and the watches are started again."""
    monkeypatch.setattr(watches, "COMPARE_SECONDS", 1.0)
    monkeypatch.setattr(watches, "GRACE_SECONDS", 0.5)
    told = watches.Watches._told
    monkeypatch.setattr(
        watches.Watches,
        "_told",
        lambda self, kind, gone, body: None if kind == "SemiRESJob" else told(self, kind, gone, body),
    )
    replica = start_replica(connection, address=trainer.address)
    hand.submit(suspend=True)

    assert hand.wait_for_phase("a", "Suspended", seconds=20)
    wait_until(
        "the miss is counted",
        lambda: 'semires_operator_watch_missed_total{kind="SemiRESJob"} 1.0' in replica.get("/metrics")[1],
        seconds=20,
    )


def test_a_job_waits_for_the_definition_of_pytorchjob_and_goes_on_when_it_comes(
    hand, trainer, own_api_cluster, start_replica, connection
):
    own_api_cluster.kubectl("delete", "-f", str(pytorchjob_definition()))
    try:
        start_replica(connection, address=trainer.address)
        hand.submit()
        hand.wait("a", "tells it", lambda status: status.get("reason") == "BackendMissing", seconds=60)
    finally:
        own_api_cluster.crds()

    hand.find("job", "a-p1")
    hand.pass_preflight("a-p1")
    assert hand.start("a-a1")


def test_a_restarted_api_server_is_waited_for(hand, own_api_cluster, start_replica, connection):
    """Within the Lease's deadline: an operator that could not renew it for longer ends, and is started again."""
    replica = start_replica(connection, lease_seconds=300, lease_renew_seconds=200)
    own_api_cluster.stop_apiserver(kill=True)
    time.sleep(1)
    own_api_cluster.start_apiserver()
    hand.submit(suspend=True)

    assert hand.wait_for_phase("a", "Suspended", seconds=60)
    replica.stop()
