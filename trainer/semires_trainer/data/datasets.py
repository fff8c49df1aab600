"""Torch datasets: what an address means. A sample is a function of (seed, epoch, index) and of the files.

Samples are dictionaries of tensors; `collate` stacks them. Shapes: B batch, S training size, T tokens, P
proposals.

| key | shape, type | in | |---|---|---| | image | (3, S, S) uint8 | labelled, evaluation | | weak, strong |
(3, S, S) uint8 (strong float when normalised twice) | unlabelled | | mask | (S, S) uint8, 0 or 1 | labelled,
evaluation; unlabelled only with `with_truth` | | original_mask | (H, W) uint8, a list when collated |
evaluation | | input_ids, attention_mask | (T,) int64 | all | | proposals | ((K, S, S/8) uint8, (K,) int64
areas), joined by the function given to `collate` | where a source is given | | ref | int64: place of the ref
in the list the dataset was made from | all | | image_sha256, expression | text | all |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from semires_trainer.data.bad_images import BadImages
from semires_trainer.data.masks import Mask, rasterize, resize_mask_nearest
from semires_trainer.data.pictures import BadImageError, Picture, PictureLoader
from semires_trainer.data.records import Dataset, Ref
from semires_trainer.data.sampling import Address, draw_below, sample_generator
from semires_trainer.data.tokenizer import Tokenizer
from semires_trainer.data.transforms import Augmentation, strong_view, to_tensor, weak_view
from semires_trainer.errors import DataError

Sample: TypeAlias = dict[str, Any]
StackProposals = Callable[[Sequence[tuple[Tensor, Tensor]]], Any]


class ProposalSource(Protocol):
    """Where the packed proposals of an image come from (proposals.packed_cache.PackedCache is one)."""

    def load(self, image_sha256: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
        """Masks (K, S, S/8), bit-packed along the width, and their areas (K,) in pixels."""

    def contains(self, image_sha256: str) -> bool:
        """Whether the image has a record, be it without masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What every dataset reads from."""

    dataset: Dataset
    pictures: PictureLoader
    tokenizer: Tokenizer
    bad_images: BadImages | None = None
    """The known bad images, for which training takes others; None: each is an error."""

    def picture_of(self, ref: Ref) -> Picture:
        """The picture of a ref's image; BadImageError naming it."""
        return self.pictures.load(self.dataset.images[ref.image_id])

    def usable(
        self, refs: Sequence[Ref], address: Address, proposals: ProposalSource | None, *, seed: int, stream: str
    ) -> tuple[int, Picture]:
        """Place and picture of the ref at `address`; of another if its image is bad, a function of (seed, stream,
        address) and of which images are bad. DataError if too many are, or if none is left."""
        bad = self.bad_images
        if bad is None:
            return address.index, self.picture_of(refs[address.index])
        for place in (address.index, *_others(address, len(refs), seed=seed, stream=stream)):
            file_name = self.dataset.images[refs[place].image_id].file_name
            if file_name in bad:
                continue
            try:
                return place, self._with_record(self.picture_of(refs[place]), file_name, proposals)
            except BadImageError as error:
                bad.add(file_name, error.message)
        raise DataError(
            f"none of the {len(refs)} {stream} samples has a usable image",
            field="spec.dataset.images",
            remedy="Repair the files that bad-images.json lists",
        )

    def _with_record(self, picture: Picture, file_name: str, proposals: ProposalSource | None) -> Picture:
        if proposals is not None and not proposals.contains(picture.sha256):
            raise BadImageError(f"image {file_name} has no proposals: it changed after they were made")
        return picture

    def text(self, expression: str) -> Sample:
        """Tokens of one sentence."""
        tokens = self.tokenizer(expression)
        return {
            "input_ids": torch.from_numpy(tokens.input_ids),
            "attention_mask": torch.from_numpy(tokens.attention_mask),
            "expression": expression,
        }

    def truth(self, ref: Ref) -> Mask:
        """Ground truth (H, W) at the size of the image."""
        image = self.dataset.images[ref.image_id]
        annotation = self.dataset.annotations[ref.annotation_id]
        return rasterize(annotation, image.height, image.width, source=self.dataset.source)

    def truth_at_size(self, ref: Ref) -> Tensor:
        """Ground truth (S, S) uint8."""
        return _mask_tensor(resize_mask_nearest(self.truth(ref), self.pictures.size))


@dataclass(frozen=True, kw_only=True)
class LabeledDataset(TorchDataset[Sample]):
    """Labelled refs, addressed by (epoch, index): picture, mask, one of the expressions drawn uniformly.

    With `augmentation` the picture is its strong view (burn-in with augmentation); the official code has
    none.
    """

    inputs: Inputs
    refs: Sequence[Ref]
    seed: int
    stream: str = "labeled"
    augmentation: Augmentation | None = None
    proposals: ProposalSource | None = None

    def __len__(self) -> int:
        """Number of refs."""
        return len(self.refs)

    def __getitem__(self, address: Address) -> Sample:
        """The sample of one address; DataError naming the file or annotation that is at fault."""
        place, picture = self.inputs.usable(self.refs, address, self.proposals, seed=self.seed, stream=self.stream)
        ref = self.refs[place]
        generator = sample_generator(self.seed, address.epoch, address.index, self.stream)
        expression = ref.expressions[draw_below(generator, len(ref.expressions))]
        if self.augmentation is None:
            image = to_tensor(picture.pixels)
        else:
            weak = to_tensor(weak_view(picture.pixels, self.augmentation, generator))
            image = strong_view(weak, self.augmentation, generator)
        sample = {"image": image, "mask": self.inputs.truth_at_size(ref), "ref": torch.tensor(place)}
        return sample | self.inputs.text(expression) | _with_proposals(picture.sha256, self.proposals)


