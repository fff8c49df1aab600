"""What a run works on: the data set, the labelled split, images, tokenizer, proposals. Loaded before any weight."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semires_trainer.config import Resolved
from semires_trainer.data.images import ImageSource, decode
from semires_trainer.data.load import load_dataset
from semires_trainer.data.records import Dataset, Ref
from semires_trainer.data.splits import LabeledSplit, image_files, refs_in_use, split_dataset
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.distributed import World
from semires_trainer.errors import DataError
from semires_trainer.models.build import vocabulary_path
from semires_trainer.proposals.build import build_proposer, precomputed_keys
from semires_trainer.proposals.generate import (
    ImageInput,
    ImageReader,
    OnBad,
    generate_missing,
    hash_images,
    key_of,
)
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.proposals.store import ProposalStore
from semires_trainer.replication import spread
from semires_trainer.signals import StopFlag, StopRequested
from semires_trainer.telemetry import Reporter
from semires_trainer.threads import available_cores

IMAGES_WORTH_PROCESSES = 16
"""Fewer images than this a rank, of 0.02 to 0.7 s each, are segmented in the rank itself."""


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Everything that is read and never written while training."""

    dataset: Dataset
    split: LabeledSplit
    images: ImageSource
    tokenizer: Tokenizer
    vocab: Path

    @property
    def train_refs(self) -> tuple[Ref, ...]:
        """The refs that the numbers in `split` count."""
        return self.dataset.refs_of("train")

    @property
    def labeled(self) -> list[Ref]:
        """Refs whose masks are read."""
        return [self.train_refs[number] for number in self.split.labeled_refs]

    @property
    def unlabeled(self) -> list[Ref]:
        """Refs of which image and expressions are read."""
        return [self.train_refs[number] for number in self.split.unlabeled_refs]


def load_materials(resolved: Resolved) -> Materials:
    """Load annotations, draw the split, open images and vocabulary; errors name what is missing.

    Raises DataError if an image of the refs that will be used is absent.
    """
    section = resolved.dataset
    dataset = load_dataset(section)
    split = split_dataset(dataset, section)
    vocab = vocabulary_path(resolved.model)
    materials = Materials(
        dataset=dataset,
        split=split,
        images=ImageSource(section.images),
        tokenizer=Tokenizer(vocab, resolved.model.max_tokens),
        vocab=vocab,
    )
    check_images(materials, refs_in_use(dataset, split, section.evaluate))
    return materials


def check_images(materials: Materials, refs: Sequence[Ref]) -> None:
    """DataError naming the first absent images of `refs`."""
    names = file_names(materials, refs)
    absent = materials.images.missing(names)
    if absent:
        raise DataError(
            f"{len(absent)} of {len(names)} images are absent, first: {', '.join(absent[:3])}",
            field="spec.dataset.images",
            remedy="Complete the folder or archive",
        )


def file_names(materials: Materials, refs: Sequence[Ref]) -> list[str]:
    """The image files of `refs`, each once, in order."""
    return image_files(materials.dataset, refs)


def propose(
    resolved: Resolved,
    materials: Materials,
    world: World,
    reporter: Reporter,
    *,
    stop: StopFlag,
    on_bad: OnBad | None = None,
) -> PackedCache:
    """Fill the proposal store for all train images in use, and the cache of masks at the training size.

    Ranks share the work, nodes exchange what they have; an image that has a record is not touched again. A bad image is
    told to `on_bad` and gets none. Idempotent. Raises StopRequested on all ranks if `stop` was set on one; the records
    made until then are kept.
    """
    proposer = build_proposer(resolved.proposals, device=str(world.device))
    store = ProposalStore(Path(resolved.proposals.store), key_of(proposer))
    spread(world, store.folder, counts=is_shard)
    store.refresh()
    # One rank's view for all: they deal the images by place, and a file may go bad while another rank reads it.
    inputs = world.broadcast(image_inputs(resolved, materials, on_bad=on_bad) if world.is_main else None)
    images = {image.sha256 for image in inputs}
    missing = len(store.missing(images))

    def on_image(_done: int, _total: int) -> None:
        reporter.advance()
        if stop.is_set:
            raise _Interrupted

    with reporter.stage("proposals", -(-missing // world.size), unit="image"), contextlib.suppress(_Interrupted):
        generate_missing(
            inputs,
            proposer,
            store,
            reader=ImageReader(read=materials.images.read, decode=decode, on_bad=on_bad),
            rank=world.rank,
            world_size=world.size,
            workers=segmenting_processes(resolved, world, images=missing),
            progress=on_image,
        )
    if world.any(stop.is_set):
        raise StopRequested(stop.exit_code, "The proposals made so far are kept; start again to go on.")
    spread(world, store.folder, counts=is_shard)
    store.refresh()
    new = missing - len(store.missing(images))
    reporter.message(
        f"Proposals of {len(images)} images: {len(images) - missing} were in {store.folder}, {new} are new.",
        images=len(images),
        present=len(images) - missing,
        new=new,
    )
    cache = PackedCache(store, resolved.model.image_size)
    cache.build(rank=world.local_rank, world_size=world.local_size)
    world.barrier()
    return cache


def is_shard(name: str) -> bool:
    """Whether a file of a store holds proposals; hidden ones are being written."""
    return name.endswith(".safetensors") and not name.startswith(".")


class _Interrupted(Exception):
    """Leaves a pass over images early."""


def segmenting_processes(resolved: Resolved, world: World, *, images: int) -> int:
    """Felzenszwalb runs on one core: one process a core, shared by the ranks. SAM runs in the ranks themselves.

    A few images are done before a process has started.
    """
    if resolved.proposals.generator != "Felzenszwalb" or images < IMAGES_WORTH_PROCESSES * world.size:
        return 0
    return available_cores() // world.size


def image_inputs(resolved: Resolved, materials: Materials, *, on_bad: OnBad | None = None) -> list[ImageInput]:
    """All train images in use that can be read: the unlabelled, and the labelled, on which corrections are counted."""
    refs_of_image: dict[int, list[int]] = {}
    for ref in [*materials.labeled, *materials.unlabeled]:
        refs_of_image.setdefault(ref.image_id, []).append(ref.ref_id)
    records = {image_id: materials.dataset.images[image_id] for image_id in refs_of_image}
    digests = hash_images((record.file_name for record in records.values()), materials.images.read, on_bad=on_bad)
    return [
        ImageInput(
            file_name=record.file_name,
            sha256=digests[record.file_name],
            keys=precomputed_keys(resolved.proposals, image_id=image_id, ref_ids=refs_of_image[image_id]),
            size=(record.width, record.height),
        )
        for image_id, record in records.items()
        if record.file_name in digests
    ]
