"""A process that ends with its parent: after SIGKILL of a supervisor no rank goes on writing.

python -m semires_trainer.tether MODULE ARGUMENTS...      # `python -m MODULE ARGUMENTS...`, tethered
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
PARENT = "SEMIRES_PARENT"
"""Process id of the parent, who sets it: a parent that is gone before we ask for it would not be missed."""


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone (Linux prctl(2); elsewhere nothing happens)."""
    parent = int(os.environ.get(PARENT) or os.getppid())
    if not sys.platform.startswith("linux") or parent == os.getpid():  # that is: tethered already
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + int(signal.SIGKILL))
    os.environ[PARENT] = str(os.getpid())


def main() -> None:
    """Run a module as `python -m` does."""
    end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