@dataclass(frozen=True, kw_only=True)
class UnlabeledDataset(TorchDataset[Sample]):
    """Unlabelled refs, addressed by (epoch, index): two views, an expression, the image's proposals."""

    inputs: Inputs
    refs: Sequence[Ref]
    seed: int
    stream: str = "unlabeled"
    augmentation: Augmentation = field(default_factory=Augmentation)
    proposals: ProposalSource | None = None
    with_truth: bool = False
    """Add the ground truth of the unlabelled refs: for statistics and pictures, never for training."""

    def __len__(self) -> int:
        """Number of refs."""
        return len(self.refs)

    def __getitem__(self, address: Address) -> Sample:
        """The sample of one address; DataError naming the file or annotation that is at fault."""
        place, picture = self.inputs.usable(self.refs, address, self.proposals, seed=self.seed, stream=self.stream)
        ref = self.refs[place]
        generator = sample_generator(self.seed, address.epoch, address.index, self.stream)
        expression = ref.expressions[draw_below(generator, len(ref.expressions))]
        weak = to_tensor(weak_view(picture.pixels, self.augmentation, generator))
        strong = strong_view(weak, self.augmentation, generator)
        sample = {"weak": weak, "strong": strong, "ref": torch.tensor(place)}
        if self.with_truth:
            sample["mask"] = self.inputs.truth_at_size(ref)
        return sample | self.inputs.text(expression) | _with_proposals(picture.sha256, self.proposals)


@dataclass(frozen=True, kw_only=True)
class EvalDataset(TorchDataset[Sample]):
    """Pairs (ref, expression) in the order of the refs; addressed by their place alone."""

    inputs: Inputs
    refs: Sequence[Ref]
    pairs: Sequence[tuple[int, str]]
    """(place of the ref, sentence); made by `evaluation_pairs`."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, place: int) -> Sample:
        """The pair at `place`: picture, truth at S x S and at original size, tokens."""
        number, expression = self.pairs[place]
        ref = self.refs[number]
        picture = self._picture_of(ref)
        truth = self.inputs.truth(ref)
        sample = {
            "image": to_tensor(picture.pixels),
            "mask": _mask_tensor(resize_mask_nearest(truth, self.inputs.pictures.size)),
            "original_mask": _mask_tensor(truth),
            "ref": torch.tensor(number),
            "image_sha256": picture.sha256,
        }
        return sample | self.inputs.text(expression)

    def _picture_of(self, ref: Ref) -> Picture:
        try:
            return self.inputs.picture_of(ref)
        except BadImageError as error:
            raise BadImageError(
                f"{error.message}, and evaluation images are never replaced: figures over others compare with none",
                field=error.field,
                remedy="Repair the file, or take its refs out of the split; the run then goes on where it stopped",
            ) from error


def evaluation_pairs(
    refs: Sequence[Ref], *, mode: Literal["AllExpressions", "OneExpression"] = "AllExpressions", seed: int = 0
) -> tuple[tuple[int, str], ...]:
    """Which sentences are evaluated: all of every ref, or one drawn per ref (as official CPI).

    The sentences are the typed ones (REFER's `raw`), as in the official evaluation.
    """
    if mode == "AllExpressions":
        return tuple((number, sentence) for number, ref in enumerate(refs) for sentence in ref.raw)
    generators = (sample_generator(seed, 0, number, "one-expression") for number in range(len(refs)))
    drawn = (draw_below(generator, len(ref.raw)) for ref, generator in zip(refs, generators, strict=True))
    return tuple((number, refs[number].raw[choice]) for number, choice in enumerate(drawn))


def collate(samples: Sequence[Sample], *, stack_proposals: StackProposals = list) -> dict[str, Any]:
    """Join samples: tensors are stacked, `original_mask` (sizes differ) and text become lists.

    `stack_proposals` joins the samples' (masks, areas): refine.packed.ProposalBatch.stack in training.
    """
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if key == "proposals":
            batch[key] = stack_proposals(values)
        elif isinstance(first, Tensor) and key != "original_mask":
            batch[key] = torch.stack(values)
        else:
            batch[key] = values
    return batch


def _others(address: Address, size: int, *, seed: int, stream: str) -> Iterator[int]:
    """All places but that of `address`, once each, from a drawn one on: those that may take its stead."""
    start = draw_below(sample_generator(seed, address.epoch, address.index, f"{stream}/replacement"), size)
    return (place for step in range(size) if (place := (start + step) % size) != address.index)


def _with_proposals(image_sha256: str, source: ProposalSource | None) -> Sample:
    if source is None:
        return {"image_sha256": image_sha256}
    masks, areas = source.load(image_sha256)
    found = (torch.from_numpy(masks), torch.from_numpy(areas.astype(np.int64, copy=False)))
    return {"image_sha256": image_sha256, "proposals": found}


def _mask_tensor(mask: Mask) -> Tensor:
    return torch.from_numpy(mask.view(np.uint8).copy())
