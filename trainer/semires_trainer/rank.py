"""One rank of a run: what the supervisor or torchrun starts, once per process.

    python -m semires_trainer.rank ORDERS.json

Torch is imported inside `main`: processes that a rank spawns to segment pictures import this module first, and a
signal that arrives meanwhile must not find a process without handlers.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from semires_trainer import atomic
from semires_trainer.config import parse_job, resolve
from semires_trainer.errors import InfrastructureError, SemiresError
from semires_trainer.orders import ControlFolder, Orders, read_orders
from semires_trainer.outcome import BUG, End, end_of, write_end
from semires_trainer.ranks import process_state
from semires_trainer.signals import StopFlag, StopRequested, stop_on_signals
from semires_trainer.telemetry import logging_to
from semires_trainer.tether import end_with_parent
from semires_trainer.threads import share_cores

logger = logging.getLogger(__name__)

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; returns its exit code. An end that is not a success is left in the control folder."""
    parser = argparse.ArgumentParser(prog="python -m semires_trainer.rank", description="One rank of a run.")
    parser.add_argument("orders", type=Path)
    path = parser.parse_args(arguments).orders
    control, rank = ControlFolder(path.parent), int(os.environ.get("RANK", "0"))
    with stop_on_signals() as stop:
        introduce(control, rank)
        orders = read_orders(path)
        with logging_to(control.log, job=orders.attempt.job, attempt=orders.attempt.number, rank=rank):
            end = run_to_end(orders, control, stop)
    if end is None:
        return 0
    write_end(control.failure(rank), end)
    return end.exit_code


def introduce(control: ControlFolder, rank: int) -> None:
    """Let the supervisor know this process, and be ready to write its stacks when it asks (SIGUSR1)."""
    stacks = control.stacks(rank).open("w", encoding="utf-8")  # open as long as the process lives
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    faulthandler.enable()
    state = process_state(os.getpid())
    atomic.write_json(control.rank(rank), {"rank": rank, "pid": os.getpid(), "started": state[1] if state else 0})


def run_to_end(orders: Orders, control: ControlFolder, stop: StopFlag) -> End | None:
    """Run the stages; None after success."""
    share_cores()
    from semires_trainer.checkpoint_writer import disk_failure
    from semires_trainer.run import run_rank

    try:
        run_rank(resolve(parse_job(orders.job)), orders=orders, control=control, stop=stop)
    except StopRequested as stopped:
        return End(exit_code=stopped.exit_code, reason="Stopped", message=stopped.saved, saved_step=stopped.saved_step)
    except SemiresError as error:
        return end_of(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            return bug(error)
        return end_of(disk_failure(error, Path(error.filename or orders.work)))
    except Exception as error:
        if is_lost_peer(error):
            return End(exit_code=InfrastructureError.exit_code, reason="PeerLost", message="Another rank is gone.")
        return bug(error)
    return None


def bug(error: Exception) -> End:
    """The end of a rank by something that nobody foresaw; its traceback goes to the log."""
    logger.error("This is a bug in semires. Please report it.", exc_info=error)
    return End(exit_code=SemiresError.exit_code, reason=BUG, message=f"{type(error).__name__}: {error}")


def is_lost_peer(error: Exception) -> bool:
    """Whether an error only says that another rank is gone: gloo raises plain RuntimeErrors that name its sources."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


if __name__ == "__main__":
    # Here, not in `main`: tests call that in their own process.
    end_with_parent()
    sys.exit(main())
