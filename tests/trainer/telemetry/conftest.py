"""A whole progress report, and the modules of the testbed."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from semires_trainer.progress_file import EvaluationFigures, ProgressReport, Training, metrics_of

TESTBED = Path(__file__).parents[2] / "testbed"


@pytest.fixture(scope="session")
def prometheus(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    return load_module(TESTBED / "prometheus_server.py")


@pytest.fixture
def report() -> ProgressReport:
    """Nothing in it is unknown."""
    training = Training(
        progress_ratio=0.25,
        loss={"total": 0.5, "supervised": 0.3, "unsupervised": 0.2, "sam": 0.15, "pwa": 0.05},
        learning_rate=1e-5,
        images_per_second=12.5,
        match_ratio=0.6,
        evaluations=(
            EvaluationFigures(model="burn-in", split="val", oIoU=36.0, mIoU=38.0),
            EvaluationFigures(model="teacher", split="val", oIoU=43.5, mIoU=48.25),
            EvaluationFigures(model="teacher", split="testA", oIoU=49.0, mIoU=55.0),
        ),
        steps=40,
        step_seconds=60.0,
        data_wait_seconds=5.0,
        checkpoint_stall_seconds=2.0,
        skipped_steps=1,
        bad_images=3,
    )
    return ProgressReport(
        stage="train",
        epoch=2,
        epochs=8,
        step=240,
        steps=960,
        progress_percentage=25,
        estimated_remaining_seconds=300,
        last_updated_time=datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC),
        beat=77,
        started=True,
        metrics=metrics_of(training),
        training=training,
    )
