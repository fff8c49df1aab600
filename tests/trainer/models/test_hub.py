"""Weights on the hub: no answer is a failure of infrastructure, an answer that refuses is one of the manifest.

The client's exceptions, raised as it raises them: a connection that fails is tried by it five times, for half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import huggingface_hub.errors as hub
import pytest

from semires_trainer.errors import InfrastructureError, SemiresError, WeightsError
from semires_trainer.models import weights

NAMES = ["model.safetensors", "pytorch_model.bin"]
Refused = Callable[[Exception], SemiresError]


def answer(status: int, kind: type[hub.HfHubHTTPError] = hub.HfHubHTTPError) -> Exception:
    """What the client makes of an answer with this status."""
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} of the hub", response=response)


def not_cached(cause: Exception) -> Exception:
    """How the client tells most failures: it looked into its cache instead, and found nothing."""
    error = hub.LocalEntryNotFoundError("cannot find the requested files in the local cache")
    error.__cause__ = cause
    return error


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Our error where the client has that one."""

    def run(error: Exception) -> SemiresError:
        def download(*_: object, **__: object) -> str:
            raise error

        monkeypatch.setattr(weights, "hf_hub_download", download)
        with pytest.raises(SemiresError) as caught:
            weights.locate("hf://someone/swin", NAMES, field="spec.model.swin")
        return caught.value

    return run


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(not_cached(hub.HTTPError("no route")), id="no-connection"),
        pytest.param(not_cached(answer(503)), id="unavailable"),
        pytest.param(not_cached(answer(500)), id="broken"),
        pytest.param(not_cached(answer(429)), id="too-many-requests"),
        pytest.param(hub.HTTPError("the proxy does not answer"), id="proxy"),
        pytest.param(TimeoutError("too slow"), id="time-out-of-a-download"),
        pytest.param(ConnectionError("cut"), id="download-cut"),
    ],
)
def test_a_hub_that_does_not_answer_is_worth_a_retry(refused: Refused, error: Exception) -> None:
    found = refused(error)

    assert isinstance(found, InfrastructureError)
    assert str(found).startswith("spec.model.swin: could not get model.safetensors of hf://someone/swin: ")
    assert str(found).endswith("Download the repository on a machine with access, and give its folder as a path")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        pytest.param(answer(404, hub.RemoteEntryNotFoundError), f"holds none of {', '.join(NAMES)}", id="file"),
        pytest.param(answer(404, hub.RevisionNotFoundError), "404 of the hub", id="revision"),
        pytest.param(answer(401, hub.RepositoryNotFoundError), "401 of the hub", id="repository"),
        pytest.param(answer(403, hub.GatedRepoError), "403 of the hub", id="gated"),
        pytest.param(not_cached(answer(403)), "could not get model.safetensors", id="forbidden"),
        pytest.param(not_cached(hub.FileMetadataError("no such header")), "could not get", id="not-a-hub"),
        pytest.param(not_cached(hub.OfflineModeIsEnabled("offline")), "could not get", id="told-to-stay-offline"),
        pytest.param(hub.HFValidationError("no name"), "no name", id="not-a-name"),
    ],
)
def test_what_the_hub_refuses_is_refused_again(refused: Refused, error: Exception, says: str) -> None:
    found = refused(error)

    assert isinstance(found, WeightsError)
    assert says in str(found)
