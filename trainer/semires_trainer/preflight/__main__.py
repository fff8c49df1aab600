"""What the preflight pod of an attempt runs. The kernel drops a SIGTERM to a PID 1 that has no handler yet."""

from __future__ import annotations

import gc
import os
import sys
import time

from semires_trainer.signals import remember_signals


def main() -> None:
    """Check the job of this pod and end the process with the exit code of the design."""
    began = time.monotonic()
    remember_signals()
    gc.disable()  # what is loaded stays to the end: looking for garbage in it takes two fifths of the time
    from semires_trainer.preflight.run import run_preflight

    code = run_preflight(os.environ, began=began)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads may still wait for a server that is silent


if __name__ == "__main__":
    main()
