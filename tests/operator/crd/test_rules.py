"""Rules between fields: each refuses a manifest that nothing else is wrong with, and says what and why."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from testbed.rules import RuleAt, needless, rules_of, schema_of
from testbed.semiresjobs import SPECS, Document, changed, manifest
from testbed.verdicts import Answer, ApiServer, models_accept

from semires_operator.crd import build_crd

CRD = build_crd()
BETWEEN_FIELDS = [rule for rule in rules_of(schema_of(CRD)) if rule.between_fields and not rule.is_transition]
SAM = SPECS["smallest"]["proposals"]["sam"]
FELZENSZWALB = {"generator": "Felzenszwalb"}
SMALL = SPECS["small-model"]["model"]["dimensions"]


def changed_spec(name: str, edits: dict[str, Any]) -> Document:
    """An example spec with other values at dotted paths."""
    spec = SPECS[name]
    for path, value in edits.items():
        spec = changed(spec, tuple(int(part) if part.isdigit() else part for part in path.split(".")), value)
    return spec


CASES = [
    pytest.param("smallest", {"refinement.iou": "0.5"}, "refinement.iou", "strategy CPI-U", id="iou-with-cpi-u"),
    pytest.param(
        "smallest",
        {"training.preset": "OfficialIOM", "refinement.inter1": "0.7"},
        "refinement.inter1",
        "strategy IOM",
        id="inter1-with-the-preset's-iom",
    ),
    pytest.param(
        "smallest", {"refinement.inter2": "0.7"}, "refinement.inter2", "strategy CPI-U", id="inter2-with-cpi-u"
    ),
    pytest.param("continued", {"training.burnInEpochs": 3}, "training.burnInEpochs", "3 contradicts", id="burn-in"),
    pytest.param("continued", {"training.epochs": 0}, "training.epochs", "nothing to train", id="no-epochs-at-all"),
    pytest.param(
        "smallest", {"training.epochs": 0, "training.burnInEpochs": 0}, "training.epochs", "nothing", id="no-epochs"
    ),
    pytest.param(
        "small-model",
        {"training.optimizedTextLayers": 3},
        "training.optimizedTextLayers",
        "3 is more than the 2 layers",
        id="more-layers-than-there-are",
    ),
    pytest.param(
        "smallest",
        {"training.device": "CUDA", "resources.gpusPerNode": 0},
        "resources.gpusPerNode",
        "0 leaves training.device CUDA without a GPU",
        id="cuda-without-gpus",
    ),
    pytest.param("small-model", {"dataset.labeled.seed": 5}, "dataset.labeled.seed", "5 has no effect", id="seed"),
    pytest.param(
        "smallest",
        {"dataset.evaluate": ["val", "hard"]},
        "dataset.evaluate",
        'RefCOCO has no split "hard"',
        id="split",
    ),
    pytest.param("smallest", {"dataset.labeled": {}}, "dataset.labeled", "got []", id="no-labels"),
    pytest.param("smallest", {"dataset.labeled.imageIds": [1]}, "dataset.labeled", "got [", id="labelled-twice"),
    pytest.param(
        "smallest", {"proposals.generator": "Felzenszwalb"}, "proposals.sam", "generator Felzenszwalb", id="foreign-sam"
    ),
    pytest.param("smallest", {"proposals": {}}, "proposals.sam", "Add sam", id="no-sam"),
    pytest.param(
        "smallest", {"proposals.felzenszwalb": {}}, "proposals.felzenszwalb", "generator SAM", id="foreign-felzenszwalb"
    ),
    pytest.param(
        "smallest",
        {"proposals.precomputed": {"path": "a"}},
        "proposals.precomputed",
        "generator SAM",
        id="foreign-precomputed",
    ),
    pytest.param(
        "smallest",
        {"proposals": {"generator": "Precomputed"}},
        "proposals.precomputed",
        "Add precomputed",
        id="no-precomputed",
    ),
    pytest.param("smallest", {"proposals.sam.mode": "Fast"}, "proposals.sam.mode", "Use Exact", id="fast"),
    pytest.param(
        "small-model",
        {"model.dimensions.heads": [1, 1, 1, 7]},
        "model.dimensions.heads",
        "512, 1024, 2048, 4096",
        id="heads",
    ),
    pytest.param(
        "small-model",
        {"model.textDimensions.heads": 7},
        "model.textDimensions.heads",
        "64 cannot be divided among 7",
        id="text-heads",
    ),
    pytest.param(
        "small-model", {"model.backbone": "SwinTiny"}, "model.dimensions", "backbone SwinTiny", id="two-backbones"
    ),
    pytest.param("small-model", {"model.swin": ...}, "model.swin", "Add swin: random", id="no-weights"),
    pytest.param(
        "small-model", {"model.bert": "hf://a/b"}, "model.textDimensions", "this one is hf://a/b", id="bert-with-sizes"
    ),
    pytest.param("small-model", {"model.vocab": ...}, "model.vocab", "Add vocab", id="no-vocabulary"),
    pytest.param(
        "small-model",
        {"model.maxTokens": 33},
        "model.textDimensions.maxPositions",
        "32 is less than maxTokens 33",
        id="sentences-too-long",
    ),
    pytest.param(
        "published",
        {"training.checkpoint.intervalEpochs": 2},
        "training.checkpoint.intervalSteps",
        "intervalEpochs 2",
        id="two-intervals",
    ),
    pytest.param(
        "smallest",
        {"storage.serviceAccountName": "a"},
        "storage.serviceAccountName",
        "credentialsSecret s3-credentials",
        id="two-identities",
    ),
    pytest.param(
        "published",
        {"failurePolicy.rules.0.podReasons": ["Evicted"]},
        "failurePolicy.rules[0]",
        "got [",
        id="rule-with-two-conditions",
    ),
    pytest.param("published", {"cache.sizeLimit": "1Gi"}, "cache.sizeLimit", "claim cache", id="two-caches"),
    pytest.param("placed", {"pod.env.1.valueFrom": {}}, "pod.env[1].valueFrom", "got []", id="no-source"),
    pytest.param(
        "placed", {"pod.env.0.name": "AWS_REGION"}, "pod.env[0].name", "AWS_REGION is set", id="reserved-variable"
    ),
    pytest.param("placed", {"pod.env.1.value": "a"}, "pod.env[1].valueFrom", "value and valueFrom", id="two-values"),
    pytest.param(
        "placed",
        {"pod.volumes.1.secret": {"secretName": "a"}},
        "pod.volumes[1]",
        "got [",
        id="two-sources",
    ),
    pytest.param(
        "placed", {"pod.labels": {"semires.dev/job": "a"}}, "pod.labels", '"semires.dev/job"', id="reserved-label"
    ),
    pytest.param(
        "placed",
        {"pod.annotations": {"kueue.x-k8s.io/a": "a"}},
        "pod.annotations",
        '"kueue.x-k8s.io/a"',
        id="reserved-annotation",
    ),
    pytest.param(
        "smallest",
        {"proposals.sam.model": "Custom"},
        "proposals.sam.sha256",
        "is missing",
        id="unknown-sam-without-digest",
    ),
    pytest.param(
        "placed",
        {"pod.volumes.0.name": "semires-cache", "pod.volumeMounts.0.name": "semires-cache"},
        "pod.volumes[0].name",
        '"semires-cache" is set',
        id="reserved-volume",
    ),
    pytest.param(
        "placed",
        {"pod.volumeMounts.0.mountPath": "/dev/shm/"},
        "pod.volumeMounts[0].mountPath",
        '"/dev/shm/" is mounted',
        id="reserved-folder",
    ),
    pytest.param(
        "placed", {"pod.volumeMounts.0.name": "lost"}, "pod.volumeMounts", 'no volume "lost"', id="mount-of-nothing"
    ),
]
ALLOWED = [
    pytest.param("published", {}, id="published"),
    pytest.param("small-model", {}, id="small-model"),
    pytest.param("continued", {}, id="continued"),
    pytest.param("smallest", {}, id="smallest"),
    pytest.param("smallest", {"refinement": {"strategy": "IOM", "iou": "0.5"}}, id="iou-with-iom"),
    pytest.param("smallest", {"refinement": {"inter1": "0.5"}}, id="inter1-with-the-preset's-cpi-u"),
    pytest.param("smallest", {"refinement": {"strategy": "CPI-O", "inter2": "0.5"}}, id="inter2-with-cpi-o"),
    pytest.param("smallest", {"training.burnInEpochs": 0}, id="no-burn-in"),
    pytest.param("smallest", {"training.epochs": 0}, id="burn-in-only"),
    pytest.param("small-model", {"dataset.labeled.seed": 5, "dataset.unlabeledLimit": 9}, id="seed-of-the-limit"),
    pytest.param("smallest", {"dataset.evaluate": ["testB", "val"]}, id="splits"),
    pytest.param(
        "small-model",
        {"model.swin": ..., "model.initFrom": "model", "training.burnInEpochs": ...},
        id="dimensions-of-a-model",
    ),
    pytest.param("small-model", {"model.maxTokens": 32}, id="longest-sentence"),
    pytest.param("small-model", {"training.optimizedTextLayers": 2}, id="all-layers"),
    pytest.param("small-model", {"training.optimizedTextLayers": ...}, id="as-many-layers-as-the-preset-or-all"),
    pytest.param("smallest", {"training.device": "CPU", "resources.gpusPerNode": 0}, id="cpu-without-gpus"),
    pytest.param("placed", {"pod.env.0.name": "AWSOME"}, id="variable-that-looks-reserved"),
    pytest.param("placed", {"pod.labels": {"dev/semires": "a"}}, id="label-that-looks-reserved"),
    pytest.param(
        "smallest", {"proposals.sam.model": "Custom", "proposals.sam.sha256": "0" * 64}, id="unknown-sam-with-digest"
    ),
    pytest.param("placed", {"pod.volumeMounts.0.mountPath": "/tmp/mine"}, id="folder-inside-a-reserved-one"),
    pytest.param("placed", {"pod.volumeMounts": ..., "pod.volumes": ...}, id="no-volumes"),
    pytest.param("published", {"storage": ..., "cache": {}}, id="no-storage-and-no-cache"),
]
NAMES = [
    pytest.param("1pct", "not a valid name", id="digit-first"),
    pytest.param("a.b", "not a valid name", id="dot"),
    pytest.param("a" * 46, "46 characters. Shorten it to 45", id="too-long"),
]


def refusals() -> list[tuple[str, Document, str, str]]:
    """Name, manifest, field and words of every case."""
    specs = [(case.id, manifest(changed_spec(*case.values[:2])), *case.values[2:]) for case in CASES]
    names = [(case.id, manifest(SPECS["smallest"], case.values[0]), "", case.values[1]) for case in NAMES]
    return [
        (str(id), document, f"spec.{field}" if field else "metadata.name", words)
        for id, document, field, words in (*specs, *names)
    ]


@pytest.fixture(scope="session")
def answers(api: ApiServer) -> dict[str, Answer]:
    """What the API server says to every case, by its name."""
    return {name: api.judge(document) for name, document, _, _ in refusals()}


@pytest.mark.parametrize(
    ("name", "document", "field", "words"), refusals(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_rule_refuses_in_words(
    name: str, document: Document, field: str, words: str, answers: dict[str, Answer]
) -> None:
    causes = answers[name].causes

    assert [cause.field for cause in causes] == [field]
    assert words in causes[0].message
    assert isinstance(models_accept(document), Exception)


@pytest.mark.parametrize(("spec", "edits"), ALLOWED)
def test_a_rule_lets_pass_what_it_should(spec: str, edits: dict[str, Any], api: ApiServer) -> None:
    document = manifest(changed_spec(spec, edits))

    assert api.judge(document).accepted, api.judge(document).message
    assert not isinstance(models_accept(document), Exception)


@pytest.mark.parametrize("rule", BETWEEN_FIELDS, ids=str)
def test_a_rule_has_a_case_that_it_alone_refuses(rule: RuleAt, answers: dict[str, Answer]) -> None:
    """So without the rule that manifest would be accepted."""
    alone = [answer.causes[0] for answer in answers.values() if len(answer.causes) == 1]

    assert any(rule.says(cause) for cause in alone)


@pytest.mark.long
def test_without_a_rule_its_case_is_accepted(api: ApiServer, answers: dict[str, Answer], whole_crd: None) -> None:
    documents = {name: document for name, document, _, _ in refusals()}
    cases = []
    for rule in BETWEEN_FIELDS:
        name = next(name for name, answer in answers.items() if len(answer.causes) == 1 and rule.says(answer.causes[0]))
        cases.append((rule, partial(api.judge, documents[name])))

    assert needless(cases, CRD, api) == []
