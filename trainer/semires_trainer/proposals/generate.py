"""Filling a proposal store: idempotent, resumable, any number of processes, one record per image."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semires_trainer.errors import DataError, InfrastructureError
from semires_trainer.proposals.masks import Proposal, sha256_of
from semires_trainer.proposals.store import IMAGES_PER_SHARD, ProposalStore, StoreKey

FLUSH_SECONDS = 300.0

Progress = Callable[[int, int], None]
OnBad = Callable[[str, str], None]
"""Takes note of an image that can't be used, by file name and reason; may raise to end the pass."""


class Proposer(Protocol):
    """A generator of class-agnostic masks. Deterministic: same image and parameters, same masks."""

    @property
    def name(self) -> str:
        """The generator's name in the manifest."""

    @property
    def weights_sha256(self) -> str:
        """sha256 of its weights file; empty where it has none."""

    def parameters(self) -> dict[str, Any]:
        """Everything besides the weights that the masks depend on, as JSON values."""

    def propose(self, image_HW3: NDArray[np.uint8], keys: tuple[str, ...] = ()) -> list[Proposal]:
        """Masks of an RGB image (H, W, 3) uint8; `keys` are the image's names in a Precomputed folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInput:
    """One image to propose masks for."""

    file_name: str
    """Name by which the image is read."""
    sha256: str
    """Hexadecimal sha256 of the file's bytes: the key of its record."""
    keys: tuple[str, ...] = ()
    """Names of the image in a Precomputed folder: its ref ids, or its image id. Others ignore them."""
    size: tuple[int, int] | None = None
    """Width and height that its annotation says; None accepts any."""


class Decode(Protocol):
    """Makes an RGB picture of an image file's bytes; a module's function, so that workers can have it."""

    def __call__(self, content: bytes, *, name: str) -> Image.Image:
        """DataError naming `name` if the bytes are damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReader:
    """How images are read (in this process) and decoded (in this process or a worker), and what if they can't be."""

    read: Callable[[str], bytes]
    """Bytes of the named image file."""
    decode: Decode
    on_bad: OnBad | None = None
    """Called for an image that is unreadable, damaged or of another size, which then gets no record; None raises."""

    def note(self, file_name: str, error: DataError) -> None:
        """Tell `on_bad` of a bad image, or raise its error."""
        if self.on_bad is None:
            raise error
        self.on_bad(file_name, error.message)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateReport:
    """What a pass over the images did, in this process."""

    images: int
    """Different images asked for, over all ranks."""
    present: int
    """Of these, images that had a record before."""
    generated: int
    """Records made by this rank."""
    proposals: int
    """Masks in these records."""
    bad: int = 0
    """Images of this rank that got no record."""


def key_of(proposer: Proposer) -> StoreKey:
    """The key of the store that holds this proposer's masks."""
    return StoreKey(generator=proposer.name, parameters=proposer.parameters(), weights_sha256=proposer.weights_sha256)


def hash_images(
    file_names: Iterable[str], read: Callable[[str], bytes], *, on_bad: OnBad | None = None
) -> dict[str, str]:
    """sha256 of each named image file. Reads every file once: about a second per 5,000 COCO images.

    A file that can't be read is left out and told to `on_bad`; without one its DataError is raised.
    """
    digests: dict[str, str] = {}
    for name in dict.fromkeys(file_names):
        try:
            digests[name] = sha256_of(read(name))
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(name, error.message)
    return digests


