"""From `spec.proposals` to a generator and the key of its store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from semires_trainer.proposals.felzenszwalb import FelzenszwalbProposer
from semires_trainer.proposals.generate import (
    GenerateReport,
    ImageInput,
    ImageReader,
    Progress,
    Proposer,
    generate_missing,
    key_of,
)
from semires_trainer.proposals.precomputed import PrecomputedProposer
from semires_trainer.proposals.sam_key import expected_sha256, sam_parameters
from semires_trainer.proposals.store import ProposalStore, StoreKey
from semires_trainer.spec.resolved import ResolvedFelzenszwalb, ResolvedPrecomputed, ResolvedProposals


def build_proposer(section: ResolvedProposals, *, device: str = "cpu") -> Proposer:
    """The generator that the manifest names, its weights loaded and checked; paths in `section` are local.

    `device` is where SAM runs. WeightsError for SAM weights that are missing, unsafe or of another model.
    """
    if section.sam is None:
        return _without_weights(section)
    # Imported here: torch and torchvision take seconds, and the other generators need neither.
    from semires_trainer.proposals.sam import SamProposer

    return SamProposer.load(section.sam, device=device)


def build_key(section: ResolvedProposals) -> StoreKey:
    """The key of the store that `section` asks for, without reading weights."""
    if section.sam is None:
        return key_of(_without_weights(section))
    return StoreKey(
        generator="SAM", parameters=sam_parameters(section.sam), weights_sha256=expected_sha256(section.sam)
    )


def convert_official(
    folder: Path,
    root: Path,
    images: Sequence[ImageInput],
    *,
    reader: ImageReader,
    progress: Progress | None = None,
) -> tuple[ProposalStore, GenerateReport]:
    """Bring the release's JSON files in `folder` into a store below `root`; `keys` of the images name the files.

    A job with generator Precomputed, this folder and this store then finds every image done. Idempotent.
    """
    proposer = PrecomputedProposer(folder=folder)
    store = ProposalStore(root, key_of(proposer))
    return store, generate_missing(images, proposer, store, reader=reader, progress=progress)


def precomputed_keys(section: ResolvedProposals, *, image_id: int, ref_ids: Iterable[int]) -> tuple[str, ...]:
    """Names of an image's files in a Precomputed folder, for `ImageInput.keys`; else none."""
    if section.precomputed is None:
        return ()
    if section.precomputed.keyed_by == "Image":
        return (str(image_id),)
    return tuple(str(ref_id) for ref_id in ref_ids)


def _without_weights(section: ResolvedProposals) -> Proposer:
    if section.precomputed is not None:
        return _precomputed(section.precomputed)
    if section.felzenszwalb is None:
        raise ValueError(f"proposals: the section of generator {section.generator} is not set")
    return _felzenszwalb(section.felzenszwalb)


def _felzenszwalb(section: ResolvedFelzenszwalb) -> FelzenszwalbProposer:
    return FelzenszwalbProposer(
        scales=section.scales, sigma=section.sigma, min_size=section.min_size, nms_iou=section.nms_iou
    )


def _precomputed(section: ResolvedPrecomputed) -> PrecomputedProposer:
    return PrecomputedProposer(folder=Path(section.path).expanduser())
