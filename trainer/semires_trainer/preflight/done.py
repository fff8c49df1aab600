"""What earlier attempts have left in the output: stages, the newest whole checkpoint, how the last one ended."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from typing import Any

from semires_trainer.checkpoint_folders import MANIFEST, STATE, Progress, parse_progress
from semires_trainer.config import Resolved
from semires_trainer.errors import DataError, SemiresError
from semires_trainer.fetch.sources import list_folder, naming
from semires_trainer.fetch.stores import FIELD as STORE
from semires_trainer.ledger import Entry, read_ledger
from semires_trainer.orders import Attempt
from semires_trainer.preflight.output import OUTPUT
from semires_trainer.preflight.shape import local
from semires_trainer.proposals.build import build_key
from semires_trainer.publisher import MODEL_FILE
from semires_trainer.results import BURN_IN, TEACHER
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import ChecksumMismatch, NoSuchKey
from semires_trainer.storage.parallel import in_order

MODELS = {BURN_IN: "burn-in", TEACHER: "model"}
"""Name of a model in the results -> its folder in the output."""
RESULTS_FILE = "results.json"
THREADS = 16
DIGEST_BYTES = 32
HEADER_BYTES = 1 << 14
"""Read at once of a shard: its header, and often all that is looked for."""
MOST_SHARDS = 4096
LOOK_BACK = 20
"""Earlier attempts whose outcome is looked for."""
LONGEST_OUTCOME = 64 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What need not be done again."""

    complete: bool
    stages: tuple[str, ...]
    checkpoint: dict[str, Any] | None
    warnings: tuple[str, ...]


def find_done(storage: Storage, resolved: Resolved, identity: str, *, train_images: int) -> Done:
    """Look at ledger, results and store; InfrastructureError if the ledger can't be read."""
    output = resolved.output.rstrip("/")
    with naming(OUTPUT, output):
        entry, progress, warnings = newest_whole(storage, output, identity)
        evaluated = is_evaluated(storage, output, identity)
    has_proposals = evaluated or are_proposals_made(
        storage, resolved, has_trained=entry is not None, train_images=train_images
    )
    stages = {
        "proposals": has_proposals,
        "burn-in": evaluated or (progress is not None and progress.past("burn-in")),
        "train": evaluated or (progress is not None and progress.past("train")),
        "evaluate": evaluated,
    }
    return Done(
        complete=evaluated,
        stages=tuple(name for name, is_done in stages.items() if is_done),
        checkpoint=reference_to(entry) if entry else None,
        warnings=tuple(warnings),
    )


def reference_to(entry: Entry) -> dict[str, Any]:
    """What the status of a job says of a checkpoint."""
    return {"uri": entry.uri, "step": entry.number, "sha256": entry.sha256, "time": entry.time}


def newest_whole(storage: Storage, output: str, identity: str) -> tuple[Entry | None, Progress | None, list[str]]:
    """The newest checkpoint of the ledger whose files are all there, its progress, and words about damaged ones.

    As a restore does, but sizes stand for content. WeightsError if it belongs to another run.
    """
    entries, _ = read_ledger(storage, output)
    warnings: list[str] = []
    for entry in reversed(entries):
        try:
            return entry, _progress_of(storage, entry, identity), warnings
        except (ChecksumMismatch, NoSuchKey) as error:
            warnings.append(f"Checkpoint {entry.uri} is damaged and will be passed over: {error.message}.")
    if entries:
        warnings.append("No checkpoint is whole: the run starts from the beginning.")
    return None, None, warnings


