"""How threads of one process wait for each other. Set before torch is imported: OpenMP reads it when it is loaded."""

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
