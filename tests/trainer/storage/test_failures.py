"""Each failure that lasts has its own reason, says what to do, and never repeats a secret."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.errors import ConfigError, SemiresError
from semires_trainer.storage import Storage, StorageSettings, failures
from semires_trainer.storage.failures import explain_os_error

MIB = 2**20
MakeStorage = Callable[..., Storage]
MakeFile = Callable[..., Path]


def failure_of(call: Callable[[], object]) -> SemiresError:
    with pytest.raises(SemiresError) as caught:
        call()
    return caught.value


@pytest.fixture
def answered(
    make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str
) -> Callable[..., SemiresError]:
    """What becomes of an answer that the server gives to everything."""

    def ask(**answer: Any) -> SemiresError:
        proxy = make_proxy(lambda _: faults.Answer(**answer))
        return failure_of(lambda: make_storage(endpoint_url=proxy.url).stat(f"{prefix}/x"))

    return ask


def told(failure: SemiresError) -> tuple[str, int]:
    return failure.reason, failure.exit_code


def test_an_absent_object_is_named(storage: Storage, prefix: str, tmp_path: Path) -> None:
    failure = failure_of(lambda: storage.download(f"{prefix}/absent", tmp_path / "x"))

    assert told(failure) == ("NoSuchKey", 3)
    assert f"there is no object {prefix}/absent" in str(failure)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda storage, path: storage.stat("s3://no-such-bucket/x"), id="stat"),
        pytest.param(lambda storage, path: list(storage.list("s3://no-such-bucket/x")), id="list"),
        pytest.param(lambda storage, path: storage.download("s3://no-such-bucket/x", path), id="download"),
        pytest.param(lambda storage, path: storage.upload(Path(__file__), "s3://no-such-bucket/x"), id="upload"),
        pytest.param(lambda storage, path: storage.put_if_absent("s3://no-such-bucket/x", b""), id="put"),
    ],
)
def test_an_absent_bucket_is_named(storage: Storage, tmp_path: Path, call: Callable[..., object]) -> None:
    failure = failure_of(lambda: call(storage, tmp_path / "x"))

    assert told(failure) == ("NoSuchBucket", 5)
    assert "the bucket of s3://no-such-bucket/x does not exist. Create it" in str(failure)


def test_a_user_without_permission_is_denied(
    server: Any, servers: ModuleType, make_storage: MakeStorage, prefix: str, tmp_path: Path
) -> None:
    server.add_user("stranger", "stranger-secret")
    folder = servers.write_credentials(tmp_path / "other", access="stranger", secret="stranger-secret")

    failure = failure_of(lambda: make_storage(credentials_folder=folder).stat(f"{prefix}/x"))

    assert told(failure) == ("AccessDenied", 5)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"access": "unknown-key-1234"}, id="unknown-key"),
        pytest.param({"secret": "wrong-secret-1234"}, id="wrong-secret"),
    ],
)
def test_wrong_credentials_are_told_without_repeating_them(
    servers: ModuleType, make_storage: MakeStorage, prefix: str, tmp_path: Path, wrong: dict[str, str]
) -> None:
    folder = servers.write_credentials(tmp_path / "other", **wrong)

    failure = failure_of(lambda: make_storage(credentials_folder=folder).stat(f"{prefix}/x"))

    assert told(failure) == ("InvalidCredentials", 5)
    assert "1234" not in str(failure)
    assert servers.SECRET not in str(failure)


def test_missing_credential_files_are_named(make_storage: MakeStorage, prefix: str, tmp_path: Path) -> None:
    failure = failure_of(lambda: make_storage(credentials_folder=tmp_path).stat(f"{prefix}/x"))

    assert told(failure) == ("CredentialsMissing", 5)
    assert f"{tmp_path}/AWS_ACCESS_KEY_ID cannot be read" in str(failure)


def test_no_credentials_at_all_are_told(
    make_storage: MakeStorage, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    failure = failure_of(lambda: make_storage(credentials_folder=None).stat(f"{prefix}/x"))

    assert told(failure) == ("CredentialsMissing", 5)


ANSWERS = [
    pytest.param((403, "ExpiredToken"), {}, ("ExpiredToken", 5), "token .* has expired. Renew", id="expired"),
    pytest.param((403, "AccessDenied"), {}, ("AccessDenied", 5), "Grant the identity", id="denied"),
    pytest.param((400, "InvalidToken"), {}, ("InvalidCredentials", 5), "session token .* not valid", id="token"),
    pytest.param(
        (400, "AuthorizationHeaderMalformed"),
        {"details": "<Message>the region 'us-east-1' is wrong; expecting 'eu-west-3'</Message>"},
        ("WrongRegion", 5),
        "lies in region eu-west-3. Set spec.storage.region to eu-west-3",
        id="region-in-the-text",
    ),
    pytest.param(
        (301, "PermanentRedirect"),
        {"headers": {"x-amz-bucket-region": "eu-west-3"}},
        ("WrongRegion", 5),
        "lies in region eu-west-3",
        id="region-in-a-header",
    ),
    pytest.param((301, ""), {}, ("EndpointRedirects", 5), "redirects .* elsewhere", id="redirect-to-https"),
    pytest.param((405, "MethodNotAllowed"), {}, ("StorageDenied", 5), "HTTP 405 MethodNotAllowed", id="unknown"),
    pytest.param((503, "SlowDown"), {}, ("StorageUnavailable", 150), "the server fails on .*HTTP 503", id="busy"),
    pytest.param((500, "InternalError"), {}, ("StorageUnavailable", 150), "HTTP 500", id="broken"),
]


@pytest.mark.parametrize(("answer", "more", "expected", "says"), ANSWERS)
def test_an_answer_of_the_server_becomes_a_reason(
    answered: Callable[..., SemiresError],
    answer: tuple[int, str],
    more: dict[str, Any],
    expected: tuple[str, int],
    says: str,
) -> None:
    failure = answered(status=answer[0], code=answer[1], **more)

    assert told(failure) == expected
    assert re.search(says, str(failure))


@pytest.mark.parametrize(
    ("seconds", "says"), [pytest.param(-3600, "ahead of", id="ahead"), pytest.param(3600, "behind", id="behind")]
)
def test_a_wrong_clock_is_measured(answered: Callable[..., SemiresError], seconds: int, says: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)

    failure = answered(status=403, code="RequestTimeTooSkewed", headers={"date": date})

    assert told(failure) == ("RequestTimeTooSkewed", 150)
    assert any(f"clock is {offset} s {says} the server's" in str(failure) for offset in range(3590, 3611))


def test_a_port_that_nobody_listens_on_is_unreachable(
    make_storage: MakeStorage, servers: ModuleType, prefix: str
) -> None:
    url = f"http://127.0.0.1:{servers.free_port()}"

    failure = failure_of(lambda: make_storage(endpoint_url=url).stat(f"{prefix}/x"))

    assert told(failure) == ("EndpointUnreachable", 150)
    assert f"nothing answers at {url.removeprefix('http://')}" in str(failure)


def test_an_unknown_host_is_told(make_storage: MakeStorage, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    failure = failure_of(lambda: make_storage(endpoint_url="http://s3.example.test").stat(f"{prefix}/x"))

    assert told(failure) == ("EndpointNotFound", 150)
    assert "host name of s3.example.test is not known (DNS)" in str(failure)


def test_tls_is_trusted_only_with_its_authority(
    gateway: Path,
    servers: ModuleType,
    settings: Callable[..., StorageSettings],
    certificate: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    server = servers.S3Server(gateway, tmp_path / "tls", certificate=certificate)
    try:
        with Storage(settings(endpoint_url=server.url)) as stranger:
            failure = failure_of(lambda: stranger.stat("s3://bucket/x"))
        with Storage(settings(endpoint_url=server.url, ca_bundle=certificate[0])) as trusting:
            etag = trusting.put_if_absent("s3://bucket/x", b"1")
    finally:
        server.close()

    assert told(failure) == ("TlsFailed", 5)
    assert "self-signed certificate" in str(failure)
    assert etag is not None


def test_https_to_a_port_without_tls_is_told(server: Any, make_storage: MakeStorage, prefix: str) -> None:
    url = server.url.replace("http", "https")

    failure = failure_of(lambda: make_storage(endpoint_url=url).stat(f"{prefix}/x"))

    assert told(failure) == ("TlsFailed", 5)
    assert "check https or http" in str(failure)


def test_an_absent_ca_bundle_is_named(make_storage: MakeStorage, prefix: str, tmp_path: Path) -> None:
    storage = make_storage(ca_bundle=tmp_path / "ca.pem")

    with pytest.raises(ConfigError, match=rf"storage.caBundle: there is no file {tmp_path}/ca.pem"):
        storage.stat(f"{prefix}/x")


def test_an_object_with_another_sha256_is_refused_before_it_is_fetched(
    make_storage: MakeStorage, make_proxy: Any, prefix: str, make_file: MakeFile, tmp_path: Path
) -> None:
    proxy = make_proxy()
    storage = make_storage(endpoint_url=proxy.url)
    storage.upload(make_file(MIB), f"{prefix}/x")
    proxy.forget()

    failure = failure_of(lambda: storage.download(f"{prefix}/x", tmp_path / "x", sha256="0" * 64))

    assert told(failure) == ("ChecksumMismatch", 3)
    assert "sha256 000000000000… is expected" in str(failure)
    assert {exchange.request.method for exchange in proxy.exchanges()} == {"HEAD"}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-1] + bytes([content[-1] ^ 1]), id="last-bit"),
        pytest.param(lambda content: content[:-1], id="truncated"),
        pytest.param(lambda content: content[MIB:] + content[:MIB], id="swapped"),
    ],
)
def test_damaged_content_never_appears(
    server: Any, storage: Storage, prefix: str, make_file: MakeFile, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    storage.upload(make_file(3 * MIB), f"{prefix}/x")
    stored = server.folder / "buckets" / prefix.removeprefix("s3://") / "x"
    content = stored.read_bytes()
    with stored.open("rb+") as handle:
        handle.write(damage(content))
        handle.truncate(len(damage(content)))

    failure = failure_of(lambda: storage.download(f"{prefix}/x", tmp_path / "got" / "x"))

    assert told(failure) == ("ChecksumMismatch", 3)
    assert [path.name for path in (tmp_path / "got").iterdir()] == [".x.part.journal"]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(b"\n<!DOCTYPE html><html><body>404</body></html>", id="html5"),
        pytest.param(b"<HTML><head><title>Sign in</title>", id="html"),
        pytest.param(b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", id="s3-error"),
    ],
)
def test_an_error_page_in_place_of_weights_is_recognised(
    server: Any, storage: Storage, prefix: str, tmp_path: Path, page: bytes
) -> None:
    stored = server.folder / "buckets" / prefix.removeprefix("s3://") / "weights.pth"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(page)

    failure = failure_of(lambda: storage.download(f"{prefix}/weights.pth", tmp_path / "weights.pth"))

    assert told(failure) == ("ChecksumMismatch", 3)
    assert "it is a web page or an error message" in str(failure)
    assert not (tmp_path / "weights.pth").exists()


def test_too_small_a_disk_is_found_before_anything_is_fetched(
    server: Any, storage: Storage, prefix: str, tmp_path: Path
) -> None:
    stored = server.folder / "buckets" / prefix.removeprefix("s3://") / "x"
    stored.parent.mkdir(parents=True)
    with stored.open("wb") as handle:
        handle.truncate(2**42)

    failure = failure_of(lambda: storage.download(f"{prefix}/x", tmp_path / "x"))

    assert told(failure) == ("DiskFull", 150)
    assert "has 4398046511104 bytes" in str(failure)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_its_own_reason(number: int) -> None:
    failure = explain_os_error(OSError(number, os.strerror(number)), where="s3://bucket/x")

    assert told(failure) == ("DiskFull", 150)


def test_a_malformed_sha256_is_refused(storage: Storage, prefix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'abc' is not a sha256\. Give 64 hexadecimal digits"):
        storage.download(f"{prefix}/x", tmp_path / "x", sha256="abc")


def test_every_reason_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "storage.md").read_text(encoding="utf-8")
    kinds = [
        kind for kind in vars(failures).values() if isinstance(kind, type) and kind.__module__ == failures.__name__
    ]

    assert [kind.reason for kind in kinds if f"| {kind.reason} | {kind.exit_code} |" not in page] == []
