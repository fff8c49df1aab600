"""All programs of the testbed, with the seconds that each took to build on two cores with nothing cached."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from testbed import go_tools
from testbed.go_tools import Say

KUBERNETES = "v1.37.0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One program, built from a package of a pinned module."""

    name: str
    """Of the built file."""
    part: str
    """Folder of pins/."""
    package: str
    """Import path of its main package."""
    cold_seconds: int
    """Seconds to download and build it when nothing is cached, in the order of the table."""
    ldflags: str = "-s -w"
    """Flags of the linker."""

    @property
    def path(self) -> Path:
        """Of the built program, whether it exists or not."""
        return go_tools.folder_of(self.part) / self.name

    def build(self, say: Say = lambda _: None) -> Path:
        """The program's path, built if need be."""
        return go_tools.build(self.part, self.package, name=self.name, ldflags=self.ldflags, say=say)


def _kubernetes(name: str, cold_seconds: int) -> Program:
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    version = "k8s.io/component-base/version"
    stamps = f"-X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    flags = f"-s -w {stamps}"
    return _program(f"k8s.io/kubernetes/cmd/{name}", cold_seconds, part="kubernetes", ldflags=flags)


def _containerd(name: str, cold_seconds: int) -> Program:
    return _program(f"github.com/containerd/containerd/v2/cmd/{name}", cold_seconds, part="containerd")


def _program(package: str, cold_seconds: int, *, part: str = "", name: str = "", ldflags: str = "-s -w") -> Program:
    name = name or package.rpartition("/")[2]
    return Program(name=name, part=part or name, package=package, cold_seconds=cold_seconds, ldflags=ldflags)


TRAINING_OPERATOR_MODULE = "github.com/kubeflow/training-operator"

APISERVER = _kubernetes("kube-apiserver", 277)
ETCD = _program("go.etcd.io/etcd/server/v3", 20, name="etcd")
CONTROLLER_MANAGER = _kubernetes("kube-controller-manager", 108)
KUBECTL = _kubernetes("kubectl", 22)
SCHEDULER = _kubernetes("kube-scheduler", 9)
TRAINING_OPERATOR = _program(f"{TRAINING_OPERATOR_MODULE}/cmd/training-operator.v1", 76, part="training-operator")
KWOK = _program("sigs.k8s.io/kwok/cmd/kwok", 89)
KUBELET = _kubernetes("kubelet", 21)
KUBE_PROXY = _kubernetes("kube-proxy", 11)
CONTAINERD = _containerd("containerd", 40)
CONTAINERD_SHIM = _containerd("containerd-shim-runc-v2", 5)
CTR = _containerd("ctr", 5)
COREDNS = _program("github.com/coredns/coredns", 92)
VERSITYGW = _program("github.com/versity/versitygw/cmd/versitygw", 45, ldflags="")
PAUSE = _program("semires.dev/testbed/pause", 2)
HELM = _program("helm.sh/helm/v4/cmd/helm", 89)

FOR_API = (APISERVER, ETCD, CONTROLLER_MANAGER, KUBECTL)
FOR_FAKE_NODES = (*FOR_API, SCHEDULER, TRAINING_OPERATOR, KWOK)
FOR_REAL_NODE = (
    *(*FOR_API, SCHEDULER, TRAINING_OPERATOR, KUBELET, KUBE_PROXY),
    *(CONTAINERD, CONTAINERD_SHIM, CTR, COREDNS, VERSITYGW, PAUSE),
)
ALL = tuple(dict.fromkeys((*FOR_FAKE_NODES, *FOR_REAL_NODE, HELM)))


def build_all(programs: Iterable[Program], say: Say) -> None:
    """Build those that are missing, one after the other, and tell what is left."""
    missing = [program for program in programs if not program.path.exists()]
    expected = spent = 0.0
    for index, program in enumerate(missing):
        left = sum(one.cold_seconds for one in missing[index:]) * _pace(spent, expected)
        say(
            f"building {program.name} ({index + 1} of {len(missing)}; about {_minutes(program.cold_seconds)}, "
            f"{_minutes(left)} for all that is left)"
        )
        started = time.monotonic()
        program.build(say)
        seconds = time.monotonic() - started
        expected, spent = expected + program.cold_seconds, spent + seconds
        say(f"built {program.name} in {seconds:.0f} s")


def _pace(spent: float, expected: float) -> float:
    """How much slower this machine is than the table's, once there is something to judge by."""
    return spent / expected if expected >= 60 else 1.0


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
