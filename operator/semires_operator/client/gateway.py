"""The few requests that the client makes, on the official package: plain JSON in and out, errors as ours."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Literal

import urllib3
from kubernetes.client import CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from semires_operator.client.connection import Connection
from semires_operator.client.errors import ClusterError, Unreachable
from semires_operator.client.failures import error_of, status_of
from semires_operator.names import GROUP, KIND, PLURAL, VERSION

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
SILENCE_SECONDS = 10.0
"""How much longer than it was told to last a watch may be silent before it counts as cut."""
LOG_SILENCE_SECONDS = 300.0
"""A followed log without a line for so long is asked for again."""
MANAGER = "semires"
"""Field manager of what a user submits."""
Verb = Literal["create", "replace"]


class Gateway:
    """Speaks with one API server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._jobs: Any = CustomObjectsApi(connection.api)

    @functools.cached_property
    def _core(self) -> Any:
        """The API of pods and events; its package takes as long to load as all else together."""
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self.connection.api)

    def close(self) -> None:
        """Close the connections."""
        self.connection.api.close()

    def list_jobs(self, namespace: str | None, *, selector: str = "", name: str = "") -> dict[str, Any]:
        """The list of jobs, of all namespaces if `namespace` is None; of one name if `name` is given."""
        filters = {"label_selector": selector, "field_selector": f"metadata.name={name}" if name else ""}
        given = {key: value for key, value in filters.items() if value}
        if namespace is None:
            return self._json(PLURAL, self._jobs.list_cluster_custom_object, GROUP, VERSION, PLURAL, **given)
        return self._json(PLURAL, self._jobs.list_namespaced_custom_object, *self._place(namespace), **given)

    def watch_jobs(self, namespace: str, name: str, version: str, *, seconds: int) -> Generator[dict[str, Any]]:
        """Events of one job since a version, until the server ends the watch after `seconds`.

        Raises Unreachable if the stream is cut.
        """
        options = {
            "field_selector": f"metadata.name={name}",
            "resource_version": version,
            "watch": True,
            "allow_watch_bookmarks": True,
            "timeout_seconds": seconds,
            "_request_timeout": (CONNECT_SECONDS, seconds + SILENCE_SECONDS),
        }
        lines = self._lines(PLURAL, self._jobs.list_namespaced_custom_object, *self._place(namespace), **options)
        with contextlib.closing(lines):
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError as error:
                    raise Unreachable("the watch was cut in the middle of an event", remedy="Try again") from error
                yield event

    def get_job(self, namespace: str, name: str) -> dict[str, Any]:
        """One job."""
        what = f'{KIND} "{name}" in namespace "{namespace}"'
        return self._json(what, self._jobs.get_namespaced_custom_object, *self._place(namespace), name)

    def write_job(self, verb: Verb, namespace: str, body: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
        """Create a job, or replace one: with metadata.resourceVersion only if it has not changed since."""
        name = body["metadata"]["name"]
        options = {"field_manager": MANAGER, "field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
        place, what = self._place(namespace), f'{KIND} "{name}"'
        if verb == "create":
            return self._json(what, self._jobs.create_namespaced_custom_object, *place, dict(body), **options)
        return self._json(what, self._jobs.replace_namespaced_custom_object, *place, name, dict(body), **options)

    def patch_job(self, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge a patch into a job."""
        what = f'{KIND} "{name}" in namespace "{namespace}"'
        call = self._jobs.patch_namespaced_custom_object
        return self._json(what, call, *self._place(namespace), name, dict(patch), field_manager=MANAGER)

    def delete_job(self, namespace: str, name: str) -> None:
        """Ask for the deletion of a job; its children go in the background."""
        what = f'{KIND} "{name}" in namespace "{namespace}"'
        options = {"propagation_policy": "Background"}
        self._json(what, self._jobs.delete_namespaced_custom_object, *self._place(namespace), name, **options)

    def list_pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Pods by labels."""
        found = self._json("pods", self._core.list_namespaced_pod, namespace, label_selector=selector)
        return list(found.get("items") or [])

    def list_events(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Events by fields of the object they are about."""
        found = self._json("events", self._core.list_namespaced_event, namespace, field_selector=selector)
        return list(found.get("items") or [])

    def read_log(self, namespace: str, pod: str, container: str, **options: Any) -> Generator[str]:
        """Lines of a container's log. Raises Unreachable if the stream is cut."""
        timeout = (CONNECT_SECONDS, LOG_SILENCE_SECONDS if options.get("follow") else ANSWER_SECONDS)
        call = self._core.read_namespaced_pod_log
        return self._lines(
            f'pod "{pod}"', call, pod, namespace, container=container, _request_timeout=timeout, **options
        )

    def _place(self, namespace: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, namespace, PLURAL

    def _json(self, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """The JSON object that a request is answered with."""
        timeout = (CONNECT_SECONDS, ANSWER_SECONDS)
        with self._errors(what):
            response = _ask(call, *arguments, _request_timeout=timeout, **options)
            with contextlib.closing(response):
                body = response.data
        try:
            found = json.loads(body)
        except ValueError as error:
            remedy = "Is there a proxy in between?"
            raise ClusterError(
                f"{self.connection.server} answered with something else than JSON", remedy=remedy
            ) from error
        return dict(found)

    def _lines(self, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Generator[str]:
        """Lines of a streamed answer, as they come; the last one too if it has no end."""
        with self._errors(what):
            response = _ask(call, *arguments, **options)
            with contextlib.closing(response):
                rest = b""
                for part in response.stream(amt=None, decode_content=False):
                    *lines, rest = (rest + part).split(b"\n")
                    for line in lines:
                        yield line.decode(errors="replace")
                if rest:
                    yield rest.decode(errors="replace")

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Translate the package's errors, and those of the connection."""
        try:
            yield
        except ApiException as error:
            if not error.status:  # TLS
                raise self._unreachable(error.reason) from error
            raise error_of(error.status, status_of(error.body), what=what, http_reason=error.reason or "") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, problem: object) -> Unreachable:
        text = " ".join(str(problem).split())
        remedy = "Is the cluster up, and is it the right one? `kubectl config current-context` names it"
        return Unreachable(f"the API server {self.connection.server} does not answer ({text})", remedy=remedy)


def _ask(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Send a request; once more if the connection that was kept from the last one is closed meanwhile.

    Each of ours may arrive twice: names are given by us, and changes carry a version or are the same again.
    """
    try:
        return call(*arguments, _preload_content=False, **options)
    except urllib3.exceptions.ProtocolError:
        return call(*arguments, _preload_content=False, **options)
