"""A namespace with everything that one test of the whole operator needs: rights, a proxy, a player, replicas."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from testbed.api_client import ApiClient, Refused
from testbed.api_cluster import ApiCluster
from testbed.api_proxy import ApiProxy
from testbed.cluster import REPOSITORY, Object
from testbed.operators import ACCOUNT, OperatorProcess, rights, settings_of
from testbed.player import Player, Script
from testbed.waiting import wait_until

SMALLEST = REPOSITORY / "manifests" / "examples" / "smallest.yaml"
DONE = ("Succeeded", "Failed")


class Bench:
    """Made by `bench`."""

    def __init__(self, cluster: ApiCluster, namespace: str, folder: Path, stack: ExitStack) -> None:
        self.cluster, self.namespace, self.folder = cluster, namespace, folder
        self._stack = stack
        self.api = stack.enter_context(ApiClient(cluster.kubeconfig, namespace))
        self.proxies: dict[str, ApiProxy] = {}
        """One for each replica, by its name."""
        self.operators: list[OperatorProcess] = []

    def operator(self, name: str = "one", *, overlay: str = "namespaced", **settings: Any) -> OperatorProcess:
        """A replica that speaks to the API server by way of the proxy; not started yet."""
        if not self.operators:
            self._kubeconfig = self._stack.enter_context(rights(self.cluster, self.namespace, overlay=overlay))
        folder = self.folder / name
        folder.mkdir()
        proxy = self.proxies[name] = ApiProxy(self.cluster.server, self.cluster.authority, folder)
        self._stack.callback(proxy.close)
        kubeconfig = proxy.kubeconfig_for(self._kubeconfig, folder / "kubeconfig")
        given = settings_of(self.namespace, **settings)
        if overlay == "cluster":
            del given["NAMESPACES"]
        made = OperatorProcess(kubeconfig, folder, namespace=self.namespace, name=name, **given)
        self._stack.callback(made.close)
        self.operators.append(made)
        return made

    def play(self, script: Script | None = None) -> Player:
        """Begin to play the parts of nodes and controllers."""
        return self._stack.enter_context(Player(self.cluster.kubeconfig, self.namespace, script))

    @property
    def proxy(self) -> ApiProxy:
        """Of the first replica."""
        return self.proxies[self.operators[0].name]

    def submit(self, name: str = "a", **spec: Any) -> Object:
        """A job: the smallest example, with changes."""
        manifest = yaml.safe_load(SMALLEST.read_text(encoding="utf-8"))
        manifest["metadata"] = {"name": name, "namespace": self.namespace}
        manifest["spec"] |= spec
        return self.api.create("semiresjobs", manifest)

    def status(self, name: str = "a") -> Object:
        """Of a job; empty if it has none, is gone, or the API server is away."""
        try:
            job = self.api.get("semiresjobs", name)
        except (OSError, http.client.HTTPException, Refused):
            return {}
        return dict((job or {}).get("status") or {})

    def suspend(self, name: str = "a", *, suspend: bool = True) -> None:
        """Edit spec.suspend."""
        self.api.patch("semiresjobs", name, {"spec": {"suspend": suspend}})

    def wait(self, what: str, until: Callable[[Object], object], *, name: str = "a", seconds: float = 60) -> Object:
        """The status of a job once `until` is true of it. Replicas that have ended are started again meanwhile."""

        def look() -> Object | None:
            self.keep_alive()
            status = self.status(name)
            return status if until(status) else None

        return wait_until(what, look, seconds=seconds, every=0.1, seen=lambda: self.seen(name))

    def wait_for_phase(self, *phases: str, name: str = "a", seconds: float = 60) -> Object:
        """The status of a job once it is in one of these phases."""
        return self.wait(
            f"{name} is {phases}", lambda status: status.get("phase") in phases, name=name, seconds=seconds
        )

    def keep_alive(self) -> None:
        """What the kubelet does: start replicas that have ended again."""
        for operator in self.operators:
            if operator.starts and not operator.alive:
                operator.start()

    def seen(self, name: str = "a") -> str:
        """For the message of an error."""
        status = {key: value for key, value in self.status(name).items() if key not in ("conditions", "display")}
        return f"Status: {status}. Log: {' '.join(operator.tail() for operator in self.operators)}"

    def made(self, plural: str) -> list[str]:
        """Names of the objects of a kind that the operator has created, in order, by the audit log."""
        user = f"system:serviceaccount:{self.namespace}:{ACCOUNT}"
        events = self.cluster.audited(user, verbs=["create"])
        found = [one for one in events if one["objectRef"]["resource"] == plural]
        return [one["objectRef"]["name"] for one in found if one["responseStatus"]["code"] == 201]

    def writes(
        self, replica: str = "one", *, beside: tuple[str, ...] = ("semiresjobs/status", "events", "leases")
    ) -> list[str]:
        """Writes of a replica in this namespace, but for those `beside`; it may see other tests' jobs elsewhere."""
        mine = f"/namespaces/{self.namespace}/"
        requests = [one.request for one in self.proxies[replica].exchanges() if one.request.writes]
        requests = [one for one in requests if mine in one.path]
        told = [f"{one.resource}/{one.subresource}" if one.subresource else one.resource for one in requests]
        return [f"{one.verb} {name}" for one, name in zip(requests, told, strict=True) if name not in beside]

    def tour(
        self, name: str = "a", *, seconds: float = 120, meanwhile: Callable[[Object], object] = lambda status: None
    ) -> Object:
        """A job whose first attempt fails, whose second is suspended and resumed, whose third succeeds: its status.

        Play `player.tour()`, and start a replica before. `meanwhile` is called ten times a second.
        """
        self.submit(name)
        deadline, asked = time.monotonic() + seconds, False
        while time.monotonic() < deadline:
            self.keep_alive()
            status = self.status(name)
            meanwhile(status)
            if status.get("attempt") == 2 and status.get("phase") == "Running" and not asked:
                self.suspend(name)
                asked = True
            elif status.get("phase") == "Suspended":
                self.suspend(name, suspend=False)
            elif status.get("phase") in DONE:
                return status
            time.sleep(0.1)
        raise TimeoutError(f"the tour has not ended within {seconds:g} s. {self.seen(name)}")

    def check_tour(self, status: Object, *, name: str = "a") -> None:
        """AssertionError unless the tour has ended well, with one check and one PyTorchJob for each attempt."""
        ends = [(one["ended"], one["counted"]) for one in status["attempts"]]
        assert (status["phase"], ends) == ("Succeeded", [("Failed", True), ("Stopped", False), ("Succeeded", False)])
        for plural, letter in (("pytorchjobs", "a"), ("jobs", "p")):
            made = [child for child in self.made(plural) if child.startswith(f"{name}-")]
            assert made == [f"{name}-{letter}{attempt}" for attempt in (1, 2, 3)]
        for operator in self.operators:
            assert operator.tracebacks() == 0, operator.tail()


@contextmanager
def bench(cluster: ApiCluster, folder: Path) -> Iterator[Bench]:
    """A fresh namespace; everything in it ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with cluster.namespace() as namespace, ExitStack() as stack:
        yield Bench(cluster, namespace, folder, stack)
