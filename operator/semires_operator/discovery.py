"""Which of the kinds that the operator reads are served by this cluster, asked again and again: CRDs come and go."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from semires_operator import kube
from semires_operator.observed import Backend

logger = logging.getLogger(__name__)

KUEUE_GROUP = "kueue.x-k8s.io"


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Kinds that the API server serves."""

    semiresjobs: bool = False
    pytorchjobs: bool = False
    workloads: kube.Resource | None = None
    """Kueue's, in the version that its API prefers."""

    @property
    def backend(self) -> Backend:
        """What `decide` is told of it."""
        return Backend(pytorchjobs=self.pytorchjobs, workloads=self.workloads is not None)


async def discover(api: kube.Api) -> Served:
    """Ask the API server. ApiError if it does not say."""
    groups = {group["name"]: group for group in (await api.raw("/apis")).get("groups", [])}
    workloads = None
    if KUEUE_GROUP in groups:
        version = groups[KUEUE_GROUP]["preferredVersion"]["version"]
        kueue = kube.Resource(group=KUEUE_GROUP, version=version, plural="workloads")
        workloads = kueue if await _serves(api, kueue) else None
    return Served(
        semiresjobs=kube.SEMIRESJOBS.group in groups and await _serves(api, kube.SEMIRESJOBS),
        pytorchjobs=kube.PYTORCHJOBS.group in groups and await _serves(api, kube.PYTORCHJOBS),
        workloads=workloads,
    )


async def _serves(api: kube.Api, resource: kube.Resource) -> bool:
    try:
        found = await api.raw(f"/apis/{resource.group}/{resource.version}")
    except kube.ApiError as error:
        if error.code == 404:
            return False
        raise
    return any(kind["name"] == resource.plural for kind in found.get("resources", []))
