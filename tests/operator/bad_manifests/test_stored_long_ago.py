"""Jobs that another version of the definition let in: they are told what is wrong, and disturb nobody."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed.api_client import Refused
from testbed.api_cluster import ApiCluster
from testbed.bench import Bench, bench
from testbed.cluster import Object
from testbed.player import Script
from testbed.verdicts import CRD_FILE
from testbed.waiting import wait_until

SPECS: dict[str, Any] = {
    "empty": {},
    "section-is-a-word": {"refinement": "CPI-U"},
    "section-is-a-list": {"dataset": [1, 2]},
    "unknown-field": {"dataset": {"name": "RefCOCO", "colour": "blue"}},
    "number-is-a-word": {"training": {"epochs": "many"}},
    "deep": {"pod": {"affinity": [[[[[[[[[[{}]]]]]]]]]]}},
    "long": {"output": "s3://bucket/" + "x" * 100_000},
}


@pytest.fixture
def place(own_api_cluster: ApiCluster, tmp_path: Path) -> Iterator[Bench]:
    with bench(own_api_cluster, tmp_path) as made:
        yield made


@pytest.fixture
def stored(place: Bench, own_api_cluster: ApiCluster) -> list[str]:
    """One job for each of SPECS, made while the definition demanded nothing; now it is ours again."""
    try:
        own_api_cluster.apply(_looser())
        for name, spec in SPECS.items():
            body = {
                "apiVersion": "semires.dev/v1alpha1",
                "kind": "SemiRESJob",
                "metadata": {"name": name},
                "spec": spec,
            }
            wait_until(f"{name} is stored", partial(_stored, place, body), seconds=30)
    finally:
        own_api_cluster.crds()
    return list(SPECS)


def _looser() -> Object:
    """Our definition without any rule for the spec."""
    definition: Object = copy.deepcopy(yaml.safe_load(CRD_FILE.read_text(encoding="utf-8")))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema.pop("x-kubernetes-validations", None)
    return definition


def _stored(place: Bench, body: Object) -> bool:
    """Whether it is there: the API server takes a moment to change over."""
    try:
        return bool(place.api.create("semiresjobs", body))
    except Refused:
        return False


def test_each_is_told_and_a_right_job_runs_beside_them(place: Bench, stored: list[str]) -> None:
    """In the status; where the definition's own rules refuse any change, by an event."""
    place.play(Script())
    operator = place.operator()
    operator.start()
    place.submit()
    assert place.wait_for_phase("Succeeded")
    for name in stored:
        told = wait_until(f"{name} is told", partial(_told, place, name), seconds=60, seen=operator.tail)
        assert re.match(r"spec\.[\w.]+: .+\. [A-Z]\w+ ", told), told  # field, problem, remedy

    assert operator.starts == 1
    assert operator.tracebacks() == 0, operator.tail()


def _told(place: Bench, name: str) -> str:
    """What an event says of a job."""
    events = [one for one in place.api.list("events") if one["involvedObject"]["name"] == name]
    return next((one["message"] for one in events if one["reason"] == "SpecInvalid"), "")


@pytest.mark.long
def test_then_it_is_silent(place: Bench, stored: list[str]) -> None:
    """After the first minute at most a write and an event a minute are tried for each."""
    operator = place.operator()
    operator.start()
    operator.wait_until_ready()
    time.sleep(60)
    place.proxy.forget()
    time.sleep(120)

    assert len(place.writes(beside=("leases",))) <= 2 * 2 * len(stored)
