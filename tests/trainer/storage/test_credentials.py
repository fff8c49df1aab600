"""Credentials in files may be replaced at any time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from semires_trainer.storage import Storage
from semires_trainer.storage.credentials import REREAD_SECONDS, FolderCredentials
from semires_trainer.storage.failures import CredentialsMissing, InvalidCredentials

MakeStorage = Callable[..., Storage]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("later", "access"),
    [pytest.param(REREAD_SECONDS - 1, "old", id="not-yet"), pytest.param(REREAD_SECONDS, "new", id="after-5-minutes")],
)
def test_files_are_read_again_every_five_minutes(
    servers: ModuleType, tmp_path: Path, later: float, access: str
) -> None:
    servers.write_credentials(tmp_path, access="old")
    clock = Clock()
    credentials = FolderCredentials(tmp_path, clock=clock)
    servers.write_credentials(tmp_path, access="new")

    clock.now = later

    assert credentials.get_frozen_credentials().access_key == access


def test_a_mounted_secret_is_read_through_its_link(servers: ModuleType, tmp_path: Path) -> None:
    servers.write_credentials(tmp_path / "..2026", access="current", token="token\n")
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / name).write_text("stale")

    found = FolderCredentials(tmp_path).get_frozen_credentials()

    assert (found.access_key, found.secret_key, found.token) == ("current", servers.SECRET, "token")


def test_an_empty_file_is_named(servers: ModuleType, tmp_path: Path) -> None:
    servers.write_credentials(tmp_path, secret=" \n")

    with pytest.raises(CredentialsMissing, match="AWS_SECRET_ACCESS_KEY is empty"):
        FolderCredentials(tmp_path)


def test_files_that_vanish_for_a_moment_change_nothing(servers: ModuleType, tmp_path: Path) -> None:
    servers.write_credentials(tmp_path, access="old")
    credentials = FolderCredentials(tmp_path)
    (tmp_path / "AWS_ACCESS_KEY_ID").unlink()

    assert credentials.reload() == 0
    assert credentials.get_frozen_credentials().access_key == "old"


def test_an_upload_goes_on_with_credentials_that_are_replaced_while_it_runs(
    server: Any,
    servers: ModuleType,
    make_storage: MakeStorage,
    make_proxy: Any,
    faults: ModuleType,
    prefix: str,
    credentials: Path,
    make_file: Callable[..., Path],
) -> None:
    server.add_user("second", "second-secret", role="admin")
    parts, replaced = iter(range(10)), threading.Event()

    def expire_at_the_third_part(request: Any) -> Any:
        if request.moves_content and not replaced.is_set() and next(parts) == 2:
            servers.write_credentials(credentials, access="second", secret="second-secret")
            replaced.set()
            return faults.Answer(status=403, code="ExpiredToken")
        return None

    proxy = make_proxy(expire_at_the_third_part)

    moved = make_storage(endpoint_url=proxy.url, transfers=1).upload(make_file(16 * 2**20), f"{prefix}/x")

    assert replaced.is_set()
    assert moved.moved == 16 * 2**20


def test_an_expired_token_is_waited_for(
    servers: ModuleType, make_storage: MakeStorage, make_proxy: Any, faults: ModuleType, prefix: str, credentials: Path
) -> None:
    answers = iter([faults.Answer(status=403, code="ExpiredToken")] * 2)
    storage = make_storage(endpoint_url=make_proxy(lambda _: next(answers, None)).url, rotation_seconds=60.0)
    renewal = threading.Timer(
        0.2, lambda: servers.write_credentials(credentials, secret=f" {servers.SECRET}", token="")
    )
    (credentials / "AWS_SESSION_TOKEN").write_text("expired")
    renewal.start()

    assert storage.stat(f"{prefix}/absent") is None


def test_keys_that_were_taken_before_and_are_refused_now_are_waited_for(
    server: Any,
    servers: ModuleType,
    make_storage: MakeStorage,
    make_proxy: Any,
    faults: ModuleType,
    prefix: str,
    credentials: Path,
) -> None:
    """The old key is deleted at the server before the changed Secret reaches the pod."""
    server.add_user("renewed", "renewed-secret", role="admin")
    is_deleted = threading.Event()

    def refuse_until_renewed(_: Any) -> Any:
        taken = not is_deleted.is_set() or (credentials / "AWS_ACCESS_KEY_ID").read_text().strip() == "renewed"
        return None if taken else faults.Answer(status=403, code="InvalidAccessKeyId")

    storage = make_storage(endpoint_url=make_proxy(refuse_until_renewed).url, rotation_seconds=60.0)
    storage.put_if_absent(f"{prefix}/x", b"1")
    is_deleted.set()
    renewal = threading.Timer(
        0.2, lambda: servers.write_credentials(credentials, access="renewed", secret="renewed-secret")
    )
    renewal.start()

    assert storage.read_bytes(f"{prefix}/x").data == b"1"


def test_keys_that_are_wrong_at_their_first_use_are_told_at_once(
    servers: ModuleType, make_storage: MakeStorage, prefix: str, credentials: Path
) -> None:
    servers.write_credentials(credentials, access="unknown")
    began = time.monotonic()

    with pytest.raises(InvalidCredentials):
        make_storage(rotation_seconds=60.0).stat(f"{prefix}/x")

    assert time.monotonic() - began < 30
