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
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Bits of /proc/PID/status (capabilities(7)) without which there is neither a network namespace nor a mount."""
PACKAGES = {"api": _API, "fake": _API, "real": _REAL}
"""By depth: program or file, and the Debian package that has it."""


class RequirementError(RuntimeError):
    """Something must be installed, or another user must run this."""


def check(depth: str) -> None:
    """Raise RequirementError, with what to do, unless the system has all that the depth needs."""
    line = install_line(depth)
    if line:
        raise RequirementError(f"the testbed's depth {depth!r} needs Debian packages; install them with:\n  {line}")
    reason = forbidden(depth)
    if reason:
        raise RequirementError(f"the testbed's depth {depth!r} can't run here: {reason}")


def forbidden(depth: str) -> str:
    """Why this process may not run the depth, whatever is installed; empty if it may."""
    if depth != "real":
        return ""
    if os.geteuid() != 0:
        return "it makes network namespaces and containers; run it as root"
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not capabilities >> bit & 1]
    return f"root lacks {' and '.join(missing)} here; run it in a privileged container, or outside" if missing else ""


def install_line(depth: str) -> str:
    """The command that installs what is missing; empty if nothing is."""
    missing = sorted({package for thing, package in PACKAGES[depth].items() if not _present(thing)})
    return f"apt-get install -y --no-install-recommends {' '.join(missing)}" if missing else ""


def _present(thing: str) -> bool:
    path = os.pathsep.join([os.environ.get("PATH", ""), *ADMIN_FOLDERS])
    return shutil.which(thing, path=path) is not None
