"""One replica leads at a time; another takes over soon; nobody writes after its time."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from testbed.waiting import wait_until

from semires_operator import kube
from semires_operator.lease import Lease, LeaseLost, Terms

TAKE_OVER_SECONDS = 20


class Clock:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def terms(namespace: str, identity: str, **changed: float) -> Terms:
    return Terms(namespace=namespace, name="lease", identity=identity, **changed)


@pytest.fixture
def with_api(run, connection):
    """Run a test's coroutine function with calls to the API server."""

    def go(test):
        async def scenario():
            async with kube.connect(connection, count=lambda verb, code: None) as api:
                return await test(api)

        return run(scenario())

    return go


def test_the_first_takes_it_and_the_second_waits(with_api, api_namespace):
    async def test(api):
        first, second = (Lease(api, terms(api_namespace, identity)) for identity in "12")
        await first.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await second.acquire()
        return first, second

    first, second = with_api(test)

    assert first.leading
    assert not second.leading
    assert second.holder == "1"


def test_a_released_lease_is_taken_at_once(with_api, api_namespace):
    async def test(api):
        first, second = (Lease(api, terms(api_namespace, identity)) for identity in "12")
        await first.acquire()
        await first.release()
        began = time.monotonic()
        await second.acquire()
        return time.monotonic() - began

    assert with_api(test) < 1


def test_a_lease_that_is_not_renewed_is_taken_after_its_duration(with_api, api_namespace):
    async def test(api):
        short = {"duration": 2.0, "deadline": 1.0, "retry": 0.2}
        first, second = (Lease(api, terms(api_namespace, identity, **short)) for identity in "12")
        await first.acquire()
        began = time.monotonic()
        await second.acquire()
        return first, time.monotonic() - began

    first, seconds = with_api(test)

    assert seconds == pytest.approx(2.2, abs=0.5)
    with pytest.raises(LeaseLost):
        first.fence()


def test_the_holder_that_was_replaced_notices(with_api, api_namespace):
    async def test(api):
        clock = Clock()
        first = Lease(api, terms(api_namespace, "1", retry=0.1), clock=clock)
        await first.acquire()
        await steal(api, api_namespace)
        with pytest.raises(LeaseLost, match="thief"):
            await first.hold()

    with_api(test)


async def steal(api: kube.Api, namespace: str) -> None:
    found = await api.get(kube.LEASES, namespace, "lease")
    patch = {"spec": {"holderIdentity": "thief"}}
    version = found["metadata"]["resourceVersion"]
    await api.merge_patch(kube.LEASES, namespace, "lease", patch, resource_version=version)


def test_nothing_is_written_after_the_renewal_deadline(with_api, api_namespace):
    """What a process finds that was stopped for 30 s."""

    async def test(api):
        clock = Clock()
        lease = Lease(api, terms(api_namespace, "1"), clock=clock)
        await lease.acquire()
        fenced = api.fenced(lease.fence)
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
        await fenced.create(kube.Resource(plural="configmaps"), api_namespace, config)
        clock.now += 30
        with pytest.raises(LeaseLost, match=r"not renewed for 30\.0 s"):
            await fenced.delete(kube.Resource(plural="configmaps"), api_namespace, "x", uid="1")

    with_api(test)


def test_the_clock_of_the_other_machine_does_not_matter(with_api, api_namespace):
    """A renewTime of long ago, by a holder whose clock is wrong, is no reason to take over."""

    async def test(api):
        first, second = (Lease(api, terms(api_namespace, identity)) for identity in "12")
        await first.acquire()
        found = await api.get(kube.LEASES, api_namespace, "lease")
        patch = {"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}}
        version = found["metadata"]["resourceVersion"]
        await api.merge_patch(kube.LEASES, api_namespace, "lease", patch, resource_version=version)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await second.acquire()

    with_api(test)


def test_an_empty_lease_is_taken(with_api, api_namespace):
    """As manifests may hold one."""

    async def test(api):
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "lease"}}
        await api.create(kube.LEASES, api_namespace, body)
        lease = Lease(api, terms(api_namespace, "1"))
        await lease.acquire()
        return lease.leading

    assert with_api(test)


def test_a_killed_leader_is_replaced_within_twenty_seconds(start_process, own_api_cluster, api_namespace, hand):
    kubeconfig = own_api_cluster.kubeconfig
    first = start_process(kubeconfig, name="first", namespace=api_namespace, NAMESPACES=api_namespace)
    wait_until("the first leads", lambda: first.leads, seconds=30)
    second = start_process(kubeconfig, name="second", namespace=api_namespace, NAMESPACES=api_namespace)
    second.wait_until_ready()
    assert not second.leads
    first.signal(signal.SIGKILL)
    began = time.monotonic()

    wait_until("the second leads", lambda: second.leads, seconds=TAKE_OVER_SECONDS)
    hand.submit()
    hand.wait_for_phase("a", "Preflight")

    print(f"take-over after {time.monotonic() - began:.1f} s")  # noqa: T201 - a figure for the report


def test_a_stopped_leader_writes_nothing_when_it_wakes_up(start_process, own_api_cluster, api_namespace):
    kubeconfig = own_api_cluster.kubeconfig
    first = start_process(kubeconfig, name="first", namespace=api_namespace, NAMESPACES=api_namespace)
    wait_until("the first leads", lambda: first.leads, seconds=30)
    first.signal(signal.SIGSTOP)
    second = start_process(kubeconfig, name="second", namespace=api_namespace, NAMESPACES=api_namespace)
    wait_until("the second leads", lambda: second.leads, seconds=30)
    first.signal(signal.SIGCONT)

    assert first.process.wait(15) == 1
    assert second.leads
    assert "Another replica may lead" in first.log.read_text()


def test_sigterm_ends_it_well_and_gives_the_lease_back(start_process, own_api_cluster, api_namespace):
    process = start_process(own_api_cluster.kubeconfig, name="first", namespace=api_namespace, NAMESPACES=api_namespace)
    wait_until("it leads", lambda: process.leads, seconds=30)
    process.signal(signal.SIGTERM)

    assert process.process.wait(15) == 0
    lease = own_api_cluster.get("lease", "semires-operator", "-n", api_namespace)
    assert lease["spec"].get("holderIdentity", "") == ""
