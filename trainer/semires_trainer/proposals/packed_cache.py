"""Proposals as the training loop wants them: S x S, bit-packed, memory-mapped.

A cache is derived from a proposal store and may be deleted at any time. For every shard of the store there
is one cache file of the same name in `<store folder>/packed-<S>-v<version>/`, a pure function of that shard,
S and the rules of this file; files appear whole, so any number of processes may build at once. Each mask is
stored cropped to the rows and byte columns that it touches, and pasted into zeros when it is loaded: several
times less disk than whole S x S masks, for a fraction of a millisecond an image (benchmarks/proposals.py).

Shapes: P proposals, H, W image size, S training size, S8 = ceil(S / 8) bytes a packed row (numpy packbits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semires_trainer.errors import DataError
from semires_trainer.proposals.masks import BoolMask, ImageProposals, fill_runs, run_edges
from semires_trainer.proposals.store import ProposalStore, digests, is_partition, no_record, offsets
from semires_trainer.proposals.tensor_file import Arrays, damaged, map_tensors, save_tensors

Packed = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""Masks (P, S, S8) and their areas (P,) in pixels at S x S."""

Progress = Callable[[int, int], None]

_VERSION = 1

_CACHE = {
    "images": "U8",  # (N, 32) sha256 of the image files
    "first_proposal": "I64",  # (N + 1,)
    "areas": "I32",  # (M,) pixels at S x S
    "windows": "I32",  # (M, 4) first row, last row + 1, first byte column, last byte column + 1
    "first_byte": "I64",  # (M + 1,)
    "bits": "U8",  # the windows of all masks, row by row, one after the other
}


def nearest_indices(source: int, target: int) -> NDArray[np.int64]:
    """Source index of each of `target` pixels, as torch's interpolate(mode="nearest") picks them.

    floor(i * source / target) with ratio and product in float32; exact arithmetic differs in a few rows, and
    so does the rule by which ground truth is resized.
    """
    ratio = np.float32(source) / np.float32(target)
    index: NDArray[np.int64] = np.floor(np.arange(target, dtype=np.float32) * ratio).astype(np.int64)
    return index.clip(max=source - 1)


def resize_masks(proposals: ImageProposals, size: int) -> Iterator[BoolMask]:
    """Each proposal as (S, S) bool, nearest-resized.

    The runs are moved to the S x S grid before they are filled: no mask is ever made at full size.
    """
    rows = nearest_indices(proposals.height, size)
    columns, column_of = np.unique(nearest_indices(proposals.width, size), return_inverse=True)
    sources = (columns[:, None] * proposals.height + rows).ravel()  # ascending: column-major positions
    for edges in run_edges(proposals.rles, height=proposals.height, width=proposals.width):
        filled = fill_runs(np.searchsorted(sources, edges), sources.size).reshape(len(columns), size)
        yield filled[column_of].T


