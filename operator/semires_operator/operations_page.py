"""The generated tables of docs/operations.md: conditions, reasons, metrics.

python -m semires_operator.operations_page             # write them
python -m semires_operator.operations_page --check     # exit 1 if the page is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from prometheus_client.metrics_core import Metric

from semires_operator.metrics import FIGURES, Metrics
from semires_operator.reasons import ABOUT, CONDITIONS, Section

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BEGIN, END = "<!-- begin generated: {} -->", "<!-- end generated: {} -->"
TIME = "2026-01-01T00:00:00Z"
JOB = {
    "metadata": {"namespace": "team", "name": "job", "uid": "uid", "creationTimestamp": TIME},
    "spec": {},
    "status": {
        "attempt": 1,
        "startTime": TIME,
        "completionTime": TIME,
        "conditions": [{"type": name, "status": "True"} for name in CONDITIONS],
        "lastCheckpoint": {"time": TIME},
        "progress": {"epoch": 1, "step": 1, "metrics": [{"name": name, "value": "1"} for name in FIGURES]},
    },
}
"""A job that has every series."""


def tables() -> dict[str, str]:
    """The generated parts of the page, by name."""
    rows = [(name, meaning, remedy) for name, (meaning, remedy) in CONDITIONS.items()]
    parts = {"conditions": _table(("condition", "meaning", "what to do"), rows)}
    for section in get_args(Section):
        rows = [(word.value, about.meaning, about.remedy) for word, about in ABOUT.items() if about.section == section]
        parts[f"reasons {section}"] = _table(("reason", "meaning", "what to do"), rows)
    return {**parts, "metrics": _table(("name", "type", "labels", "meaning"), map(_series, _families()))}


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (heading, ["---"] * len(heading), *rows)
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)


def _families() -> Iterable[Metric]:
    """Every metric of an operator that has seen everything once."""
    metrics = Metrics(version="1")
    metrics.jobs.show(JOB)
    metrics.count_request("get", 200)
    for counted in (metrics.reconciles, metrics.polls, metrics.missed, metrics.last_event, metrics.lag):
        counted.labels("any")
    return sorted(metrics.registry.collect(), key=lambda family: ("_job_" in family.name, family.name))


def _series(family: Metric) -> tuple[str, str, str, str]:
    labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation


def filled(page: str) -> str:
    """The page with its generated parts as they should be. ValueError if the place of one is missing."""
    for name, table in tables().items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE.name} has no place for {name!r}: write the lines {begin} and {end}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def main(arguments: Sequence[str]) -> int:
    """Write the page, or tell whether it is out of date."""
    parser = argparse.ArgumentParser(description="The generated tables of docs/operations.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it is out of date")
    only_check = parser.parse_args(arguments).check
    is_now = PAGE.read_text(encoding="utf-8")
    should_be = filled(is_now)
    if not only_check:
        PAGE.write_text(should_be, encoding="utf-8")
    elif is_now != should_be:
        sys.stderr.write(f"{PAGE.name} is out of date: run python -m semires_operator.operations_page\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
