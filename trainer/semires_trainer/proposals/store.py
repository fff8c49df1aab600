"""The proposal store: one immutable record per image, shared by every dataset and job that uses the image.

    <root>/<generator>-<first 16 hex of the key>/
        generator.json          full parameters, written once
        <sha256>.safetensors    shards, named by their content, published whole

The key is the sha256 of (generator, parameters, sha256 of its weights); a record's key is the sha256 of the
image file. Nothing is ever changed in place, so any number of processes may write at once: at worst an image
is done twice, and then the record of the shard whose name sorts first is the one read, everywhere.

A shard's size and header are checked whenever it is opened, its sha256 by `verify`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semires_trainer.atomic import write_json
from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import ImageProposals, Proposal, Rle, measure
from semires_trainer.proposals.tensor_file import Arrays, damaged, map_tensors, save_by_content

IMAGES_PER_SHARD = 256

_SHARD = {
    "images": "U8",  # (N, 32) sha256 of the image files
    "sizes": "I32",  # (N, 2) height, width
    "first_proposal": "I64",  # (N + 1,) record i holds proposals first_proposal[i] .. first_proposal[i + 1]
    "boxes": "I32",  # (M, 4) x, y, width, height
    "areas": "I64",  # (M,)
    "scores": "F32",  # (M, 2) predicted IoU, stability
    "first_byte": "I64",  # (M + 1,)
    "runs": "U8",  # COCO compressed run lengths of all proposals, one after the other
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreKey:
    """What the proposals of a store depend on, besides the images."""

    generator: str
    """Name of the generator: SAM, Felzenszwalb, Precomputed."""
    parameters: dict[str, Any]
    """Every number that changes its output; JSON values only."""
    weights_sha256: str = ""
    """sha256 of its weights file; empty where it has none."""

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 of the canonical JSON of this key."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Name of the store's folder below its root."""
        return f"{self.generator}-{self.digest[:16]}"

    def as_json(self) -> dict[str, Any]:
        """The content of generator.json."""
        return {
            "generator": self.generator,
            "parameters": self.parameters,
            "weights_sha256": self.weights_sha256,
        }


class ProposalStore:
    """Read and extend the proposals of one generator. Opening it reads the shards' indices, not the masks."""

    def __init__(self, root: Path, key: StoreKey) -> None:
        self.key = key
        self.folder = root / key.folder_name
        self._shards: dict[str, Arrays] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle (to spawned workers) without the memory maps; they are opened again on the other side."""
        return {"key": self.key, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.key, self.folder = state["key"], state["folder"]
        self._shards, self._places = {}, {}
        self.refresh()

    def refresh(self) -> None:
        """Take notice of shards that other processes published since the last look."""
        self._check_generator()
        names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if names == sorted(self._shards):
            return
        self._shards = {name: self._shards.get(name) or self._open(name) for name in names}
        self._places = {}
        for name, shard in self._shards.items():
            for row, image in enumerate(shard["images"]):
                self._places.setdefault(image.tobytes().hex(), (name, row))

    def shard_names(self) -> list[str]:
        """Names of the shards seen so far, sorted."""
        return list(self._shards)

    def records_of(self, shard_name: str) -> list[tuple[str, ImageProposals]]:
        """All records of one shard: sha256 of the image, and its proposals."""
        shard = self._shards[shard_name]
        images = [image.tobytes().hex() for image in shard["images"]]
        return [(image, _read_record(shard, row)) for row, image in enumerate(images)]

    def contains(self, image_sha256: str) -> bool:
        """Whether the image has a record (which may hold no proposals)."""
        return image_sha256 in self._places

    def missing(self, image_sha256s: Iterable[str]) -> list[str]:
        """The images without a record, each once, in the order given."""
        return [image for image in dict.fromkeys(image_sha256s) if image not in self._places]

    def get(self, image_sha256: str) -> ImageProposals:
        """The proposals of one image; DataError if it has no record."""
        if image_sha256 not in self._places:
            raise no_record(image_sha256, self.folder)
        name, row = self._places[image_sha256]
        return _read_record(self._shards[name], row)

    def writer(self, *, images_per_shard: int = IMAGES_PER_SHARD) -> StoreWriter:
        """A writer of new records; visible after `flush` (or when a shard is full) and a `refresh`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._generator_file.exists():
            write_json(self._generator_file, self.key.as_json())
        return StoreWriter(self.folder, images_per_shard=images_per_shard)

    def verify(self) -> None:
        """Read every shard whole and compare it with its name; DataError names the first that differs."""
        for name in self._shards:
            path = self.folder / name
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
                raise damaged(path, "its sha256 is not its name")

    @property
    def _generator_file(self) -> Path:
        return self.folder / "generator.json"

    def _check_generator(self) -> None:
        if not self._generator_file.exists():
            return
        try:
            found = json.loads(self._generator_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise damaged(self._generator_file, str(error)) from error
        if found != json.loads(json.dumps(self.key.as_json())):
            message = f"{self._generator_file} tells of other parameters than those in use"
            raise DataError(message, remedy="Name another folder in spec.proposals.store.")

    def _open(self, name: str) -> Arrays:
        path = self.folder / name
        shard = map_tensors(path, expected=_SHARD)
        problem = _inconsistency(shard)
        if problem:
            raise damaged(path, problem)
        return shard


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    height: int
    width: int
    proposals: tuple[Proposal, ...]
    boxes_P4: NDArray[np.int32]
    areas_P: NDArray[np.int64]


class StoreWriter:
    """Collects records and publishes them as shards. Any number of processes may each have one."""

    def __init__(self, folder: Path, *, images_per_shard: int) -> None:
        self._folder = folder
        self._images_per_shard = images_per_shard
        self._pending: dict[str, _Record] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, image_sha256: str, proposals: Sequence[Proposal], *, height: int, width: int) -> None:
        """Add the record of one image (H, W in pixels); no proposals at all is a valid record.

        DataError if a mask is damaged or not of the image's size.
        """
        rles = [proposal.rle for proposal in proposals]
        boxes_P4, areas_P = measure(rles, height=height, width=width)
        self._pending[image_sha256] = _Record(
            height=height, width=width, proposals=tuple(proposals), boxes_P4=boxes_P4, areas_P=areas_P
        )
        if len(self._pending) >= self._images_per_shard:
            self.flush()

    def flush(self) -> Path | None:
        """Publish what is pending as one shard; None if nothing is."""
        if not self._pending:
            return None
        path = save_by_content(self._folder, _build_shard(self._pending))
        self._pending = {}
        return path


