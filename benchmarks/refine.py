"""Refinement of pseudo-labels by 64 proposals each at 480 x 480: ours, a per-mask loop, and pycocotools.

    python benchmarks/refine.py [--json]

Batches of 12 images, the Paper preset's unlabelled batch, and of one; times are per image. Ours is `refine` from the
boolean pseudo-labels to the boolean refined masks; proposals come bit-packed with their areas, as the cache serves
them. The per-mask loop is written from the description of the official step: int64
masks already in memory, products and sums one proposal at a time. pycocotools gets proposals already run-length
encoded, encodes the pseudo-label and computes the ratios; it is not asked for the refined mask. That all choose
the same proposals is checked before timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import numpy as np
import torch
from harness import Comparison, interleave
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F

from semires_trainer.refine.match import Refinement, Strategy, refine
from semires_trainer.refine.packed import ProposalBatch, pack

SIZE, PROPOSALS = 480, 64
BATCHES = (12, 1)
OBJECTS = {"small": 0.02, "medium": 0.08, "large": 0.30}
IOU, INTER = 0.5, 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One pseudo-label and its proposals in the form that each competitor keeps them in."""

    pseudo_HW: Tensor
    masks_PHW: Tensor
    packed: tuple[Tensor, Tensor]
    encoded: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Scenes that are refined together."""

    scenes: list[Scene]
    pseudo_BHW: Tensor
    proposals: ProposalBatch

    @classmethod
    def of(cls, area: float, *, size: int, seed: int) -> Batch:
        scenes = [make_scene(area, seed=1000 * seed + number) for number in range(size)]
        return cls(
            scenes=scenes,
            pseudo_BHW=torch.stack([scene.pseudo_HW for scene in scenes]),
            proposals=ProposalBatch.stack([scene.packed for scene in scenes]),
        )


def blob(generator: torch.Generator, area: float, *, centre: Tensor | None = None) -> Tensor:
    """A mask with a ragged outline and holes that covers about `area` of the image."""
    noise = F.interpolate(torch.randn((1, 1, 40, 40), generator=generator), size=(SIZE, SIZE), mode="bicubic")[0, 0]
    y, x = torch.rand(2, generator=generator) * 0.6 + 0.2 if centre is None else centre
    axis = torch.linspace(0, 1, SIZE)
    distance = ((axis[:, None] - y) ** 2 + (axis[None] - x) ** 2).sqrt() * (1 + 0.15 * noise)
    return distance <= distance.flatten().kthvalue(int(area * SIZE * SIZE)).values


def make_scene(area: float, *, seed: int) -> Scene:
    """A pseudo-label of the given area, three proposals near it, and others of 0.5 % to 40 % anywhere."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.tensor([0.5, 0.45])
    areas = 0.005 * 80 ** torch.rand(PROPOSALS - 3, generator=generator)
    near = [blob(generator, area * factor, centre=centre) for factor in (1.0, 1.1, 0.6)]
    masks = torch.stack([*near, *(blob(generator, float(other)) for other in areas)])
    masks = masks[torch.randperm(PROPOSALS, generator=generator)]
    return Scene(
        pseudo_HW=blob(generator, area, centre=centre),
        masks_PHW=masks.to(torch.int64),
        packed=(pack(masks), masks.sum(dim=(1, 2))),
        encoded=[encode(mask) for mask in masks],
    )


