"""The pictures a run ends with: training curves, and overlays of what the refinement corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semires_trainer.curves import write_training_curves
from semires_trainer.data.datasets import UnlabeledDataset, collate
from semires_trainer.data.sampling import Address
from semires_trainer.metrics_log import read_records
from semires_trainer.models.deploy import load_model
from semires_trainer.models.lavt import LAVT
from semires_trainer.proposals.build import build_key
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.proposals.store import ProposalStore
from semires_trainer.refine.losses import pseudo_label
from semires_trainer.refine.match import refine
from semires_trainer.refine.packed import ProposalBatch
from semires_trainer.results import BURN_IN, TEACHER
from semires_trainer.stages import Run
from semires_trainer.steps import text_of
from semires_trainer.visualize import contact_sheet, example_tiles, panel, save_png

NUM_EXAMPLES = 24
SHEET_EXAMPLES = 6


def draw_pictures(run: Run) -> list[Path]:
    """Write `curves.png`, `overlays/*.png` and `overlays/sheet.png`; returns the files. Rank 0 only."""
    written = []
    records = read_records(run.output / "metrics.jsonl")
    if records:
        written.append(run.output / "curves.png")
        write_training_curves(records, written[0], title=run.resolved.name)
    folders = [run.model_folder(BURN_IN), run.model_folder(TEACHER)]
    if run.loaders.materials.unlabeled and all(folder.is_dir() for folder in folders):
        written += draw_overlays(run)
    return written


def draw_overlays(run: Run) -> list[Path]:
    """One row per example: picture, truth, the burn-in model's pseudo-label, its refinement, the final prediction.

    The examples are unlabelled refs, evenly spaced; the sheet shows those whose pseudo-label refinement changed first.
    """
    batch = example_batch(run)
    first, last = (load_model(run.model_folder(name))[0].to(run.world.device) for name in (BURN_IN, TEACHER))
    pseudo_BHW, prediction_BHW = predict_masks(run, first, batch), predict_masks(run, last, batch)
    settings = run.resolved.refinement
    refined = refine(
        pseudo_BHW,
        batch["proposals"],
        strategy=settings.strategy,
        iou=settings.iou,
        inter1=settings.inter1,
        inter2=settings.inter2,
    )
    rows = [
        draw_row(batch, number, pseudo_BHW[number], refined.target_BHW[number], prediction_BHW[number])
        for number in range(len(pseudo_BHW))
    ]
    folder = run.output / "overlays"
    paths = [folder / f"example-{number:02d}.png" for number in range(len(rows))]
    for path, row in zip(paths, rows, strict=True):
        save_png(row, path)
    order = sorted(range(len(rows)), key=lambda number: not bool(refined.matched_B[number]))
    save_png(contact_sheet([rows[number] for number in order[:SHEET_EXAMPLES]]), folder / "sheet.png")
    return [*paths, folder / "sheet.png"]


def example_batch(run: Run) -> dict[str, Any]:
    """Weak views of evenly spaced unlabelled refs with their truth and proposals, on the device."""
    refs = run.loaders.materials.unlabeled
    section = run.resolved.proposals
    cache = PackedCache(ProposalStore(Path(section.store), build_key(section)), run.resolved.model.image_size)
    dataset = UnlabeledDataset(
        inputs=run.loaders.inputs, refs=refs, seed=run.training.seed, proposals=cache, with_truth=True
    )
    count = min(NUM_EXAMPLES, len(refs))
    samples = [dataset[Address(epoch=0, index=number * len(refs) // count)] for number in range(count)]
    return run.compute.moved(collate(samples, stack_proposals=ProposalBatch.stack))


@torch.no_grad()
def predict_masks(run: Run, model: LAVT, batch: dict[str, Any]) -> Tensor:
    """The model's argmax on the weak views: bool (B, S, S)."""
    with run.compute.autocast():
        return pseudo_label(model(run.compute.image(batch["weak"]), *text_of(batch)))


def draw_row(
    batch: dict[str, Any], number: int, pseudo_HW: Tensor, refined_HW: Tensor, prediction_HW: Tensor
) -> Image.Image:
    """One example as a row of tiles."""
    pixels = batch["weak"][number].permute(1, 2, 0).cpu().numpy()
    truth, pseudo, refined, prediction = (
        np.asarray(mask.cpu(), dtype=bool) for mask in (batch["mask"][number], pseudo_HW, refined_HW, prediction_HW)
    )
    tiles = example_tiles(truth, pseudo_HW=pseudo, refined_HW=refined, prediction_HW=prediction)
    return panel(pixels, batch["expression"][number], tiles)
