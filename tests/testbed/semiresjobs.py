"""Manifests that together use every field, and what can be made wrong in them, one thing at a time."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
Node = dict[str, Any]
Path = tuple[str | int, ...]

_TERM = {
    "matchExpressions": [{"key": "example.com/zone", "operator": "In", "values": ["a", "b"]}],
    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}],
}
_OTHERS = {
    "labelSelector": {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}],
    },
    "topologyKey": "kubernetes.io/hostname",
    "namespaces": ["web"],
}
_POD_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_OTHERS],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm": _OTHERS}],
}
_AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_TERM]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": _TERM}],
    },
    "podAffinity": _POD_AFFINITY,
    "podAntiAffinity": _POD_AFFINITY,
}
_POD = {
    "nodeSelector": {"example.com/gpu": "h100"},
    "tolerations": [
        {
            "key": "example.com/gpu",
            "operator": "Equal",
            "value": "yes",
            "effect": "NoExecute",
            "tolerationSeconds": 60,
        }
    ],
    "affinity": _AFFINITY,
    "env": [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "token", "optional": True}}},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "mode", "key": "mode", "optional": False}}},
    ],
    "volumes": [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
        {"name": "settings", "configMap": {"name": "settings", "optional": True}},
        {"name": "keys", "secret": {"secretName": "keys", "optional": True}},
        {"name": "data" + "a" * 59, "emptyDir": {}},
        {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ],
    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "coco", "readOnly": True}],
    "imagePullSecrets": [{"name": "registry"}],
    "runtimeClassName": "nvidia",
    "priorityClassName": "high",
    "labels": {"team": "vision"},
    "annotations": {"example.com/note": "a note"},
    "fsGroup": 1000,
}
SMALLEST: Document = {
    "dataset": {
        "name": "RefCOCO",
        "annotations": "s3://data/refer",
        "images": "s3://data/train2014",
        "labeled": {"percent": "1"},
    },
    "proposals": {"sam": {"model": "ViTH", "weights": "s3://models/sam_vit_h_4b8939.pth"}},
    "output": "s3://results/refcoco-1pct",
    "storage": {"endpoint": "default", "credentialsSecret": "s3-credentials"},
}
"""The smallest useful one, as in docs."""
PUBLISHED: Document = {
    "dataset": {
        "name": "RefCOCO",
        "annotations": "s3://data/refer",
        "images": "s3://data/train2014",
        "labeled": {"percent": "0.5", "seed": 7},
        "unlabeledLimit": 1000,
        "badImageLimit": 3,
        "evaluate": ["val", "testA"],
    },
    "proposals": {
        "generator": "SAM",
        "sam": {
            "model": "ViTH",
            "weights": "hf://example/sam",
            "sha256": "a" * 64,
            "pointsPerSide": 16,
            "pointsPerBatch": 32,
            "predIouThreshold": "0.8",
            "stabilityScoreThreshold": "0.9",
            "stabilityScoreOffset": "1",
            "boxNmsThreshold": "0.6",
            "cropLayers": 1,
            "minMaskRegionArea": 10,
            "mode": "Exact",
        },
        "store": "s3://results/proposals",
    },
    "model": {
        "backbone": "SwinBase",
        "imageSize": 480,
        "maxTokens": 20,
        "swin": "hf://timm/swin",
        "bert": "file:///weights/bert",
        "vocab": "weights/vocab.txt",
        "dropPath": "0.2",
        "textDropout": "0.1",
    },
    "refinement": {
        "strategy": "CPI",
        "inter1": "0.6",
        "inter2": "0.6",
        "pwa": {"enabled": True, "gamma": "1.2", "mu": "0.4", "sigma2": "0.2"},
    },
    "training": {
        "preset": "OfficialCPI",
        "burnInEpochs": 3,
        "burnInEvaluateEvery": 2,
        "epochs": 4,
        "batch": {"labeled": 6, "unlabeled": 6},
        "burnInBatch": 4,
        "microBatch": 2,
        "learningRate": "1e-4",
        "weightDecay": "0.02",
        "polyPower": "0.8",
        "lrHorizon": "Doubled",
        "emaDecay": "0.99",
        "supervisedWeight": "2",
        "unsupervisedWeight": "0.5",
        "mixture": "PerRank",
        "strongNormalization": "Twice",
        "modelSelection": "OneExpression",
        "classWeights": ["0.8", "1.2"],
        "blurProbability": "0.4",
        "jitter": {
            "probability": "0.4",
            "brightness": "0.2",
            "contrast": "0.2",
            "saturation": "0.2",
            "hue": "0.1",
        },
        "burnInAugmentation": "Strong",
        "patience": 3,
        "optimizedTextLayers": 6,
        "trainEmbeddings": True,
        "device": "CPU",
        "precision": "FP32",
        "compile": True,
        "channelsLast": True,
        "seed": 5,
        "deterministic": True,
        "workers": 4,
        "checkpoint": {"intervalSteps": 50, "keepLast": 3, "keepEvery": 5},
        "nanPolicy": "Skip",
        "nanLimit": 4,
        "logIntervalSteps": 20,
    },
    "output": "s3://results/full",
    "storage": {"endpoint": "main", "region": "eu-central-1", "credentialsSecret": "s3-credentials"},
    "image": "registry.example.com/semires/trainer:1.0@sha256:abc",
    "resources": {
        "nodes": 2,
        "gpusPerNode": 8,
        "gpuResource": "nvidia.com/gpu",
        "cpu": "32",
        "memory": "128Gi",
        "ephemeralStorage": "200Gi",
        "shm": "16Gi",
    },
    "queue": "gpus",
    "suspend": False,
    "activeDeadlineSeconds": 86400,
    "pendingDeadlineSeconds": 3600,
    "failurePolicy": {
        "backoffLimit": 2,
        "rules": [
            {"exitCodes": [2, 7], "action": "Retry"},
            {"podReasons": ["Evicted", "OOMKilled"], "action": "RetryFree"},
        ],
    },
    "healthPolicy": {"stalledSeconds": 600, "startupSeconds": 1200, "action": "Report"},
    "preflight": {"mode": "Skip", "deadlineSeconds": 300, "cpu": "2", "memory": "4Gi"},
    "ttlSecondsAfterFinished": 3600,
    "backend": "PyTorchJob",
    "cache": {"claim": "cache"},
}
"""Nearly every field, with the published model."""
PLACED: Document = SMALLEST | {"pod": _POD}
"""All that may be said of pods."""
SMALL_MODEL: Document = {
    "dataset": {
        "name": "Custom",
        "annotations": "data/train.json",
        "images": "file:///data/images.zip",
        "labeled": {"imageIds": [4, 7, 9]},
        "evaluate": ["val", "hard"],
    },
    "proposals": {
        "generator": "Felzenszwalb",
        "felzenszwalb": {"scales": [50, 100], "sigma": "0.6", "minSize": 40, "nmsIou": "0.8"},
    },
    "model": {
        "dimensions": {"embedDim": 512, "depths": [2, 2, 2, 2], "heads": [1, 1, 1, 1], "window": 6},
        "imageSize": 96,
        "maxTokens": 4,
        "swin": "random",
        "bert": "random",
        "vocab": "data/vocab.txt",
        "textDimensions": {
            "hiddenSize": 64,
            "layers": 2,
            "heads": 1,
            "intermediateSize": 128,
            "maxPositions": 32,
        },
    },
    "refinement": {"strategy": "IOM", "iou": "0.4"},
    "training": {
        "burnInEpochs": 2,
        "epochs": 2,
        "optimizedTextLayers": 0,
        "checkpoint": {"intervalEpochs": 2},
    },
    "output": "runs/small",
    "storage": {"serviceAccountName": "trainer"},
    "cache": {"sizeLimit": "10Gi"},
}
"""A small model from random weights."""
CONTINUED: Document = {
    "dataset": {
        "name": "GRefUMD",
        "annotations": "refer",
        "images": "train2014",
        "labeled": {"imageIdsFile": "ids.txt"},
    },
    "proposals": {"generator": "Precomputed", "precomputed": {"path": "masks", "keyedBy": "Image"}},
    "model": {"initFrom": "runs/other/model"},
    "refinement": {"strategy": "CPI-U", "inter1": "0.5"},
    "output": "runs/continued",
}
"""From another run's model."""
SPECS: dict[str, Document] = json.loads(
    json.dumps(
        {
            "smallest": SMALLEST,
            "published": PUBLISHED,
            "placed": PLACED,
            "small-model": SMALL_MODEL,
            "continued": CONTINUED,
        }
    )
)
"""By name. Parts that stand in several places are as many objects here: a change hits one of them."""


