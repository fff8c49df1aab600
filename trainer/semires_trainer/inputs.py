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
    """The output folder; ConfigError for a storage service, which this version cannot write to."""
    path = output.removeprefix("file://")
    if "://" in path:
        raise ConfigError(
            f"results can only be written to a local folder, got {output}",
            field="spec.output",
            remedy="Give a path, for example runs/my-job",
        )
    return Path(path).expanduser()
