"""Command line of the testbed: `PYTHONPATH=tests python -m testbed up|down|status|build|check [--depth DEPTH]`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from testbed import programs, requirements, runs
from testbed.api_cluster import ApiCluster
from testbed.fake_nodes import FakeNodeCluster
from testbed.processes import Processes
from testbed.real_cluster import InUseError, RealCluster, end_real_cluster

Make = Callable[[], ApiCluster]

DEPTHS = ("api", "fake", "real")
_PROGRAMS = {"api": programs.FOR_API, "fake": programs.FOR_FAKE_NODES, "real": programs.FOR_REAL_NODE}
_depth = click.option("--depth", type=click.Choice(DEPTHS), default="real", show_default=True, help="How much of it.")


@click.group()
def main() -> None:
    """Kubernetes on this machine, for tests and for trying things out."""


@main.command()
@_depth
@click.option("--nodes", default=4, show_default=True, help="Pretended nodes of depth fake.")
def up(depth: str, nodes: int) -> None:
    """Start a cluster that stays until `down`, and print the kubeconfig's path."""
    cluster = _cluster(depth, nodes=nodes)
    if isinstance(cluster, RealCluster):
        cluster.keep()
    elif not cluster.processes.names():
        cluster.bring_up()
    click.echo(f"export KUBECONFIG={cluster.kubeconfig}")
    click.echo(f"export PATH={programs.KUBECTL.path.parent}:$PATH")


@main.command()
@_depth
def down(depth: str) -> None:
    """End it, whatever state it is in, and remove all that it wrote."""
    if depth == "real":
        try:
            end_real_cluster(_say)
        except InUseError as error:
            raise click.ClickException(str(error)) from error
    else:
        runs.end_run(_folder(depth))
    runs.clean_leftovers()


@main.command()
@_depth
def status(depth: str) -> None:
    """Which of its processes run; exit status 1 if none or not all do."""
    processes = Processes(_folder(depth)) if _folder(depth).exists() else None
    names = processes.names()[::-1] if processes else []
    if processes is None or not names:
        raise click.ClickException(f"no cluster of depth {depth!r} runs; start one with `up --depth {depth}`")
    for name in names:
        click.echo(f"{name:20} {'runs' if processes.alive(name) else 'has ended'}, log {processes.log(name)}")
    if not all(map(processes.alive, names)):
        raise SystemExit(1)


@main.command()
@click.option("--depth", type=click.Choice(DEPTHS), default=None, help="Only what this depth needs.")
def build(depth: str | None) -> None:
    """Build all programs, about 15 minutes the first time."""
    programs.build_all(_PROGRAMS[depth] if depth else programs.ALL, _say)
    line = requirements.install_line(depth or "real")
    if line:
        _say(f"this machine lacks Debian packages; install them with:\n  {line}")


@main.command()
@_depth
def check(depth: str) -> None:
    """Whether a depth can run here; exit status 1, with the reason, if not."""
    try:
        requirements.check(depth)
    except requirements.RequirementError as error:
        raise click.ClickException(str(error)) from error


def _cluster(depth: str, *, nodes: int = 4) -> ApiCluster:
    make: dict[str, Make] = {
        "api": lambda: ApiCluster(_folder(depth), say=_say),
        "fake": lambda: FakeNodeCluster(_folder(depth), nodes=nodes, say=_say),
        "real": lambda: RealCluster(say=_say),
    }
    try:
        return make[depth]()
    except requirements.RequirementError as error:
        raise click.ClickException(str(error)) from error


def _folder(depth: str) -> Path:
    return runs.runs_folder() / depth


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main(prog_name="python -m testbed")