def encode(mask_HW: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = coco.encode(np.asfortranarray(mask_HW.numpy().view(np.uint8)))
    return result


def ours(batch: Batch, strategy: Strategy) -> Refinement:
    return refine(batch.pseudo_BHW, batch.proposals, strategy=strategy, iou=IOU, inter1=INTER, inter2=INTER)


def loop_iom(scene: Scene) -> tuple[Tensor, list[int]]:
    pseudo, best, chosen = scene.pseudo_HW.to(torch.int64), 0.0, -1
    for index, mask in enumerate(scene.masks_PHW):
        overlap = (mask * pseudo).sum() / (mask + pseudo - mask * pseudo).sum()
        if overlap > IOU and overlap > best:
            best, chosen = float(overlap), index
    return (pseudo, []) if chosen < 0 else (scene.masks_PHW[chosen], [chosen])


def loop_cpi(scene: Scene) -> tuple[Tensor, list[int]]:
    pseudo, chosen = scene.pseudo_HW.to(torch.int64), []
    union = torch.zeros_like(pseudo)
    for index, mask in enumerate(scene.masks_PHW):
        shared = (mask * pseudo).sum()
        if shared / (pseudo.sum() + 1e-9) > INTER or shared / mask.sum() > INTER:
            union = union | mask
            chosen.append(index)
    return (union, chosen) if chosen else (pseudo, chosen)


def coco_iom(scene: Scene) -> list[int]:
    overlap = coco.iou(scene.encoded, [encode(scene.pseudo_HW)], [0])[:, 0]
    best = int(overlap.argmax())
    return [best] if overlap[best] > IOU else []


def coco_cpi(scene: Scene) -> list[int]:
    pseudo = [encode(scene.pseudo_HW)]
    covered = coco.iou(pseudo, scene.encoded, [1] * PROPOSALS)[0]  # "crowd" divides by the first argument's area
    inside = coco.iou(scene.encoded, pseudo, [1])[:, 0]
    return [int(index) for index in np.flatnonzero((covered > INTER) | (inside > INTER))]


def check(batch: Batch, strategy: Strategy) -> None:
    """Stop unless all three choose the same proposals and the loop's mask is ours."""
    result = ours(batch, strategy)
    loop, peer = (loop_iom, coco_iom) if strategy == "IOM" else (loop_cpi, coco_cpi)
    selected_BK = result.selected_P.reshape(len(batch.scenes), PROPOSALS)
    for scene, selected_K, target_HW in zip(batch.scenes, selected_BK, result.target_BHW, strict=True):
        chosen = [int(index) for index in selected_K.nonzero()[:, 0]]
        mask, loop_chosen = loop(scene)
        if not (chosen == loop_chosen == peer(scene)) or not torch.equal(mask.bool(), target_HW):
            raise click.ClickException(f"{strategy}: the three implementations disagree")


def compare(batch: Batch, strategy: Strategy, rounds: int) -> dict[str, Comparison]:
    check(batch, strategy)
    peers: dict[str, tuple[Callable[[Scene], object], int]] = {
        "per-mask loop": (loop_iom if strategy == "IOM" else loop_cpi, 24),
        "pycocotools": (coco_iom if strategy == "IOM" else coco_cpi, 96),
    }
    images = len(batch.scenes)

    def one_by_one(peer: Callable[[Scene], object]) -> None:
        for scene in batch.scenes:
            peer(scene)

    return {
        name: interleave(
            partial(ours, batch, strategy),
            partial(one_by_one, peer),
            rounds=rounds,
            repeat=-(-repeat // images),
            items=images,
        )
        for name, (peer, repeat) in peers.items()
    }


def cases(rounds: int) -> Iterator[tuple[dict[str, Any], Comparison]]:
    """What is compared, and the result."""
    for seed, (name, area) in enumerate(OBJECTS.items()):
        for size in BATCHES:
            batch = Batch.of(area, size=size, seed=seed)
            for strategy in ("IOM", "CPI"):
                for peer, result in compare(batch, strategy, rounds).items():
                    yield {"strategy": strategy, "peer": peer, "object": name, "images": size}, result


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row instead of the table.")
@click.option("--rounds", default=9, show_default=True, help="Interleaved rounds.")
@click.option("--threads", default=1, show_default=True, help="Threads of PyTorch; more only on a quiet machine.")
def main(as_json: bool, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    if not as_json:
        click.echo(
            f"{'strategy':10}{'peer':15}{'object':8}{'images':>6}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}{'worst':>8}"
        )
    for case, result in cases(rounds):
        if as_json:
            click.echo(result.row("refine", **case, proposals=PROPOSALS))
            continue
        name = f"{case['strategy']:10}{case['peer']:15}{case['object']:8}{case['images']:6}"
        times = f"{result.ours_ms:9.3f}{result.peer_ms:9.3f}"
        click.echo(f"{name}{times}{result.ratio:7.1f}x{result.ratio_min:7.1f}x")


if __name__ == "__main__":
    main()
