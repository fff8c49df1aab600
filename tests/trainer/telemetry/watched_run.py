"""A tiny run as a process of its own, watched through its files. Started by test_watched_run.py:

python watched_run.py DATA OUTPUT CONTROL
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

import harness

from semires_trainer.run import phases_of, run_stages
from semires_trainer.stages import progress_of
from semires_trainer.telemetry import ReportFiles, open_reporter


def main(data: Path, output: Path, control: Path) -> None:
    torch.set_num_threads(1)
    document = harness.document_of(data, output, burnInEpochs=1, epochs=10_000, logIntervalSteps=1)
    with harness.opened_run(document) as (run, _):
        steps = {stage: length.total_steps for stage, length in run.lengths.items()}
        files = ReportFiles(progress=control / "progress.json", log=control / "log.jsonl", steps=steps)
        phases = phases_of(run, ("train",), progress_of(run))
        with open_reporter(run.output, job="tiny", phases=phases, files=files) as reporter:
            run_stages(replace(run, reporter=reporter), ["train"])


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
