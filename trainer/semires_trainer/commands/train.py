"""run, train, propose, evaluate: the stages of a job."""

from __future__ import annotations

from pathlib import Path

import click

from semires_trainer.commands.frame import console, job_argument, json_option, load_job, output_option, processes_option


def _run_stages(job: Path, overrides: tuple[str, ...], output: str | None, nproc: int, stages: tuple[str, ...]) -> None:
    manifest = load_job(job, overrides, output)
    from semires_trainer.launch import LaunchedRunFailed
    from semires_trainer.launch import run as run_job
    from semires_trainer.results import to_table

    try:
        results = run_job(manifest, nproc=nproc, stages=stages)
    except LaunchedRunFailed as failure:
        click.secho(f"Error: {failure}", fg="red", err=True)
        raise click.exceptions.Exit(failure.exit_code) from failure
    out = console()
    if results is not None:
        out.print(to_table(results, title=results.job))
    out.print(f"Everything is in {manifest.spec.output}", soft_wrap=True, markup=False)


@click.command(short_help="All stages of a job: proposals, training, evaluation.")
@job_argument
@output_option
@processes_option
def run(job: Path, overrides: tuple[str, ...], output: str | None, nproc: int) -> None:
    """Do all that JOB.yaml asks for: proposals, burn-in, mutual learning, evaluation.

    Stages that are done are skipped, and a run that was stopped goes on from its last checkpoint:
    start it again with the same command. Ctrl-C saves a checkpoint and stops.

    \b
    Examples:
      semires run examples/quickstart.yaml
      semires run job.yaml --nproc 4 --set training.epochs=2 --output runs/try
    """
    _run_stages(job, overrides, output, nproc, ("propose", "train", "evaluate"))


@click.command(short_help="Burn-in and mutual learning only.")
@job_argument
@output_option
@processes_option
def train(job: Path, overrides: tuple[str, ...], output: str | None, nproc: int) -> None:
    """Train only: burn-in and mutual learning, no final evaluation.

    Proposals that are not in the store yet are made first.

    \b
    Example:
      semires train job.yaml --nproc 4
    """
    _run_stages(job, overrides, output, nproc, ("train",))


@click.command(short_help="Masks of everything in the training images.")
@job_argument
@output_option
@processes_option
def propose(job: Path, overrides: tuple[str, ...], output: str | None, nproc: int) -> None:
    """Make the proposals (masks of everything in a picture) of all training images.

    They are kept once per image in proposals.store, which jobs and datasets may share. Images
    that have them are skipped.

    \b
    Example:
      semires propose job.yaml --nproc 4 --set proposals.store=stores/sam
    """
    _run_stages(job, overrides, output, nproc, ("propose",))


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
        console().print(to_table(results, title=str(checkpoint)))
