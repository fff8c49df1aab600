"""Rules of the CRD between the fields of a section, and of a job's name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from semires_operator.cel import Rule, literals, shown
from semires_trainer.config import (
    PRESET_NAMES,
    SPLITS,
    THRESHOLDS,
    Cache,
    Checkpointing,
    Dataset,
    Dimensions,
    FailureRule,
    Labeled,
    Model,
    Pod,
    Proposals,
    Sam,
    Spec,
    Storage,
    TextDimensions,
)
from semires_trainer.presets import BY_PATH
from semires_trainer.spec.pod import (
    RESERVED_ENVIRONMENT,
    RESERVED_FOLDERS,
    RESERVED_KEYS,
    RESERVED_VOLUMES,
    Env,
    EnvSource,
    Volume,
    VolumeMount,
)
from semires_trainer.spec.scalars import Section


def _exactly_one(*fields: str) -> Rule:
    names = ", ".join(fields)
    given = " + ".join(f"(has(self.{name}) ? ['{name}'] : [])" for name in fields)
    return Rule(
        rule=f"({given}).size() == 1",
        problem=f"exactly one of {names} is needed, got {{}}",
        remedy="keep one of them",
        values=(given,),
    )


def _exclude(first: str, second: str, *values: str) -> Rule:
    return Rule(
        rule=f"!has(self.{first}) || !has(self.{second})",
        problem=f"{first}{' {}' if values else ''} and {second} exclude each other",
        remedy="remove one of them",
        field=f".{second}",
        values=values,
        reason="FieldValueForbidden",
    )


def _section_of(generator: str) -> tuple[Rule, Rule]:
    """The section of a generator is there with it, and only with it."""
    name = generator.lower()
    example = {"sam": "weights: PATH", "precomputed": "path: FOLDER"}.get(name, "")
    return (
        Rule(
            rule=f"self.generator == '{generator}' || !has(self.{name})",
            problem="this section does not belong to generator {}",
            remedy="remove it or change generator",
            values=("self.generator",),
            field=f".{name}",
            reason="FieldValueForbidden",
        ),
        Rule(
            rule=f"self.generator != '{generator}' || has(self.{name})",
            problem=f"generator {generator} needs this section",
            remedy=f"add {name}: {{{example}}}, or choose generator: Felzenszwalb, which needs none",
            field=f".{name}",
            reason="FieldValueRequired",
        ),
    )


def _map(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"'{key}': {value}" for key, value in values.items()) + "}"


def _unread_threshold(name: str) -> Rule:
    """A threshold is given only if the strategy, which may be the preset's, reads it."""
    by_preset = _map({preset: f"'{BY_PATH['refinement.strategy'].value(preset)}'" for preset in PRESET_NAMES})
    strategy = f"(has(self.refinement.strategy) ? self.refinement.strategy : {by_preset}[self.training.preset])"
    readers = [reader for reader, names in THRESHOLDS.items() if name in names]
    return Rule(
        rule=f"!has(self.refinement.{name}) || {strategy} in {literals(readers)}",
        problem="strategy {} does not read it",
        remedy=f"remove it: {name} is read by {' and '.join(readers)} only",
        values=(strategy,),
        field=f".refinement.{name}",
        reason="FieldValueForbidden",
    )


def _reserved(name: str) -> Rule:
    return Rule(
        rule=f"!has(self.{name}) || !self.{name}.exists(k, k.matches(r'{RESERVED_KEYS.pattern}'))",
        problem='"{}" is set by the operator',
        remedy="remove it",
        values=(f"self.{name}.filter(k, k.matches(r'{RESERVED_KEYS.pattern}'))[0]",),
        field=f".{name}",
        reason="FieldValueForbidden",
    )


_SPLITS = _map({name: literals(splits) for name, splits in SPLITS.items() if name != "Custom"})
_FOREIGN_SPLITS = f"self.evaluate.filter(s, !(s in {_SPLITS}[self.name]))"
_STAGES = "[self.embedDim, self.embedDim * 2, self.embedDim * 4, self.embedDim * 8]"
_LOST_MOUNTS = "self.volumeMounts.filter(m, !has(self.volumes) || !self.volumes.exists(v, v.name == m.name))"

