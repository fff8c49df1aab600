"""Run the benchmarks and write their pages: `make benchmark`, on a machine that does nothing else.

    python -m benchmarks               # all pages
    python -m benchmarks storage       # docs/benchmarks-storage.md only

Each figure is a ratio against a peer in the same run; the peers are written from the described semantics.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGES = {
    "training": ("benchmarks.md", ("refine", "proposals", "ema", "sample_pipeline", "memory")),
    "storage": ("benchmarks-storage.md", ("storage", "fetch", "checkpoints", "upload")),
}
"""Name -> its page and its scripts."""
TIMES = ("rounds", "ours_ms", "peer_ms", "ours_min_ms", "peer_min_ms", "ratio", "ratio_min")

LIMITS = {
    "storage": """
Limits. A download of 512 MiB can't take less than its hash, which is listed; ours hashes while it fetches. The aim,
half the peer's time, is not reached on two cores: client and server keep both busy from beginning to end (1.7 times
the peer in memory), and on a disk that is busy ours waits for its sync, which the first peer leaves out (1.1 to 1.7
times). Images one by one are bound by round trips, or, where there are none, by some 2 ms of CPU a request, which
threads can't share. Archives: a quarter of small images lie too close to each other for ranges to leave anything out;
what is saved is disk. Upload beside training: at most 10 % slower is the aim; a core that only hashes is the limit of
the machine.
"""
}
"""Page -> what bounds its figures, and which aims are missed."""

HEAD = """# Benchmarks: {name}

Written by `make benchmark` on {date}: {machine}.

A ratio above 1 means that ours is faster: median over interleaved rounds, worst round in brackets. The peers are
written from the semantics of the official code (it does not run as released), or are the named library; outputs are
compared before anything is timed. No test asserts a time.

| benchmark | case | ours (ms) | peer (ms) | ratio |
|---|---|---|---|---|
"""


def run_script(name: str) -> list[dict[str, Any]]:
    """The rows of one benchmark script."""
    click.echo(f"{name} ...", err=True)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Ratios as a table, everything else (sizes, memory) as a list below it."""
    rows = list(rows)
    timed = [row for row in rows if "ratio" in row]
    others = [row for row in rows if "ratio" not in row]
    machine = ", ".join(f"{key} {value}" for key, value in timed[0]["machine"].items())
    head = HEAD.format(name=name, date=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine)
    lines = [f"| {' | '.join(cells(row))} |" for row in timed]
    facts = [f"* {row['benchmark']}: {describe(row)}" for row in others]
    return head + "\n".join(lines) + "\n\n" + "\n".join(facts) + "\n" + LIMITS.get(name, "")


def cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    case = {key: value for key, value in row.items() if key not in {"benchmark", "machine", *TIMES}}
    ratio = f"{row['ratio']:.3g} ({row['ratio_min']:.3g})"
    return [row["benchmark"], describe(case), milliseconds(row["ours_ms"]), milliseconds(row["peer_ms"]), ratio]


def milliseconds(value: float) -> str:
    """Three digits, or all of a larger number: 0.123, 12.3, 1,234."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def describe(values: Mapping[str, Any]) -> str:
    """Facts in words: `key value` pairs, nested ones flattened."""
    parts = []
    for key, value in values.items():
        if key in ("benchmark", "machine"):
            continue
        parts.append(f"{key} ({describe(value)})" if isinstance(value, Mapping) else f"{key} {value}")
    return ", ".join(parts)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(PAGES)))
def main(names: tuple[str, ...]) -> None:
    """Run the benchmarks of the pages NAMES (default: all) and write them."""
    for name in names or PAGES:
        page, scripts = PAGES[name]
        rows = [row for script in scripts for row in run_script(script)]
        (DOCS / page).write_text(table(name, rows), encoding="utf-8")
        click.echo(f"Written: {DOCS / page}")


if __name__ == "__main__":
    main()
