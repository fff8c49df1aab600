"""Which errors of a rank only say that another rank is gone."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from semires_trainer.errors import InfrastructureError
from semires_trainer.rank import is_lost_peer

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
