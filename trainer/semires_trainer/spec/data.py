"""Sections `dataset` and `proposals`: what is trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from semires_trainer.spec.scalars import (
    FormText,
    Natural,
    NonNegative,
    Percent,
    Positive,
    Section,
    Sha256,
    Share,
    Unique,
    Uri,
    WeightsUri,
    contradiction,
)

DatasetName = Literal["RefCOCO", "RefCOCOPlus", "GRefUMD", "GRefGoogle", "Custom"]
Generator = Literal["SAM", "Felzenszwalb", "Precomputed"]

SPLITS: dict[str, tuple[str, ...]] = {
    "RefCOCO": ("val", "testA", "testB"),
    "RefCOCOPlus": ("val", "testA", "testB"),
    "GRefUMD": ("val", "test"),
    "GRefGoogle": ("val",),
    "Custom": ("val",),
}
"""Splits evaluated by default. For the published datasets these are also all there are; Custom may name its
own."""

SplitName = Annotated[
    str,
    FormText(
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        words="use letters, digits, dashes and underscores, a letter first",
        max_length=32,
    ),
]
ImageId = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]


class Labeled(Section):
    """Which training images keep their masks. Exactly one of percent, imageIds, imageIdsFile."""

    percent: Percent | None = None
    """Share of the training images that are labelled, in percent. The paper uses 0.5, 1, 2 and 5."""
    seed: Natural = 0
    """Seed of the draw; 0 gives the official split."""
    image_ids: Annotated[tuple[ImageId, ...], Field(min_length=1, max_length=5000), Unique()] | None = None
    """The labelled images by id, at most 5,000; for more use imageIdsFile."""
    image_ids_file: Uri | None = None
    """A text file with one image id per line, or a JSON list of ids."""

    @model_validator(mode="after")
    def _one_form(self) -> Labeled:
        given = [name for name in ("percent", "image_ids", "image_ids_file") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(map(to_camel, given)) or "none"
            raise contradiction(
                "",
                f"exactly one of percent, imageIds, imageIdsFile is needed, got {found}",
                "keep one of them",
            )
        return self


class Dataset(Section):
    """Images, their objects and sentences, and which of them are labelled."""

    name: DatasetName
    """RefCOCO, RefCOCOPlus, GRefUMD and GRefGoogle are REFER's own files; Custom is COCO JSON with
    `expressions`."""
    annotations: Uri
    """Folder with REFER's files (refs(unc).p and instances.json, or the dataset's folder above), or the
    Custom JSON file."""
    images: Uri
    """Folder, .zip or .tar that holds the pictures (COCO train2014 for the published datasets)."""
    labeled: Labeled
    """Which training images keep their masks; the others are used without."""
    unlabeled_limit: Positive | None = None
    """Use only N unlabelled images, drawn with labeled.seed (a larger N contains a smaller); left out means all."""
    bad_image_limit: Natural = 10
    """Training images that may turn out unreadable, damaged or of another size than annotated before the run
    stops (exit code 3); each is replaced by other samples and listed in bad-images.json. May be changed between
    two starts. Evaluation images are never replaced: a bad one stops the run."""
    evaluate: Annotated[tuple[SplitName, ...], Field(min_length=1, max_length=16), Unique(ordered=True)] | None = None
    """Splits to evaluate, the first also selects the best model.
    Default: val, testA, testB for RefCOCO and RefCOCOPlus; val, test for GRefUMD; val for GRefGoogle and
    Custom."""

    @model_validator(mode="after")
    def _seed_has_an_effect(self) -> Dataset:
        if self.labeled.seed and self.labeled.percent is None and self.unlabeled_limit is None:
            raise contradiction("labeled.seed", "a seed has no effect on a list of image ids", "remove it")
        return self

    @model_validator(mode="after")
    def _splits_exist(self) -> Dataset:
        if self.name != "Custom":
            for split in self.evaluate or ():
                if split not in SPLITS[self.name]:
                    remedy = "choose from " + ", ".join(SPLITS[self.name])
                    raise contradiction("evaluate", f'{self.name} has no split "{split}"', remedy)
        return self


class Sam(Section):
    """Segment Anything's automatic mask generator. The defaults are its own, which the paper used."""

    model: Literal["ViTH", "ViTL", "ViTB", "Custom"] = "ViTH"
    """Architecture; checked against the shapes in the weights file. Custom: as these shapes tell; needs sha256."""
    weights: WeightsUri
    """The checkpoint, e.g. sam_vit_h_4b8939.pth."""
    sha256: Sha256 | None = None
    """Checksum of the file, 64 hexadecimal digits; known for the three public files."""
    points_per_side: Annotated[int, Field(strict=True, ge=1, le=256)] = 32
    """Points of the prompt grid along each side."""
    points_per_batch: Annotated[int, Field(strict=True, ge=1, le=4096)] = 64
    """Points decoded at once; costs memory, does not change the masks."""
    pred_iou_threshold: Share = "0.88"
    """Masks whose predicted IoU is lower are dropped."""
    stability_score_threshold: Share = "0.95"
    """Masks whose stability is lower are dropped."""
    stability_score_offset: NonNegative = "1.0"
    """Shift of the logit threshold by which stability is measured."""
    box_nms_threshold: Share = "0.7"
    """IoU of boxes above which the worse mask is dropped."""
    crop_layers: Annotated[int, Field(strict=True, ge=0, le=4)] = 0
    """Layers of crops that are segmented besides the whole picture."""
    min_mask_region_area: Natural = 0
    """Holes and islands smaller than this many pixels are removed; 0 keeps them."""
    mode: Literal["Exact", "Fast"] = "Exact"
    """Exact gives the masks of the published generator. Fast is reserved and refused today."""

    @model_validator(mode="after")
    def _only_exact(self) -> Sam:
        if self.mode == "Fast":
            raise contradiction("mode", "Fast is not available yet", "use Exact, or leave it out")
        return self

    @model_validator(mode="after")
    def _custom_file_is_known(self) -> Sam:
        if self.model == "Custom" and self.sha256 is None:
            problem = "is missing: only the three public files are known"
            raise contradiction("sha256", problem, "add the sha256 of the file")
        return self


