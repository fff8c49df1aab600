"""What a job would do, found out without loading a weight or making a file: `semires plan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from semires_trainer.checkpoint_folders import checkpoints_of, read_progress
from semires_trainer.config import Resolved, training_hash
from semires_trainer.data.images import ImageSource
from semires_trainer.data.load import load_dataset
from semires_trainer.data.masks import rasterize
from semires_trainer.data.records import Dataset, Ref
from semires_trainer.data.splits import LabeledSplit, split_dataset
from semires_trainer.errors import DataError, SemiresError
from semires_trainer.identity import check_output
from semires_trainer.inputs import REMOTE, input_uris, local_path, missing_inputs
from semires_trainer.memory import MemoryEstimate, estimate_memory
from semires_trainer.proposals.build import build_key
from semires_trainer.proposals.generate import hash_images
from semires_trainer.proposals.masks import BoolMask
from semires_trainer.proposals.oracle import oracle_best_iou
from semires_trainer.proposals.store import ProposalStore
from semires_trainer.schedule import burn_in_batches, burn_in_length, mutual_batches, mutual_length
from semires_trainer.storage import Storage
from semires_trainer.survey import Counts, count_splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """What is trained on and evaluated."""

    splits: dict[str, Counts]
    """All splits of the files."""
    labeled: Counts
    unlabeled: Counts
    evaluated: dict[str, Counts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOutline:
    """One training stage: how long, and how a step is dealt to processes."""

    name: str
    epochs: int
    steps_per_epoch: int
    total_steps: int
    labeled_per_step: int
    """Images of the global batch."""
    unlabeled_per_step: int
    processes: int
    accumulation: int
    """Micro-batches per process and step."""
    labeled_per_micro_batch: int
    unlabeled_per_micro_batch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposalPlan:
    """What of the proposals is there already."""

    generator: str
    folder: str
    images: int
    """Training images that need proposals."""
    cached: int
    """Of these, images with a record in the store."""
    oracle_refs: int
    """Labelled objects on images with proposals."""
    oracle_mean_iou: float | None
    """Mean IoU of the best proposal of these objects, 0..1: the most that refinement could reach.

    None without any.
    """
    oracle_above_half: float | None
    """Share of these objects with a proposal of IoU above 0.5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumePlan:
    """Where a run in this output goes on."""

    stage: str
    step: int
    finished: bool
    checkpoint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `semires plan` tells. A part that cannot be known is None, and `problems` says why."""

    job: str
    identity: str
    preset: str
    strategy: str
    output: str
    processes: int
    dataset: DatasetPlan | None
    stages: tuple[StageOutline, ...]
    memory: MemoryEstimate | None
    proposals: ProposalPlan | None
    resume: ResumePlan | None
    downloads: tuple[str, ...]
    """Sources that are fetched when the run starts."""
    unknown: tuple[str, ...]
    """What lies on s3:// and is known only when the run starts."""
    problems: tuple[str, ...]
    """What would stop the run, one line each."""
    exit_code: int
    """That of the first problem, 0 without one."""

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return dataclasses.asdict(self)


class _Problems:
    """Collects errors, so that one missing file does not hide the next."""

    def __init__(self) -> None:
        self.found: list[SemiresError] = []

    def __enter__(self) -> _Problems:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> bool:
        if isinstance(error, SemiresError):
            self.found.append(error)
            return True
        return False


def build_plan(resolved: Resolved, *, processes: int = 1) -> Plan:
    """Look at everything `resolved` names and say what a run would do.

    Reads annotations, hashes images, counts parameters on the meta device; loads no weight, writes nothing.
    """
    problems, unknown = _Problems(), _on_s3(resolved)
    dataset = split = data = stages = proposals = memory = resume = None
    if "data set" not in unknown:
        with problems:
            dataset = load_dataset(resolved.dataset)
            split = split_dataset(dataset, resolved.dataset)
            data = _plan_dataset(dataset, split, resolved)
    if data is not None:
        with problems:
            stages = _plan_stages(resolved, data, processes=processes)
    if dataset is not None and split is not None and "proposals" not in unknown:
        with problems:
            proposals = _plan_proposals(dataset, split, resolved)
    with problems:
        memory = estimate_memory(resolved, processes=processes)
    if "checkpoint" not in unknown:
        with problems:
            resume = _find_resume(resolved)
    problems.found += missing_inputs(resolved)
    lines = dict.fromkeys(str(error) for error in problems.found)
    return Plan(
        job=resolved.name,
        identity=training_hash(resolved),
        preset=resolved.training.preset,
        strategy=resolved.refinement.strategy,
        output=resolved.output,
        processes=processes,
        dataset=data,
        stages=stages or (),
        memory=memory,
        proposals=proposals,
        resume=resume,
        downloads=tuple(uri for _, uri in input_uris(resolved) if uri.startswith(REMOTE)),
        unknown=unknown,
        problems=tuple(lines),
        exit_code=problems.found[0].exit_code if problems.found else 0,
    )


