"""How a run reaches S3: the manifest's `storage`, the endpoints that are known here, and the environment of a pod."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from semires_trainer.config import Storage as StorageSection
from semires_trainer.errors import ConfigError
from semires_trainer.storage import StorageSettings

ENDPOINT_URL, REGION, PATH_STYLE = ("SEMIRES_ENDPOINT_URL", "SEMIRES_ENDPOINT_REGION", "SEMIRES_ENDPOINT_PATH_STYLE")
CA_BUNDLE, CREDENTIALS = ("SEMIRES_ENDPOINT_CA", "SEMIRES_CREDENTIALS")
"""What the operator gives a pod: the endpoint from the administrator's list, and where the Secret is mounted."""
DEFAULT_NAME = "default"


def parse_endpoints(texts: Iterable[str]) -> dict[str, str]:
    """'NAME=URL' of the command line as name -> URL; ConfigError for anything else."""
    endpoints = {}
    for text in texts:
        name, sign, url = text.partition("=")
        if not sign or not name or "://" not in url:
            raise ConfigError(
                f'"{text}" is not NAME=URL', field="--endpoint", remedy="Write --endpoint default=https://host:port"
            )
        endpoints[name] = url
    return endpoints


def storage_settings(
    section: StorageSection | None, endpoints: Mapping[str, str], environment: Mapping[str, str]
) -> StorageSettings:
    """Settings of the service that `spec.storage.endpoint` names.

    In a pod the operator has looked the name up. Else the name is one of `endpoints`, or `default`: AWS_ENDPOINT_URL if
    it is set, AWS if not. ConfigError for a name that is not known, listing those that are.
    """
    name = section.endpoint if section else DEFAULT_NAME
    url = environment.get(ENDPOINT_URL) or endpoints.get(name, "")
    if not url and (name != DEFAULT_NAME or endpoints):
        known = ", ".join(sorted(endpoints)) or "none"
        raise ConfigError(
            f"the endpoint {name!r} is not known here; known: {known}",
            field="spec.storage.endpoint",
            remedy=f"Give its address: --endpoint {name}=https://host:port",
        )
    url = url or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL", "")
    ca_bundle, credentials = environment.get(CA_BUNDLE), environment.get(CREDENTIALS)
    return StorageSettings(
        endpoint_url=url,
        region=(section.region if section and section.region else environment.get(REGION)) or "",
        # Names of buckets are not host names anywhere but at AWS, unless the operator's list says so.
        path_style=environment.get(PATH_STYLE, "true" if url else "false") == "true",
        ca_bundle=Path(ca_bundle) if ca_bundle else None,
        credentials_folder=Path(credentials) if credentials else None,
    )