def no_record(image_sha256: str, folder: Path) -> DataError:
    """The error for an image without proposals."""
    message = f"image with sha256 {image_sha256[:12]}... has no proposals in {folder}"
    return DataError(message, remedy="Run `semires propose` with the same manifest.")


def _build_shard(pending: dict[str, _Record]) -> Arrays:
    images = sorted(pending)
    records = [pending[image] for image in images]
    proposals = [proposal for record in records for proposal in record.proposals]
    runs = [proposal.rle["counts"] for proposal in proposals]
    scores = [(proposal.predicted_iou, proposal.stability) for proposal in proposals]
    return {
        "images": digests(images),
        "sizes": np.array([(record.height, record.width) for record in records], dtype=np.int32),
        "first_proposal": offsets([len(record.proposals) for record in records]),
        "boxes": np.concatenate([record.boxes_P4 for record in records]),
        "areas": np.concatenate([record.areas_P for record in records]),
        "scores": np.array(scores, dtype=np.float32).reshape(-1, 2),
        "first_byte": offsets([len(counts) for counts in runs]),
        "runs": np.frombuffer(b"".join(runs), dtype=np.uint8),
    }


def digests(image_sha256s: Sequence[str]) -> NDArray[np.uint8]:
    """Hexadecimal sha256 of N images as bytes (N, 32)."""
    return np.frombuffer(bytes.fromhex("".join(image_sha256s)), dtype=np.uint8).reshape(-1, 32)


def offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where each of several runs of the given lengths begins, and where the last ends: (len + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _inconsistency(shard: Arrays) -> str:
    """Why the arrays of a shard do not belong together; empty if they do."""
    num_images, num_proposals = len(shard["images"]), len(shard["areas"])
    lengths = {
        "images": shard["images"].shape == (num_images, 32),
        "sizes": shard["sizes"].shape == (num_images, 2),
        "boxes": shard["boxes"].shape == (num_proposals, 4),
        "scores": shard["scores"].shape == (num_proposals, 2),
        "first_proposal": is_partition(shard["first_proposal"], parts=num_images, total=num_proposals),
        "first_byte": is_partition(shard["first_byte"], parts=num_proposals, total=len(shard["runs"])),
    }
    return ", ".join(f"array {name} does not fit the others" for name, fits in lengths.items() if not fits)


def is_partition(offsets_N: NDArray[np.int64], *, parts: int, total: int) -> bool:
    """Whether offsets (parts + 1,) cut 0 .. total into `parts` runs in ascending order."""
    if offsets_N.shape != (parts + 1,):
        return False
    return bool(offsets_N[0] == 0 and offsets_N[-1] == total and (np.diff(offsets_N) >= 0).all())


def _read_record(shard: Arrays, row: int) -> ImageProposals:
    first, last = (int(n) for n in shard["first_proposal"][row : row + 2])
    height, width = (int(n) for n in shard["sizes"][row])
    cuts = shard["first_byte"][first : last + 1].tolist()
    runs = shard["runs"][cuts[0] : cuts[-1]].tobytes()
    rles = [Rle(size=[height, width], counts=runs[begin - cuts[0] : end - cuts[0]]) for begin, end in pairwise(cuts)]
    return ImageProposals(
        height=height,
        width=width,
        rles=tuple(rles),
        boxes_P4=shard["boxes"][first:last],
        areas_P=shard["areas"][first:last],
        scores_P2=shard["scores"][first:last],
    )
