"""From stored proposals to 64 masks at 480 x 480: our packed cache against the ways it replaces.

    python benchmarks/proposals.py [--json]

Ours is `PackedCache.load`: bit-packed masks with their areas, in memory of their own, from a mapped file. Peers, all
written from the described semantics: the official path (a JSON file of start and length pairs, filled run by run in
Python, stacked at full size, nearest-resized by torch); pycocotools decoding the store's run lengths, then the same
resizing; and a copy out of a mapped array of whole packed masks, the least that any loader can do. Pictures are
640 x 480, masks have SAM-like areas (median 2 %) and ragged outlines. Equality is checked before timing.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from harness import interleave
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch.nn import functional

from semires_trainer.proposals.felzenszwalb import FelzenszwalbProposer
from semires_trainer.proposals.masks import Proposal
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.proposals.precomputed import encode_official
from semires_trainer.proposals.store import ProposalStore, StoreKey

HEIGHT, WIDTH, SIZE, PROPOSALS, IMAGES = 480, 640, 480, 64, 8

Masks = NDArray[Any]


class Fixture:
    """The same proposals of a few images in every form, on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(IMAGES)]
        self.store = ProposalStore(folder, StoreKey(generator="Benchmark", parameters={}))
        writer = self.store.writer()
        for seed, name in enumerate(self.names):
            masks_PHW = make_masks(seed)
            (folder / f"{name}.json").write_text(json.dumps([encode_official(mask) for mask in masks_PHW]))
            writer.add(name, [Proposal.from_mask(mask) for mask in masks_PHW], height=HEIGHT, width=WIDTH)
        writer.flush()
        self.cache = PackedCache(self.store, SIZE)
        start = time.perf_counter()
        self.cache.build()
        self.build_ms = (time.perf_counter() - start) * 1000 / IMAGES
        dense = np.stack([self.cache.load(name)[0] for name in self.names])
        np.save(folder / "dense.npy", dense)
        self.dense = np.load(folder / "dense.npy", mmap_mode="r")

    def bytes_per_image(self) -> dict[str, int]:
        """Disk that each form takes."""
        sizes = {
            "official JSON": sum((self.folder / f"{name}.json").stat().st_size for name in self.names),
            "store (COCO run lengths)": sum(path.stat().st_size for path in self.store.folder.glob("*.safetensors")),
            "packed cache": sum(path.stat().st_size for path in self.cache.folder.iterdir()),
            "whole packed masks": self.dense.nbytes,
        }
        return {name: size // IMAGES for name, size in sizes.items()}


def make_masks(seed: int) -> Masks:
    """64 masks (P, H, W) bool: blobs with ragged outlines, from specks to half the picture."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    masks = np.zeros((PROPOSALS, HEIGHT, WIDTH), np.bool_)
    for mask in masks:
        radius = np.sqrt(np.clip(rng.lognormal(np.log(0.02), 1.3), 0.001, 0.5) * HEIGHT * WIDTH / np.pi)
        y, x, aspect = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), np.exp(rng.normal(0, 0.3))
        noise = torch.from_numpy(rng.normal(size=(1, 1, 30, 40)))
        ragged = functional.interpolate(noise, size=(HEIGHT, WIDTH), mode="bicubic")[0, 0].numpy()
        mask[:] = np.hypot((ys - y) * aspect, (xs - x) / aspect) < radius * (1 + 0.15 * ragged)
    return masks


def official_path(path: Path) -> Masks:
    """Masks (P, S, S) uint8 from a file of the release."""
    filled = []
    for entry in json.loads(path.read_text()):
        height, width = entry["size"]
        flat = np.zeros(height * width, np.uint8)
        for start, length in zip(entry["counts"][::2], entry["counts"][1::2], strict=True):
            flat[start - 1 : start - 1 + length] = 1
        filled.append(flat.reshape(width, height).T)
    return resize(np.stack(filled))


def pycocotools_path(store: ProposalStore, name: str) -> Masks:
    """Masks (P, S, S) uint8 from the store's run lengths."""
    rles = list(store.get(name).rles)
    return resize(np.ascontiguousarray(coco_mask.decode(rles).transpose(2, 0, 1)))


def resize(masks_PHW: Masks) -> Masks:
    """torch's nearest, as the official loader resizes proposals; in uint8, which favours the peers."""
    resized = functional.interpolate(torch.from_numpy(masks_PHW)[None], size=(SIZE, SIZE), mode="nearest")
    return resized[0].numpy()


def check(fixture: Fixture) -> None:
    """Stop unless every path gives the same masks."""
    for name in fixture.names:
        packed, areas = fixture.cache.load(name)
        for peer in (official_path(fixture.folder / f"{name}.json"), pycocotools_path(fixture.store, name)):
            if not np.array_equal(packed, np.packbits(peer > 0, axis=2)) or areas.sum() != peer.sum():
                raise click.ClickException("the paths give different masks")


def next_of(values: list[Any], call: Callable[[Any], object]) -> Callable[[], object]:
    """A call that takes the next image each time."""
    turn = cycle(values)
    return lambda: call(next(turn))


def felzenszwalb_ms(height: int, width: int) -> float:
    """Milliseconds of processor time for one picture with the default four scales."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = pixels.repeat(8, axis=0).repeat(8, axis=1)
    proposer = FelzenszwalbProposer()
    start = time.process_time()
    for _ in range(3):
        proposer.propose(picture)
    return (time.process_time() - start) * 1000 / 3


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
@click.option("--rounds", default=9, show_default=True, help="Interleaved rounds.")
@click.option("--threads", default=2, show_default=True, help="Threads of PyTorch.")
def main(as_json: bool, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        fixture = Fixture(Path(folder))
        check(fixture)
        files = [fixture.folder / f"{name}.json" for name in fixture.names]
        peers = {
            "official JSON": next_of(files, official_path),
            "pycocotools": next_of(fixture.names, lambda name: pycocotools_path(fixture.store, name)),
            "whole masks, copied": next_of(list(range(IMAGES)), lambda number: np.array(fixture.dense[number])),
        }
        ours = next_of(fixture.names, fixture.cache.load)
        if not as_json:
            click.echo(f"{'peer':22}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}{'worst':>8}")
        for peer, call in peers.items():
            result = interleave(ours, call, rounds=rounds, repeat=IMAGES)
            times = f"{result.ours_ms:9.2f}{result.peer_ms:9.2f}{result.ratio:7.1f}x{result.ratio_min:7.1f}x"
            row = result.row("proposals", peer=peer, masks=PROPOSALS, size=SIZE)
            click.echo(row if as_json else f"{peer:22}{times}")
        report_costs(fixture, as_json=as_json)


def report_costs(fixture: Fixture, *, as_json: bool) -> None:
    """Disk and the time it takes to make things, per image."""
    sizes = fixture.bytes_per_image()
    costs = {
        "packing": fixture.build_ms,
        "Felzenszwalb 640x480": felzenszwalb_ms(480, 640),
        "Felzenszwalb 128x128": felzenszwalb_ms(128, 128),
    }
    if as_json:
        click.echo(json.dumps({"benchmark": "proposals-cost", "bytes": sizes, "ms": costs}))
        return
    for name, size in sizes.items():
        click.echo(f"{name:26}{size / 1024:9.1f} KiB an image")
    for name, milliseconds in costs.items():
        click.echo(f"{name:26}{milliseconds:9.1f} ms an image")


if __name__ == "__main__":
    main()
