"""The manifest: one SemiRESJob says what to train and how to run it. Torch-free and Kubernetes-free.

This is the one module of the trainer that the operator imports. The sections live in `semires_trainer.spec`.
    job = parse_job(document)          # pydantic, or a ConfigError of one line
    resolved = resolve(job)            # presets applied, numbers as int and float: what the trainer reads
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from semires_trainer.presets import BY_PATH, HYPERPARAMETERS, PRESET_NAMES, PresetName
from semires_trainer.spec.cluster import (
    Cache,
    Cluster,
    FailurePolicy,
    FailureRule,
    HealthPolicy,
    Pod,
    Preflight,
    Resources,
    Storage,
)
from semires_trainer.spec.data import (
    SPLITS,
    Dataset,
    DatasetName,
    Felzenszwalb,
    Generator,
    Labeled,
    Precomputed,
    Proposals,
    Sam,
)
from semires_trainer.spec.explain import config_error
from semires_trainer.spec.model import THRESHOLDS, Dimensions, Model, Pwa, Refinement, Strategy, TextDimensions
from semires_trainer.spec.resolve import (
    resolve_dataset,
    resolve_model,
    resolve_proposals,
    resolve_refinement,
    resolve_training,
    resolved_to_dict,
    training_hash,
)
from semires_trainer.spec.resolved import (
    Resolved,
    ResolvedDataset,
    ResolvedFelzenszwalb,
    ResolvedModel,
    ResolvedPrecomputed,
    ResolvedProposals,
    ResolvedPwa,
    ResolvedRefinement,
    ResolvedSam,
    ResolvedTextDimensions,
    ResolvedTraining,
)
from semires_trainer.spec.scalars import MARKERS, RANGE_KEY, Section, Text, Uri, contradiction
from semires_trainer.spec.shape import Shape, TextShape, checkpoint_bytes, declared_shape, model_bytes
from semires_trainer.spec.training import (
    Batch,
    BurnInAugmentation,
    Checkpointing,
    Device,
    Jitter,
    LrHorizon,
    Mixture,
    ModelSelection,
    NanPolicy,
    Precision,
    StrongNormalization,
    Training,
)

__all__ = [
    "API_VERSION",
    "CLUSTER_ONLY_FIELDS",
    "HYPERPARAMETERS",
    "KIND",
    "PRESET_NAMES",
    "SPLITS",
    "THRESHOLDS",
    "Batch",
    "BurnInAugmentation",
    "Cache",
    "Checkpointing",
    "Cluster",
    "Dataset",
    "DatasetName",
    "Device",
    "Dimensions",
    "FailurePolicy",
    "FailureRule",
    "Felzenszwalb",
    "Generator",
    "HealthPolicy",
    "Jitter",
    "Labeled",
    "LrHorizon",
    "Metadata",
    "Mixture",
    "Model",
    "ModelSelection",
    "NanPolicy",
    "Pod",
    "Precision",
    "Precomputed",
    "Preflight",
    "PresetName",
    "Proposals",
    "Pwa",
    "Refinement",
    "Resolved",
    "ResolvedDataset",
    "ResolvedFelzenszwalb",
    "ResolvedModel",
    "ResolvedPrecomputed",
    "ResolvedProposals",
    "ResolvedPwa",
    "ResolvedRefinement",
    "ResolvedSam",
    "ResolvedTextDimensions",
    "ResolvedTraining",
    "Resources",
    "Sam",
    "SemiRESJob",
    "Shape",
    "Spec",
    "Storage",
    "Strategy",
    "StrongNormalization",
    "TextDimensions",
    "TextShape",
    "Training",
    "checkpoint_bytes",
    "cluster_only_fields",
    "declared_shape",
    "json_schema",
    "marked_schema",
    "model_bytes",
    "parse_job",
    "resolve",
    "resolve_refinement",
    "resolved_to_dict",
    "training_hash",
]

API_VERSION = "semires.dev/v1alpha1"
KIND = "SemiRESJob"
MAX_NAME_LENGTH = 45
BY_PRESET = " Default by preset: "
NAME_PATTERN = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")

CLUSTER_ONLY_FIELDS: tuple[str, ...] = (
    "storage.credentialsSecret",
    "storage.serviceAccountName",
    "healthPolicy.action",
    *(info.alias or name for name, info in Cluster.model_fields.items() if name != "health_policy"),
)
"""Paths below `spec` that only a cluster reads; `semires run` ignores them and says so."""


def _name_in_words(value: object) -> object:
    """Say in words what the pattern of a name means."""
    if isinstance(value, str) and not NAME_PATTERN.fullmatch(value[: MAX_NAME_LENGTH + 1]):
        remedy = "use lower-case letters, digits and dashes, a letter first and no dash last"
        raise contradiction("", f'"{value[:60]}" is not a valid name', remedy)
    if isinstance(value, str) and len(value) > MAX_NAME_LENGTH:
        problem = f'"{value[:60]}" has {len(value)} characters'
        raise contradiction("", problem, f"shorten it to {MAX_NAME_LENGTH}: pods get a longer name")
    return value


class Metadata(Section):
    """Name of the job, and labels and annotations as in Kubernetes."""

    name: Annotated[
        Text, BeforeValidator(_name_in_words), Field(pattern=NAME_PATTERN.pattern, max_length=MAX_NAME_LENGTH)
    ]
    """Name: lower-case letters, digits and dashes, starting with a letter, at most 45 characters."""
    namespace: Annotated[Text, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] | None = None
    """Namespace on a cluster; ignored by `semires run`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels on a cluster."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations on a cluster."""