def _progress_of(storage: Storage, entry: Entry, identity: str) -> Progress:
    """Where a checkpoint's run stands, after a look at its manifest and the sizes of its files."""
    manifest = _read_verified(storage, f"{entry.uri}/{MANIFEST}", entry.sha256)
    sizes = {name: stat.size for name, stat in list_folder(storage, entry.uri).items()}
    try:
        listed = json.loads(manifest)
        for name, wanted in listed.items():
            if sizes.get(name) != wanted["bytes"]:
                raise ChecksumMismatch(f"{name} has {sizes.get(name, 'no')} bytes, its manifest says {wanted['bytes']}")
        state = _read_verified(storage, f"{entry.uri}/{STATE}", listed[STATE]["sha256"])
        return parse_progress(state, where=entry.uri, identity=identity)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumMismatch(f"its manifest or its state can't be read ({error!r})") from error


def _read_verified(storage: Storage, uri: str, sha256: str) -> bytes:
    data = storage.read_bytes(uri).data
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ChecksumMismatch(f"{uri} does not have the sha256 that is listed")
    return data


def is_evaluated(storage: Storage, output: str, identity: str) -> bool:
    """Whether the results are those of this run and of the models that lie beside them: nothing is left to do."""
    try:
        details = json.loads(storage.read_bytes(f"{output}/{RESULTS_FILE}").data)["details"]
        models = {
            name: hashlib.sha256(storage.read_bytes(f"{output}/{MODELS[name]}/{MODEL_FILE}").data).hexdigest()
            for name in details["models"]
        }
    except (NoSuchKey, ValueError, KeyError, TypeError):
        return False
    return TEACHER in models and details == {"identity": identity, "models": models}


def are_proposals_made(storage: Storage, resolved: Resolved, *, has_trained: bool, train_images: int) -> bool:
    """Whether the store holds the masks of all train images, as far as that can be known without reading images.

    Records carry the sha256 of image files, not their names. So they are counted: in a store of this run's own, and in
    a shared one only if the run has trained, which it does once all masks are there. Bad images have none.
    """
    section, output = resolved.proposals, resolved.output.rstrip("/")
    is_own = section.store.startswith(f"{output}/")
    if not (is_own or has_trained) or section.precomputed is not None:
        return False
    needed = train_images - (resolved.dataset.bad_image_limit if has_trained else 0)
    with naming(STORE, section.store):
        folder = f"{local(section.store)}/{build_key(section).folder_name}"
        return len(images_with_records(storage, folder)) >= max(1, needed)


def images_with_records(storage: Storage, folder: str) -> set[bytes]:
    """sha256 of all images in the shards of a store's folder."""
    names = [name for name in list_folder(storage, folder) if name.endswith(".safetensors") and "/" not in name]

    def read(name: str, _stop: threading.Event) -> list[bytes]:
        return _images_in(storage, f"{folder}/{name}")

    return {image for images in in_order(read, names[:MOST_SHARDS], threads=THREADS) for image in images}


def _images_in(storage: Storage, uri: str) -> list[bytes]:
    remote = storage.open(uri)
    try:
        head = remote.read_range(0, min(HEADER_BYTES, remote.stat.size))
        start = 8 + int.from_bytes(head[:8], "little")
        first, last = (start + int(place) for place in json.loads(head[8:start])["images"]["data_offsets"])
        images = head[first:last] if last <= len(head) else remote.read_range(first, last)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged ({error!r})", remedy="Delete it: what is missing is made again") from error
    return [images[place : place + DIGEST_BYTES] for place in range(0, len(images), DIGEST_BYTES)]


def read_previous_outcome(storage: Storage, output: str, attempt: Attempt) -> dict[str, Any] | None:
    """How the newest earlier attempt of this job ended, of those that could tell; None if none did."""
    newest = attempt.number - 1
    for number in range(newest, max(0, newest - LOOK_BACK), -1):
        try:
            content = json.loads(storage.read_bytes(f"{output}/outcome-a{number}.json", max_bytes=LONGEST_OUTCOME).data)
            if content["jobUid"] == attempt.job_uid and int(content["attempt"]) == number and "exitCode" in content:
                return dict(content)
        except NoSuchKey:
            continue
        except (SemiresError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, SemiresError) and not isinstance(error, DataError):
                raise
    return None
