"""What the commands share: which cluster, which job, and the client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from semires_trainer.errors import ConfigError, SemiresError

if TYPE_CHECKING:
    from semires_operator.client import Client, Job

EXTRA = "pip install 'semires[operator]'"
LONGEST_SECONDS = 10 * 365 * 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Which cluster and namespace a command is about."""

    namespace: str | None
    kubeconfig: Path | None
    context: str | None

    def client(self) -> Client:
        """The client. ConfigError if the extra is not installed."""
        try:
            from semires_operator.client import Client
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("semires"):
                raise
            problem = f"this command needs the package {error.name}, which is not installed"
            raise ConfigError(problem, remedy=f"Install the extra: {EXTRA}") from error
        return Client(self.namespace, kubeconfig=self.kubeconfig, context=self.context)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -n, --kubeconfig and --context; the command gets them as `cluster`."""

    @functools.wraps(command)
    def with_cluster(**given: Any) -> Any:
        names = ("namespace", "kubeconfig", "context")
        return command(cluster=Cluster(**{name: given.pop(name) for name in names}), **given)

    decorated: Callable[..., Any] = with_cluster
    for decorate in (
        click.option("--context", metavar="NAME", help="Context of the kubeconfig. Default: its current one."),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Default: KUBECONFIG, or ~/.kube/config; in a pod its ServiceAccount.",
        ),
        click.option("-n", "--namespace", metavar="NAME", help="Default: that of the context."),
    ):
        decorated = decorate(decorated)
    return decorated


def complete_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of jobs for the shell; none if the cluster can't be asked: there is no place for an error."""
    names = ("namespace", "kubeconfig", "context")
    given = {name: context.params.get(name) for name in names}
    try:
        with Cluster(**given).client() as client:
            jobs = client.list()
    except SemiresError:
        return []
    return [CompletionItem(job.name, help=job.status.phase) for job in jobs if job.name.startswith(incomplete)]


name_argument = click.argument("name", metavar="NAME", shell_complete=complete_names)
"""The job that a command is about."""


def format_option(*formats: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add -o with some formats."""
    help_text = "Print the whole object instead." if "wide" not in formats else "More columns, or the whole objects."
    return click.option("-o", "--output", "output", type=click.Choice(formats), help=help_text)


def parse_seconds(text: str) -> float:
    """Seconds of a time such as 90, 90s, 30m, 12h or 2d."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < LONGEST_SECONDS:
        raise click.BadParameter(f'"{text}" is no time: write 90s, 30m, 12h or 2d')
    return seconds


timeout_option = click.option(
    "--timeout", type=parse_seconds, metavar="TIME", help="Such as 90s, 30m, 12h or 2d. Default: without end."
)


def current_time() -> datetime:
    """Now, with a time zone."""
    return datetime.now(UTC)


def print_objects(jobs: list[Job], output: str, *, is_list: bool) -> None:
    """Whole objects as JSON or YAML, as kubectl prints them."""
    import json

    import yaml

    documents = [dict(job.document) for job in jobs]
    found: Any = {"apiVersion": "v1", "kind": "List", "items": documents} if is_list else documents[0]
    text = json.dumps(found, indent=2) if output == "json" else yaml.safe_dump(found, sort_keys=False).rstrip()
    click.echo(text)
