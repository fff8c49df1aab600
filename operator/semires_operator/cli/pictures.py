"""The pictures of docs/client.md: what `semires list`, `describe` and `logs` print for jobs that are made up.

python -m semires_operator.cli.pictures           # write them
python -m semires_operator.cli.pictures --check   # exit 1 if they are out of date
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType

from semires_operator.cli.description import Description, describe_job
from semires_operator.cli.job_table import job_lines
from semires_operator.cli.log_lines import render_line
from semires_operator.client.model import Event, Job, job_of
from semires_operator.names import API_VERSION, KIND

FOLDER = Path(__file__).parents[3] / "docs" / "images"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NARROW, WIDE = 100, 124
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
  <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""rich's own template fetches a font from elsewhere; this one takes what the reader has."""


def _ago(**time: float) -> str:
    return (NOW - timedelta(**time)).isoformat().replace("+00:00", "Z")


def _condition(type_: str, status: str, reason: str, message: str = "", **time: float) -> dict[str, Any]:
    since = _ago(**time)
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def _document(name: str, status: dict[str, Any], *, dataset: str = "RefCOCO", **time: float) -> dict[str, Any]:
    """A job as the API server would have it."""
    strategy = "CPI-U"
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": "vision",
            "uid": f"uid-of-{name}",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": _ago(**time),
        },
        "spec": {
            "dataset": {"name": dataset, "labeled": {"percent": "1"}},
            "model": {"backbone": "SwinBase"},
            "training": {"preset": "Paper"},
            "resources": {"nodes": 1, "gpusPerNode": 4},
            "output": f"s3://results/{name}",
        },
        "status": {"observedGeneration": 1, **status, "display": {"labeled": "1%", "refine": strategy}}
        | ({"display": {"labeled": "1%", "refine": strategy, **status["display"]}} if "display" in status else {}),
    }


def running() -> Job:
    """A job in its second attempt."""
    uri = "s3://results/refcoco-1pct/checkpoints/step-00005000-4be1c09d7a52f316"
    status = {
        "phase": "Running",
        "reason": "Training",
        "message": "4 ranks train on node gpu-17.",
        "attempt": 2,
        "child": "refcoco-1pct-a2",
        "freeRetries": 1,
        "runningSince": _ago(hours=2, minutes=10),
        "conditions": [
            _condition("Running", "True", "Training", hours=2, minutes=10),
            _condition("Progressing", "True", "Training", hours=2, minutes=10),
            _condition("CheckpointFresh", "True", "CheckpointPublished", minutes=4),
            _condition("Degraded", "False", "AsExpected", hours=5),
        ],
        "progress": {
            "stage": "train",
            "epoch": 12,
            "epochs": 40,
            "step": 5120,
            "steps": 17040,
            "progressPercentage": 43,
            "estimatedRemainingSeconds": 10920,
            "lastUpdatedTime": _ago(seconds=3),
            "metrics": [
                {"name": "loss", "value": "0.2184"},
                {"name": "learningRate", "value": "3.71e-05"},
                {"name": "imagesPerSecond", "value": "96.4"},
                {"name": "matchRatio", "value": "0.812"},
                {"name": "oIoU", "value": "52.18"},
            ],
        },
        "lastCheckpoint": {"uri": uri, "step": 5000, "sha256": "4be1c09d7a52f316" * 4, "time": _ago(minutes=4)},
        "attempts": [
            {
                "number": 1,
                "ended": "Lost",
                "startedAt": _ago(hours=4, minutes=50),
                "endedAt": _ago(hours=2, minutes=14),
                "failure": {"reason": "Disrupted", "message": "Pod evicted from node gpu-03: its node is drained."},
            }
        ],
        "provenance": {"image": "registry.example/semires-trainer@sha256:9f2c" + "5a" * 30},
        "display": {"epoch": "12/40", "progress": "43%", "eta": "3h02m", "oIoU": "52.18"},
    }
    return job_of(_document("refcoco-1pct", status, hours=5))


def failed() -> Job:
    """A job that its preflight stopped."""
    message = "s3://models answered AccessDenied to GET sam_vit_h_4b8939.pth. Check the keys in Secret s3-credentials"
    log = {
        "time": _ago(minutes=11, seconds=20),
        "level": "error",
        "event": "outcome",
        "message": message,
        "rank": None,
    }
    failure = {
        "reason": "StorageDenied",
        "message": message,
        "field": "spec.proposals.sam.weights",
        "exitCode": 5,
        "node": "cpu-2",
        "logTail": json.dumps(log),
    }
    status = {
        "phase": "Failed",
        "reason": "StorageDenied",
        "message": "Storage refused access for good: no GPU was taken.",
        "attempt": 1,
        "failures": 1,
        "conditions": [
            _condition("Failed", "True", "StorageDenied", message, minutes=11),
            _condition("Finished", "True", "StorageDenied", minutes=11),
            _condition("Running", "False", "StorageDenied", minutes=12),
        ],
        "lastFailure": failure,
        "attempts": [
            {
                "number": 1,
                "ended": "Failed",
                "counted": True,
                "startedAt": _ago(minutes=11, seconds=38),
                "endedAt": _ago(minutes=11, seconds=19),
                "failure": failure,
            }
        ],
    }
    return job_of(_document("refcoco-5pct", status, minutes=12))


