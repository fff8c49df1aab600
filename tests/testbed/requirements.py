"""What a depth needs of the system. Nothing is ever installed here: the line that does it is told instead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
CNI_PLUGINS = Path("/usr/lib/cni")

_API = {"openssl": "openssl"}
_REAL = {
    **_API,
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "mount": "mount",
    "prometheus": "prometheus",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
PACKAGES = {"api": _API, "fake": _API, "real": _REAL}
"""By depth: program or file, and the Debian package that has it."""


class RequirementError(RuntimeError):
    """Something must be installed, or another user must run this."""


def check(depth: str) -> None:
    """Raise RequirementError, with what to do, unless the system has all that the depth needs."""
    line = install_line(depth)
    if line:
        raise RequirementError(f"the testbed's depth {depth!r} needs Debian packages; install them with:\n  {line}")
    if depth == "real" and os.geteuid() != 0:
        raise RequirementError("the testbed's depth 'real' makes network namespaces and containers: run it as root")


def install_line(depth: str) -> str:
    """The command that installs what is missing; empty if nothing is."""
    missing = sorted({package for thing, package in PACKAGES[depth].items() if not _present(thing)})
    return f"apt-get install -y --no-install-recommends {' '.join(missing)}" if missing else ""


def _present(thing: str) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), *ADMIN_FOLDERS])
    return shutil.which(thing, path=path) is not None
