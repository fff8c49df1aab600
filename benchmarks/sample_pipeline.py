"""One unlabelled training sample: a 640 x 480 JPEG, a sentence, and 64 proposals at 480 x 480.

    python benchmarks/sample_pipeline.py [--json]

Ours is `UnlabeledDataset[address]` with the packed proposal cache, without and with the cache of decoded pictures.
The peer is written from the described semantics of the official loader: ground truth rasterised although unused, a
JSON file of start and length pairs filled run by run in Python, masks stacked at full size and nearest-resized by
torch, the picture resized three times, masks turned into int64, blur by a round trip through Pillow, colours
jittered by torchvision on the normalised picture. Both draw the same augmentations. Checked before timing:
masks and tokens exactly, weak views to 2 levels, doubly normalised strong views to 1e-4 where nothing was blurred.
The peer always normalises twice, as released; the Paper rows normalise once, on the device, which is not timed.
"""

from __future__ import annotations

import io
import json
import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from harness import interleave
from PIL import Image, ImageFilter
from proposals import HEIGHT, IMAGES, PROPOSALS, SIZE, WIDTH, make_masks
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

from semires_trainer.data.datasets import Inputs, UnlabeledDataset
from semires_trainer.data.images import ImageSource
from semires_trainer.data.masks import encode_rle, rasterize
from semires_trainer.data.pictures import PictureLoader
from semires_trainer.data.records import Annotation, Dataset, ImageRecord, Ref
from semires_trainer.data.sampling import Address, draw_below, sample_generator
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.data.transforms import MEAN, STD, Augmentation, draw_jitter, normalize
from semires_trainer.proposals.masks import Proposal, sha256_of
from semires_trainer.proposals.packed_cache import PackedCache
from semires_trainer.proposals.precomputed import encode_official
from semires_trainer.proposals.store import ProposalStore, StoreKey

