"""Proposals that exist already: the JSON files of the SemiRES release.

One file per object, `<ref id>.json` (or per image, `<image id>.json`): a list of
{"counts": [start, length, ...], "size": [height, width]} with starts that count from 1 down the columns. Not
COCO's run lengths. The release repeats an image's masks for each of its objects; the store keeps them once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import BoolMask, Proposal, Rle, encode_runs


@dataclass(frozen=True, kw_only=True)
class PrecomputedProposer:
    """Reads the masks of an image from the files of any of its keys. Picklable."""

    folder: Path
    """Folder of <key>.json files."""

    name = "Precomputed"
    weights_sha256 = ""

    def parameters(self) -> dict[str, Any]:
        """Format and fingerprint of the folder: the masks are these files and nothing else."""
        return {"format": "SemiRES", "files": self._fingerprint}

    def propose(self, image_HW3: NDArray[np.uint8], keys: tuple[str, ...] = ()) -> list[Proposal]:
        """Masks of the image (H, W, 3), whose files are named by `keys`; those that exist must agree.

        DataError if there is no file, if two differ, or if a mask is damaged or not of the image's size.
        """
        paths = [path for key in keys if (path := self.folder / f"{key}.json").is_file()]
        if not paths:
            wanted = ", ".join(f"{key}.json" for key in keys[:3]) or "no key given"
            remedy = "Check spec.proposals.precomputed.path and keyedBy."
            raise DataError(f"{self.folder} has no file for an image (looked for {wanted})", remedy=remedy)
        first, *others = paths
        content = first.read_bytes()
        for other in others:
            again = other.read_bytes()
            if again != content and _parse(again, other) != _parse(content, first):
                raise DataError(f"{first} and {other} belong to one image but hold different masks")
        height, width = image_HW3.shape[:2]
        entries = _parse(content, first)
        return [
            Proposal(rle=decode_official(entry, where=f"{first}, mask {number}", height=height, width=width))
            for number, entry in enumerate(entries)
        ]

    @cached_property
    def _fingerprint(self) -> str:
        """sha256 over names and sizes of the files: says "other files" without reading gigabytes."""
        try:
            listing = sorted((path.name, path.stat().st_size) for path in self.folder.glob("*.json"))
        except OSError as error:
            raise DataError(f"{self.folder} cannot be read ({error.strerror})") from error
        if not listing:
            raise DataError(f"{self.folder} holds no .json files", field="spec.proposals.precomputed.path")
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def decode_official(entry: object, *, where: str, height: int, width: int) -> Rle:
    """One {"counts": [start, length, ...], "size": [H, W]} of the release as COCO run lengths.

    DataError, naming `where`, if it is not of this form, not of the image's size, or its runs leave the
    image, overlap or go backwards.
    """
    counts = entry.get("counts") if isinstance(entry, dict) else None
    size = entry.get("size") if isinstance(entry, dict) else None
    if not isinstance(counts, list) or not _all_integers(counts) or len(counts) % 2:
        raise DataError(f'{where}: "counts" must be a list of start and length pairs')
    if size != [height, width]:
        raise DataError(f'{where}: "size" is {size}, its image has {[height, width]} (height, width)')
    runs_N2 = np.array(counts, dtype=np.int64).reshape(-1, 2)
    starts, ends = runs_N2[:, 0] - 1, runs_N2[:, 0] - 1 + runs_N2[:, 1]
    before = np.concatenate([[0], ends[:-1]]) if len(starts) else starts
    if (starts < before).any() or (ends < starts).any() or (ends[-1:] > height * width).any():
        raise DataError(f"{where}: a run lies outside the image of {height * width} pixels or overlaps another")
    return encode_runs(_coco_runs(starts, ends, total=height * width), height=height, width=width)


def encode_official(mask_HW: BoolMask) -> dict[str, list[int]]:
    """A boolean mask (H, W) in the release's form."""
    flat = np.concatenate([[False], mask_HW.ravel(order="F"), [False]])
    edges = np.flatnonzero(np.diff(flat))
    starts, ends = edges[::2], edges[1::2]
    counts = np.stack([starts + 1, ends - starts], axis=1).ravel()
    return {"counts": counts.tolist(), "size": list(mask_HW.shape)}


def _coco_runs(starts: NDArray[np.int64], ends: NDArray[np.int64], *, total: int) -> list[int]:
    """Alternating lengths of background and mask; runs that touch are joined, empty ones dropped."""
    filled = ends > starts
    edges = np.stack([starts[filled], ends[filled]], axis=1).ravel()
    joined = np.concatenate([[False], edges[1:] == edges[:-1]]) if edges.size else np.zeros(0, dtype=np.bool_)
    joined[:-1] |= joined[1:]
    kept = np.concatenate([[0], edges[~joined], [total]])
    return [int(run) for run in np.diff(kept)]


def _parse(content: bytes, path: Path) -> list[Any]:
    try:
        entries = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} must hold a list of masks, it holds a {type(entries).__name__}")
    return entries


def _all_integers(values: list[object]) -> bool:
    return all(type(value) is int and 0 <= value < 2**40 for value in values)
