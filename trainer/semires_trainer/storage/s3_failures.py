"""From botocore's errors to ours. Messages hold codes, hosts and keys of objects; never a server's free text,
which may repeat an access key or a signature."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as boto

from semires_trainer.errors import SemiresError, StorageDenied
from semires_trainer.storage.failures import (
    AccessDenied,
    CredentialsMissing,
    EndpointNotFound,
    EndpointRedirects,
    EndpointUnreachable,
    ExpiredToken,
    InvalidCredentials,
    NoSuchBucket,
    NoSuchKey,
    NotSupported,
    ObjectChanged,
    RequestTimeTooSkewed,
    StorageUnavailable,
    TlsFailed,
    UploadVanished,
    WrongRegion,
    explain_os_error,
)

_KNOWN: dict[str, tuple[type[SemiresError], str, str]] = {
    "AccessDenied": (AccessDenied, "access to {uri} is denied", "Grant the identity read, write and list there"),
    "AllAccessDisabled": (AccessDenied, "access to {uri} is disabled", "Ask the owner of the bucket"),
    "NoSuchBucket": (NoSuchBucket, "the bucket of {uri} does not exist", "Create it, or correct the URI"),
    "NoSuchKey": (NoSuchKey, "there is no object {uri}", "Upload it, or correct the URI"),
    "NoSuchUpload": (UploadVanished, "the upload of {uri} was ended by another process", "Start again"),
    "PreconditionFailed": (ObjectChanged, "{uri} was changed by another process", "Start again"),
    "ExpiredToken": (ExpiredToken, "the session token used for {uri} has expired", "Renew the credentials"),
    "InvalidAccessKeyId": (InvalidCredentials, "the access key used for {uri} is unknown", "Correct the credentials"),
    "InvalidToken": (InvalidCredentials, "the session token used for {uri} is not valid", "Renew the credentials"),
    "SignatureDoesNotMatch": (
        InvalidCredentials,
        "the secret key used for {uri} does not belong to the access key",
        "Correct AWS_SECRET_ACCESS_KEY; look for spaces and line ends in it",
    ),
    "NotImplemented": (NotSupported, "the server does not support a request for {uri}", "Use another S3 server"),
}
_SAME = {
    "403": "AccessDenied",
    "404": "NoSuchKey",
    "412": "PreconditionFailed",
    "501": "NotImplemented",
    "Forbidden": "AccessDenied",
    "TokenRefreshRequired": "ExpiredToken",
    "RequestExpired": "ExpiredToken",
}
_REGION_CODES = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_PASSING = {
    *(
        "SlowDown",
        "RequestTimeout",
        "OperationAborted",
        "ConditionalRequestConflict",
        "Throttling",
        "RequestLimitExceeded",
    ),
    *("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "InternalError", "ServiceUnavailable", "429"),
}


def explain(error: Exception, *, uri: str, endpoint: str = "", now: datetime | None = None) -> SemiresError:
    """The failure that `error`, raised by botocore or the system during a transfer of `uri`, means."""
    if isinstance(error, SemiresError):
        return error
    if isinstance(error, RecursionError):  # botocore follows redirects that never end
        remedy = "Give its final URL; it may want https"
        return EndpointRedirects(f"{urlsplit(endpoint).netloc} redirects {uri} elsewhere", remedy=remedy)
    if isinstance(error, boto.ClientError):
        return _explain_answer(error.response, uri=uri, now=now or datetime.now(UTC))
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        return CredentialsMissing(
            f"no credentials were found for {uri}",
            remedy="Set spec.storage.credentialsSecret, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if isinstance(error, boto.HTTPClientError | boto.IncompleteReadError | boto.ConnectionError):
        return _explain_connection(error, uri=uri, endpoint=endpoint)
    if isinstance(error, OSError):
        return explain_os_error(error, where=uri)
    if isinstance(error, boto.BotoCoreError):
        return StorageDenied(f"{uri} cannot be asked for: {type(error).__name__}", remedy="Check spec.storage")
    raise error


def _explain_answer(response: dict[str, Any], *, uri: str, now: datetime) -> SemiresError:
    error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    status, headers = int(metadata.get("HTTPStatusCode", 0)), metadata.get("HTTPHeaders", {})
    code = str(error.get("Code", status))
    region = _right_region(error, headers)
    if code in _REGION_CODES or (code == "400" and region):
        told = f"the bucket of {uri} lies in {f'region {region}' if region else 'another region'}"
        return WrongRegion(told, remedy=f"Set spec.storage.region{f' to {region}' if region else ''}")
    if code == "RequestTimeTooSkewed":
        return RequestTimeTooSkewed(f"{_skew(headers, now)}, too far for {uri}", remedy="Set the node's clock (NTP)")
    if code in _PASSING or (status >= 500 and code != "NotImplemented" and status != 501):
        return StorageUnavailable(f"the server fails on {uri} (HTTP {status} {code})", remedy="Start again later")
    known = _KNOWN.get(_SAME.get(code, code))
    if known is not None:
        kind, problem, remedy = known
        return kind(problem.format(uri=uri), remedy=remedy)
    return StorageDenied(f"the server refuses {uri} (HTTP {status} {code})", remedy="Check spec.storage and the URI")


def _right_region(error: dict[str, Any], headers: dict[str, str]) -> str:
    """The region that an answer names, as far as it looks like one."""
    told = error.get("Region") or headers.get("x-amz-bucket-region") or ""
    if not told:
        expecting = re.search(r"expecting '([^']+)'", str(error.get("Message", "")))
        told = expecting[1] if expecting else ""
    return told if re.fullmatch(r"[a-z0-9-]{1,40}", told) else ""


def _skew(headers: dict[str, str], now: datetime) -> str:
    """By how much this machine's clock is off, from the answer's Date."""
    try:
        server = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return "the clocks of this machine and of the server differ"
    if server.tzinfo is None:
        server = server.replace(tzinfo=UTC)
    offset = round((now - server).total_seconds())
    return f"this machine's clock is {abs(offset)} s {'ahead of' if offset > 0 else 'behind'} the server's"


def _explain_connection(error: Exception, *, uri: str, endpoint: str) -> SemiresError:
    causes = list(_causes(error))
    host = urlsplit(endpoint).netloc or "the endpoint"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return EndpointNotFound(f"the host name of {host} is not known (DNS)", remedy="Correct the endpoint's URL")
    if isinstance(error, boto.SSLError) and re.search("CERTIFICATE|WRONG_VERSION|HOSTNAME", str(error)):
        why = re.search(r"verify failed: ([A-Za-z -]+)", str(error))
        told = why[1].strip() if why else "no trusted certificate"
        remedy = "Give the authority's certificate as the endpoint's CA bundle; check https or http in its URL"
        return TlsFailed(f"TLS with {host} failed: {told}", remedy=remedy)
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        return EndpointUnreachable(f"nothing answers at {host}", remedy="Check the endpoint's URL and the network")
    if isinstance(error, boto.ProxyConnectionError):
        return EndpointUnreachable("the HTTP proxy does not answer", remedy="Check HTTPS_PROXY and NO_PROXY")
    return StorageUnavailable(f"the connection to {host} broke while transferring {uri}", remedy="Start again to go on")


def _causes(error: BaseException | None) -> list[BaseException]:
    """The errors behind an error: botocore keeps one as an argument, Python the others."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        wrapped = getattr(error, "kwargs", {}).get("error")
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__ or error.__context__
    return found
