"""logs: what the trainers of a job say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from semires_operator.cli.options import Cluster, cluster_options, name_argument
from semires_trainer.commands.frame import console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from semires_operator.client import LogLine


@click.command(short_help="What the trainer of a job says.")
@name_argument
@cluster_options
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has finished, over all its attempts.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Default: the newest.")
@click.option("--preflight", is_flag=True, help="The log of the check before the attempt.")
@click.option("--pod", default="", metavar="NAME", help="Default: the pod of the first node.")
@click.option("--rank", type=click.IntRange(min=0), metavar="N", help="Only lines of this rank.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of what there is.")
@click.option("--json", "as_json", is_flag=True, help="The lines as they were written.")
def logs(name: str, cluster: Cluster, preflight: bool, as_json: bool, **wanted: Any) -> None:
    """Print the log of a job: the trainer's JSON lines in readable form, or with --json as they are.

    When the pods are gone, the last lines of a failed attempt are still there; the whole log of each
    attempt is log-a<N>.jsonl in the output.

    \b
    Examples:
      semires logs refcoco-1pct -f
      semires logs refcoco-1pct --attempt 1 --json
    """
    with cluster.client() as client:
        from semires_operator.client import LogRequest

        request = LogRequest(role="preflight" if preflight else "training", **wanted)
        print_lines(client.logs(name, request), as_json=as_json)


def print_lines(lines: Iterable[LogLine], *, as_json: bool) -> None:
    """Print lines as they come; on stderr, which attempt they are of whenever that changes."""
    from semires_operator.cli.log_lines import render_line

    out, told = console(), None
    for line in lines:
        if (line.attempt, line.pod) != told:
            told = (line.attempt, line.pod)
            where = f"pod {line.pod}" if line.pod else "the last lines, kept when its pods were gone"
            click.echo(f"--- attempt {line.attempt}, {where}", err=True)
        if as_json:
            click.echo(line.text)
        else:
            out.print(render_line(line.text), soft_wrap=True)