RULES: dict[type[Section], tuple[Rule, ...]] = {
    Spec: (
        *map(_unread_threshold, ("iou", "inter1", "inter2")),
        Rule(
            rule="!has(self.model.initFrom) || !has(self.training.burnInEpochs) || self.training.burnInEpochs == 0",
            problem="{} contradicts model.initFrom, which skips burn-in",
            remedy="remove one of them",
            values=("self.training.burnInEpochs",),
            field=".training.burnInEpochs",
        ),
        Rule(
            rule="!has(self.training.epochs) || self.training.epochs != 0 || "
            "!(has(self.model.initFrom) || (has(self.training.burnInEpochs) && self.training.burnInEpochs == 0))",
            problem="0 leaves nothing to train, for there is no burn-in either",
            remedy="raise epochs or burnInEpochs",
            field=".training.epochs",
        ),
        Rule(
            rule="self.training.device != 'CUDA' || self.resources.gpusPerNode > 0",
            problem="0 leaves training.device CUDA without a GPU",
            remedy="raise it, or set training.device to Auto or CPU",
            field=".resources.gpusPerNode",
        ),
        Rule(
            rule="!has(self.model.textDimensions) || !has(self.training.optimizedTextLayers) || "
            "self.training.optimizedTextLayers <= self.model.textDimensions.layers",
            problem="{} is more than the {} layers of model.textDimensions",
            remedy="lower it, or leave it out",
            values=("self.training.optimizedTextLayers", "self.model.textDimensions.layers"),
            field=".training.optimizedTextLayers",
        ),
    ),
    Dataset: (
        Rule(
            rule="self.labeled.seed == 0 || has(self.labeled.percent) || has(self.unlabeledLimit)",
            problem="{} has no effect on a list of image ids",
            remedy="remove the seed",
            values=("self.labeled.seed",),
            field=".labeled.seed",
        ),
        Rule(
            rule=f"self.name == 'Custom' || !has(self.evaluate) || {_FOREIGN_SPLITS}.size() == 0",
            problem='{} has no split "{}"',
            remedy="choose from " + "; ".join(f"{n}: {', '.join(s)}" for n, s in SPLITS.items() if n != "Custom"),
            values=("self.name", f"{_FOREIGN_SPLITS}[0]"),
            field=".evaluate",
        ),
    ),
    Labeled: (_exactly_one("percent", "imageIds", "imageIdsFile"),),
    Proposals: (*_section_of("SAM"), _section_of("Felzenszwalb")[0], *_section_of("Precomputed")),
    Sam: (
        Rule(
            rule="self.mode != 'Fast'",
            problem="Fast is not available yet",
            remedy="use Exact, or leave it out",
            field=".mode",
        ),
        Rule(
            rule="self.model != 'Custom' || has(self.sha256)",
            problem="is missing: only the three public files are known",
            remedy="add the sha256 of the file",
            field=".sha256",
            reason="FieldValueRequired",
        ),
    ),
    Dimensions: (
        Rule(
            # What the schema forbids, it tells itself.
            rule="self.heads.size() != 4 || self.heads.exists(h, h < 1 || h > 4096) || "
            f"[0, 1, 2, 3].all(i, {_STAGES}[i] % self.heads[i] == 0)",
            problem="the channels of a stage cannot be divided among its heads: they are {}, {}, {}, {}",
            remedy="choose divisors of embedDim, and of it times 2, 4, 8",
            values=tuple(f"self.embedDim * {factor}" for factor in (1, 2, 4, 8)),
            field=".heads",
        ),
    ),
    TextDimensions: (
        Rule(
            rule="self.heads < 1 || self.heads > 64 || self.hiddenSize % self.heads == 0",
            problem="hiddenSize {} cannot be divided among {} heads",
            remedy="choose a divisor",
            values=("self.hiddenSize", "self.heads"),
            field=".heads",
        ),
    ),
    Model: (
        _exclude("backbone", "dimensions", "self.backbone"),
        Rule(
            rule="!has(self.dimensions) || has(self.swin) || has(self.initFrom)",
            problem="there are no public weights for these dimensions",
            remedy="add swin: random, or a file",
            field=".swin",
            reason="FieldValueRequired",
        ),
        Rule(
            rule="!has(self.textDimensions) || self.bert == 'random'",
            problem="only a random bert has free dimensions, this one is {}",
            remedy="remove them, or set bert: random",
            values=(shown("self.bert", max_length=2048),),
            field=".textDimensions",
            reason="FieldValueForbidden",
        ),
        Rule(
            rule="self.bert != 'random' || has(self.vocab)",
            problem="a random bert brings no vocabulary",
            remedy="add vocab: PATH/vocab.txt",
            field=".vocab",
            reason="FieldValueRequired",
        ),
        Rule(
            rule="!has(self.textDimensions) || self.textDimensions.maxPositions < 4 || "
            "self.textDimensions.maxPositions >= self.maxTokens",
            problem="{} is less than maxTokens {}",
            remedy="raise maxPositions or lower maxTokens",
            values=("self.textDimensions.maxPositions", "self.maxTokens"),
            field=".textDimensions.maxPositions",
        ),
    ),
    Checkpointing: (_exclude("intervalEpochs", "intervalSteps", "self.intervalEpochs"),),
    Storage: (_exclude("credentialsSecret", "serviceAccountName", "self.credentialsSecret"),),
    FailureRule: (_exactly_one("exitCodes", "podReasons"),),
    Cache: (_exclude("claim", "sizeLimit", "self.claim"),),
    EnvSource: (_exactly_one("secretKeyRef", "configMapKeyRef"),),
    Env: (
        Rule(
            rule=f"!self.name.matches(r'{RESERVED_ENVIRONMENT.pattern}')",
            problem="{} is set by the operator",
            remedy="remove it; for storage access use spec.storage",
            values=("self.name",),
            field=".name",
            reason="FieldValueForbidden",
        ),
        _exclude("value", "valueFrom"),
    ),
    Volume: (
        _exactly_one("configMap", "secret", "persistentVolumeClaim", "emptyDir"),
        Rule(
            rule=f"!self.name.matches(r'{RESERVED_VOLUMES.pattern}')",
            problem='"{}" is set by the operator',
            remedy="choose a name without semires-",
            values=("self.name",),
            field=".name",
            reason="FieldValueForbidden",
        ),
    ),
    VolumeMount: (
        Rule(
            rule=f"!self.mountPath.matches(r'{RESERVED_FOLDERS.pattern}')",
            problem='"{}" is mounted by the operator',
            remedy="mount it elsewhere",
            values=("self.mountPath",),
            field=".mountPath",
            reason="FieldValueForbidden",
        ),
    ),
    Pod: (
        _reserved("labels"),
        _reserved("annotations"),
        Rule(
            rule=f"!has(self.volumeMounts) || {_LOST_MOUNTS}.size() == 0",
            problem='there is no volume "{}"',
            remedy="add it to volumes or correct the name",
            values=(f"{_LOST_MOUNTS}[0].name",),
            field=".volumeMounts",
        ),
    ),
}
"""Rules between the fields of a section."""

NAME_RULES = (
    Rule(
        rule="self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        problem='"{}" is not a valid name',
        remedy="use lower-case letters, digits and dashes, a letter first and no dash last",
        values=("self.metadata.name",),
        field=".metadata.name",
    ),
    Rule(
        rule="self.metadata.name.size() <= 45",
        problem="the name has {} characters",
        remedy="shorten it to 45: pods get a longer name",
        values=("self.metadata.name.size()",),
        field=".metadata.name",
    ),
)
"""Of the object's own name; pods are called <name>-a<attempt>-master-0."""