class Spec(Cluster):
    """What to train, where results go, and how a cluster runs it."""

    dataset: Dataset
    """Images, their objects and sentences, and which of them are labelled."""
    proposals: Proposals
    """Class-agnostic masks with which pseudo-labels are corrected."""
    model: Model = Model.model_validate({})
    """The network and its starting weights."""
    refinement: Refinement = Refinement()
    """How pseudo-labels are corrected."""
    training: Training = Training()
    """Preset, hyper-parameters and conditions of the run."""
    output: Uri
    """Where results go: a path or s3://bucket/prefix. One job per output. On a cluster a path must lie on a
    PersistentVolumeClaim, of spec.pod.volumes or spec.cache: anything else goes with the pod."""
    storage: Storage | None = None
    """How s3:// is reached; not needed for plain paths."""

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        strategy = resolve_refinement(self.refinement, self.training.preset).strategy
        unused = self.refinement.unused_threshold(strategy)
        if unused:
            reads = ", ".join(THRESHOLDS[strategy]) or "none"
            raise contradiction(
                f"refinement.{unused}",
                f"strategy {strategy} does not read it",
                f"remove it; {strategy} reads {reads}",
            )
        if self.model.init_from and self.training.burn_in_epochs:
            raise contradiction(
                "training.burnInEpochs",
                f"{self.training.burn_in_epochs} contradicts model.initFrom, which skips burn-in",
                "remove one of them",
            )
        training = resolve_training(self.training, skip_burn_in=self.model.init_from is not None)
        if training.burn_in_epochs + training.epochs == 0:
            raise contradiction(
                "training.epochs", "there is nothing to train: burn-in and epochs are 0", "raise one of them"
            )
        return self

    @model_validator(mode="after")
    def _device_is_there(self) -> Spec:
        if self.training.device == "CUDA" and self.resources.gpus_per_node == 0:
            raise contradiction(
                "resources.gpusPerNode",
                "0 leaves training.device CUDA without a GPU",
                "raise it, or set training.device to Auto or CPU",
            )
        return self

    @model_validator(mode="after")
    def _text_layers_exist(self) -> Spec:
        sizes = self.model.text_dimensions
        wanted = self.training.optimized_text_layers
        if sizes and wanted is not None and wanted > sizes.layers:
            raise contradiction(
                "training.optimizedTextLayers",
                f"{wanted} is more than the {sizes.layers} layers of model.textDimensions",
                "lower it, or leave it out",
            )
        return self


