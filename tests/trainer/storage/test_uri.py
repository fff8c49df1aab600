"""URIs and settings are checked once, with one line that says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semires_trainer.errors import ConfigError
from semires_trainer.storage import StorageSettings, parse_uri


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        pytest.param("s3://bucket/a/b.bin", ("s3", "bucket", "a/b.bin"), id="object"),
        pytest.param("s3://bucket", ("s3", "bucket", ""), id="bucket"),
        pytest.param("s3://bucket/a b%20/ü#?.bin", ("s3", "bucket", "a b%20/ü#?.bin"), id="keys-are-plain-text"),
        pytest.param("file:///data/a.bin", ("file", "", "/data/a.bin"), id="file"),
        pytest.param("data/a.bin", ("file", "", "data/a.bin"), id="path"),
    ],
)
def test_a_uri_has_scheme_bucket_and_key(text: str, parsed: tuple[str, str, str]) -> None:
    found = parse_uri(text)

    assert (found.scheme, found.bucket, found.key) == parsed


@pytest.mark.parametrize("text", ["s3://bucket/runs", "s3://bucket/runs/"])
def test_a_child_lies_below_its_folder(text: str) -> None:
    assert str(parse_uri(text).child("a/b.json")) == "s3://bucket/runs/a/b.json"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("s3://bucket/a\nb", "control characters", id="line-end"),
        pytest.param("gs://bucket/key", "scheme of gs://", id="other-service"),
        pytest.param("https://key:secret@host/x", "scheme of https://", id="web"),
        pytest.param("hf://owner/repo", "only be read as starting weights", id="hub"),
        pytest.param("file://data/a", "not an absolute path", id="file-with-host"),
        pytest.param("s3:///key", "'' in s3:///key is not a bucket name", id="no-bucket"),
        pytest.param("s3://Bucket/key", "'Bucket'.*is not a bucket name", id="upper-case"),
        pytest.param("s3://bucket/a/../b", "segment", id="dots"),
        pytest.param("s3://bucket//a", "segment", id="empty-segment"),
        pytest.param(f"s3://bucket/{'a' * 1025}", "longer than 1024 bytes", id="long"),
    ],
)
def test_a_malformed_uri_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_uri(text, field="spec.output")


@pytest.mark.parametrize("text", ["https://key:secret@host/x", "s3://key:secret@bucket/x"])
def test_a_login_in_a_uri_is_never_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_uri(text)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"endpoint_url": "host:9000"}, "storage.endpoint: 'host:9000' is not the URL", id="no-scheme"),
        pytest.param({"endpoint_url": "http://host:99999"}, "storage.endpoint", id="port"),
        pytest.param({"endpoint_url": "https://host/path"}, "storage.endpoint", id="path"),
        pytest.param({"transfers": 0}, "storage.transfers: must be 1 to 64, got 0", id="transfers"),
        pytest.param(
            {"upload_part_bytes": 100}, "storage.upload_part_bytes: must be at least 5242880", id="small-part"
        ),
        pytest.param({"download_part_bytes": 0}, "storage.download_part_bytes: must be positive", id="no-part"),
        pytest.param({"read_timeout_seconds": 0}, "storage.read_timeout_seconds: must be positive", id="no-timeout"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        StorageSettings(**changes)


def test_a_login_in_an_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="must not hold a login") as caught:
        StorageSettings(endpoint_url="https://key:secret@host")

    assert "secret" not in str(caught.value)


def test_the_package_needs_neither_torch_nor_boto3_for_files() -> None:
    code = "import sys, semires_trainer.storage; print({'torch', 'boto3', 'botocore'} & set(sys.modules))"
    environment = {"PYTHONPATH": str(Path(__file__).parents[3] / "trainer")}

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert result.stdout.strip() == "set()"
