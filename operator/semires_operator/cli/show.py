"""list and describe: what jobs there are, and all about one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from semires_operator.cli.options import (
    Cluster,
    cluster_options,
    current_time,
    format_option,
    name_argument,
    print_objects,
)
from semires_trainer.commands.frame import console

if TYPE_CHECKING:
    from semires_operator.client import Client, Event, Job


@click.command("list", short_help="The SemiRESJobs of a namespace, or of all.")
@cluster_options
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Jobs of all namespaces.")
@click.option("-l", "--selector", default="", metavar="LABELS", help="Only jobs with these labels, as kubectl's -l.")
@format_option("wide", "name", "json", "yaml")
def list_jobs(cluster: Cluster, everywhere: bool, selector: str, output: str | None) -> None:
    """List SemiRESJobs with the columns of kubectl. On a narrow terminal the least important are left out.

    \b
    Examples:
      semires list
      semires list -A -o wide
    """
    with cluster.client() as client:
        jobs = list(client.list(everywhere=everywhere, selector=selector))
        place = "any namespace" if everywhere else f"namespace {client.namespace}"
    if output in {"json", "yaml"}:
        print_objects(jobs, output, is_list=True)
    elif output == "name":
        for job in jobs:
            click.echo(f"{job.namespace}/{job.name}" if everywhere else job.name)
    elif not jobs:
        click.echo(f"There are no SemiRESJobs in {place}.", err=True)
    else:
        from semires_operator.cli.job_table import job_lines

        out = console()
        width = out.width if out.is_terminal else None
        for line in job_lines(jobs, current_time(), wide=output == "wide", namespaces=everywhere, width=width):
            out.print(line, soft_wrap=True)


@click.command(short_help="How far a job is, how good, what is wrong, what to do.")
@name_argument
@cluster_options
@format_option("json", "yaml")
def describe(name: str, cluster: Cluster, output: str | None) -> None:
    """Describe a job: phase, progress, time left, figures, what went wrong, checkpoints, attempts, conditions,
    events, and what to do next.

    \b
    Examples:
      semires describe refcoco-1pct
      semires describe refcoco-1pct -o yaml
    """
    with cluster.client() as client:
        job = client.get(name)
        if output is not None:
            print_objects([job], output, is_list=False)
            return
        events = _events(client, job)
    from semires_operator.cli.description import Description, describe_job
    from semires_operator.cli.words import BLOCKS, PLAIN_BLOCKS

    out = console()
    blocks = BLOCKS if out.encoding.lower().startswith("utf") else PLAIN_BLOCKS
    out.print(describe_job(Description(job=job, events=events, now=current_time(), blocks=blocks)))


def _events(client: Client, job: Job) -> tuple[Event, ...]:
    """The events of a job; none, and a word about it, for those who may not read them."""
    from semires_operator.client import Forbidden

    try:
        return client.events(job)
    except Forbidden as error:
        click.secho(f"Without events: {error.message}.", fg="yellow", err=True)
        return ()
