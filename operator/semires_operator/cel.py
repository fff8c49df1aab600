"""Rules of the CRD in CEL: the twins, on the API server, of the manifest's pydantic validators. Pure.

Each says in its message what stands where and what to do. A rule of a section is written here by hand; rules of a
string's form, a decimal's range, a URI and a list without duplicates follow from the type (`*_rule`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from semires_trainer.spec.explain import SHOWN_CHARACTERS
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
from semires_trainer.spec.scalars import BUCKET_PATTERN, DECIMAL_PATTERN, VISIBLE_PATTERN, Section

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One entry of x-kubernetes-validations."""

    rule: str
    """What must hold of `self`, in CEL."""
    problem: str
    """What is wrong; each {} stands for one of `values`."""
    remedy: str
    """What to do."""
    values: tuple[str, ...] = ()
    """Expressions in CEL for the message: what was received."""
    field: str = ""
    """Path of the field to correct, below the section: ".sam"; empty for the section itself."""
    reason: Reason = "FieldValueInvalid"
    """Invalid value, Forbidden or Required value: the words that the API server begins with."""

    def entry(self) -> dict[str, str]:
        """The rule as it stands in the CRD."""
        sentence = f"{self.problem}. {self.remedy[:1].upper()}{self.remedy[1:]}"
        # `message` is what is said when the expression fails, e.g. because a value holds a line break.
        entry = {"rule": self.rule, "message": sentence.replace("{}", "…")}
        if self.values:
            # `format` is all that the API server lets put a number into a text: it takes string(n) for endless.
            text = _text(sentence.replace("%", "%%").replace("{}", "%s"))
            entry["messageExpression"] = f"{text}.format([{', '.join(self.values)}])"
        if self.field:
            entry["fieldPath"] = self.field
        if self.reason != "FieldValueInvalid":
            entry["reason"] = self.reason
        return entry


def _text(text: str) -> str:
    """A string literal in CEL."""
    if "'" in text or "\\" in text:
        raise ValueError(f"a message holds a quote or a backslash: {text}")
    return f"'{text}'" if text else ""


def _words(words: Sequence[str]) -> str:
    return "[" + ", ".join(map(_text, words)) + "]"


def shown(string: str, *, max_length: int) -> str:
    """The string `string` (in CEL), cut if it can be too long for a message."""
    if max_length <= SHOWN_CHARACTERS + 4:
        return string
    return f"({string}.size() > {SHOWN_CHARACTERS} ? {string}.substring(0, {SHOWN_CHARACTERS - 1}) + '…' : {string})"


def form_rule(pattern: str, words: str, *, max_length: int) -> Rule:
    """A string has the form of `pattern`."""
    value = shown("self", max_length=max_length)
    return Rule(rule=f"self.matches(r'{pattern}')", problem='"{}" has the wrong form', remedy=words, values=(value,))


def keys_rule(pattern: str, words: str, *, max_length: int) -> Rule:
    """The keys of a map have the form of `pattern`; the schema itself can't bound them."""
    fits = f"k.size() <= {max_length} && k.matches(r'{pattern}')"
    return Rule(
        rule=f"self.all(k, {fits})",
        problem='key "{}" has the wrong form',
        remedy=words,
        values=(shown(f"self.filter(k, !({fits}))[0]", max_length=max_length),),
    )


def range_rule(interval: str) -> Rule:
    """A string is a decimal number within `interval`, such as "(0, 100]"."""
    bounds = re.fullmatch(r"([\[(])([^,]+), ([^])]+)([\])])", interval)
    if bounds is None:
        raise ValueError(f"not an interval: {interval}")
    opening, low, high, closing = bounds.groups()
    above, below = {"[": ">=", "(": ">"}[opening], {"]": "<=", ")": "<"}[closing]
    return Rule(
        rule=f"self.matches(r'{DECIMAL_PATTERN}') && double(self) {above} {float(low)!r}"
        f" && double(self) {below} {float(high)!r}",
        problem=f'"{{}}" is not a number in {interval}',
        remedy='write one as text, such as "0.5" or "1e-3"',
        values=("self",),
    )


def uri_rule(schemes: Sequence[str]) -> Rule:
    """A string is a path, or a URI of one of the schemes."""
    named = "|".join(scheme for scheme in schemes if scheme != "file")
    forms = ", ".join(f"{scheme}://NAME/PATH" for scheme in schemes if scheme != "file")
    return Rule(
        rule=f"self.matches(r'{VISIBLE_PATTERN}') && "
        f"(!self.contains('://') || self.matches(r'^(({named})://{BUCKET_PATTERN}|file:///)'))",
        problem='"{}" is not a path or URI that can be read',
        remedy=f"use a path, file:///PATH or {forms}, without credentials and port",
        values=(shown("self", max_length=2048),),
    )


