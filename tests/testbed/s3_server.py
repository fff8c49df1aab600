"""A versitygw on a free port, over a folder whose subfolders are the buckets."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

ACCESS, SECRET, REGION = "testbed-key", "testbed-secret-4f1c", "eu-test-1"
STARTUP_SECONDS = 30


class S3Server:
    """A running server; `close` ends it. With `certificate` it speaks TLS."""

    def __init__(self, program: Path, folder: Path, *, certificate: tuple[Path, Path] | None = None) -> None:
        self.program, self.folder = program, folder
        self.port = free_port()
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"
        self.keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET}
        for name in ("buckets/bucket", "accounts"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        tls = ["--cert", str(certificate[0]), "--key", str(certificate[1])] if certificate else []
        options = ["--port", f"127.0.0.1:{self.port}", "--region", REGION, "--iam-dir", str(folder / "accounts")]
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(
            [str(program), *options, "--quiet", "--keep-alive", *tls, "posix", str(folder / "buckets")],
            env={**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    @property
    def process_id(self) -> int:
        """Of the server."""
        return self._process.pid

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self.close()
        raise RuntimeError(f"versitygw did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def add_user(self, access: str, secret: str, *, role: str = "user") -> None:
        """An account that owns no bucket; an admin may use all."""
        login = ["--access", ACCESS, "--secret", SECRET, "--endpoint-url", self.url, "--region", REGION]
        user = ["create-user", "--access", access, "--secret", secret, "--role", role]
        subprocess.run([str(self.program), "admin", *login, *user], check=True, capture_output=True)

    def close(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_credentials(folder: Path, *, access: str = ACCESS, secret: str = SECRET, token: str = "") -> Path:
    """A folder with the files of a mounted Secret."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
    for name, value in values.items():
        (folder / name).write_text(value)
    return folder
