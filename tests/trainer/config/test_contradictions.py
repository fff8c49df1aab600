"""What a manifest may not say: each case gives the full path, the value and the remedy in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

RANDOM_SWIN = {"embedDim": 16, "depths": [2, 2, 2, 2], "heads": [1, 2, 4, 8], "window": 7}
SAM = {"weights": "sam.pth"}

CASES = [
    pytest.param(
        {"spec.dataset.labeled": {"percent": "1", "imageIds": [1]}},
        "spec.dataset.labeled: exactly one of percent, imageIds, imageIdsFile is needed, got percent and imageIds",
        id="labelled-twice",
    ),
    pytest.param(
        {"spec.dataset.labeled": {}},
        "spec.dataset.labeled: exactly one of percent, imageIds, imageIdsFile is needed, got none",
        id="labelled-not-at-all",
    ),
    pytest.param(
        {"spec.dataset.labeled": {"imageIds": [4, 7, 4]}},
        "spec.dataset.labeled.imageIds: 4 is listed twice. Remove the second one",
        id="image-id-twice",
    ),
    pytest.param(
        {"spec.dataset.labeled": {"imageIds": [4], "seed": 1}},
        "spec.dataset.labeled.seed: a seed has no effect on a list of image ids. Remove it",
        id="seed-with-ids",
    ),
    pytest.param(
        {"spec.dataset.labeled.percent": "100.5"},
        'spec.dataset.labeled.percent: "100.5" is out of range. Choose a number in (0, 100]',
        id="percent-above-100",
    ),
    pytest.param(
        {"spec.dataset.labeled.percent": "0.0"},
        'spec.dataset.labeled.percent: "0.0" is out of range. Choose a number in (0, 100]',
        id="percent-zero",
    ),
    pytest.param(
        {"spec.dataset.evaluate": ["val", "test"]},
        'spec.dataset.evaluate: RefCOCO has no split "test". Choose from val, testA, testB',
        id="split-of-another-dataset",
    ),
    pytest.param(
        {"spec.dataset.evaluate": ["val", "val"]},
        "spec.dataset.evaluate: 'val' is listed twice. Remove the second one",
        id="split-twice",
    ),
    pytest.param(
        {"spec.dataset.unlabeledLimit": 0},
        "spec.dataset.unlabeledLimit: 0 is not allowed. It must be at least 1",
        id="no-unlabelled",
    ),
    pytest.param(
        {"spec.proposals.generator": "SAM"},
        "spec.proposals.sam: generator SAM needs this section. Add sam: {weights: PATH}",
        id="sam-without-section",
    ),
    pytest.param(
        {"spec.proposals.generator": "Precomputed"},
        "spec.proposals.precomputed: generator Precomputed needs this section. Add precomputed: {path: FOLDER}",
        id="precomputed-without-section",
    ),
    pytest.param(
        {"spec.proposals": {"generator": "SAM", "sam": SAM, "felzenszwalb": {}}},
        "spec.proposals.felzenszwalb: this section does not belong to generator SAM",
        id="section-of-another-generator",
    ),
    pytest.param(
        {"spec.proposals": {"sam": SAM | {"mode": "Fast"}}},
        "spec.proposals.sam.mode: Fast is not available yet. Use Exact, or leave it out",
        id="fast-mode",
    ),
    pytest.param(
        {"spec.proposals": {"sam": SAM | {"model": "Custom"}}},
        "spec.proposals.sam.sha256: is missing: only the three public files are known. Add the sha256 of the file",
        id="custom-sam-without-checksum",
    ),
    pytest.param(
        {"spec.proposals": {"sam": SAM | {"sha256": "abc"}}},
        'spec.proposals.sam.sha256: "abc" has the wrong form',
        id="short-checksum",
    ),
    pytest.param(
        {"spec.model": {"backbone": "SwinTiny", "dimensions": RANDOM_SWIN}},
        "spec.model.dimensions: backbone and dimensions exclude each other. Remove one of them",
        id="backbone-and-dimensions",
    ),
    pytest.param(
        {"spec.model": {"dimensions": RANDOM_SWIN}},
        "spec.model.swin: is missing: there are no public weights for these dimensions. Add swin: random",
        id="dimensions-without-weights",
    ),
    pytest.param(
        {"spec.model": {"swin": "random", "dimensions": RANDOM_SWIN | {"heads": [1, 2, 4, 7]}}},
        "spec.model.dimensions.heads[3]: 128 channels of stage 4 cannot be divided among 7 heads",
        id="heads-do-not-divide",
    ),
    pytest.param(
        {"spec.model.imageSize": 100},
        "spec.model.imageSize: 100 is not allowed. It must be a multiple of 32",
        id="image-size",
    ),
    pytest.param(
        {"spec.model.textDimensions": {"layers": 2}},
        "spec.model.textDimensions: only a random bert has free dimensions",
        id="text-dimensions-of-a-given-bert",
    ),
    pytest.param(
        {"spec.model.bert": "random"},
        "spec.model.vocab: is missing: a random bert brings no vocabulary",
        id="random-bert-without-vocabulary",
    ),
    pytest.param(
        {"spec.model": {"bert": "random", "vocab": "v", "textDimensions": {"maxPositions": 16}}},
        "spec.model.textDimensions.maxPositions: 16 is less than maxTokens 20",
        id="sentences-longer-than-positions",
    ),
    pytest.param(
        {"spec.model": {"bert": "random", "vocab": "v", "textDimensions": {"hiddenSize": 100}}},
        "spec.model.textDimensions.heads: hiddenSize 100 cannot be divided among 12 heads",
        id="text-heads-do-not-divide",
    ),
    pytest.param(
        {
            "spec.model": {"bert": "random", "vocab": "v", "textDimensions": {"layers": 2}},
            "spec.training.optimizedTextLayers": 3,
        },
        "spec.training.optimizedTextLayers: 3 is more than the 2 layers of model.textDimensions",
        id="more-trained-layers-than-layers",
    ),
    pytest.param(
        {"spec.training.device": "CUDA", "spec.resources.gpusPerNode": 0},
        "spec.resources.gpusPerNode: 0 leaves training.device CUDA without a GPU",
        id="cuda-without-gpus",
    ),
    pytest.param(
        {"spec.refinement.inter2": "0.7"},
        "spec.refinement.inter2: strategy CPI-U does not read it. Remove it; CPI-U reads inter1",
        id="inter2-with-cpi-u",
    ),
    pytest.param(
        {"spec.training.preset": "OfficialCPI", "spec.refinement.iou": "0.5"},
        "spec.refinement.iou: strategy CPI does not read it. Remove it; CPI reads inter1, inter2",
        id="iou-with-the-preset's-cpi",
    ),
    pytest.param(
        {"spec.refinement": {"strategy": "None", "inter1": "0.7"}},
        "spec.refinement.inter1: strategy None does not read it. Remove it; None reads none",
        id="threshold-without-refinement",
    ),
    pytest.param(
        {"spec.model.initFrom": "model.safetensors", "spec.training.burnInEpochs": 3},
        "spec.training.burnInEpochs: 3 contradicts model.initFrom, which skips burn-in",
        id="burn-in-of-a-given-model",
    ),
    pytest.param(
        {"spec.training": {"epochs": 0, "burnInEpochs": 0}},
        "spec.training.epochs: there is nothing to train: burn-in and epochs are 0",
        id="nothing-to-train",
    ),
    pytest.param(
        {"spec.training.batch": {"labeled": 0}},
        "spec.training.batch.labeled: 0 is not allowed. It must be at least 1",
        id="empty-batch",
    ),
    pytest.param(
        {"spec.training.burnInBatch": -1},
        "spec.training.burnInBatch: -1 is not allowed. It must be at least 1",
        id="negative-batch",
    ),
    pytest.param(
        {"spec.training.checkpoint": {"intervalSteps": 5, "intervalEpochs": 1}},
        "spec.training.checkpoint.intervalSteps: intervalSteps and intervalEpochs exclude each other",
        id="two-intervals",
    ),
    pytest.param(
        {"spec.training.jitter.hue": "0.6"},
        'spec.training.jitter.hue: "0.6" is out of range. Choose a number in [0, 0.5]',
        id="hue",
    ),
    pytest.param(
        {"spec.training.emaDecay": "1"},
        'spec.training.emaDecay: "1" is out of range. Choose a number in [0, 1)',
        id="decay-of-one",
    ),
    pytest.param(
        {"spec.training.classWeights": ["1"]},
        "spec.training.classWeights: a list of 1 is not allowed. It must be of length at least 2",
        id="one-class-weight",
    ),
    pytest.param(
        {"spec.storage": {"credentialsSecret": "a", "serviceAccountName": "b"}},
        "spec.storage.serviceAccountName: credentialsSecret and serviceAccountName exclude each other",
        id="two-identities",
    ),
    pytest.param(
        {"spec.cache": {"claim": "a", "sizeLimit": "1Gi"}},
        "spec.cache.sizeLimit: claim and sizeLimit exclude each other",
        id="two-caches",
    ),
    pytest.param(
        {"spec.failurePolicy.rules": [{"action": "Fail"}]},
        "spec.failurePolicy.rules[0]: exactly one of exitCodes, podReasons is needed",
        id="rule-without-condition",
    ),
    pytest.param(
        {"spec.pod.env": [{"name": "AWS_REGION", "value": "x"}]},
        "spec.pod.env[0].name: AWS_REGION is set by the operator",
        id="reserved-variable",
    ),
    pytest.param(
        {"spec.pod.env": [{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "spec.pod.env[0].valueFrom: value and valueFrom exclude each other",
        id="two-values",
    ),
    pytest.param(
        {"spec.pod.labels": {"semires.dev/job": "x"}},
        'spec.pod.labels: "semires.dev/job" is set by the operator',
        id="reserved-label",
    ),
    pytest.param(
        {"spec.pod.volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
        "spec.pod.volumes[0].hostPath: unknown key",
        id="host-path",
    ),
    pytest.param(
        {"spec.pod.volumes": [{"name": "a"}]},
        "spec.pod.volumes[0]: exactly one of configMap, secret, persistentVolumeClaim, emptyDir is needed",
        id="volume-without-source",
    ),
    pytest.param(
        {"spec.pod.volumeMounts": [{"name": "a", "mountPath": "/a"}]},
        'spec.pod.volumeMounts[0].name: there is no volume "a"',
        id="mount-without-volume",
    ),
    pytest.param(
        {"spec.pod.hostNetwork": True},
        "spec.pod.hostNetwork: unknown key (value true)",
        id="host-network",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_a_contradiction_is_one_line_with_path_value_and_remedy(
    changes: dict[str, Any], expected: str, complaint: Callable[..., str]
) -> None:
    line = complaint(changes)

    assert line.startswith(expected)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"spec.training.epoch": 3},
            'spec.training.epoch: unknown key (value 3). Did you mean "epochs"?',
            id="misspelt-key",
        ),
        pytest.param(
            {"spec.zebra": {}},
            "spec.zebra: unknown key (value a mapping of 0). Known are: image, resources,",
            id="foreign-key",
        ),
        pytest.param(
            {"spec.refinement.strategy": "cpi-u"},
            "spec.refinement.strategy: expected one of CPI-U, CPI, CPI-O, IOM, None, "
            'got "cpi-u". Did you mean "CPI-U"?',
            id="enum-in-lower-case",
        ),
        pytest.param(
            {"spec.training.lrHorizon": True},
            'spec.training.lrHorizon: expected True or Doubled, got true. Write it in quotes: "True"',
            id="word-that-yaml-reads-as-boolean",
        ),
        pytest.param(
            {"spec.training.emaDecay": 0.99},
            'spec.training.emaDecay: expected a string, got 0.99. Write it in quotes: "0.99"',
            id="float",
        ),
        pytest.param(
            {"spec.dataset.labeled.percent": 1},
            'spec.dataset.labeled.percent: expected a string, got 1. Write it in quotes: "1"',
            id="integer-for-a-decimal",
        ),
        pytest.param(
            {"spec.dataset.annotations": 7},
            'spec.dataset.annotations: expected a string, got 7. Write it in quotes: "7"',
            id="number-for-a-path",
        ),
        pytest.param(
            {"spec.training.epochs": "3"},
            'spec.training.epochs: expected a whole number, got "3". Write it without quotes and without a point',
            id="string-for-an-integer",
        ),
        pytest.param(
            {"spec.training.epochs": True},
            "spec.training.epochs: expected a whole number, got true",
            id="boolean-for-an-integer",
        ),
        pytest.param(
            {"spec.training.compile": "yes"},
            'spec.training.compile: expected true or false, got "yes". Write true or false without quotes',
            id="string-for-a-boolean",
        ),
        pytest.param(
            {"spec.training": 3},
            "spec.training: expected a mapping, got 3. Write key: value pairs",
            id="number-for-a-section",
        ),
        pytest.param(
            {"spec.dataset.evaluate": "val"},
            'spec.dataset.evaluate: expected a list, got "val". Write [a, b]',
            id="word-for-a-list",
        ),
        pytest.param({"spec.output": None}, "spec.output: is missing. Add it", id="missing"),
        pytest.param(
            {"spec.output": None, "spec.outptu": "out"},
            'spec.outptu: unknown key (value "out"). Did you mean "output"? (And 1 more)',
            id="misspelt-before-missing",
        ),
        pytest.param(
            {"spec.training.learningRate": "fast"},
            'spec.training.learningRate: "fast" is not a decimal number. Write one in (0, 1000000], such as "0.5"',
            id="word-for-a-decimal",
        ),
        pytest.param(
            {"spec.dataset.annotations": "https://host/refer"},
            'spec.dataset.annotations: "https://" is not supported. Use a path or s3://, file://',
            id="scheme",
        ),
        pytest.param(
            {"spec.output": "s3://key:secret@bucket/x"},
            'spec.output: "s3://key:secret@bucket/x" has no valid bucket or repository after s3://',
            id="credentials-in-uri",
        ),
        pytest.param(
            {"spec.output": "file://relative"},
            'spec.output: "file://relative" is not absolute. Write file:///absolute/path or a plain path',
            id="relative-file-uri",
        ),
        pytest.param(
            {"metadata.name": "RefCOCO_1"},
            'metadata.name: "RefCOCO_1" is not a valid name. Use lower-case letters, digits and dashes',
            id="name",
        ),
        pytest.param(
            {"metadata.name": "a" * 46},
            f'metadata.name: "{"a" * 46}" has 46 characters. Shorten it to 45',
            id="long-name",
        ),
        pytest.param(
            {"apiVersion": "semires.dev/v1"},
            'apiVersion: expected semires.dev/v1alpha1, got "semires.dev/v1"',
            id="version",
        ),
    ],
)
def test_a_wrong_value_is_told_with_what_was_received_and_what_to_do(
    changes: dict[str, Any], expected: str, complaint: Callable[..., str]
) -> None:
    assert complaint(changes).startswith(expected)


def test_a_long_value_is_shortened_in_the_message(complaint: Callable[..., str]) -> None:
    assert len(complaint({"spec.training.preset": "x" * 5000})) < 300
