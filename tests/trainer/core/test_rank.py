"""Which errors of a rank only say that another rank is gone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch.distributed as dist

from semires_trainer.errors import InfrastructureError
from semires_trainer.orders import Attempt, ControlFolder, Orders
from semires_trainer.rank import is_lost_peer, run_to_end
from semires_trainer.signals import StopFlag

CLOSED = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:40512"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        pytest.param(RuntimeError(CLOSED), True, id="gloo"),
        pytest.param(RuntimeError("Gloo connectFullMesh failed with timed out"), True, id="gloo-by-name"),
        pytest.param(dist.DistNetworkError("failed to recv, got 0 bytes"), True, id="network"),
        pytest.param(dist.DistBackendError("NCCL communicator was aborted on rank 1"), True, id="nccl"),
        pytest.param(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, id="another-runtime-error"),
        pytest.param(ValueError("gloo is no name for a split"), False, id="gloo-in-another-error"),
        pytest.param(InfrastructureError("no GPU"), False, id="one-of-ours"),
    ],
)
def test_a_lost_peer_is_told_from_a_bug(error: Exception, lost: bool) -> None:
    assert is_lost_peer(error) is lost


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [
        pytest.param(errno.ENOSPC, "DiskFull", 150, id="full"),
        pytest.param(errno.EIO, "Infrastructure", 150, id="broken"),
        pytest.param(errno.ENOTTY, "Unexpected", 1, id="a-bug"),
    ],
)
def test_a_disk_that_refuses_is_not_a_bug(
    data: Path, output: Path, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(output / "results.json"))

    monkeypatch.setattr("semires_trainer.run.run_rank", refuse)
    orders = Orders(
        job=harness.document_of(data, output),
        places={},
        store=str(data / "store"),
        work=str(output),
        identity="x",
        stages=("train",),
        attempt=Attempt(job="tiny", number=1),
    )

    end = run_to_end(orders, ControlFolder(output / ".run"), StopFlag())

    assert end is not None
    assert (end.reason, end.exit_code) == (reason, code)
    assert "results.json" in end.message