def succeeded() -> Job:
    """A job with its figures."""
    figures = {
        ("teacher", "training"): {"val": ("54.93", "58.31"), "testA": ("58.70", "61.42"), "testB": ("49.65", "54.08")},
        ("teacher", "original"): {"val": ("54.71", "58.22"), "testA": ("58.44", "61.30"), "testB": ("49.52", "53.97")},
        ("burn-in", "training"): {"val": ("41.20", "45.63"), "testA": ("44.87", "48.19"), "testB": ("37.02", "41.55")},
    }
    results = [
        {"model": model, "split": split, "size": size, "oIoU": overall, "mIoU": mean}
        for (model, size), splits in figures.items()
        for split, (overall, mean) in splits.items()
    ]
    uri = "s3://results/refcocoplus-1pct/checkpoints/step-00016614-0c7fd2e8b1a94533"
    status = {
        "phase": "Succeeded",
        "reason": "Completed",
        "message": "All stages are done.",
        "attempt": 1,
        "conditions": [
            _condition("Complete", "True", "Completed", hours=1),
            _condition("Finished", "True", "Completed", hours=1),
        ],
        "progress": {"stage": "evaluate", "step": 17040, "steps": 17040, "progressPercentage": 100},
        "results": results,
        "bestCheckpoint": {"uri": uri, "step": 16614},
        "attempts": [
            {"number": 1, "ended": "Succeeded", "startedAt": _ago(hours=8), "endedAt": _ago(hours=1)},
        ],
        "display": {"progress": "100%", "oIoU": "54.93"},
    }
    return job_of(_document("refcocoplus-1pct", status, dataset="RefCOCOPlus", hours=9))


def queued() -> Job:
    """A job that Kueue holds back."""
    message = "Kueue: insufficient unused quota for nvidia.com/gpu in flavor h100, 4 more needed."
    status = {
        "phase": "Queued",
        "reason": "Queued",
        "message": message,
        "attempt": 1,
        "child": "grefumd-10pct-a1",
        "conditions": [_condition("Running", "False", "Queued", message, minutes=40)],
    }
    return job_of(_document("grefumd-10pct", status, dataset="GRefUMD", minutes=41))


def _events() -> list[Event]:
    told = (
        ("Warning", "Disrupted", "Attempt 1 was lost: its node gpu-03 is drained. It counts as no failure.", 134),
        ("Normal", "CheckingInputs", "Attempt 2: preflight refcoco-1pct-p2 checks inputs.", 134),
        ("Normal", "Training", "Attempt 2 trains from step 2,600.", 130),
    )
    return [
        Event(type=type_, reason=reason, message=message, time=NOW - timedelta(minutes=minutes))
        for type_, reason, message, minutes in told
    ]


def _log() -> Iterable[str]:
    head = {"level": "info", "job": "refcoco-1pct", "attempt": 2, "rank": 0}
    steps = {"stage": "train", "unit": "step", "total": 17040, "samples_per_second": 96.4}
    yield json.dumps({**head, "event": "message", "time": _ago(minutes=130), "message": "Resumed at step 2600."})
    begun = {"done": 2600, "elapsed_seconds": 0.0, "run_fraction": 0.21}
    yield json.dumps({**head, "event": "stage_begin", "time": _ago(minutes=130), **steps, **begun})
    values = {"epoch": 12, "epochs": 40, "step": 5120, "steps": 17040, "loss": 0.2184, "remaining_seconds": 10920}
    done = {"done": 5120, "elapsed_seconds": 7790.0, "run_fraction": 0.43}
    yield json.dumps({**head, "event": "progress", "time": _ago(seconds=3), **steps, **values, **done})
    slow = "A batch was waited for 2.1 s: the loader is slower than the GPU."
    yield json.dumps({**head, "level": "warning", "event": "warning", "time": _ago(seconds=1), "message": slow})


def pictures() -> dict[str, str]:
    """File name -> content."""
    jobs = [queued(), running(), failed(), succeeded()]
    described = Description(job=running(), events=_events(), now=NOW)
    return {
        "semires-list.svg": _svg("semires list", NARROW, *job_lines(jobs, NOW)),
        "semires-describe.svg": _svg("semires describe refcoco-1pct", NARROW, describe_job(described)),
        "semires-describe-failed.svg": _svg(
            "semires describe refcoco-5pct",
            NARROW,
            describe_job(Description(job=failed(), events=[], now=NOW, zone=UTC)),
        ),
        "semires-describe-succeeded.svg": _svg(
            "semires describe refcocoplus-1pct", NARROW, describe_job(Description(job=succeeded(), events=[], now=NOW))
        ),
        "semires-logs.svg": _svg("semires logs refcoco-1pct -f", WIDE, *(render_line(line, UTC) for line in _log())),
    }


def _svg(title: str, width: int, *parts: RenderableType) -> str:
    out = Console(
        file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", highlight=False
    )
    for part in parts:
        out.print(part)
    return out.export_svg(title=title, code_format=SVG)


@click.command()
@click.option("--check", is_flag=True, help="Fail if a picture is out of date; write nothing.")
def main(check: bool) -> None:
    """Write the pictures of docs/client.md."""
    for name, content in pictures().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        if check:
            raise click.ClickException(f"{name} is out of date: run python -m semires_operator.cli.pictures")
        path.write_text(content, encoding="utf-8")
        click.echo(f"{path.name}: written")


if __name__ == "__main__":
    main()
