"""The administrator's list of S3 services."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from semires_operator.endpoints import (
    AWS,
    Endpoint,
    EndpointsError,
    EndpointsFile,
    NotAllowed,
    parse_endpoints,
)

PEM = "-----BEGIN CERTIFICATE-----\nTUlJQg==\n-----END CERTIFICATE-----\n"
LIST = """
default: {url: "https://s3.example:9000/", region: us-east-1}
lab: {url: "http://10.0.0.7:7070", pathStyle: false, namespaces: [team-a]}
"""


def test_an_endpoint_is_found_by_name() -> None:
    found = parse_endpoints(LIST).find("default", namespace="anywhere")

    assert found == Endpoint(url="https://s3.example:9000", region="us-east-1")


@pytest.mark.parametrize(
    ("name", "namespace", "allowed"),
    [
        pytest.param("lab", "team-b", ("default",), id="another namespace's"),
        pytest.param("labor", "team-a", ("default", "lab"), id="unknown"),
    ],
)
def test_an_endpoint_that_may_not_be_used_names_those_that_may(name: str, namespace: str, allowed: tuple[str]) -> None:
    found = parse_endpoints(LIST).find(name, namespace=namespace)

    assert found == NotAllowed(name=name, allowed=allowed)
    assert f'spec.storage.endpoint: "{name}"' in str(found)
    assert all(known in str(found) for known in allowed)


def test_without_a_list_there_is_aws_by_the_name_default() -> None:
    endpoints = EndpointsFile(None).current()

    assert endpoints.find("default", namespace="any") == AWS
    assert isinstance(endpoints.find("other", namespace="any"), NotAllowed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("default: {region: eu}", "default.url is missing", id="no address"),
        pytest.param("default: {url: 's3.example:9000'}", "not http:// or https://", id="no scheme"),
        pytest.param("default: {url: 'https://key:word@s3.example'}", "without credentials", id="credentials"),
        pytest.param("default: {url: 'https://s3.example/bucket'}", "more than scheme, host and port", id="a bucket"),
        pytest.param("default: {url: 'https://s3.example:x'}", "no URL", id="no port"),
        pytest.param("default: {url: 'http://s', ca: x}", "default.ca", id="unknown field"),
        pytest.param("default: {url: 'http://s', pathStyle: 'yes'}", "default.pathStyle", id="no boolean"),
        pytest.param("default: {url: 'http://s', caBundle: '-----BEGIN PRIVATE KEY-----'}", "private key", id="a key"),
        pytest.param("default: {url: 'http://s', namespaces: Some}", "default.namespaces", id="no list"),
        pytest.param("[default]", "the list", id="no mapping"),
        pytest.param("default: {url: [", "line 1 is not YAML", id="no YAML"),
        pytest.param("Default: {url: 'http://s'}", "Default", id="a name that no job can write"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(text: str, words: str) -> None:
    with pytest.raises(EndpointsError) as caught:
        parse_endpoints(text, source="endpoints.yaml")

    assert str(caught.value).startswith("endpoints.yaml")
    assert words in str(caught.value)
    assert "word" not in str(caught.value)


def test_certificates_are_kept_as_they_are() -> None:
    text = "default:\n  url: https://s\n  caBundle: |\n" + "".join(f"    {line}\n" for line in (PEM * 2).splitlines())

    found = parse_endpoints(text).find("default", namespace="any")

    assert isinstance(found, Endpoint)
    assert found.ca_bundle == PEM * 2


def swap(folder: Path, text: str, version: str) -> Path:
    """Exchange a file as a kubelet exchanges a ConfigMap's: a link to a folder is renamed over the old one."""
    (folder / version).mkdir()
    (folder / version / "endpoints.yaml").write_text(text)
    (folder / "..new").symlink_to(version)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "endpoints.yaml").is_symlink():
        (folder / "endpoints.yaml").symlink_to("..data/endpoints.yaml")
    return folder / "endpoints.yaml"


def test_a_changed_list_is_read_again(tmp_path: Path) -> None:
    file = EndpointsFile(swap(tmp_path, LIST, "v1"))
    before = file.current()
    swap(tmp_path, "other: {url: 'http://s'}", "v2")

    assert file.current().by_name.keys() == {"other"}
    assert before.by_name.keys() == {"default", "lab"}


def test_a_broken_new_version_keeps_the_old_one_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = EndpointsFile(swap(tmp_path, LIST, "v1"))
    swap(tmp_path, "default: {url: nowhere}", "v2")

    with caplog.at_level(logging.ERROR):
        kept = [file.current() for _ in range(3)]

    assert all(endpoints.by_name.keys() == {"default", "lab"} for endpoints in kept)
    assert "default.url" in file.problem
    assert len(caplog.records) == 1
    swap(tmp_path, LIST, "v3")
    assert file.current().by_name.keys() == {"default", "lab"}
    assert file.problem == ""


def test_a_list_that_vanished_is_kept(tmp_path: Path) -> None:
    path = swap(tmp_path, LIST, "v1")
    file = EndpointsFile(path)
    path.unlink()

    assert file.current().by_name.keys() == {"default", "lab"}
    assert "endpoints.yaml" in file.problem


def test_an_operator_does_not_start_with_a_broken_list(tmp_path: Path) -> None:
    with pytest.raises(EndpointsError):
        EndpointsFile(swap(tmp_path, "default: {}", "v1"))
