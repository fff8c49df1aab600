"""Throw-away certificates, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = 3650


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    """PEM file."""
    key: Path
    """PEM file."""


def pair_in(folder: Path, name: str) -> Pair:
    """Where the pair `name` lies in `folder`."""
    return Pair(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")


def make_authority(folder: Path, name: str, *, dns_name: str = "", rsa: bool = False) -> Pair:
    """A certificate that may sign others; some programs want an RSA key of it, and in the old form (PKCS 1)."""
    extensions = {
        "basicConstraints": "critical,CA:TRUE",
        "keyUsage": "critical,keyCertSign,digitalSignature",
        "subjectAltName": f"DNS:{dns_name or name}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    key = pair_in(folder, name).key
    if rsa:
        _openssl("genrsa", "-traditional", "-out", str(key), "2048")
    else:
        make_key(key)
    return _certify(folder, name, f"/CN={name}", extensions)


def issue(authority: Pair, folder: Path, name: str, *, subject: str, names: tuple[str, ...] = ()) -> Pair:
    """A certificate for a server with `names` ("DNS:localhost", "IP:127.0.0.1", ...), or for a client without any."""
    extensions = {
        "basicConstraints": "critical,CA:FALSE",
        "keyUsage": "critical,digitalSignature",
        "extendedKeyUsage": "serverAuth" if names else "clientAuth",
    }
    if names:
        extensions["subjectAltName"] = ",".join(names)
    signed_by = ("-CA", str(authority.certificate), "-CAkey", str(authority.key))
    folder.mkdir(parents=True, exist_ok=True)
    make_key(pair_in(folder, name).key)
    return _certify(folder, name, subject, extensions, *signed_by)


def make_key(path: Path) -> Path:
    """A private key alone, in the form (SEC 1) in which the API server reads one."""
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))
    return path


def _certify(folder: Path, name: str, subject: str, extensions: dict[str, str], *options: str) -> Pair:
    config = folder / f"{name}.cnf"
    lines = [f"{key} = {value}" for key, value in extensions.items()]
    config.write_text(
        "\n".join(["[req]", "distinguished_name = dn", "x509_extensions = ext", "[dn]", "[ext]", *lines, ""])
    )
    pair = pair_in(folder, name)
    files = ("-config", str(config), "-key", str(pair.key), "-out", str(pair.certificate))
    _openssl("req", "-x509", "-days", str(DAYS), "-subj", subject, *files, *options)
    return pair


def _openssl(*arguments: str) -> None:
    result = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {result.stderr[-1000:]}")
