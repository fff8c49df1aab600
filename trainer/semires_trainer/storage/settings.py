"""How S3 is reached: endpoint, identity, sizes and patience."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from semires_trainer.errors import ConfigError

MIB = 2**20
SMALLEST_PART = 5 * MIB
"""S3 refuses smaller parts, but for the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSettings:
    """Settings of one S3 service; the defaults are those of AWS and its standard chain of credentials."""

    endpoint_url: str = ""
    """http(s)://host[:port]; empty leaves it to AWS_ENDPOINT_URL and the region."""
    region: str = ""
    """Region; empty leaves it to AWS_REGION."""
    path_style: bool = False
    """Bucket in the path instead of the host name: needed by most servers that are not AWS."""
    ca_bundle: Path | None = None
    """PEM file of authorities to trust for https, instead of the public ones."""
    credentials_folder: Path | None = None
    """Folder with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and maybe AWS_SESSION_TOKEN; else the standard chain."""
    transfers: int = 4
    """Parts of one file in flight, 1 to 64."""
    download_part_bytes: int = 64 * MIB
    """Largest range of one request; costs no memory. Smaller files are cut into two ranges a transfer."""
    upload_part_bytes: int = 8 * MIB
    """Part of a multipart upload, at least 5 MiB; `transfers` of them are in memory."""
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 60.0
    """Longest silence of the server."""
    patience_seconds: float = 300.0
    """Time without any progress after which a service that fails or is silent is given up."""
    rotation_seconds: float = 180.0
    """How long new credentials are waited for when those in the folder have expired, or are refused after they were
    taken: the kubelet brings a changed Secret within one to two minutes."""

    def __post_init__(self) -> None:
        if self.endpoint_url:
            _check_endpoint(self.endpoint_url)
        if not 1 <= self.transfers <= 64:
            raise ConfigError(f"must be 1 to 64, got {self.transfers}", field="storage.transfers")
        if self.download_part_bytes < 1:
            raise ConfigError(f"must be positive, got {self.download_part_bytes}", field="storage.download_part_bytes")
        if self.upload_part_bytes < SMALLEST_PART:
            problem = f"must be at least {SMALLEST_PART} bytes, got {self.upload_part_bytes}"
            raise ConfigError(problem, field="storage.upload_part_bytes")
        for name in ("connect_timeout_seconds", "read_timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"must be positive, got {getattr(self, name)}", field=f"storage.{name}")


def _check_endpoint(url: str) -> None:
    """ConfigError unless http(s)://host[:port]; the URL itself is not repeated if it holds a login."""
    remedy = "Write https://host or https://host:port"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid, parts = False, urlsplit("")
    if "@" in url:
        raise ConfigError("an endpoint must not hold a login", field="storage.endpoint", remedy=remedy)
    if not valid or parts.query or parts.fragment or parts.path.strip("/"):
        raise ConfigError(f"{url!r} is not the URL of an endpoint", field="storage.endpoint", remedy=remedy)
