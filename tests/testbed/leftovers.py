"""The end of a real node: containers, shims, mounts, network, cgroups, whoever left them."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from testbed import network
from testbed.node_config import CGROUP, CNI_NETWORK
from testbed.processes import Processes
from testbed.waiting import wait_until

_CNI_RESULTS = Path("/var/lib/cni/results")
_CONTAINER_LOGS = Path("/var/log/containers")


def make_cgroups() -> None:
    """The cgroup above all pods, in each hierarchy."""
    for folder in _cgroups():
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            file = folder / name
            if file.exists() and not file.read_text().strip():  # in version 1 they start empty: nothing could run
                file.write_text((folder.parent / name).read_text())


def end_real_run(folder: Path, processes: Processes) -> None:
    """End everything that a real cluster in `folder` has begun, in whatever state it is."""
    processes.stop("kubelet")
    _kill_pods()
    processes.kill_all()
    _kill_shims(folder)
    _unmount(folder)
    network.down()
    _remove_cgroups()
    shutil.rmtree(folder, ignore_errors=True)
    for result in _CNI_RESULTS.glob(f"{CNI_NETWORK}-*"):
        result.unlink()
    for link in _CONTAINER_LOGS.glob("*.log"):
        if str(link.readlink() if link.is_symlink() else "").startswith(str(folder)):
            link.unlink()


def what_is_left(folder: Path) -> list[str]:
    """Mounts, processes, cgroups and network of a real cluster in `folder`: nothing, once it has ended."""
    found = [f"mount {mount}" for mount in _mounts(folder)]
    found += [f"process {pid}" for pid in (*_shims(folder), *_pods())]
    found += [f"cgroup {one}" for one in _cgroups() if one.exists()]
    places = (Path(f"/run/netns/{network.NAMESPACE}"), Path(f"/sys/class/net/{network.LINK}"))
    return found + [str(place) for place in places if place.exists()]


def _kill_pods() -> None:
    deadline = time.monotonic() + 10
    while (pods := _pods()) and time.monotonic() < deadline:
        for pid in pods:
            _kill(pid)
        time.sleep(0.05)


def _pods() -> list[int]:
    """Processes in the cgroup of pods."""
    # os.walk passes over folders that go meanwhile; Path.rglob raises.
    files = (Path(place) / "cgroup.procs" for root in _cgroups() for place, _, _ in os.walk(root))
    found: set[int] = set()
    for file in files:
        with contextlib.suppress(OSError):  # the cgroup has gone, or is not one of processes
            found.update(int(line) for line in file.read_text().split())
    return sorted(found - {0})


def _kill_shims(folder: Path) -> None:
    for pid in _shims(folder):
        _kill(pid)
    wait_until("containerd's shims have ended", lambda: not _shims(folder), seconds=10)


def _shims(folder: Path) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = file.read_bytes().split(b"\0")
            if words[0].endswith(b"containerd-shim-runc-v2") and any(os.fsencode(folder) in word for word in words):
                found.append(int(file.parent.name))
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(pid, signal.SIGKILL)


def _unmount(folder: Path) -> None:
    for mount in _mounts(folder):
        # Lazily: what holds it has been killed, and may take a moment to let go.
        subprocess.run(["umount", "--lazy", str(mount)], check=True, capture_output=True)


def _mounts(folder: Path) -> list[Path]:
    """What is mounted below `folder`, the innermost first."""
    points = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return sorted((Path(point) for point in points if point.startswith(f"{folder}/")), reverse=True)


def _cgroups() -> Iterator[Path]:
    """The cgroup of pods in each hierarchy, whether it exists or not."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(point) / CGROUP


def _remove_cgroups() -> None:
    for root in _cgroups():
        wait_until(f"{root} is empty", functools.partial(_removed, root), seconds=10)


def _removed(root: Path) -> bool:
    """The cgroup is gone, with those below it; not yet, if a process is still on its way out."""
    for folder, _, _ in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):  # not empty yet
            os.rmdir(folder)
    return not root.exists()
