"""Two supervisors as two nodes, told so by the variables that a PyTorchJob gives its pods; nothing is shared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Document = Callable[..., dict[str, Any]]


def nodes_of(number: int, port: int) -> list[dict[str, str]]:
    """The environment of each pod of a Worker-only PyTorchJob with elasticPolicy min = max."""
    common = {
        "PET_NNODES": f"{number}:{number}",
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
        "PET_RDZV_ID": "tiny",
        "SEMIRES_JOB_UID": "uid",
    }
    return [
        {**common, "SEMIRES_POD_NAME": f"tiny-worker-{node}", "SEMIRES_POD_UID": str(node)} for node in range(number)
    ]


@pytest.mark.timeout(900)
def test_two_nodes_train_what_two_processes_do(
    programs: ModuleType, document_of: Document, s3: Any, data: Path, tmp_path: Path
) -> None:
    """Each has its own cache and work folder; proposals, models and checkpoints travel between the ranks."""
    expected = tmp_path / "expected"
    programs.run_to_end(document_of(expected), tmp_path / "one", "--nproc", "2")
    output = s3.uri("results")

    caches = [tmp_path / f"cache-{number}" for number in (0, 1)]

    for attempt in (1, 2):
        with ExitStack() as stack:
            nodes = [
                stack.enter_context(
                    programs.started(
                        document_of(output),
                        tmp_path / f"node-{number}",
                        *s3.options,
                        work=caches[number],
                        environment={
                            **s3.environment,
                            **environment,
                            "SEMIRES_CACHE": str(caches[number]),
                            "SEMIRES_ATTEMPT": str(attempt),
                        },
                    )
                )
                for number, environment in enumerate(nodes_of(2, s3.free_port()))
            ]
            assert [node.end() for node in nodes] == [0, 0], "".join(node.text()[-3000:] for node in nodes)
        if attempt == 1:
            works = [next((cache / "runs").iterdir()) for cache in caches]
            main = next(work for work in works if (work / "results.json").is_file())
            assert programs.fingerprint(main) == programs.fingerprint(expected)
            shutil.rmtree(main.parents[1])  # whoever has rank 0 now must fetch or receive what is needed

    ledger = json.loads(s3.read("results/checkpoints.json"))
    assert ledger["checkpoints"][-1]["number"] == 24
    assert json.loads(s3.read("results/outcome-a2.json"))["exitCode"] == 0
    assert sum("are evaluated already" in node.text() for node in nodes) == 1
