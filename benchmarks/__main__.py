"""Run all benchmarks and write docs/benchmarks.md: `make benchmark`, on a machine that does nothing else.

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
TABLE = HERE.parent / "docs" / "benchmarks.md"
SCRIPTS = ("refine", "proposals", "ema", "sample_pipeline", "storage", "fetch", "checkpoints", "memory")
TIMES = ("rounds", "ours_ms", "peer_ms", "ours_min_ms", "peer_min_ms", "ratio", "ratio_min")

HEAD = """# Benchmarks

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


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Ratios as a table, everything else (sizes, memory) as a list below it."""
    rows = list(rows)
    timed = [row for row in rows if "ratio" in row]
    others = [row for row in rows if "ratio" not in row]
    machine = ", ".join(f"{key} {value}" for key, value in timed[0]["machine"].items())
    head = HEAD.format(date=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine)
    lines = [f"| {' | '.join(cells(row))} |" for row in timed]
    facts = [f"* {row['benchmark']}: {describe(row)}" for row in others]
    return head + "\n".join(lines) + "\n\n" + "\n".join(facts) + "\n"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    case = {key: value for key, value in row.items() if key not in {"benchmark", "machine", *TIMES}}
    ratio = f"{row['ratio']:.3g} ({row['ratio_min']:.3g})"
    return [row["benchmark"], describe(case), f"{row['ours_ms']:.3g}", f"{row['peer_ms']:.3g}", ratio]


def describe(values: Mapping[str, Any]) -> str:
    """Facts in words: `key value` pairs, nested ones flattened."""
    parts = []
    for key, value in values.items():
        if key in ("benchmark", "machine"):
            continue
        parts.append(f"{key} ({describe(value)})" if isinstance(value, Mapping) else f"{key} {value}")
    return ", ".join(parts)


@click.command()
def main() -> None:
    """Run all benchmarks and write docs/benchmarks.md."""
    TABLE.write_text(table(row for name in SCRIPTS for row in run_script(name)), encoding="utf-8")
    click.echo(f"Written: {TABLE}")


if __name__ == "__main__":
    main()