class SemiRESJob(Section):
    """Train a referring segmentation model from few labels."""

    api_version: Literal["semires.dev/v1alpha1"]
    """Version of this format: semires.dev/v1alpha1."""
    kind: Literal["SemiRESJob"]
    """SemiRESJob."""
    metadata: Metadata
    """Name of the job."""
    spec: Spec
    """What to train and how to run it."""


def parse_job(document: Mapping[str, Any]) -> SemiRESJob:
    """Check a document (parsed YAML or JSON). Raises ConfigError naming path, value and remedy of the first
    problem."""
    try:
        return SemiRESJob.model_validate(document)
    except ValidationError as error:
        raise config_error(SemiRESJob, error) from error


def resolve(job: SemiRESJob) -> Resolved:
    """Apply the preset and the defaults and turn decimals into numbers. Pure; never fails on a parsed job."""
    spec = job.spec
    preset = spec.training.preset
    return Resolved(
        name=job.metadata.name,
        dataset=resolve_dataset(spec.dataset),
        proposals=resolve_proposals(spec.proposals, preset, output=spec.output),
        model=resolve_model(spec.model, preset),
        refinement=resolve_refinement(spec.refinement, preset),
        training=resolve_training(spec.training, skip_burn_in=spec.model.init_from is not None),
        output=spec.output,
    )


def cluster_only_fields(job: SemiRESJob) -> list[str]:
    """Full paths of the fields given in `job` that have no meaning without a cluster."""
    spec, storage = job.spec, job.spec.storage
    given = {f"storage.{name}" for name in (storage.model_fields_set if storage else ())}
    given |= {f"health_policy.{name}" for name in spec.health_policy.model_fields_set}
    given |= set(spec.model_fields_set)
    return [f"spec.{path}" for path in CLUSTER_ONLY_FIELDS if _snake_path(path) in given]


def _snake_path(path: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in path)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the manifest; descriptions end with the range of decimals and the values per preset."""
    schema = marked_schema()
    _drop_markers(schema)
    return schema


def marked_schema() -> dict[str, Any]:
    """`json_schema` with what the CRD is made of besides: the keys of `scalars.MARKERS`."""
    schema = SemiRESJob.model_json_schema(by_alias=True)
    for definition in schema["$defs"].values():
        for node in definition.get("properties", {}).values():
            # pydantic leaves out a field's description where it equals that of the section it refers to
            if "description" not in node:
                node["description"] = _section_description(schema, node)
            interval = _range_in(node)
            if interval:
                node["description"] += f" Decimal in {interval}, in quotes."
    _describe_presets(schema, schema["$defs"]["Spec"], "")
    return schema


def _section_description(schema: dict[str, Any], node: dict[str, Any]) -> str:
    target = node["$ref"].removeprefix("#/$defs/")
    return str(schema["$defs"][target]["description"])


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _range_in(node: Any) -> str:
    """The range of the decimals at or below `node`."""
    own = node.get(RANGE_KEY, "") if isinstance(node, dict) else ""
    return own or next(filter(None, map(_range_in, _children(node))), "")


def _drop_markers(node: Any) -> None:
    if isinstance(node, dict):
        for key in MARKERS & node.keys():
            del node[key]
    for child in _children(node):
        _drop_markers(child)


def _describe_presets(schema: dict[str, Any], definition: dict[str, Any], path: str) -> None:
    for key, node in definition.get("properties", {}).items():
        place = f"{path}.{key}" if path else key
        if place in BY_PATH:
            row = BY_PATH[place]
            values = ", ".join(f"{name} {written(row.value(name))}" for name in PRESET_NAMES)
            node["description"] += f"{BY_PRESET}{values}."
        target = node.get("$ref", "").removeprefix("#/$defs/")
        if target:
            _describe_presets(schema, schema["$defs"][target], place)


def written(value: object) -> str:
    """A value as it stands in the manifest: decimals in quotes, lists in brackets."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (value[:1].isdigit() or value in {"True", "False"}):
        return f'"{value}"'
    return str(value)