def manifest(spec: Document, name: str = "job") -> Document:
    """The whole manifest."""
    document = {"apiVersion": "semires.dev/v1alpha1", "kind": "SemiRESJob", "metadata": {"name": name}, "spec": spec}
    return copy.deepcopy(document)


def written(path: Path) -> str:
    """("pod", "env", 0, "name") -> "pod.env[0].name"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def generic(path: Path) -> str:
    """The field of the schema that a path belongs to: "pod.env[].name"."""
    return re.sub(r"\[\d+\]", "[]", written(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One value of a manifest, and its schema."""

    path: Path
    node: Node
    value: Any


def places(node: Node, value: Any, path: Path = ()) -> Iterator[Place]:
    """Every value at and below `value`, outermost first."""
    yield Place(path=path, node=node, value=value)
    if isinstance(value, dict):
        for key, child in value.items():
            inner = node.get("properties", {}).get(key) or node.get("additionalProperties")
            if inner:
                yield from places(inner, child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from places(node["items"], child, (*path, index))


def changed(document: Document, path: Path, value: Any) -> Document:
    """A copy with another value at `path`; an Ellipsis takes the key or the item away."""
    result = copy.deepcopy(document)
    target: Any = result
    for part in path[:-1]:
        target = target.setdefault(part, {}) if isinstance(part, str) else target[part]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = copy.deepcopy(value)
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of one value, made to stand just inside or just outside a bound."""

    path: Path
    bound: str
    """Keyword of the schema, or "rule"."""
    inside: bool
    """Whether the bound allows it; a rule between fields may still forbid it."""
    value: Any


def pattern_of(node: Node) -> str:
    """The pattern of a string: of the schema, or of a rule."""
    rules = [rule["rule"] for rule in node.get("x-kubernetes-validations", ())]
    found = (re.match(r"self\.matches\(r'([^']*)'\)", rule) for rule in rules)
    return str(node.get("pattern") or next((match[1] for match in found if match), ""))


def changes(place: Place) -> Iterator[Change]:
    """What lies beside each bound of a value."""
    kind = place.node["type"]
    if "enum" in place.node:
        yield from _beside(place, "enum", inside=place.node["enum"], outside=["nonsense", "Paper "])
    elif kind == "string":
        yield from _strings(place)
    elif kind == "integer":
        yield from _integers(place)
    elif kind == "boolean":
        yield from _beside(place, "type", inside=[not place.value], outside=[])
    elif kind == "array":
        yield from _lists(place)
    elif "additionalProperties" in place.node:
        yield from _maps(place)
    else:
        keys = place.node.get("required", ())
        yield from _beside(place, "required", inside=[], outside=[_without(place.value, key) for key in keys])
    wrong: dict[str, list[Any]] = {
        "string": [7, True, ["a"]],
        "integer": ["7", 1.5, True],
        "boolean": ["true", 0],
        "array": ["a", {}],
    }
    yield from _beside(place, "type", inside=[], outside=wrong.get(kind, ["a", 3, [1]]))


def _beside(place: Place, bound: str, *, inside: list[Any], outside: list[Any]) -> Iterator[Change]:
    for value in inside:
        yield Change(path=place.path, bound=bound, inside=True, value=value)
    for value in outside:
        yield Change(path=place.path, bound=bound, inside=False, value=value)


def _without(section: Document, key: str) -> Document:
    return {name: value for name, value in section.items() if name != key}


def _integers(place: Place) -> Iterator[Change]:
    node = place.node
    step = node.get("multipleOf", 1)
    yield from _beside(place, "minimum", inside=[node["minimum"]], outside=[node["minimum"] - step])
    yield from _beside(place, "maximum", inside=[node["maximum"]], outside=[node["maximum"] + step])
    if step > 1:
        yield from _beside(place, "multipleOf", inside=[place.value + step], outside=[place.value + 1])


def _strings(place: Place) -> Iterator[Change]:
    node, longest = place.node, place.node["maxLength"]
    pattern = pattern_of(node)
    decimal = "double(self)" in str(node.get("x-kubernetes-validations"))
    full = "999999999.999999999999e-99" if decimal else lengthened(place.value, longest, pattern)
    yield from _beside(place, "maxLength", inside=[full], outside=[lengthened(place.value, longest + 1, "")])
    if "minLength" in node:
        yield from _beside(place, "minLength", inside=["a"], outside=[""])
    if pattern:
        bound = "pattern" if "pattern" in node else "rule"
        inside, outside = strings_beside(node, place.value)
        yield from _beside(place, bound, inside=inside, outside=outside)


def lengthened(text: str, length: int, pattern: str) -> str:
    """`text` made as long as `length`, or as long as the pattern allows."""
    for wanted in range(length, len(text), -1):
        filler = wanted - len(text)
        for candidate in _filled(text, filler):
            if not pattern or re.fullmatch(pattern, candidate):
                return candidate
    return text


def _filled(text: str, filler: int) -> Iterator[str]:
    for letter in "a1":
        for place in (len(text), min(1, len(text)), 0):
            yield text[:place] + letter * filler + text[place:]
    if "/" in text and filler > 63:
        first, _, last = text.rpartition("/")
        yield f"{first}{'a' * (filler - 63 + len(last))}/{'a' * 63}"


def strings_beside(node: Node, value: str) -> tuple[list[str], list[str]]:
    """Strings that keep and that break the rule of a decimal, a URI or a form."""
    rule = next((entry["rule"] for entry in node.get("x-kubernetes-validations", ())), "")
    if "double(self)" in rule:
        return decimals_beside(rule)
    if "://" in rule:
        foreign = ["https://host/a", "s3://", "s3:///a", "s3://user:key@bucket/a", "file://a", "S3://bucket", "://"]
        forms = ["a", "/a b", "s3://b", "s3://b.c-d_e/f", "file:///a", "ö", "a:b", "hf", "random"]
        return [*forms, "s3://b/x://y"], [*foreign, "", "  ", "a\nb", "a\tb", "s3://b\n", "gs://bucket/a"]
    inside = [value]
    outside = [f"{value}!", f"{value}\n", f" {value}", f"{value}ö", "-"]
    return inside, [text for text in outside if not re.fullmatch(pattern_of(node), text)]


def decimals_beside(rule: str) -> tuple[list[str], list[str]]:
    """Decimals at and beside the ends of a range, and texts that are no decimals."""
    numbers = ["0", "0.0", "0e9", "1e-99", "0.000000000001", "0.5", "0.500000000001", "0.999999999999", "1", "1.0"]
    numbers += ["999999999.999999999999e-9", "1.000000000001", "100", "100.000000000001", "1e2", "1000000", "1e6"]
    numbers += ["1000000.000000000001", "1000001", "1e99", "0.5e0"]
    bounds = re.findall(r"double\(self\) (>=|>|<=|<) ([0-9.e+]+)", rule)
    compare = {">=": float.__ge__, ">": float.__gt__, "<=": float.__le__, "<": float.__lt__}
    inside = [n for n in numbers if all(compare[sign](float(n), float(bound)) for sign, bound in bounds)]
    words = ["", "a", "-1", "+1", ".5", "1.", "01", "1e", "1e+5", "1,5", "0x1", "NaN", "inf", " 1", "1\n", "1e100"]
    return inside, [n for n in numbers if n not in inside] + words


def _lists(place: Place) -> Iterator[Change]:
    node, value = place.node, place.value
    keys = node.get("x-kubernetes-list-map-keys", [])
    longest, shortest = node["maxItems"], node.get("minItems")
    inside, outside = (_grown(value, length, node) for length in (longest, longest + 1))
    yield from _beside(place, "maxItems", inside=[inside], outside=[outside])
    if shortest:
        yield from _beside(place, "minItems", inside=[value[:shortest]], outside=[value[: shortest - 1]])
    if keys or node["x-kubernetes-list-type"] == "set" or "x-kubernetes-validations" in node:
        bound = "rule" if "x-kubernetes-validations" in node else "x-kubernetes-list-type"
        yield from _beside(place, bound, inside=[value[::-1]], outside=[[*value, value[0]]])


def _grown(value: list[Any], length: int, node: Node) -> list[Any]:
    """The list made longer by items like its last, all different."""
    keys = node.get("x-kubernetes-list-map-keys") or sorted(node["items"].get("properties", ()))[:0]
    result = list(value)
    for number in range(length - len(value)):
        item = copy.deepcopy(value[-1])
        if isinstance(item, dict):
            item |= {key: f"{item[key]}{number}" for key in keys}
        else:
            item = item + number + 1 if isinstance(item, int) else _numbered(item, number)
        result.append(item)
    return result


def _numbered(text: str, number: int) -> str:
    """A different word of letters, or a decimal that stays one."""
    if text[:1].isdigit():
        return text
    return text + "".join(chr(ord("a") + int(digit)) for digit in str(number))


def _maps(place: Place) -> Iterator[Change]:
    longest, value = place.node["maxProperties"], place.value
    some = next(iter(value.values()))

    def of(number: int) -> Document:
        return {f"k{index}": some for index in range(number)}

    yield from _beside(place, "maxProperties", inside=[of(longest)], outside=[of(longest + 1)])
    good = ["a", "A1", "a.b/c", "a/b_c.d", f"{'a' * 253}/{'b' * 63}"]
    bad = ["", "-", "a/", "/a", "a/b/c", "A.b/c", "a b", "a\n", "ä", f"{'a' * 254}/b", f"a/{'b' * 64}"]
    inside = [{key: some} for key in good]
    yield from _beside(place, "rule", inside=inside, outside=[{key: some} for key in bad])
