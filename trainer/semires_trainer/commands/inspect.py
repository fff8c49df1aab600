"""plan and doctor: what would happen, and whether this machine can do it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from semires_trainer.commands.frame import console, job_argument, json_option, load_job, output_option, processes_option
from semires_trainer.errors import SemiresError


@click.command(short_help="What 'run' would do, and what is missing.")
@job_argument
@output_option
@processes_option
@json_option
def plan(job: Path, overrides: tuple[str, ...], output: str | None, nproc: int, as_json: bool) -> None:
    """Say what 'run' would do, before any weight is loaded; nothing is written.

    Counts images, refs and expressions, steps and batches, parameters and memory; says which
    proposals are there and how good they could be at best, where the run goes on, and what is missing.
    Exits with 0 if nothing is missing, else with the code of the first problem.

    \b
    Examples:
      semires plan job.yaml --nproc 4
      semires plan job.yaml --json
    """
    manifest = load_job(job, overrides, output)
    from semires_trainer.commands.tables import print_plan
    from semires_trainer.config import resolve
    from semires_trainer.plan import build_plan

    found = build_plan(resolve(manifest), processes=nproc)
    if as_json:
        console().print_json(data=found.to_json())
    else:
        print_plan(console(), found)
    click.get_current_context().exit(found.exit_code)


@click.command(short_help="Is this machine fit for training?")
@click.argument("job", metavar="[JOB.yaml]", required=False, type=click.Path(path_type=Path))
@click.option("--nproc", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@json_option
def doctor(job: Path | None, nproc: int, as_json: bool) -> None:
    """Check this machine: Python, packages, GPUs, memory, disk; with JOB.yaml also its files.

    Each line is OK, WARN or FAIL with a remedy. Exits with 0 unless something failed.

    \b
    Examples:
      semires doctor
      semires doctor job.yaml --nproc 4
    """
    from semires_trainer.commands.tables import print_checks
    from semires_trainer.doctor import Check, diagnose, exit_code_of, gather_facts

    checks: list[Check] = []
    output = Path()
    resolved = None
    if job is not None:
        try:
            from semires_trainer.config import resolve

            resolved = resolve(load_job(job, ()))
            output = Path(resolved.output)
        except SemiresError as error:
            checks.append(Check(name="Manifest", status="FAIL", detail=str(error), exit_code=error.exit_code))
    facts = gather_facts(output)
    checks = [*diagnose(facts), *checks]
    if resolved is not None:
        from semires_trainer.doctor import check_job

        checks += check_job(resolved, facts, processes=nproc)
    if as_json:
        console().print_json(data=[dataclasses.asdict(check) for check in checks])
    else:
        print_checks(console(), checks)
    click.get_current_context().exit(exit_code_of(checks))
