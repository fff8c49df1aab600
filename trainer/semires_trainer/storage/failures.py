"""What can go wrong with storage: one class, reason and exit code for each, with what to do about it."""

from __future__ import annotations

import errno
from typing import ClassVar

from semires_trainer.errors import DataError, InfrastructureError, SemiresError, StorageDenied


class AccessDenied(StorageDenied):
    """The identity may not do this."""

    reason = "AccessDenied"


class CredentialsMissing(StorageDenied):
    """No credentials were found, or the folder lacks a file."""

    reason = "CredentialsMissing"


class InvalidCredentials(StorageDenied):
    """The access key is unknown, or the secret does not belong to it."""

    reason = "InvalidCredentials"


class ExpiredToken(StorageDenied):
    """The session token has run out."""

    reason = "ExpiredToken"


class NoSuchBucket(StorageDenied):
    """The bucket does not exist."""

    reason = "NoSuchBucket"


class WrongRegion(StorageDenied):
    """The bucket lies in another region."""

    reason = "WrongRegion"


class TlsFailed(StorageDenied):
    """The server's certificate is not trusted, or the port does not speak TLS."""

    reason = "TlsFailed"


class EndpointRedirects(StorageDenied):
    """The endpoint sends requests to another address."""

    reason = "EndpointRedirects"


class NotSupported(StorageDenied):
    """The server does not know this operation or header."""

    reason = "NotSupported"


class NoSuchKey(DataError):
    """There is no such object or file."""

    reason = "NoSuchKey"


class ChecksumMismatch(DataError):
    """The content is not what its sha256 says, or is an error page in place of data."""

    reason = "ChecksumMismatch"


class TooLarge(DataError):
    """An object that should be small is not."""

    reason = "TooLarge"


class RequestTimeTooSkewed(InfrastructureError):
    """The clocks of this machine and the server differ by too much for a signature."""

    reason = "RequestTimeTooSkewed"


class DiskFull(InfrastructureError):
    """The local disk has no room."""

    reason = "DiskFull"


class ObjectChanged(InfrastructureError):
    """The object or file was replaced while it was transferred; also a condition that did not hold."""

    reason = "ObjectChanged"


class UploadVanished(InfrastructureError):
    """A multipart upload was completed or aborted by somebody else."""

    reason = "UploadVanished"


class StorageUnavailable(InfrastructureError):
    """The service answers with errors, resets connections or is silent; worth another try."""

    reason = "StorageUnavailable"


class EndpointUnreachable(StorageUnavailable):
    """Nothing answers at the endpoint's address."""

    reason = "EndpointUnreachable"


class EndpointNotFound(StorageUnavailable):
    """The endpoint's host name has no address."""

    reason = "EndpointNotFound"
    longest_patience_seconds: ClassVar[float] = 30.0


_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain_os_error(error: OSError, *, where: str) -> SemiresError:
    """The failure that an operating-system error about a file or a socket means."""
    if error.errno in _FULL:
        return DiskFull(f"no space left on the disk while writing {where}", remedy="Free space, or use another disk")
    if isinstance(error, FileNotFoundError):
        return NoSuchKey(f"there is no {error.filename or where}", remedy="Correct the path")
    if isinstance(error, PermissionError):
        return AccessDenied(f"no permission for {error.filename or where}", remedy="Change its owner or its mode")
    if isinstance(error, ConnectionError | TimeoutError):
        return StorageUnavailable(f"the connection broke while transferring {where}", remedy="Start again to go on")
    return InfrastructureError(f"{where}: {error.strerror or type(error).__name__}")
