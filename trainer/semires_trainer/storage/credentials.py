"""Credentials from files that may be replaced while the program runs, as a mounted Secret is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials

from semires_trainer.storage.failures import CredentialsMissing

REREAD_SECONDS = 300.0
ACCESS_KEY, SECRET_KEY, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"


def read_credentials(folder: Path) -> ReadOnlyCredentials:
    """The credentials in a folder; CredentialsMissing names an absent or empty file.

    Kubernetes replaces a mounted Secret by switching the link `..data`: following it once gives files of one age.
    """
    current = folder / "..data"
    source = current.resolve() if current.exists() else folder
    return ReadOnlyCredentials(_read(source, ACCESS_KEY, folder), _read(source, SECRET_KEY, folder), _token(source))


def _read(source: Path, name: str, folder: Path) -> str:
    try:
        value = (source / name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        remedy = f"The Secret needs the keys {ACCESS_KEY} and {SECRET_KEY}"
        raise CredentialsMissing(f"{folder / name} cannot be read", remedy=remedy) from error
    if not value:
        raise CredentialsMissing(f"{folder / name} is empty", remedy="Put the key into it")
    return value


def _token(source: Path) -> str | None:
    try:
        return (source / TOKEN).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


class FolderCredentials(Credentials):  # type: ignore[misc]  # botocore has no types
    """Credentials that are read again every five minutes, and when a server says they have expired."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._guard = threading.Lock()
        self._current = read_credentials(folder)
        self._read_at = clock()
        self.version = 0
        self._succeeded = -1
        super().__init__(*self._current[:3], method="semires-folder")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """What botocore signs with."""
        if self._clock() - self._read_at >= REREAD_SECONDS:
            self.reload()
        return self._current

    def note_success(self, version: int) -> None:
        """A server has taken this version."""
        self._succeeded = max(self._succeeded, version)

    def has_succeeded(self, version: int) -> bool:
        """Whether a server has taken this version before."""
        return self._succeeded == version

    def reload(self) -> int:
        """Read the files again and return the version, which grows when they changed; a file that is briefly
        absent changes nothing."""
        with self._guard:
            self._read_at = self._clock()
            try:
                found = read_credentials(self._folder)
            except CredentialsMissing:
                return self.version
            if found != self._current:
                self._current = found
                self.access_key, self.secret_key, self.token = found[:3]
                self.version += 1
            return self.version


class _FolderProvider(CredentialProvider):  # type: ignore[misc]  # botocore has no types
    METHOD = CANONICAL_NAME = "semires-folder"

    def __init__(self, credentials: FolderCredentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> FolderCredentials:
        return self._credentials


def resolver_of(credentials: FolderCredentials) -> CredentialResolver:
    """What a botocore session takes as its `credential_provider`."""
    return CredentialResolver([_FolderProvider(credentials)])
