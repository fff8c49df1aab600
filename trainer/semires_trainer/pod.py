"""What a training pod runs: the document in its environment, supervised; progress on port 9464.

    python -m semires_trainer.pod

Nothing heavy is imported before the signals are heard: the kernel drops a SIGTERM to a PID 1 that has no handler yet.
"""

from __future__ import annotations

import os
import sys

from semires_trainer.signals import remember_signals


def main() -> int:
    """Supervise the job of this pod; returns the exit code of the design."""
    remember_signals()
    from semires_trainer.pod_run import run_pod

    return run_pod(os.environ)


if __name__ == "__main__":
    sys.exit(main())
