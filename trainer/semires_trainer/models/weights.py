"""Reading weights files without ever executing what they contain, and saying precisely what does not fit."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]
from safetensors.torch import load_file
from torch import Tensor

from semires_trainer.errors import InfrastructureError, WeightsError

HUB = "hf://"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
PASSING_STATUS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
"""Answers of the hub, besides 5xx, that may be others a minute later."""
_SHOWN = 10


def locate(source: str, names: Sequence[str], *, field: str) -> Path:
    """Local path of the first of `names` in a folder or in `hf://owner/repo[@revision]`; a file is itself.

    Raises:
        WeightsError: nothing is there, or the hub refuses it.
        InfrastructureError: the hub does not answer.
    """
    if source.startswith(HUB):
        return _download(source, names, field=field)
    if "://" in source:
        raise WeightsError(
            f"cannot read {source!r} from here",
            field=field,
            remedy=f"Give a local path, {HUB}owner/repo or 'random'",
        )
    path = Path(source).expanduser()
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    problem = f"the folder {path} holds none of {', '.join(names)}" if path.is_dir() else f"no file or folder {path}"
    raise WeightsError(problem, field=field, remedy=f"Give a local path, {HUB}owner/repo or 'random'")


def _download(source: str, names: Sequence[str], *, field: str) -> Path:
    repository, _, revision = source.removeprefix(HUB).partition("@")
    not_cached: Exception | None = None
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except LocalEntryNotFoundError as error:  # the hub did not say, and the cache does not have it
            not_cached = not_cached or error
        except EntryNotFoundError:
            continue
        except (OSError, ValueError, ClientError) as error:
            raise _not_downloaded(source, name, error, field=field) from error
    if not_cached is not None:
        raise _not_downloaded(source, names[0], not_cached, field=field) from not_cached
    raise WeightsError(f"{source} holds none of {', '.join(names)}", field=field, remedy="Name another one")


def _not_downloaded(source: str, name: str, error: Exception, *, field: str) -> WeightsError | InfrastructureError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = InfrastructureError if _may_pass(error) else WeightsError
    return kind(
        f"could not get {name} of {source}: {first}",
        field=field,
        remedy="Download the repository on a machine with access, and give its folder as a path",
    )


def _may_pass(error: BaseException) -> bool:
    """Whether the hub did not answer, or not for itself. The client hides that behind "not in the cache"."""
    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None and _may_pass(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or (
            error.response.status_code in PASSING_STATUS
        )
    if isinstance(error, OfflineModeIsEnabled | FileMetadataError):
        return False
    return isinstance(error, ClientError | ConnectionError | TimeoutError)


def read_state(path: Path, *, field: str) -> dict[str, Tensor]:
    """Named tensors of a safetensors file or a pickle, out of `{'model': ...}` or `{'state_dict': ...}`."""
    if path.suffix == ".safetensors":
        return read_safetensors(path, field=field)
    content = read_pickle(path, field=field)
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return tensors_of(content, path=path, field=field)


def tensors_of(content: object, *, path: Path, field: str) -> dict[str, Tensor]:
    """`content` as a plain dictionary of tensors."""
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no named tensors", field=field)
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{path} holds entries that are not tensors: {_first(strangers)}", field=field)
    return {str(name): value for name, value in content.items()}


def read_safetensors(path: Path, *, field: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}", field=field) from error


def read_pickle(path: Path, *, field: str) -> Any:
    """Content of a torch checkpoint. Tensors, plain containers and argparse.Namespace are all it may hold."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged or asks for code to be run; refused, nothing was executed",
            field=field,
            remedy="Get the file from its authors again, or convert it to safetensors where you trust it",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} is not a readable checkpoint: {detail}", field=field) from error


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, where: str, field: str) -> None:
    """Raise a WeightsError that lists the first ten names that are missing, foreign or of another shape."""
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "foreign": sorted(set(found) - set(expected)),
        "of another shape": [
            f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in problems.items() if names)
        raise WeightsError(
            f"{where} is not for this architecture: {listed}",
            field=field,
            remedy="Choose the file or the model dimensions that belong together",
        )


def fill(module: torch.nn.Module, found: Mapping[str, Tensor], *, where: str, field: str) -> None:
    """Load exactly the tensors of `module`, after `check_tensors`."""
    check_tensors(module.state_dict(), found, where=where, field=field)
    module.load_state_dict(dict(found))


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
