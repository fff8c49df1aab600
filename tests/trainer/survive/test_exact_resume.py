"""SIGKILL at random moments: the run ends where an uninterrupted one ends, to the bit."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOST = 150
Document = Callable[..., dict[str, Any]]


def reference(
    programs: ModuleType, document_of: Document, folder: Path, processes: int
) -> tuple[dict[str, Any], float]:
    """What an uninterrupted run leaves, and the seconds between its ranks' start and its end."""
    output = folder / "reference"
    with programs.started(document_of(output), folder, "--nproc", str(processes)) as program:
        assert program.wait_for(lambda _: programs.has_ranks(program, processes))
        began = time.monotonic()
        assert program.end() == 0, program.text()[-4000:]
    return programs.fingerprint(output), time.monotonic() - began


def test_killed_in_proposals_a_save_an_evaluation_and_an_epoch(
    programs: ModuleType, document_of: Document, tmp_path: Path
) -> None:
    """Another number of loader workers after each kill, too."""
    expected, _ = reference(programs, document_of, tmp_path, 1)
    output = tmp_path / "killed"
    moments = [
        programs.in_stage("proposals"),
        programs.is_saving,
        programs.in_stage("evaluate"),
        lambda program: programs.step_of(program) >= 13,
    ]

    for workers, moment in enumerate(moments):
        document = document_of(output, workers=workers % 3)
        with programs.started(document, tmp_path / "run") as program:
            assert program.wait_for(moment), program.text()[-4000:]
            program.kill_rank(0)
            assert program.end() == LOST, program.text()[-4000:]
            assert "rank 0 was lost" in program.text()
    programs.run_to_end(document_of(output, workers=1), tmp_path / "run")

    assert programs.fingerprint(output) == expected


RUNS = [1, 2, 1, 2, 4] * 4
"""Processes of each long run."""


@pytest.mark.parametrize(
    ("processes", "kills", "seed"),
    [
        pytest.param(2, 2, 0, id="2-ranks"),
        pytest.param(4, 1, 1, id="4-ranks"),
        *(
            pytest.param(processes, 5, 100 + number, id=f"run-{number}-{processes}-ranks", marks=pytest.mark.long)
            for number, processes in enumerate(RUNS)
        ),
    ],
)
@pytest.mark.timeout(1800)
def test_a_random_rank_killed_at_a_random_moment(
    programs: ModuleType, document_of: Document, tmp_path: Path, processes: int, kills: int, seed: int
) -> None:
    expected, seconds = reference(programs, document_of, tmp_path, processes)
    output, chance, done = tmp_path / "killed", random.Random(seed), 0

    while done < kills:
        with programs.started(document_of(output), tmp_path / "run", "--nproc", str(processes)) as program:
            assert program.wait_for(lambda program: programs.has_ranks(program, processes)), program.text()[-4000:]
            until = time.monotonic() + chance.uniform(0, seconds * (1 - done / kills))
            is_running = program.wait_for(lambda _, until=until: time.monotonic() >= until)
            if is_running and program.kill_rank(chance.randrange(processes)):
                assert program.end() == LOST, program.text()[-4000:]
                done += 1
                continue
            assert program.end() == 0, program.text()[-4000:]
        assert programs.fingerprint(output) == expected
        shutil.rmtree(output)  # it had less left to do than was thought: once more, for the kills that are missing
    programs.run_to_end(document_of(output), tmp_path / "run", "--nproc", str(processes))

    assert programs.fingerprint(output) == expected
