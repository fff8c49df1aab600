"""The network namespace of the real node, and the link that lets this machine reach it.

In the namespace are the node's address and, behind its bridge, all pods; kube-proxy's rules apply there alone. The
other end of the node's link is in this machine's own namespace, with routes to pods and Services: a test, kubectl or an
operator under a debugger reaches them as they are, and pods reach this machine at HOST.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMESPACE = "semires"
LINK = "semires-node"
"""The end of the link in this machine's namespace."""
NODE, HOST = "10.88.7.1", "10.88.7.254"
NODES, PODS, SERVICES = "10.88.7.0/24", "10.244.0.0/24", "10.96.0.0/16"
# nsenter, not `ip netns exec`: that one mounts a fresh /sys, which hides the cgroups from the kubelet.
ENTER = ("nsenter", f"--net=/run/netns/{NAMESPACE}")


def up() -> None:
    """Make namespace, link and routes."""
    _refuse_foreign_routes()
    _run("ip", "netns", "add", NAMESPACE)
    _run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "node0", "netns", NAMESPACE)
    for link in ("lo", "node0"):
        _run(*ENTER, "ip", "link", "set", link, "up")
    _run(*ENTER, "ip", "address", "add", f"{NODE}/24", "dev", "node0")
    _run("ip", "address", "add", f"{HOST}/24", "dev", LINK)
    _run("ip", "link", "set", LINK, "up")
    # Without a default route an address of a Service has none, and never comes to where kube-proxy would change it.
    _run(*ENTER, "ip", "route", "add", "default", "via", HOST)
    _run(*ENTER, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    for network in (PODS, SERVICES):
        _run("ip", "route", "add", network, "via", NODE, "dev", LINK)


def down() -> None:
    """Remove what `up` made, as far as it is there."""
    if Path(f"/sys/class/net/{LINK}").exists():
        _run("ip", "link", "delete", LINK)
    if Path(f"/run/netns/{NAMESPACE}").exists():
        _run("ip", "netns", "delete", NAMESPACE)


def _refuse_foreign_routes() -> None:
    for network in (NODES, PODS, SERVICES):
        found = _run("ip", "-4", "route", "show", "to", "match", network)
        taken = [line for line in found.splitlines() if not line.startswith("default")]
        if taken:
            raise RuntimeError(f"the testbed needs the network {network}, which this machine uses: {taken[0]}")


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout
