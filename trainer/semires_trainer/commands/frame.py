"""What all commands share: how errors end the program, and the options that name a job."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from semires_trainer.errors import ConfigError, SemiresError
from semires_trainer.signals import StopRequested

if TYPE_CHECKING:
    from rich.console import Console

    from semires_trainer.config import SemiRESJob

Command = TypeVar("Command", bound=Callable[..., Any])

DEBUG_VARIABLE = "SEMIRES_DEBUG"
INTERRUPTED = 130
_ROOTS = ("apiVersion", "kind", "metadata", "spec")


class Program(click.Group):
    """The command group: users' errors become one red line and the exit code of the design."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; only an unexpected exception, or --debug, shows a traceback."""
        try:
            return super().invoke(ctx)
        except SemiresError as error:
            if debug_wanted(ctx):
                traceback.print_exc()
            click.secho(f"Error: {error}", fg="red", err=True)
            ctx.exit(error.exit_code)
        except StopRequested as stop:
            click.echo(str(stop), err=True)
            ctx.exit(stop.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, and a reader such as `head` that has seen enough
        except Exception:
            traceback.print_exc()
            click.secho("This is a bug in semires. Please report it with the lines above.", fg="red", err=True)
            ctx.exit(1)


def debug_wanted(ctx: click.Context) -> bool:
    """Whether tracebacks of expected errors are wanted."""
    return bool(ctx.params.get("debug")) or os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}


def job_argument(command: Command) -> Command:
    """Add the manifest and --set; the command reads them with `load_job`."""
    for decorate in (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="PATH=VALUE",
            help="Replace one value of the manifest, such as training.epochs=2. May be repeated.",
        ),
        click.argument("job", metavar="JOB.yaml", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


def output_option(command: Command) -> Command:
    """Add --output."""
    help_text = "Where results go, instead of the manifest's spec.output."
    return click.option("--output", "output", metavar="DIR", help=help_text)(command)


def processes_option(command: Command) -> Command:
    """Add --nproc."""
    decorate = click.option(
        "--nproc",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Training processes on this machine, one a GPU; the global batch stays the same.",
    )
    return decorate(command)


def endpoint_option(command: Command) -> Command:
    """Add --endpoint."""
    help_text = (
        "Address of an S3 endpoint that the manifest names in storage.endpoint, such as "
        "default=http://127.0.0.1:7070. May be repeated. Without it: AWS_ENDPOINT_URL, or AWS."
    )
    return click.option("--endpoint", "endpoints", multiple=True, metavar="NAME=URL", help=help_text)(command)


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def load_job(path: Path, overrides: tuple[str, ...], output: str | None = None) -> SemiRESJob:
    """The manifest with the command line's values; says on stderr which fields only a cluster reads."""
    from semires_trainer.manifest import cluster_only_fields, load_manifest

    values = [parse_override(text) for text in overrides]
    if output is not None:
        values.append(("spec.output", output))
    job = load_manifest(path, values)
    ignored = cluster_only_fields(job)
    if ignored:
        click.secho(f"Ignored, only a cluster reads them: {', '.join(ignored)}.", fg="yellow", err=True)
    return job


def parse_override(text: str) -> tuple[str, str]:
    """'training.epochs=2' -> ('spec.training.epochs', '2'); ConfigError without '=' or without a path."""
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise ConfigError(f'"{text}" is not PATH=VALUE', field="--set", remedy="Write --set training.epochs=2.")
    path = path.strip()
    return (path if path.split(".")[0] in _ROOTS else f"spec.{path}"), value


def console() -> Console:
    """Where results are printed: stdout, as wide as a table needs when it is no terminal."""
    from rich.console import Console

    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)
