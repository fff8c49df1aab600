"""Launches of jobs, and what a kubelet makes of the environment of a container."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semires_operator.backends import build_child
from semires_operator.backends.preflight_job import build_preflight
from semires_operator.endpoints import Endpoint
from semires_operator.launch import Launch
from semires_operator.settings import Settings
from semires_trainer.config import SemiRESJob, parse_job

MakeJob = Callable[..., SemiRESJob]
MakeLaunch = Callable[..., Launch]
SMALLEST: dict[str, Any] = {
    "dataset": {
        "name": "RefCOCO",
        "annotations": "s3://data/refer",
        "images": "s3://data/train2014",
        "labeled": {"percent": "1"},
    },
    "proposals": {"sam": {"weights": "s3://models/sam_vit_h_4b8939.pth"}},
    "output": "s3://results/refcoco-1pct",
}
EXPANSION = re.compile(r"\$(?:\$|\(([^()$]*)\))")


@pytest.fixture(scope="session")
def make_job() -> MakeJob:
    """A job whose spec is the smallest one with these sections changed."""

    def make(name: str = "refcoco-1pct", **sections: Any) -> SemiRESJob:
        spec = {**SMALLEST, **sections}
        return parse_job(
            {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": name}, "spec": spec}
        )

    return make


@pytest.fixture(scope="session")
def lab() -> Endpoint:
    """An endpoint of an administrator's list, with everything that one may have."""
    pem = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"
    return Endpoint(url="https://s3.lab.example:9000", region="us-east-1", path_style=False, ca_bundle=pem)


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(trainer_image="registry.example/semires-trainer:1")


@pytest.fixture(scope="session")
def make_launch(make_job: MakeJob) -> MakeLaunch:
    """The first attempt of a job with these sections."""

    def make(changes: dict[str, Any] | None = None, **sections: Any) -> Launch:
        given: dict[str, Any] = {
            "uid": "11111111-2222-3333-4444-555555555555",
            "namespace": "team-a",
            "attempt": 1,
            "image": "registry.example/semires-trainer:1",
        }
        return Launch(job=make_job(**sections), **given | (changes or {}))

    return make


@pytest.fixture(scope="session")
def training_pod(make_launch: MakeLaunch, settings: Settings) -> Callable[..., dict[str, Any]]:
    """The template of the training pods of a job."""

    def make(changes: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        body = build_child(make_launch(changes, **sections), settings)
        (replica,) = body["spec"]["pytorchReplicaSpecs"].values()
        template: dict[str, Any] = replica["template"]
        return template

    return make


@pytest.fixture(scope="session")
def preflight_pod(make_launch: MakeLaunch, settings: Settings) -> Callable[..., dict[str, Any]]:
    """The template of the preflight pod of a job."""

    def make(changes: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
        template: dict[str, Any] = build_preflight(make_launch(changes, **sections), settings)["spec"]["template"]
        return template

    return make


@pytest.fixture(scope="session")
def environment_of() -> Callable[[dict[str, Any]], dict[str, str]]:
    """The environment that a kubelet gives the container of a template (the last of two variables counts)."""

    def environment(template: dict[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for variable in template["spec"]["containers"][0]["env"]:
            if "valueFrom" in variable:
                found[variable["name"]] = f"<{variable['valueFrom']}>"
            else:
                found[variable["name"]] = expanded(variable.get("value", ""), found)
        return found

    return environment


def expanded(text: str, known: dict[str, str]) -> str:
    """As Kubernetes does it: $$ is a dollar, $(NAME) the value of a variable before, or itself if there is none."""
    return EXPANSION.sub(
        lambda match: "$" if match[1] is None else known.get(match[1], match[0]),
        text,
    )


@pytest.fixture(scope="session")
def kubectl() -> Path:
    """The testbed's, built if need be."""
    return programs.KUBECTL.build()
