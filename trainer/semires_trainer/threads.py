"""Cores and threads: how many this process may use, and how threads wait for each other. No torch: OpenMP reads its
variables when it is loaded."""

from __future__ import annotations

import os

SPINS = "1000"
"""GNU OpenMP's default is 300,000: on cores that others use as well, threads then spin for one that does not run."""


def share_cores() -> None:
    """Let waiting threads give up their core soon, unless the environment says how they shall wait.

    Measured on 2 cores, 32 burn-in steps of the quickstart: as fast on a quiet machine, 23 s in place of 63 to 91 s
    beside one busy process. Source: libgomp manual, GOMP_SPINCOUNT.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def available_cores() -> int:
    """Cores that this process may use, at least 1.

    A container with a CPU limit still sees all cores of its node: the operator says how many are its own in
    PYTHON_CPU_COUNT, which Python itself reads from 3.13 on (docs.python.org, "os.process_cpu_count").
    """
    told = os.environ.get("PYTHON_CPU_COUNT", "")
    if told.isdecimal():
        return max(1, int(told))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
