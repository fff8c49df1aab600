"""What a test asks of any cluster, ours or another: kubectl, namespaces, accounts, definitions, waiting."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed import go_tools, programs
from testbed.waiting import wait_until
from testbed.watching import Watch

REPOSITORY = Path(__file__).parents[2]
OUR_DEFINITIONS = REPOSITORY / "manifests" / "base" / "crd"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Labels of a namespace that enforces the restricted Pod Security Standard."""

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""
Rules = Sequence[Mapping[str, Sequence[str]]]
"""Rules of a Role."""


class KubectlError(RuntimeError):
    """kubectl was refused; `stderr` is what it said."""

    def __init__(self, arguments: Sequence[str], stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: {stderr.strip()}")
        self.stderr = stderr


class Cluster:
    """A cluster that is reached with a kubeconfig."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        """`folder` takes the kubeconfig files of accounts."""
        self.folder, self.kubeconfig = folder, kubeconfig

    def kubectl(
        self, *arguments: str, input: str | Object | None = None, user: Path | None = None, seconds: float = 120
    ) -> str:
        """What kubectl prints, as the administrator or with the kubeconfig `user`; KubectlError if it fails."""
        command = [str(programs.KUBECTL.path), "--kubeconfig", str(user or self.kubeconfig), *arguments]
        text = json.dumps(input) if isinstance(input, dict) else input
        result = subprocess.run(
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if result.returncode != 0:
            raise KubectlError(arguments, result.stderr)
        return result.stdout

    def get(self, *arguments: str, user: Path | None = None) -> Any:
        """What `kubectl get` finds, as JSON; None if there is no such object."""
        text = self.kubectl("get", "--ignore-not-found", "-o", "json", *arguments, user=user)
        return json.loads(text) if text.strip() else None

    def items(self, *arguments: str, user: Path | None = None) -> list[Object]:
        """The objects of a list."""
        found = self.get(*arguments, user=user)
        return [] if found is None else list(found["items"])

    def create(self, *objects: Object, user: Path | None = None) -> None:
        """Create objects, all in one call."""
        self.kubectl("create", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": list(objects)}, user=user)

    def apply(self, *objects: Object, user: Path | None = None) -> None:
        """Apply objects on the server, all in one call."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=items, user=user)

    @contextmanager
    def namespace(self, *, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A fresh namespace, which is deleted at the end; its disappearing is not waited for."""
        name = f"test-{secrets.token_hex(4)}"
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
        self.wait_for_object("serviceaccount", "default", name)
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    def service_account(self, namespace: str, name: str, *, rules: Rules = (), cluster_rules: Rules = ()) -> Path:
        """The kubeconfig of a new ServiceAccount that may do what the rules say in its namespace, or everywhere."""
        subject = {"kind": "ServiceAccount", "namespace": namespace, "name": name}
        objects = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}]
        if rules:
            objects += _granted("Role", {"namespace": namespace, "name": name}, rules, subject)
        if cluster_rules:
            objects += _granted("ClusterRole", {"name": f"{namespace}-{name}"}, cluster_rules, subject)
        self.apply(*objects)
        return self.account_kubeconfig(namespace, name)

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig of a ServiceAccount that exists; its token is good for a day."""
        token = self.kubectl("create", "token", "--namespace", namespace, name, "--duration=24h").strip()
        view = json.loads(self.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        view["users"] = [{"name": view["contexts"][0]["context"]["user"], "user": {"token": token}}]
        view["contexts"][0]["context"]["namespace"] = namespace
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        write_secret(path, json.dumps(view))
        return path

    def crds(self) -> None:
        """Install our definition, if it is written yet, and that of PyTorchJob; wait until they are served."""
        self._install_crds()
        self._wait_for_crds()

    def _install_crds(self) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(pytorchjob_definition()))
        if OUR_DEFINITIONS.is_dir():
            how = "-k" if (OUR_DEFINITIONS / "kustomization.yaml").exists() else "-f"
            self.kubectl("apply", "--server-side", "--force-conflicts", how, str(OUR_DEFINITIONS))

    def _wait_for_crds(self) -> None:
        # Not `kubectl wait`: it fails at a definition that has no conditions yet.
        wait_until(
            "all definitions are served",
            lambda: all(condition(one, "Established") == "True" for one in self.items("crd")),
            seconds=30,
        )

    def wait_for_object(
        self,
        kind: str,
        name: str,
        namespace: str = "",
        *,
        until: Callable[[Object], object] = lambda _: True,
        seconds: float = 30,
        what: str = "",
    ) -> Object:
        """The object, once it exists and `until` is true of it; TimeoutError with its last status."""
        deadline = time.monotonic() + seconds
        seen: Object | None = None
        while time.monotonic() < deadline:
            with self._watch(kind, name, namespace) as watch:
                for change, found in watch.events(deadline):
                    seen = None if change == "DELETED" else found
                    if seen is not None and until(seen):
                        return seen
            time.sleep(0.1)  # the API server has ended the watch, or kubectl could not begin one
        raise TimeoutError(f"not within {seconds:g} s: {kind} {name} {what or 'is as expected'}. {_told(seen)}")

    def wait_until_gone(self, kind: str, name: str, namespace: str = "", *, seconds: float = 60) -> None:
        """Until there is no such object."""
        deadline = time.monotonic() + seconds
        where = ["--namespace", namespace] if namespace else []
        while (seen := self.get(kind, name, *where)) is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s: {kind} {name} is gone. {_told(seen)}")
            with self._watch(kind, name, namespace) as watch:
                # Looks again now and then: it may have gone between the look and the watch.
                for change, _ in watch.events(min(deadline, time.monotonic() + 2)):
                    if change == "DELETED":
                        break

    def _watch(self, kind: str, name: str, namespace: str) -> Watch:
        where = ["--namespace", namespace] if namespace else []
        command = [str(programs.KUBECTL.path), "--kubeconfig", str(self.kubeconfig), "get", kind, *where]
        return Watch([*command, f"--field-selector=metadata.name={name}"])


class OtherCluster(Cluster):
    """The cluster of $KUBECONFIG, which the testbed has not started."""

    def __init__(self, folder: Path) -> None:
        programs.build_all([programs.KUBECTL], lambda _: None)
        super().__init__(folder, Path(os.environ["KUBECONFIG"]))


def pytorchjob_definition() -> Path:
    """The file of PyTorchJob's definition."""
    return training_operator_manifests() / "base" / "crds" / "kubeflow.org_pytorchjobs.yaml"


def training_operator_manifests() -> Path:
    """The manifests of the training-operator's module, copied once so that a warm start needs no Go."""
    kept = go_tools.folder_of("training-operator") / "manifests"
    with go_tools.locked(kept.parent / ".manifests.lock"):
        if not kept.exists():
            module = go_tools.module_folder("training-operator", programs.TRAINING_OPERATOR_MODULE)
            partial = kept.with_name(".manifests.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(module / "manifests", partial, copy_function=shutil.copyfile)
            for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
                folder.chmod(0o755)  # those of the module cache are read-only
            partial.rename(kept)
    return kept


def condition(found: Object, kind: str) -> str:
    """The status of a condition of an object: True, False, Unknown, or nothing."""
    conditions = found.get("status", {}).get("conditions") or []
    return next((one["status"] for one in conditions if one["type"] == kind), "")


def write_secret(path: Path, content: str) -> None:
    """A file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)


def _granted(kind: str, metadata: Object, rules: Rules, subject: Object) -> list[Object]:
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": [dict(rule) for rule in rules]}
    reference = {"apiGroup": group, "kind": kind, "name": metadata["name"]}
    binding = {**role, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]}
    del binding["rules"]
    return [role, binding]


def _told(found: Object | None) -> str:
    if found is None:
        return "There is no such object."
    return f"Last seen: {json.dumps(found.get('status', {}))[:2000]}"