VOCAB = Path(__file__).parents[1] / "tests" / "data" / "bert-base-uncased-vocab.txt"
SEED, DRAWS = 0, 32
"""32 addresses a round: 4 draws of each of 8 pictures, so that blur and jitter happen in about half."""


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """The same samples in both forms, on disk."""

    folder: Path
    dataset: UnlabeledDataset

    @property
    def addresses(self) -> list[Address]:
        return [Address(epoch=number // IMAGES, index=number % IMAGES) for number in range(DRAWS)]

    def with_picture_cache(self) -> UnlabeledDataset:
        """The same dataset, pictures kept in memory."""
        pictures = PictureLoader(self.dataset.inputs.pictures.source, size=SIZE, cache_bytes=1 << 30)
        return replace(self.dataset, inputs=replace(self.dataset.inputs, pictures=pictures))


def make_fixture(folder: Path) -> Fixture:
    """8 pictures, each with 64 proposals and one object that three sentences refer to."""
    store = ProposalStore(folder / "store", StoreKey(generator="Benchmark", parameters={}))
    writer = store.writer()
    images, annotations, refs = {}, {}, []
    for number in range(IMAGES):
        masks = make_masks(number)
        content = make_picture(number)
        (folder / f"{number}.jpg").write_bytes(content)
        (folder / f"{number}.json").write_text(json.dumps([encode_official(mask) for mask in masks]))
        writer.add(sha256_of(content), [Proposal.from_mask(mask) for mask in masks], height=HEIGHT, width=WIDTH)
        images[number] = ImageRecord(id=number, file_name=f"{number}.jpg", height=HEIGHT, width=WIDTH)
        annotations[number] = make_annotation(number, masks)
        refs.append(make_ref(number))
    writer.flush()
    cache = PackedCache(store, SIZE)
    cache.build()
    inputs = Inputs(
        dataset=Dataset(name="Benchmark", images=images, annotations=annotations, refs=tuple(refs)),
        pictures=PictureLoader(ImageSource(folder), size=SIZE),
        tokenizer=Tokenizer(VOCAB, 20),
    )
    return Fixture(folder=folder, dataset=UnlabeledDataset(inputs=inputs, refs=refs, seed=SEED, proposals=cache))


def make_picture(seed: int) -> bytes:
    """A JPEG with the detail and size of a photo."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (HEIGHT // step, WIDTH // step, 3), dtype=np.uint8)).resize(
                (WIDTH, HEIGHT), Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        for step in (80, 16, 4)
    ]
    pixels = layers[0] * 0.6 + layers[1] * 0.3 + layers[2] * 0.1
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_annotation(number: int, masks: Any) -> Annotation:
    """The largest proposal is the object."""
    largest = masks[int(masks.sum(axis=(1, 2)).argmax())]
    box = (0.0, 0.0, float(WIDTH), float(HEIGHT))
    outline = encode_rle(largest)
    return Annotation(id=number, image_id=number, category_id=0, bbox=box, segmentation=outline, iscrowd=False)


def make_ref(number: int) -> Ref:
    sentences = (f"object number {number}", "the one on the left", "large thing behind the others")
    return Ref(
        ref_id=number,
        annotation_id=number,
        image_id=number,
        split="train",
        category="thing",
        expressions=sentences,
        raw=sentences,
    )


def official_sample(fixture: Fixture, address: Address) -> dict[str, Tensor]:
    """The official steps in their order; chance comes from the address, as ours."""
    inputs, ref = fixture.dataset.inputs, fixture.dataset.refs[address.index]
    generator = sample_generator(SEED, address.epoch, address.index, fixture.dataset.stream)
    sentence = ref.expressions[draw_below(generator, len(ref.expressions))]
    picture = Image.open(fixture.folder / f"{address.index}.jpg").convert("RGB")
    truth = rasterize(inputs.dataset.annotations[ref.annotation_id], HEIGHT, WIDTH)
    target = Image.fromarray(truth.astype(np.uint8), mode="P").resize((SIZE, SIZE), Image.Resampling.NEAREST)
    masks_PHW = official_masks(fixture.folder / f"{address.index}.json").to(torch.int64)
    views = [F.to_dtype(F.pil_to_tensor(resized), torch.float32, scale=True) for resized in resized_thrice(picture)]
    weak = views[0]
    if generator.random() < 0.5:
        blurred = F.to_pil_image(weak).filter(ImageFilter.GaussianBlur(1))
        weak = F.to_dtype(F.pil_to_tensor(blurred), torch.float32, scale=True)
    weak = F.normalize(weak, list(MEAN), list(STD))
    strong = weak
    jitter = draw_jitter(Augmentation(), generator)
    for name, factor in jitter.operations if jitter else ():
        strong = getattr(F, f"adjust_{name}")(strong, factor)
    tokens = inputs.tokenizer(sentence)
    return {
        "weak": weak,
        "strong": F.normalize(strong, list(MEAN), list(STD)),
        "target": torch.as_tensor(np.array(target), dtype=torch.int64),
        "masks": masks_PHW,
        "input_ids": torch.from_numpy(tokens.input_ids),
    }


def official_masks(path: Path) -> Tensor:
    """Masks (P, S, S) uint8 from a file of the release."""
    filled = []
    for entry in json.loads(path.read_text()):
        height, width = entry["size"]
        flat = np.zeros(height * width, np.uint8)
        for start, length in zip(entry["counts"][::2], entry["counts"][1::2], strict=True):
            flat[start - 1 : start - 1 + length] = 1
        filled.append(flat.reshape(width, height).T)
    stacked = torch.from_numpy(np.stack(filled))
    return functional.interpolate(stacked[None], size=(SIZE, SIZE), mode="nearest")[0]


def resized_thrice(picture: Image.Image) -> Iterator[Image.Image]:
    for _ in range(3):
        yield picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def check(fixture: Fixture) -> None:
    """Stop unless both paths give the same samples."""
    twice = replace(fixture.dataset, augmentation=Augmentation(strong_normalization="Twice"))
    for address in fixture.addresses:
        ours, theirs = twice[address], official_sample(fixture, address)
        masks, areas = ours["proposals"]
        levels = (normalize(ours["weak"]) - theirs["weak"]).abs().amax(dim=(1, 2)) * torch.tensor(STD) * 255
        blurred = bool(levels.max() > 0.01)
        same = np.array_equal(masks.numpy(), np.packbits(theirs["masks"].numpy() > 0, axis=2))
        same &= torch.equal(areas, theirs["masks"].sum(dim=(1, 2)))
        same &= torch.equal(ours["input_ids"], theirs["input_ids"])
        same &= bool(levels.max() < 2.01)
        same &= blurred or torch.allclose(ours["strong"], theirs["strong"], atol=1e-4)
        if not same:
            raise click.ClickException(f"the paths give different samples for {address}")


def next_of(addresses: list[Address], call: Callable[[Address], object]) -> Callable[[], object]:
    turn = cycle(addresses)
    return lambda: call(next(turn))


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
@click.option("--rounds", default=9, show_default=True, help="Interleaved rounds.")
@click.option("--threads", default=1, show_default=True, help="Threads of PyTorch; loader workers have 1.")
def main(as_json: bool, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        fixture = make_fixture(Path(folder))
        check(fixture)
        peer = next_of(fixture.addresses, lambda address: official_sample(fixture, address))
        twice = Augmentation(strong_normalization="Twice")
        variants = {
            "Paper": fixture.dataset,
            "Paper, pictures cached": fixture.with_picture_cache(),
            "Official presets": replace(fixture.dataset, augmentation=twice),
        }
        if not as_json:
            click.echo(f"{'ours':24}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}{'worst':>8}")
        for name, dataset in variants.items():
            ours = next_of(fixture.addresses, dataset.__getitem__)
            result = interleave(ours, peer, rounds=rounds, repeat=DRAWS)
            times = f"{result.ours_ms:9.2f}{result.peer_ms:9.2f}{result.ratio:7.1f}x{result.ratio_min:7.1f}x"
            row = result.row("sample_pipeline", ours=name, masks=PROPOSALS, size=SIZE)
            click.echo(row if as_json else f"{name:24}{times}")
        report_sizes(fixture, as_json=as_json)


def report_sizes(fixture: Fixture, *, as_json: bool) -> None:
    """Bytes of the tensors of one sample, and the peak memory of this process (peer and ours together)."""
    address = fixture.addresses[0]
    sample = fixture.dataset[address]
    sizes = {
        "ours": sum(value.nbytes for value in [*sample.values(), *sample["proposals"]] if isinstance(value, Tensor)),
        "official": sum(value.nbytes for value in official_sample(fixture, address).values()),
        "peak memory of this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if as_json:
        click.echo(json.dumps({"benchmark": "sample_pipeline-size", "bytes": sizes}))
        return
    for name, size in sizes.items():
        click.echo(f"{name:30}{size / 2**20:9.1f} MiB")


if __name__ == "__main__":
    main()
