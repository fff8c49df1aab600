"""suspend, resume, wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from semires_operator.cli.options import Cluster, cluster_options, name_argument, timeout_option

if TYPE_CHECKING:
    from semires_operator.client import Client, Job, Until

JOB_FAILED = 1
GOALS = {"complete": "Complete", "failed": "Failed", "finished": "Finished", "running": "Running"} | {
    "suspended": "Suspended"
}
"""What can be waited for -> the condition."""


@click.command(short_help="Save a checkpoint, give the GPUs back, wait.")
@name_argument
@cluster_options
@click.option("--wait", "should_wait", is_flag=True, help="Stay until its pods are gone.")
@timeout_option
def suspend(name: str, cluster: Cluster, should_wait: bool, timeout: float | None) -> None:
    """Suspend a job: a checkpoint is saved, the pods are removed, and the job waits to be resumed.

    \b
    Example:
      semires suspend refcoco-1pct --wait
    """
    with cluster.client() as client:
        job = client.suspend(name)
        click.echo(f"{name} is asked to suspend; `semires resume {name} -n {job.namespace}` lets it go on")
        if should_wait:
            wait_and_tell(client, job, until="Suspended", timeout=timeout)


@click.command(short_help="Let a suspended job go on.")
@name_argument
@cluster_options
@click.option("--wait", "should_wait", is_flag=True, help="Stay until it trains again.")
@timeout_option
def resume(name: str, cluster: Cluster, should_wait: bool, timeout: float | None) -> None:
    """Resume a suspended job from its last checkpoint; the new attempt counts as no failure.

    \b
    Example:
      semires resume refcoco-1pct
    """
    with cluster.client() as client:
        job = client.resume(name)
        click.echo(f"{name} goes on from its last checkpoint once there is room for it")
        if should_wait:
            wait_and_tell(client, job, until="Running", timeout=timeout)


@click.command(short_help="Stay until a job is finished, running or suspended.")
@name_argument
@cluster_options
@click.option(
    "--for", "goal", type=click.Choice(tuple(GOALS)), default="finished", show_default=True, help="What is waited for."
)
@timeout_option
def wait(name: str, cluster: Cluster, goal: str, timeout: float | None) -> None:
    """Wait for a job; each of its turns is told on stderr.

    Exits with 0 when it has come, 1 if the job failed or can't get there any more, 2 if the cluster
    refuses, 124 if the time is over. A job that has failed is finished too, but exits with 1.

    \b
    Examples:
      semires wait refcoco-1pct
      semires wait refcoco-1pct --for running --timeout 30m
    """
    with cluster.client() as client:
        wait_and_tell(client, client.get(name), until=cast("Until", GOALS[goal]), timeout=timeout)


def wait_and_tell(client: Client, job: Job, *, until: Until, timeout: float | None) -> None:
    """Wait, telling each turn; ends the program with 1 if the job failed and that is not what was waited for."""
    from semires_operator.cli.narrator import Narrator
    from semires_operator.client.jobs import ended_otherwise

    with Narrator() as narrator:
        found = client.wait(job.name, namespace=job.namespace, until=until, timeout=timeout, on_change=narrator.tell)
    if found.is_failed and until == "Finished":
        raise ended_otherwise(found, until)
    click.echo(f"{found.name}: {found.status.phase}")
