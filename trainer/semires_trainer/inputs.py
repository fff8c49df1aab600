"""The files a job reads and the folders it writes to, found without torch and without opening them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from semires_trainer.config import Resolved
from semires_trainer.errors import ConfigError, DataError, SemiresError, WeightsError

REMOTE = ("s3://", "hf://")


def input_uris(resolved: Resolved) -> list[tuple[str, str]]:
    """(field, path or URI) of everything a run reads, `random` left out."""
    model, proposals = resolved.model, resolved.proposals
    weights = (
        [("spec.model.initFrom", model.init_from)]
        if model.init_from
        else [
            ("spec.model.swin", model.swin),
            ("spec.model.bert", model.bert),
        ]
    )
    uris = [
        ("spec.dataset.annotations", resolved.dataset.annotations),
        ("spec.dataset.images", resolved.dataset.images),
        ("spec.dataset.labeled.imageIdsFile", resolved.dataset.labeled_image_ids_file),
        *weights,
        ("spec.model.vocab", model.vocab),
        ("spec.proposals.sam.weights", proposals.sam.weights if proposals.sam else None),
        ("spec.proposals.precomputed.path", proposals.precomputed.path if proposals.precomputed else None),
    ]
    return [(field, uri) for field, uri in uris if uri and uri != "random"]


def missing_inputs(resolved: Resolved) -> list[SemiresError]:
    """One error for each local input that is not there, and for a package the generator needs."""
    found: list[SemiresError] = []
    for field, uri in input_uris(resolved):
        if not uri.startswith(REMOTE) and not Path(uri.removeprefix("file://")).expanduser().exists():
            kind = DataError if ".dataset." in field or ".precomputed." in field else WeightsError
            found.append(kind(f"{uri} does not exist", field=field, remedy="Correct the path, or put the file there."))
    if resolved.proposals.generator == "SAM" and importlib.util.find_spec("segment_anything") is None:
        message = "generator SAM needs the package segment-anything, which is not installed"
        found.append(ConfigError(message, field="spec.proposals.generator", remedy="pip install segment-anything"))
    return found


def local_path(output: str) -> Path:
    """A folder as a path; ConfigError for a storage service, which only a supervised run reaches."""
    path = output.removeprefix("file://")
    if "://" in path:
        raise ConfigError(
            f"a local folder is needed here, got {output}",
            field="spec.output",
            remedy="Give a path, for example --output runs/my-job",
        )
    return Path(path).expanduser()


def check_local_dataset(resolved: Resolved) -> None:
    """ConfigError if the data set lies on a storage service: only a run fetches it."""
    section = resolved.dataset
    for field, uri in (("annotations", section.annotations), ("images", section.images)):
        if uri.startswith(REMOTE):
            raise ConfigError(
                f"{uri} is fetched by `semires run` only",
                field=f"spec.dataset.{field}",
                remedy=f"Give a local copy: --set dataset.{field}=FOLDER. A run leaves its figures in results.json",
            )