def generate_missing(
    images: Sequence[ImageInput],
    proposer: Proposer,
    store: ProposalStore,
    *,
    reader: ImageReader,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    progress: Progress | None = None,
) -> GenerateReport:
    """Propose masks for every image without a record and publish them in shards.

    Rank r takes every `world_size`-th of all different images, sorted by sha256, so ranks that see different
    states of the store still share all images without overlap. Records are published every 256 images or five
    minutes, and when the pass ends for whatever reason: what was done is never done again.
    A bad image is told to `reader.on_bad` and gets no record.
    `workers` > 0 spreads the work over that many spawned processes (for proposers that run on one core).
    `progress(done, total)` is called after each image of this rank.
    """
    if store.key != key_of(proposer):
        raise DataError(f"{store.folder} holds the proposals of another generator than {proposer.name}")
    store.refresh()
    unique = sorted({image.sha256: image for image in images}.values(), key=lambda image: image.sha256)
    todo = [image for image in unique[rank::world_size] if not store.contains(image.sha256)]
    present = len(unique) - len(store.missing(image.sha256 for image in unique))
    writer = store.writer(images_per_shard=IMAGES_PER_SHARD)
    num_proposals = num_bad = 0
    published = time.monotonic()
    try:
        for done, (image, record) in enumerate(_records(todo, proposer, reader, workers=workers), start=1):
            if isinstance(record, DataError):
                reader.note(image.file_name, record)
                num_bad += 1
            else:
                writer.add(image.sha256, record.proposals, height=record.height, width=record.width)
                num_proposals += len(record.proposals)
            if time.monotonic() - published > FLUSH_SECONDS:
                writer.flush()
                published = time.monotonic()
            if progress:
                progress(done, len(todo))
    finally:
        writer.flush()
    store.refresh()
    generated = len(todo) - num_bad
    return GenerateReport(
        images=len(unique), present=present, generated=generated, proposals=num_proposals, bad=num_bad
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    height: int
    width: int
    proposals: list[Proposal]


def _records(
    images: Sequence[ImageInput], proposer: Proposer, reader: ImageReader, *, workers: int
) -> Iterator[tuple[ImageInput, _Record | DataError]]:
    """Records in the order of `images`, whatever the number of workers; an error for an image that is bad."""
    if workers <= 0 or len(images) < 2:
        for image in images:
            content = _read_checked(image, reader)
            if isinstance(content, DataError):
                yield image, content
            else:
                yield image, _propose(proposer, reader.decode, image, content)
        return
    # Spawned, not forked: the parent has threads (torch, progress bars), whose locks a fork may find held.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ignore_interrupt)
    try:
        yield from _records_from(pool, images, proposer, reader, ahead=4 * workers)
    except BrokenProcessPool as error:
        remedy = "It may have run out of memory: use fewer workers."
        raise InfrastructureError("a worker process that proposes masks died", remedy=remedy) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _records_from(
    pool: ProcessPoolExecutor,
    images: Sequence[ImageInput],
    proposer: Proposer,
    reader: ImageReader,
    *,
    ahead: int,
) -> Iterator[tuple[ImageInput, _Record | DataError]]:
    waiting: deque[tuple[ImageInput, DataError | Future[_Record | DataError]]] = deque()
    remaining = iter(images)
    while True:
        for image in islice(remaining, ahead - len(waiting)):
            content = _read_checked(image, reader)
            if isinstance(content, DataError):
                waiting.append((image, content))
            else:
                waiting.append((image, pool.submit(_propose, proposer, reader.decode, image, content)))
        if not waiting:
            return
        image, promised = waiting.popleft()
        yield image, promised if isinstance(promised, DataError) else promised.result()


def _propose(proposer: Proposer, decode: Decode, image: ImageInput, content: bytes) -> _Record | DataError:
    """The record of an image, or why it is bad; errors of the proposer are no fault of the image and are raised."""
    try:
        picture = decode(content, name=f"image {image.file_name}")
    except DataError as error:
        return error
    if image.size is not None and picture.size != image.size:
        found, said = (f"{width} x {height}" for width, height in (picture.size, image.size))
        return DataError(f"image {image.file_name} has {found} pixels, its annotation says {said}")
    image_HW3 = np.asarray(picture, dtype=np.uint8)
    proposals = proposer.propose(image_HW3, image.keys)
    return _Record(height=image_HW3.shape[0], width=image_HW3.shape[1], proposals=proposals)


def _read_checked(image: ImageInput, reader: ImageReader) -> bytes | DataError:
    try:
        content = reader.read(image.file_name)
    except DataError as error:
        return error
    if sha256_of(content) != image.sha256:
        return DataError(f"image {image.file_name} changed while the program was running", remedy="Start again.")
    return content


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which publishes what is finished and ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