class Felzenszwalb(Section):
    """Graph-based segmentation on the CPU, no weights needed: for the synthetic benchmark and small
    machines."""

    scales: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16), Unique(ordered=True)] = (
        50,
        100,
        200,
        400,
    )
    """Each scale gives one segmentation; larger means larger regions."""
    sigma: NonNegative = "0.8"
    """Width of the Gaussian smoothing beforehand, in pixels."""
    min_size: Positive = 20
    """Regions smaller than this many pixels are merged into a neighbour."""
    nms_iou: Share = "0.9"
    """IoU of masks above which the later one is dropped as a duplicate."""


class Precomputed(Section):
    """Masks that exist already, e.g. the JSON files of the official release."""

    path: Uri
    """Folder with one JSON file per object or per image."""
    keyed_by: Literal["Ref", "Image"] = "Ref"
    """What the file names mean: Ref is <ref_id>.json as in the official release, Image is <image_id>.json."""


class Proposals(Section):
    """Class-agnostic masks with which pseudo-labels are corrected; one record per image, shared by jobs."""

    generator: Generator = "SAM"
    """SAM (the paper's), Felzenszwalb (CPU, no weights) or Precomputed."""
    sam: Sam | None = None
    """Needed with generator SAM, refused with the others."""
    felzenszwalb: Felzenszwalb | None = None
    """Optional with generator Felzenszwalb, refused with the others."""
    precomputed: Precomputed | None = None
    """Needed with generator Precomputed, refused with the others."""
    store: Uri | None = None
    """Where the masks are kept; may be shared by jobs and datasets. Default: <output>/proposals."""

    @model_validator(mode="after")
    def _section_of_the_generator(self) -> Proposals:
        own = self.generator.lower()
        for name in ("sam", "felzenszwalb", "precomputed"):
            if name != own and getattr(self, name) is not None:
                raise contradiction(
                    name,
                    f"this section does not belong to generator {self.generator}",
                    "remove it or change generator",
                )
        if own != "felzenszwalb" and getattr(self, own) is None:
            example = "weights: PATH" if own == "sam" else "path: FOLDER"
            raise contradiction(
                own,
                f"generator {self.generator} needs this section",
                f"add {own}: {{{example}}}, or choose generator: Felzenszwalb, which needs none",
            )
        return self
