"""What is shipped in manifests/: it renders, grants little, and its examples are jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from semires_operator.endpoints import Endpoint, parse_endpoints
from semires_operator.settings import Settings
from semires_trainer import __version__
from semires_trainer.config import parse_job

MANIFESTS = Path(__file__).parents[3] / "manifests"
OVERLAYS = ("cluster", "namespaced", "dev")
Render = Callable[[str], list[dict[str, Any]]]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] in kinds]


def rules_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for role in of_kind(objects, "Role", "ClusterRole"):
        if role["metadata"]["name"].startswith("semires-operator"):
            yield from role["rules"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_with_settings_that_the_operator_accepts(overlay: str, render: Render) -> None:
    (deployment,) = of_kind(render(overlay), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value", "from-the-pod") for one in container["env"]}

    settings = Settings.from_environment(variables)

    assert settings.trainer_image == f"semires-trainer:{__version__}"
    assert container["image"] == f"semires-operator:{__version__}"
    assert container["ports"][0]["containerPort"] == settings.http_port
    assert deployment["spec"]["replicas"] == (1 if overlay == "dev" else 2)
    assert (settings.namespaces != ()) == (overlay == "namespaced")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_no_exec_and_nothing_of_everything(overlay: str, render: Render) -> None:
    for rule in rules_of(render(overlay)):
        assert not {"secrets", "pods/exec", "pods/portforward", "*"} & set(rule["resources"])
        assert not {"*", "escalate", "bind", "impersonate", "deletecollection", "update"} & set(rule["verbs"])
        assert "*" not in rule["apiGroups"]


def test_one_namespace_needs_nothing_of_the_clusters(render: Render) -> None:
    objects = render("namespaced")

    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace")
    assert {found["metadata"]["namespace"] for found in objects} == {"semires"}
    assert all(binding["subjects"][0]["namespace"] == "semires" for binding in of_kind(objects, "RoleBinding"))


def test_both_modes_grant_the_same_but_for_nodes(render: Render) -> None:
    cluster, namespaced = (list(rules_of(render(overlay))) for overlay in ("cluster", "namespaced"))

    assert [rule for rule in cluster if rule not in namespaced] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    ]
    assert all(rule in cluster for rule in namespaced)


def test_the_operators_namespace_is_restricted(render: Render) -> None:
    (namespace,) = of_kind(render("cluster"), "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_shipped_list_of_endpoints_can_be_used(render: Render) -> None:
    (config,) = of_kind(render("cluster"), "ConfigMap")

    found = parse_endpoints(config["data"]["endpoints.yaml"]).find("default", namespace="any")

    assert isinstance(found, Endpoint)


def test_a_lease_is_what_the_role_names(render: Render) -> None:
    named = [rule["resourceNames"] for rule in rules_of(render("cluster")) if "resourceNames" in rule]

    assert named == [[Settings().lease_name]]


def examples() -> Iterator[Any]:
    for path in sorted((MANIFESTS / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "SemiRESJob":
                yield pytest.param(document, id=path.stem)


@pytest.mark.parametrize("document", list(examples()))
def test_an_example_is_a_job(document: dict[str, Any]) -> None:
    assert parse_job(document).spec.output.startswith("s3://")
