"""An operator with nothing to do takes little memory, and asks the API server for little."""

from __future__ import annotations

import time
from pathlib import Path

from testbed.waiting import wait_until

MAX_IDLE_MEBIBYTES = 110
SETTLED_SECONDS = 5


def test_an_idle_leader_takes_little_memory(start_process, own_api_cluster, api_namespace):
    process = start_process(own_api_cluster.kubeconfig, name="idle", namespace=api_namespace, NAMESPACES=api_namespace)
    wait_until("it leads", lambda: process.leads, seconds=30)
    time.sleep(SETTLED_SECONDS)

    status = Path(f"/proc/{process.process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident / 1024 < MAX_IDLE_MEBIBYTES


def test_an_idle_leader_writes_its_lease_and_nothing_else(start_process, proxied, proxy, api_namespace):
    process = start_process(proxied, name="idle", namespace=api_namespace, NAMESPACES=api_namespace)
    wait_until("it leads", lambda: process.leads, seconds=30)
    time.sleep(SETTLED_SECONDS)
    proxy.forget()
    time.sleep(SETTLED_SECONDS)

    requests = [exchange.request for exchange in proxy.exchanges()]
    assert {request.resource for request in requests if request.writes} == {"leases"}
    assert len(requests) < 3 * SETTLED_SECONDS