def unique_rule() -> Rule:
    """No value of a list whose order means something occurs twice."""
    return Rule(
        rule="self.all(x, self.exists_one(y, y == x))",
        problem='"{}" is listed twice',
        remedy="remove the second one",
        values=("self.filter(x, !self.exists_one(y, y == x))[0]",),
    )


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
        rule=f"!has(self.refinement.{name}) || {strategy} in {_words(readers)}",
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


_SPLITS = _map({name: _words(splits) for name, splits in SPLITS.items() if name != "Custom"})
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

CHANGEABLE_ANYTIME = frozenset(
    {
        "suspend",
        "activeDeadlineSeconds",
        "pendingDeadlineSeconds",
        "failurePolicy",
        "healthPolicy",
        "preflight",
        "ttlSecondsAfterFinished",
    }
)
"""Fields below `spec` that the operator reads at each look."""

CHANGEABLE_WHILE_SUSPENDED = (
    "image",
    "resources",
    "pod",
    "queue",
    "cache",
    "storage.region",
    "storage.credentialsSecret",
    "storage.serviceAccountName",
    "dataset.badImageLimit",
    "proposals.store",
    "proposals.sam.pointsPerBatch",
    "training.device",
    "training.workers",
    "training.microBatch",
    "training.checkpoint",
    "training.logIntervalSteps",
)
"""Fields below `spec` that say how an attempt runs, not what it trains: the next attempt reads them. While one runs,
the spec goes on saying what runs."""
ONE_VALUE = frozenset({"backend", "proposals.sam.mode"})
"""Fields below `spec` that have one valid value today. Whoever adds a second decides when they may change."""


def endpoint_rule() -> Rule:
    """Results don't move to another storage. Not having the section means the default one."""
    new, old = (f"(has({owner}.storage) ? {owner}.storage.endpoint : 'default')" for owner in ("self", "oldSelf"))
    return Rule(
        rule=f"{new} == {old}",
        problem="cannot change from {} to {}: the checkpoints of this job would be lost",
        remedy="restore it, or create a job with another name and output",
        values=(old, new),
        field=".storage",
        reason="FieldValueForbidden",
    )


def fixed_rule(name: str, node: Mapping[str, Any], *, always_there: bool) -> Rule:
    """The field `name` of a section says what is trained, and keeps its value."""
    values: tuple[str, ...] = ()
    if node["type"] in {"string", "integer", "boolean"}:
        values = tuple(_written(owner, name, node, always_there) for owner in ("oldSelf", "self"))
    return Rule(
        rule=same(name, optional=[] if always_there else [name]),
        problem=f"what is trained cannot change{' from {} to {}' if values else ''}",
        remedy="restore it, or create a job with another name and output",
        values=values,
        field=f".{name}",
        reason="FieldValueForbidden",
    )


def _written(owner: str, name: str, node: Mapping[str, Any], always_there: bool) -> str:
    """The value of a scalar field as a string in CEL."""
    text = f"{owner}.{name}"
    text = f"string({text})" if node["type"] != "string" else shown(text, max_length=node.get("maxLength", 0))
    return text if always_there else f"(has({owner}.{name}) ? {text} : 'nothing')"


def same(path: str, *, optional: Sequence[str]) -> str:
    """In CEL: the field at `path` has the value that it had, or is left out as before.

    `optional` are the paths, on the way or the field's own, that may be left out. Not `self.?a == oldSelf.?a`: the API
    server takes what is in an optional for endless.
    """
    equal = f"self.{path} == oldSelf.{path}"
    if not optional:
        return equal
    new, old = (" && ".join(f"has({owner}.{part})" for part in optional) for owner in ("self", "oldSelf"))
    return f"({new}) == ({old}) && (!({new}) || {equal})"


def while_suspended_rule(path: str, unchanged: str) -> Rule:
    """A field below `spec` keeps its value while the job runs; `unchanged` says in CEL that it does."""
    return Rule(
        rule=f"oldSelf.suspend || ({unchanged})",
        problem=f"{path} can change only while the job is suspended, for it tells how the attempt under way runs",
        remedy="set suspend: true, apply, then change it and set suspend: false",
        field=f".{path}",
        reason="FieldValueForbidden",
    )
