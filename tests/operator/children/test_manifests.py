"""What is shipped in manifests/: it renders, grants little, and its examples are jobs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from semires_operator.endpoints import Endpoint, parse_endpoints
from semires_operator.settings import Settings
from semires_trainer import __version__
from semires_trainer.config import parse_job

REPOSITORY = Path(__file__).parents[3]
MANIFESTS = REPOSITORY / "manifests"
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


def images_of(objects: list[dict[str, Any]]) -> tuple[str, str]:
    """The operator's and the trainer's."""
    (deployment,) = of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (trainer,) = [one["value"] for one in container["env"] if one["name"] == "SEMIRES_OPERATOR_TRAINER_IMAGE"]
    return container["image"], trainer


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_both_images_are_named_in_one_place(overlay: str, render: Render, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(MANIFESTS, tmp_path / "manifests"))
    written = copy / "base" / "kustomization.yaml"
    written.write_text(written.read_text().replace("newName: ", "newName: registry.example:5000/lab/"))

    images = images_of(render(str(copy / "overlays" / overlay)))

    assert images == tuple(
        f"registry.example:5000/lab/semires-{part}:{__version__}" for part in ("operator", "trainer")
    )


def test_an_overlay_of_ones_own_names_both_images(render: Render) -> None:
    images = images_of(render(str(REPOSITORY / "examples" / "cluster" / "operator")))

    assert images == ("localhost/semires-operator:demo", "localhost/semires-trainer:demo")


def test_the_guide_gives_both_their_pull_secret(render: Render, tmp_path: Path) -> None:
    guide = (REPOSITORY / "docs" / "install.md").read_text()
    (patches,) = re.findall(r"^```yaml\n(patches:.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(f"resources: [../manifests/overlays/cluster]\n{patches}")

    (deployment,) = of_kind(render(str(overlay)), "Deployment")

    pod = deployment["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    variables = {one["name"]: one.get("value", "from-the-pod") for one in pod["containers"][0]["env"]}
    assert Settings.from_environment(variables).image_pull_secrets == ("registry",)


@pytest.mark.parametrize("base", ["../base/crd", "cluster"])
def test_users_get_their_rights_with_the_definition(base: str, render: Render) -> None:
    """An administrator of the cluster installs both, for an operator of one namespace too."""
    roles = {role["metadata"]["name"] for role in of_kind(render(base), "ClusterRole")}

    assert roles >= {"semires-edit", "semires-view"}


@pytest.mark.parametrize("overlay", ["cluster", "namespaced"])
def test_trainers_of_a_closed_namespace_are_open_to_the_operator(overlay: str, render: Render) -> None:
    (deployment,) = of_kind(render(overlay), "Deployment")
    (policy, _) = yaml.safe_load_all((MANIFESTS / "examples" / "network-policy.yaml").read_text())

    (namespaces,) = policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchExpressions"]

    assert deployment["metadata"]["namespace"] in namespaces["values"]


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