def _on_s3(resolved: Resolved) -> tuple[str, ...]:
    """What can't be looked at here: nothing is fetched for a plan."""
    section = resolved.dataset
    proposed_from = (section.images, resolved.proposals.store)
    sources = {
        "data set": (section.annotations, section.labeled_image_ids_file or ""),
        "proposals": (section.annotations, *proposed_from),
        "checkpoint": (resolved.output,),
    }
    return tuple(name for name, uris in sources.items() if any(uri.startswith("s3://") for uri in uris))


def _train_refs(dataset: Dataset, split: LabeledSplit) -> tuple[list[Ref], list[Ref]]:
    """The labelled and the unlabelled train refs."""
    refs = dataset.refs_of("train")
    return [refs[place] for place in split.labeled_refs], [refs[place] for place in split.unlabeled_refs]


def _plan_dataset(dataset: Dataset, split: LabeledSplit, resolved: Resolved) -> DatasetPlan:
    labeled, unlabeled = _train_refs(dataset, split)
    return DatasetPlan(
        splits=count_splits(dataset),
        labeled=Counts.of(labeled),
        unlabeled=Counts.of(unlabeled),
        evaluated={name: Counts.of(dataset.refs_of(name)) for name in resolved.dataset.evaluate},
    )


def _plan_stages(resolved: Resolved, data: DatasetPlan, *, processes: int) -> tuple[StageOutline, ...]:
    training = resolved.training
    burn_in = burn_in_length(training, num_labeled=data.labeled.refs)
    mutual = mutual_length(training, num_unlabeled=data.unlabeled.refs)
    parts = (
        ("burn-in", burn_in, burn_in_batches(training, processes=processes), (training.burn_in_batch, 0)),
        (
            "train",
            mutual,
            mutual_batches(training, processes=processes),
            (training.batch_labeled, training.batch_unlabeled),
        ),
    )
    return tuple(
        StageOutline(
            name=name,
            epochs=length.epochs,
            steps_per_epoch=length.steps_per_epoch,
            total_steps=length.total_steps,
            labeled_per_step=labeled,
            unlabeled_per_step=unlabeled,
            processes=processes,
            accumulation=batches.accumulation,
            labeled_per_micro_batch=batches.labeled,
            unlabeled_per_micro_batch=batches.unlabeled,
        )
        for name, length, batches, (labeled, unlabeled) in parts
    )


def _plan_proposals(dataset: Dataset, split: LabeledSplit, resolved: Resolved) -> ProposalPlan:
    labeled, unlabeled = _train_refs(dataset, split)
    images = ImageSource(resolved.dataset.images)
    names = {ref.image_id: dataset.images[ref.image_id].file_name for ref in [*labeled, *unlabeled]}
    evaluated = [ref for name in resolved.dataset.evaluate for ref in dataset.refs_of(name)]
    _check_images(images, [*names.values(), *(dataset.images[ref.image_id].file_name for ref in evaluated)])
    digests = hash_images(names.values(), images.read)
    store = ProposalStore(Path(resolved.proposals.store).expanduser(), build_key(resolved.proposals))
    missing = store.missing(digests.values())
    oracle = oracle_best_iou(_truths(dataset, labeled, names, digests, store), store)
    return ProposalPlan(
        generator=resolved.proposals.generator,
        folder=str(store.folder),
        images=len(set(digests.values())),
        cached=len(set(digests.values())) - len(missing),
        oracle_refs=oracle.refs,
        oracle_mean_iou=oracle.mean_iou if oracle.refs else None,
        oracle_above_half=oracle.above_half if oracle.refs else None,
    )


def _check_images(images: ImageSource, file_names: Sequence[str]) -> None:
    wanted = list(dict.fromkeys(file_names))
    absent = images.missing(wanted)
    if absent:
        raise DataError(
            f"{len(absent)} of {len(wanted)} images are not in {images.path}, such as {absent[0]}",
            field="spec.dataset.images",
            remedy="Complete the folder or the zip.",
        )


def _truths(
    dataset: Dataset,
    refs: Sequence[Ref],
    names: dict[int, str],
    digests: dict[str, str],
    store: ProposalStore,
) -> Iterator[tuple[str, BoolMask]]:
    """(sha256 of the image, mask) of refs whose image has proposals; only these masks are drawn."""
    for ref in refs:
        digest = digests[names[ref.image_id]]
        if store.contains(digest):
            image = dataset.images[ref.image_id]
            annotation = dataset.annotations[ref.annotation_id]
            yield digest, rasterize(annotation, image.height, image.width, source=dataset.source)


def _find_resume(resolved: Resolved) -> ResumePlan | None:
    """The newest checkpoint's place; ConfigError if the output belongs to another run."""
    output, identity = local_path(resolved.output), training_hash(resolved)
    with Storage() as storage:
        check_output(storage, str(output), identity)
    folders = checkpoints_of(output / "checkpoints")
    if not folders:
        return None
    progress = read_progress(folders[-1], identity=identity)
    return ResumePlan(stage=progress.stage, step=progress.step, finished=progress.finished, checkpoint=str(folders[-1]))
