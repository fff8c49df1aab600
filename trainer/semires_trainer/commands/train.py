"""run, train, propose, evaluate: the stages of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from semires_trainer.commands.frame import (
    Command,
    console,
    endpoint_option,
    job_argument,
    json_option,
    load_job,
    output_option,
    processes_option,
)
from semires_trainer.orders import STAGES


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What run, train and propose have in common."""

    job: Path
    overrides: tuple[str, ...]
    output: str | None
    nproc: int
    endpoints: tuple[str, ...]
    port: int | None


def _stage_options(command: Command) -> Command:
    """Add the options of `_Options`."""
    help_text = "Serve /progress, /metrics and /healthz at this port while the run lasts; 0 takes a free one."
    port = click.option("--port", type=click.IntRange(0, 65535), metavar="N", help=help_text)
    for decorate in (port, endpoint_option, processes_option, output_option, job_argument):
        command = decorate(command)
    return command


def _run_stages(options: _Options, stages: tuple[str, ...]) -> None:
    manifest = load_job(options.job, options.overrides, options.output)
    from semires_trainer.connection import parse_endpoints
    from semires_trainer.launch import RunFailed
    from semires_trainer.launch import run as run_job
    from semires_trainer.results import to_table

    endpoints = parse_endpoints(options.endpoints)
    try:
        results = run_job(manifest, nproc=options.nproc, stages=stages, endpoints=endpoints, port=options.port)
    except RunFailed as failure:
        click.secho(f"Error: {failure}", fg="red", err=True)
        raise click.exceptions.Exit(failure.exit_code) from failure
    out = console()
    if results is not None:
        out.print(to_table(results, title=results.job, width=out.width))
    out.print(f"Everything is in {manifest.spec.output}", soft_wrap=True, markup=False)


@click.command(short_help="All stages of a job: proposals, training, evaluation.")
@_stage_options
def run(**options: Any) -> None:
    """Do all that JOB.yaml asks for: proposals, burn-in, mutual learning, evaluation.

    Stages that are done are skipped, and a run that was stopped goes on from its last checkpoint:
    start it again with the same command. Ctrl-C saves a checkpoint and stops.

    \b
    Examples:
      semires run examples/quickstart.yaml
      semires run job.yaml --nproc 4 --set training.epochs=2 --output runs/try
    """
    _run_stages(_Options(**options), STAGES)


@click.command(short_help="Burn-in and mutual learning only.")
@_stage_options
def train(**options: Any) -> None:
    """Train only: burn-in and mutual learning, no final evaluation.

    Proposals that are not in the store yet are made first.

    \b
    Example:
      semires train job.yaml --nproc 4
    """
    _run_stages(_Options(**options), ("train",))


@click.command(short_help="Masks of everything in the training images.")
@_stage_options
def propose(**options: Any) -> None:
    """Make the proposals (masks of everything in a picture) of all training images.

    They are kept once per image in proposals.store, which jobs and datasets may share. Images
    that have them are skipped.

    \b
    Example:
      semires propose job.yaml --nproc 4 --set proposals.store=stores/sam
    """
    _run_stages(_Options(**options), ("propose",))


@click.command(short_help="oIoU, mIoU and Pr@X of a model folder.")
@job_argument
@click.option(
    "--checkpoint",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Model folder: 'model' or 'burn-in' of a run, or what 'semires convert checkpoint' wrote.",
)
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Such as testA. Default: those of the manifest.")
@json_option
def evaluate(
    job: Path,
    overrides: tuple[str, ...],
    checkpoint: Path,
    splits: tuple[str, ...],
    as_json: bool,
) -> None:
    """Evaluate a model on the dataset of JOB.yaml: oIoU, mIoU, Pr@0.5 to Pr@0.9.

    Figures are given at the training size and at each picture's own size. Nothing is written.

    \b
    Example:
      semires evaluate job.yaml --checkpoint runs/a/model --split testA --split testB
    """
    if splits:
        overrides = (*overrides, f"dataset.evaluate=[{', '.join(splits)}]")
    manifest = load_job(job, overrides)
    from semires_trainer.assess import evaluate_folder
    from semires_trainer.config import resolve
    from semires_trainer.results import to_table

    results = evaluate_folder(resolve(manifest), checkpoint)
    if as_json:
        console().print_json(data=results.to_json())
    else:
        out = console()
        out.print(to_table(results, title=str(checkpoint), width=out.width))
