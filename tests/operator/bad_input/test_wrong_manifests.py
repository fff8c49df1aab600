"""What a hurried researcher writes: refused at once by the API server, in words that help.

Each manifest lies in a .yaml file of this folder behind a header: `field` is what the answer must name, `value` what
was received, `says` what to do about it. later/cluster.yaml holds those that only a cluster can find wrong, with the
reason of the condition that tells; the operator's tests read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from testbed.verdicts import JOBS, ApiServer

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One wrong manifest."""

    text: str
    header: dict[str, str]


def cases_of(path: Path) -> list[Case]:
    """The manifests of a file."""
    texts = re.split(r"^---\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [Case(text=text, header=dict(re.findall(r"^# (\w+): ?(.*)$", text, re.MULTILINE))) for text in texts]


CASES = [
    pytest.param(case, id=f"{path.stem}-{case.header['case']}")
    for path in sorted(FOLDER.glob("*.yaml"))
    for case in cases_of(path)
]


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_manifest_is_refused_with_field_value_and_remedy(case: Case, api: ApiServer) -> None:
    answer = api.request("POST", JOBS, case.text, dryRun="All", fieldValidation="Strict")

    assert not answer.accepted
    for key in ("field", "value", "says"):
        assert case.header[key] in answer.message, answer.message


def test_there_are_a_hundred_of_them() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", cases_of(FOLDER / "later/cluster.yaml"), ids=lambda case: case.header["case"])
def test_what_only_the_cluster_can_know_is_accepted(case: Case, api: ApiServer) -> None:
    assert api.request("POST", JOBS, case.text, dryRun="All", fieldValidation="Strict").accepted