class PackedCache:
    """S x S bit-packed proposals of all images of a store. Cheap to fork and pickle; maps files when used."""

    def __init__(self, store: ProposalStore, size: int, *, folder: Path | None = None) -> None:
        self.store = store
        self.size = size
        home = folder / store.folder.name if folder else store.folder
        self.folder = home / f"packed-{size}-v{_VERSION}"
        self._maps: dict[str, Arrays] = {}
        self._places: dict[str, tuple[str, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the memory maps."""
        return {"store": self.store, "size": self.size, "folder": self.folder, "_maps": {}, "_places": {}}

    @property
    def row_bytes(self) -> int:
        """S8: bytes per packed row."""
        return (self.size + 7) // 8

    def build(self, *, rank: int = 0, world_size: int = 1, progress: Progress | None = None) -> int:
        """Make the cache files that are missing; returns how many were made.

        Each of `world_size` processes makes every `world_size`-th file, after all published their proposals.
        `progress(done, total)` is called after each file.
        """
        self.store.refresh()
        mine = self.store.shard_names()[rank::world_size]
        todo = [name for name in mine if not (self.folder / name).exists()]
        for done, name in enumerate(todo):
            save_tensors(self.folder / name, self._pack_shard(name))
            if progress:
                progress(done + 1, len(todo))
        return len(todo)

    def missing_shards(self) -> list[str]:
        """Shards of the store without a cache file."""
        return [name for name in self.store.shard_names() if not (self.folder / name).exists()]

    def contains(self, image_sha256: str) -> bool:
        """Whether the image has a record, be it one without proposals."""
        if image_sha256 not in self._places:
            self._map_new_files()
        return image_sha256 in self._places

    def num_proposals(self, image_sha256: str) -> int:
        """P of one image, without touching its masks."""
        _, first, last = self._locate(image_sha256)
        return last - first

    def load(self, image_sha256: str) -> Packed:
        """Masks (P, S, S8) uint8 and areas (P,) int32 of one image, in memory of their own.

        DataError if the image has no record. An image without proposals gives P = 0.
        """
        cached, first, last = self._locate(image_sha256)
        masks = np.zeros((last - first, self.size, self.row_bytes), dtype=np.uint8)
        windows = cached["windows"][first:last].tolist()
        cuts = cached["first_byte"][first : last + 1].tolist()
        bits = cached["bits"]
        for number, (top, bottom, left, right) in enumerate(windows):
            window = bits[cuts[number] : cuts[number + 1]].reshape(bottom - top, right - left)
            masks[number, top:bottom, left:right] = window
        return masks, np.array(cached["areas"][first:last])

    def _locate(self, image_sha256: str) -> tuple[Arrays, int, int]:
        if not self.contains(image_sha256):
            raise self._not_cached(image_sha256)
        name, row = self._places[image_sha256]
        first, last = self._maps[name]["first_proposal"][row : row + 2].tolist()
        return self._maps[name], first, last

    def _map_new_files(self) -> None:
        """Map the files of all shards of the store; as there, the first shard that has an image wins."""
        self.store.refresh()
        paths = [path for name in self.store.shard_names() if (path := self.folder / name).exists()]
        self._maps = {path.name: self._maps.get(path.name) or self._open(path) for path in paths}
        self._places = {}
        for name, cached in self._maps.items():
            for row, image in enumerate(cached["images"]):
                self._places.setdefault(image.tobytes().hex(), (name, row))

    def _open(self, path: Path) -> Arrays:
        cached = map_tensors(path, expected=_CACHE)
        masks = len(cached["areas"])
        fits = (
            is_partition(cached["first_proposal"], parts=len(cached["images"]), total=masks)
            and is_partition(cached["first_byte"], parts=masks, total=len(cached["bits"]))
            and _windows_fit(cached, size=self.size, row_bytes=self.row_bytes)
        )
        if not fits:
            raise damaged(path, "its arrays do not fit each other")
        return cached

    def _not_cached(self, image_sha256: str) -> DataError:
        if not self.store.contains(image_sha256):
            return no_record(image_sha256, self.store.folder)
        message = f"image with sha256 {image_sha256[:12]}... has proposals, but is not in {self.folder}"
        return DataError(message, remedy="Run `semires propose` with the same manifest.")

    def _pack_shard(self, name: str) -> Arrays:
        records = self.store.records_of(name)
        per_image = [[_pack_mask(mask) for mask in resize_masks(found, self.size)] for _, found in records]
        windows = [window for found in per_image for window, _, _ in found]
        bits = [content for found in per_image for _, _, content in found]
        return {
            "images": digests([image for image, _ in records]),
            "first_proposal": offsets([len(found) for found in per_image]),
            "areas": np.array([area for found in per_image for _, area, _ in found], dtype=np.int32),
            "windows": np.array(windows, dtype=np.int32).reshape(-1, 4),
            "first_byte": offsets([len(content) for content in bits]),
            "bits": np.frombuffer(b"".join(bits), dtype=np.uint8),
        }


def _pack_mask(mask_SS: BoolMask) -> tuple[tuple[int, int, int, int], int, bytes]:
    """Window (rows, then byte columns, half-open), area and packed bits of one mask."""
    rows, columns = np.flatnonzero(mask_SS.any(axis=1)), np.flatnonzero(mask_SS.any(axis=0))
    if rows.size == 0:
        return (0, 0, 0, 0), 0, b""
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]) // 8, int(columns[-1]) // 8 + 1
    window = np.ascontiguousarray(mask_SS[top:bottom, 8 * left : 8 * right])
    area, bits = int(np.count_nonzero(window)), np.packbits(window, axis=1)
    return (top, bottom, left, right), area, bits.tobytes()


def _windows_fit(cached: Arrays, *, size: int, row_bytes: int) -> bool:
    windows_M4 = cached["windows"].astype(np.int64)
    if windows_M4.shape != (len(cached["areas"]), 4):
        return False
    top, bottom, left, right = windows_M4.T
    inside = (top >= 0) & (top <= bottom) & (bottom <= size)
    inside &= (left >= 0) & (left <= right) & (right <= row_bytes)
    return bool(inside.all() and ((bottom - top) * (right - left) == np.diff(cached["first_byte"])).all())
