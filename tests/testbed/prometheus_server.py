"""A Prometheus of its own on a free port, with one target, its data in a folder; and its linter."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

STARTUP_SECONDS = 30
SCRAPE_SECONDS = 1


def program(name: str) -> str:
    """`prometheus` or `promtool`."""
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"the testbed needs {name}: install the Debian package prometheus")
    return found


def lint(exposition: bytes) -> str:
    """What `promtool check metrics` has to say of a scrape: nothing, if it is well formed and well named."""
    result = subprocess.run([program("promtool"), "check", "metrics"], input=exposition, capture_output=True)
    return (result.stdout + result.stderr).decode() + ("" if result.returncode == 0 else f"exit {result.returncode}")


class PrometheusServer:
    """A running server that scrapes 127.0.0.1:`target_port` every second; `close` ends it."""

    def __init__(self, folder: Path, target_port: int) -> None:
        self.port = free_port()
        config = folder / "prometheus.yaml"
        job = {"job_name": "semires", "static_configs": [{"targets": [f"127.0.0.1:{target_port}"]}]}
        scrape = {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"}
        config.write_text(json.dumps({"global": scrape, "scrape_configs": [job]}))  # JSON is YAML
        self._log_path = folder / "prometheus.log"
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            [
                *(program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        self.close()
        raise RuntimeError(f"Prometheus did not start: {self._log_path.read_text()[-2000:]}")

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its HTTP API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]]

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
