"""submit: a manifest to the cluster, checked here first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from semires_operator.cli.options import Cluster, cluster_options, timeout_option
from semires_operator.cli.steer import wait_and_tell
from semires_trainer.commands.frame import job_argument, parse_override

if TYPE_CHECKING:
    from semires_operator.client import Applied

PAST = {"created": "created", "changed": "changed", "unchanged": "unchanged"}
DRY = {"created": "would be created", "changed": "would be changed", "unchanged": "would stay as it is"}


@click.command(short_help="Train on a cluster: create a SemiRESJob there.")
@job_argument
@cluster_options
@click.option("--dry-run", is_flag=True, help="Have this machine and the cluster check everything; nothing is stored.")
@click.option("--wait", "should_wait", is_flag=True, help="Stay until it has finished; exits with 1 if it fails.")
@timeout_option
def submit(
    job: Path, overrides: tuple[str, ...], cluster: Cluster, dry_run: bool, should_wait: bool, timeout: float | None
) -> None:
    """Submit JOB.yaml to a cluster. The manifest is checked here first, then by the API server.

    A job of the same name is changed to what the manifest says: whether it is suspended, deadlines and
    policies may change; what is trained may not. A job that is suspended stays so unless the manifest
    says otherwise.

    \b
    Examples:
      semires submit job.yaml -n team-a
      semires submit job.yaml --dry-run --set training.epochs=2
      semires submit job.yaml --wait --timeout 12h
    """
    from semires_trainer.manifest import load_manifest

    manifest = load_manifest(job, [parse_override(text) for text in overrides])
    with cluster.client() as client:
        applied = client.apply(manifest, dry_run=dry_run)
        _tell(applied, dry_run=dry_run)
        if should_wait and not dry_run:
            wait_and_tell(client, applied.job, until="Finished", timeout=timeout)


def _tell(applied: Applied, *, dry_run: bool) -> None:
    job = applied.job
    click.echo(f"{job.name} {(DRY if dry_run else PAST)[applied.outcome]} in namespace {job.namespace}")
    for change in applied.changes:
        click.echo(f"  {change}")
    if applied.outcome == "created" and not dry_run:
        click.echo(f"  semires describe {job.name} -n {job.namespace}   how far it is", err=True)
        click.echo(f"  semires logs {job.name} -n {job.namespace} -f    what it says", err=True)
