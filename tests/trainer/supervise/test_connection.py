"""How a run reaches S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semires_trainer.config import Storage as StorageSection
from semires_trainer.connection import parse_endpoints, storage_settings
from semires_trainer.errors import ConfigError
from semires_trainer.storage import Storage

ENDPOINTS = {"default": "https://minio.example:9000", "archive": "http://10.0.0.7:7070"}
POD = {
    "SEMIRES_ENDPOINT_URL": "https://s3.example",
    "SEMIRES_ENDPOINT_REGION": "eu-west-3",
    "SEMIRES_ENDPOINT_PATH_STYLE": "false",
    "SEMIRES_ENDPOINT_CA": "/etc/semires/ca.pem",
    "SEMIRES_CREDENTIALS": "/var/run/semires/credentials",
}


def section(**fields: Any) -> StorageSection:
    return StorageSection(**fields)


def test_endpoints_of_the_command_line_have_names() -> None:
    texts = [f"{name}={url}" for name, url in ENDPOINTS.items()]

    assert parse_endpoints(texts) == ENDPOINTS


@pytest.mark.parametrize("text", ["https://minio:9000", "=https://minio", "default=minio", "default", ""])
def test_what_is_no_named_endpoint_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--endpoint: .* is not NAME=URL\. Write --endpoint default=https"):
        parse_endpoints([text])


@pytest.mark.parametrize(
    ("given", "url"),
    [
        pytest.param(section(endpoint="archive"), "http://10.0.0.7:7070", id="named"),
        pytest.param(section(), "https://minio.example:9000", id="section-without-endpoint"),
        pytest.param(None, "https://minio.example:9000", id="no-section"),
    ],
)
def test_an_endpoint_is_found_by_its_name_and_has_buckets_in_the_path(given: StorageSection | None, url: str) -> None:
    settings = storage_settings(given, ENDPOINTS, {})

    assert (settings.endpoint_url, settings.path_style) == (url, True)


@pytest.mark.parametrize(
    ("endpoints", "known"),
    [pytest.param(ENDPOINTS, "archive, default", id="two"), pytest.param({}, "none", id="none")],
)
def test_an_unknown_name_is_refused_naming_those_that_are_known(endpoints: dict[str, str], known: str) -> None:
    with pytest.raises(ConfigError, match=rf"'lab' is not known here; known: {known}\. .*--endpoint lab=https"):
        storage_settings(section(endpoint="lab"), endpoints, {"AWS_ENDPOINT_URL": "http://elsewhere"})


def test_endpoints_that_lack_the_default_are_not_mistaken_for_aws() -> None:
    with pytest.raises(ConfigError, match="'default' is not known here; known: archive"):
        storage_settings(None, {"archive": ENDPOINTS["archive"]}, {})


def test_without_any_endpoint_it_is_aws() -> None:
    settings = storage_settings(None, {}, {})

    assert (settings.endpoint_url, settings.path_style, settings.region) == ("", False, "")


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        pytest.param({"AWS_ENDPOINT_URL": "http://a"}, "http://a", id="general"),
        pytest.param({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}, "http://b", id="of-s3"),
    ],
)
def test_the_standard_variables_name_the_default_endpoint(environment: dict[str, str], url: str) -> None:
    settings = storage_settings(None, {}, environment)

    assert (settings.endpoint_url, settings.path_style) == (url, True)


def test_a_pod_is_told_where_its_endpoint_is_whatever_its_name() -> None:
    settings = storage_settings(section(endpoint="lab"), {}, POD)

    assert settings.endpoint_url == "https://s3.example"
    assert settings.region == "eu-west-3"
    assert settings.path_style is False
    assert settings.ca_bundle == Path("/etc/semires/ca.pem")
    assert settings.credentials_folder == Path("/var/run/semires/credentials")


def test_the_manifest_s_region_wins_over_the_endpoint_s() -> None:
    assert storage_settings(section(region="us-west-1"), {}, POD).region == "us-west-1"


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="must not hold a login"):
        storage_settings(None, {"default": "https://key:secret@host"}, {})


def test_the_environment_of_a_pod_is_enough_to_read_a_bucket(
    server: Any, servers: Any, storage: Storage, output: str, credentials: Path
) -> None:
    storage.put_if_absent(f"{output}/note", b"hello")
    environment = {
        "SEMIRES_ENDPOINT_URL": server.url,
        "SEMIRES_ENDPOINT_REGION": servers.REGION,
        "SEMIRES_CREDENTIALS": str(credentials),
    }

    with Storage(storage_settings(section(endpoint="lab"), {}, environment)) as reached:
        assert reached.read_bytes(f"{output}/note").data == b"hello"
