"""What the cluster refuses is one line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semires_operator.client import (
    Client,
    Conflict,
    Forbidden,
    JobNotFound,
    NoCluster,
    NotFound,
    NotInstalled,
    Refused,
    Unreachable,
)
from semires_operator.client.failures import error_of

FORBIDDEN = (
    'semiresjobs.semires.dev is forbidden: User "eve" cannot list resource "semiresjobs" in API group "semires.dev" '
    'in the namespace "vision"'
)


def refusal(code: int, message: str = "no", **details: Any) -> Exception:
    return error_of(code, {"message": message, "details": details}, what='SemiRESJob "a"')


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        pytest.param(refusal(401), Forbidden, "credentials", id="unknown-user"),
        pytest.param(refusal(403, FORBIDDEN), Forbidden, 'User "eve" cannot list', id="missing-right"),
        pytest.param(refusal(403, "exceeded quota: jobs"), Refused, "exceeded quota", id="quota"),
        pytest.param(refusal(404, "404 page not found"), NotInstalled, "kubectl apply --server-side -k", id="no-crd"),
        pytest.param(refusal(404, name="a", kind="semiresjobs"), JobNotFound, 'no SemiRESJob "a"', id="no-job"),
        pytest.param(refusal(404, name="x", kind="namespaces"), NotFound, 'no namespace "x"', id="no-namespace"),
        pytest.param(refusal(409), Conflict, "Try again", id="conflict"),
        pytest.param(refusal(429, "slow down"), Unreachable, "slow down", id="too-many-requests"),
        pytest.param(refusal(503, "etcd"), Unreachable, "Try again in a minute", id="server-error"),
        pytest.param(refusal(400, 'strict decoding error: unknown field "spec.x"'), Refused, "spec.x", id="bad-field"),
    ],
)
def test_an_answer_that_is_no_success_becomes_an_error(error: Exception, kind: type[Exception], words: str) -> None:
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        pytest.param("Invalid value: 3: what is trained cannot change", "what is trained cannot change", id="number"),
        pytest.param('Invalid value: "a b": "a b" is no name', '"a b" is no name', id="text"),
        pytest.param('Invalid value: "object": nodes: too many', "nodes: too many", id="object"),
        pytest.param("Forbidden: what is trained cannot change", "what is trained cannot change", id="forbidden"),
        pytest.param("Unsupported value: 7", "Unsupported value: 7", id="schema"),
    ],
)
def test_a_refused_field_is_told_without_the_servers_prefix(message: str, shown: str) -> None:
    error = refusal(422, "long", causes=[{"field": "spec.training.epochs", "message": message}])

    assert str(error) == f"spec.training.epochs: {shown}"


def test_the_other_refused_fields_are_named() -> None:
    causes = [{"field": f"spec.{name}", "message": "Forbidden: no. Leave it"} for name in ("a", "b", "b", "c")]

    assert str(refusal(422, causes=causes)) == "spec.a: no. Leave it. (And spec.b, spec.c)"


def test_control_characters_of_the_server_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in str(refusal(400, "\x1b]0;owned\x07 hello"))


def test_without_a_kubeconfig_it_is_said_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(NoCluster, match=r"there is no kubeconfig at .*none. Give --kubeconfig"):
        Client()


def test_a_damaged_kubeconfig_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("apiVersion: [")

    with pytest.raises(NoCluster, match=f"the kubeconfig {path} can't be used"):
        Client(kubeconfig=path)


def test_an_unknown_context_is_told_with_the_nearest(scripted, answer, tmp_path: Path) -> None:
    kubeconfig = scripted(answer()).kubeconfig(tmp_path)

    with pytest.raises(NoCluster, match=r'no context "stagin" .* Did you mean "staging"'):
        Client(kubeconfig=kubeconfig, context="stagin")


def test_the_namespace_comes_from_the_context_unless_named(scripted, answer, tmp_path: Path) -> None:
    kubeconfig = scripted(answer()).kubeconfig(tmp_path)

    assert Client(kubeconfig=kubeconfig).namespace == "vision"
    assert Client(kubeconfig=kubeconfig, context="staging").namespace == "default"
    assert Client("other", kubeconfig=kubeconfig).namespace == "other"


def test_an_api_server_that_is_away_is_told_by_its_address(scripted, answer, tmp_path: Path) -> None:
    server = scripted(answer())
    server.port = 1  # nothing listens there

    with pytest.raises(Unreachable, match=r"the API server http://127\.0\.0\.1:1 does not answer"):
        Client(kubeconfig=server.kubeconfig(tmp_path)).list()


def test_an_answer_that_is_no_json_is_told(make_client, answer) -> None:
    client, _ = make_client(answer(b"<html>Please log in</html>"))

    with pytest.raises(Exception, match=r"something else than JSON. Is there a proxy in between"):
        client.list()


def test_a_job_that_is_not_there_is_told_with_the_nearest(make_client, answer, make_document) -> None:
    absent = answer({"message": "x", "details": {"name": "refcoo", "kind": "semiresjobs"}}, code=404)
    client, _ = make_client(absent, answer({"items": [make_document("refcoco"), make_document("grefumd")]}))

    with pytest.raises(JobNotFound, match=r'no SemiRESJob "refcoo" in namespace "vision". Did you mean "refcoco"'):
        client.get("refcoo")
