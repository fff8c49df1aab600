"""Two judges of a SemiRESJob: the API server and the models. They must agree."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import yaml
from testbed.waiting import wait_until

from semires_operator.admission import admitted
from semires_trainer.config import SemiRESJob, parse_job
from semires_trainer.errors import ConfigError

JOBS = "/apis/semires.dev/v1alpha1/namespaces/default/semiresjobs"
CRD_FILE = Path(__file__).parents[2] / "manifests/base/crd/semiresjobs.yaml"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One thing that the API server found wrong."""

    field: str
    message: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the API server said."""

    code: int
    body: dict[str, Any]

    @property
    def accepted(self) -> bool:
        """Whether it takes the object. Raises AssertionError when it neither takes nor refuses it."""
        assert self.code in {200, 201, 400, 422}, self.body
        return self.code < 300

    @property
    def causes(self) -> list[Cause]:
        """All that it found wrong; not among them that it looked no further because of this."""
        details = self.body.get("details", {}).get("causes", ())
        causes = [Cause(field=one.get("field", ""), message=one["message"], reason=one["reason"]) for one in details]
        return [cause for cause in causes if "validation rules were not checked" not in cause.message]

    @property
    def message(self) -> str:
        """All of it in one text, as kubectl shows it."""
        return str(self.body.get("message", ""))


class ApiServer:
    """Requests of one user over one connection that stays open."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        address = urlsplit(cluster["server"])
        trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self.connection = http.client.HTTPSConnection(address.netloc, timeout=60, context=trust)
        self.headers = {"Authorization": f"Bearer {user['token']}", "Content-Type": "application/json"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/yaml", **parameters: str
    ) -> Answer:
        """One request; the body is an object, or text of that type."""
        text = body if isinstance(body, str) or body is None else json.dumps(body)
        query = f"?{urlencode(parameters)}" if parameters else ""
        headers = self.headers | ({"Content-Type": content_type} if isinstance(body, str) else {})
        self.connection.request(method, path + query, text and text.encode(), headers)
        response = self.connection.getresponse()
        return Answer(code=response.status, body=json.loads(response.read()))

    def judge(self, document: Any) -> Answer:
        """Create it, but only for show."""
        return self.request("POST", JOBS, document, dryRun="All", fieldValidation="Strict")

    def judge_update(self, document: dict[str, Any]) -> Answer:
        """Replace the object of that name, but only for show."""
        path = f"{JOBS}/{document['metadata']['name']}"
        return self.request("PUT", path, document, dryRun="All", fieldValidation="Strict")

    def keep(self, document: dict[str, Any]) -> dict[str, Any]:
        """Create it for real, in the place of an older one, and return it as stored."""
        self.request("DELETE", f"{JOBS}/{document['metadata']['name']}")
        answer = self.request("POST", JOBS, document, fieldValidation="Strict")
        assert answer.code == 201, answer.body
        return answer.body

    def install(self, crd: dict[str, Any], *, seconds: float = 30) -> None:
        """Apply a CRD, and wait until it is served."""
        path = f"{CRD}/{crd['metadata']['name']}"
        text = json.dumps(crd)
        options = {"fieldManager": "tests", "force": "true"}
        answer = self.request("PATCH", path, text, content_type="application/apply-patch+yaml", **options)
        assert answer.code in {200, 201}, answer.body
        wait_until("the CRD is served", lambda: self.request("GET", JOBS).code == 200, seconds=seconds)


@contextmanager
def api_with_crd(kubeconfig: Path) -> Iterator[ApiServer]:
    """The API server as its administrator, knowing SemiRESJob."""
    with ApiServer(kubeconfig) as api:
        api.install(yaml.safe_load(CRD_FILE.read_text(encoding="utf-8")))
        yield api


def models_accept(document: dict[str, Any]) -> SemiRESJob | ConfigError:
    """What the models say, after what the API server does beforehand."""
    try:
        return parse_job(admitted(document))
    except ConfigError as error:
        return error
