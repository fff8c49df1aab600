"""A boto3 client with settings, and the loop that decides what is tried again and for how long."""

from __future__ import annotations

import copy
import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from semires_trainer.errors import ConfigError, SemiresError
from semires_trainer.storage.credentials import FolderCredentials, resolver_of
from semires_trainer.storage.failures import (
    EndpointNotFound,
    ExpiredToken,
    InvalidCredentials,
    StorageUnavailable,
)
from semires_trainer.storage.parallel import Cancelled
from semires_trainer.storage.s3_failures import explain
from semires_trainer.storage.settings import StorageSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")
ATTEMPTS = 5
"""Quick attempts of botocore at one request, before our own loop waits longer."""
KEPT_CONNECTIONS = 64
"""Idle connections kept for the next request, of all threads together."""
LONGEST_PAUSE_SECONDS = 20.0
TOLD_AT = (6, 12)
"""Pauses before which somebody who waits is told why: after about 5 s, and after a minute and a half."""
_ROTATION_POLL_SECONDS = 1.0


_POLL_SECONDS = 0.5
"""How often `should_stop` is asked during a pause."""


class S3:
    """An S3 service; threads may share it."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        folder = settings.credentials_folder
        self.credentials = FolderCredentials(folder) if folder is not None else None
        self.client = _make_client(settings, self.credentials)
        self.should_stop: Callable[[], bool] = lambda: False

    def stopping(self, should_stop: Callable[[], bool]) -> S3:
        """The same service, whose calls raise Cancelled once `should_stop()` is true."""
        view = copy.copy(self)
        view.should_stop = should_stop
        return view

    def check_stop(self, stop: threading.Event | None = None) -> None:
        """Cancelled if `stop` is set or `should_stop()` is true."""
        if (stop is not None and stop.is_set()) or self.should_stop():
            raise Cancelled

    def call(
        self,
        action: Callable[[], T],
        *,
        uri: str,
        stop: threading.Event | None = None,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """`action()`, tried again while its failures pass by themselves and credentials are renewed.

        The patience begins anew whenever `progress()` has moved. Raises the SemiresError of the last failure, and
        Cancelled once `stop` is set.
        """
        pause = _Pause(self.settings.patience_seconds, partial(self._wait, stop or threading.Event()))
        reached = progress()
        while True:
            self.check_stop()
            version = self.credentials.version if self.credentials else 0
            try:
                answer = action()
            except (BotoCoreError, ClientError, OSError, RecursionError, StorageUnavailable) as error:
                failure = explain(error, uri=uri, endpoint=self.client.meta.endpoint_url)
                if progress() != reached:
                    reached = progress()
                    pause.restart()
                if self._renewed(failure, version, pause.sleep):
                    continue
                if not pause.wait(failure):
                    raise failure from error
                logger.debug("Trying again: %s", failure)
            else:
                if self.credentials:
                    self.credentials.note_success(version)
                return answer

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Pause; Cancelled as soon as nobody needs the call any more."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            stop.wait(min(left, _POLL_SECONDS))
            self.check_stop(stop)

    def _renewed(self, failure: SemiresError, version: int, sleep: Callable[[float], None]) -> bool:
        """Whether the folder holds other credentials than those refused. They are waited for where those were good
        once: expired, or replaced at the server before the Secret's new content has reached this pod.
        """
        if self.credentials is None or not isinstance(failure, ExpiredToken | InvalidCredentials):
            return False
        were_good = isinstance(failure, ExpiredToken) or self.credentials.has_succeeded(version)
        deadline = time.monotonic() + (self.settings.rotation_seconds if were_good else 0.0)
        while self.credentials.reload() == version:
            if time.monotonic() >= deadline:
                return False
            sleep(_ROTATION_POLL_SECONDS)
        return True


class _Pause:
    """Growing pauses with jitter, until patience runs out."""

    def __init__(self, patience: float, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep
        self._patience = patience
        self.restart()

    def restart(self) -> None:
        self._started = time.monotonic()
        self._number = 0

    def wait(self, failure: SemiresError) -> bool:
        """Pause before another attempt; False if there shall be none."""
        limit = self._patience
        if isinstance(failure, EndpointNotFound):
            limit = min(limit, failure.longest_patience_seconds)
        if not isinstance(failure, StorageUnavailable) or time.monotonic() - self._started >= limit:
            return False
        self._number += 1
        if self._number in TOLD_AT:
            logger.warning("Storage does not answer; it is tried for %.0f s. %s", limit, failure)
        self.sleep(random.uniform(0.5, 1.0) * min(0.1 * 2**self._number, LONGEST_PAUSE_SECONDS))
        return True


def _make_client(settings: StorageSettings, credentials: FolderCredentials | None) -> Any:
    if settings.ca_bundle is not None and not settings.ca_bundle.is_file():
        raise ConfigError(f"there is no file {settings.ca_bundle}", field="storage.caBundle", remedy="Correct the path")
    core = botocore.session.get_session()
    if credentials is not None:
        core.register_component("credential_provider", resolver_of(credentials))
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=settings.connect_timeout_seconds,
        read_timeout=settings.read_timeout_seconds,
        tcp_keepalive=True,
        max_pool_connections=KEPT_CONNECTIONS,
        # Servers that are not AWS refuse the newer checksum headers. A signed payload is a sha256 that all check.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if settings.path_style else "auto", "payload_signing_enabled": True},
    )
    try:
        return boto3.session.Session(botocore_session=core).client(
            "s3",
            endpoint_url=settings.endpoint_url or None,
            region_name=settings.region or core.get_config_variable("region") or "us-east-1",
            verify=str(settings.ca_bundle) if settings.ca_bundle else None,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        problem = f"no S3 client can be made of these settings: {type(error).__name__}"
        raise ConfigError(problem, field="spec.storage", remedy="Check endpoint, region and AWS_* variables") from error
