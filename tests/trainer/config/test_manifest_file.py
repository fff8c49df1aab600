"""Reading a manifest from a file: strict YAML, lines in messages, --set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from semires_trainer.config import resolve
from semires_trainer.errors import ConfigError
from semires_trainer.manifest import load_manifest

Files = Callable[[str], Path]


def complaint(path: Path, *overrides: tuple[str, str]) -> str:
    """The line said about a file, with its folder removed."""
    with pytest.raises(ConfigError) as caught:
        load_manifest(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_the_smallest_manifest_loads(manifest_file: Files, manifest_text: str) -> None:
    assert load_manifest(manifest_file(manifest_text)).metadata.name == "small"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "kind: SemiRESJob",
            "kind: SemiRESJob\nkind: SemiRESJob",
            'job.yaml, line 3, column 1: duplicate key "kind", first given in line 2. Remove one of them',
            id="duplicate-key",
        ),
        pytest.param(
            'labeled: {percent: "1"}',
            'labeled: {percent: "1", "percent": "2"}',
            'job.yaml, line 9, column 29: duplicate key "percent", first given in line 9',
            id="duplicate-key-inside",
        ),
        pytest.param(
            "spec:",
            "---\nspec:",
            "job.yaml, line 4, column 1: but found another document. Give one manifest per file, without ---",
            id="two-documents",
        ),
        pytest.param(
            "metadata: {name: small}",
            "metadata: &name {name: small}",
            "job.yaml, line 3, column 11: anchors and aliases are not supported. Write the value out",
            id="anchor",
        ),
        pytest.param(
            'percent: "1"',
            "percent: .nan",
            "job.yaml, line 9, column 24: .nan is not a number",
            id="not-a-number",
        ),
        pytest.param(
            'percent: "1"',
            "percent: -.inf",
            "job.yaml, line 9, column 24: -.inf is not a number",
            id="infinity",
        ),
        pytest.param(
            'percent: "1"',
            "percent: 1.50",
            'job.yaml, line 9: spec.dataset.labeled.percent: expected a string, got 1.50. Write it in quotes: "1.50"',
            id="float-as-written",
        ),
        pytest.param(
            "output: out",
            "output: out\n  training: {learningRate: 5e-5}",
            'job.yaml, line 12: spec.training.learningRate: expected a string, got 5e-5. Write it in quotes: "5e-5"',
            id="exponent-is-a-float",
        ),
        pytest.param(
            "output: out",
            "output: 2026-01-02\n  training: {seed: 010}",
            'job.yaml, line 12: spec.training.seed: expected a whole number, got "010"',
            id="no-dates-and-no-octals",
        ),
        pytest.param(
            "output: out",
            "output: out\n  training:\n    batch:\n      labeled: 0",
            "job.yaml, line 14: spec.training.batch.labeled: 0 is not allowed. It must be at least 1",
            id="line-of-the-value",
        ),
        pytest.param(
            "images: data/images",
            "images: [[",
            "job.yaml, line 10, column 3: expected ',' or ']'",
            id="open-bracket",
        ),
        pytest.param(
            "output: out",
            "output: !!python/object/apply:os.getcwd []",
            "job.yaml, line 11, column 11: could not determine a constructor",
            id="tag-that-builds-objects",
        ),
        pytest.param(
            "output: out", "output: out\n  ? [a]\n  : b", "job.yaml, line 12, column 5: a key must be", id="list-key"
        ),
        pytest.param("output: out", "", "job.yaml, line 4: spec.output: is missing. Add it", id="missing"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(
    old: str, new: str, expected: str, manifest_file: Files, manifest_text: str
) -> None:
    assert old in manifest_text

    assert complaint(manifest_file(manifest_text.replace(old, new, 1))).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "job.yaml: is not a mapping. Start with apiVersion", id="empty"),
        pytest.param("- a\n", "job.yaml: is not a mapping. Start with apiVersion", id="list"),
        pytest.param("[" * 5000, "job.yaml: not valid YAML", id="deeply-nested"),
        pytest.param("a: \x00\n", "job.yaml: not valid YAML", id="control-character"),
        pytest.param("#" * (1024 * 1024 + 1), "job.yaml: has 1048577 bytes. A manifest is at most 1 MiB", id="huge"),
    ],
)
def test_what_is_no_manifest_is_told(text: str, expected: str, manifest_file: Files) -> None:
    assert complaint(manifest_file(text)).startswith(expected)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    expected = "none.yaml: cannot be read (No such file or directory). Check the path"
    assert complaint(tmp_path / "none.yaml") == expected


def test_a_file_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes("name: Grün".encode("utf-16"))

    assert complaint(path) == "job.yaml: is not UTF-8. Save it as UTF-8 text"


@pytest.mark.parametrize(
    ("path", "value", "attribute", "expected"),
    [
        pytest.param("spec.training.epochs", "3", "training.epochs", 3, id="integer"),
        pytest.param("spec.training.emaDecay", "0.99", "training.ema_decay", 0.99, id="decimal-without-quotes"),
        pytest.param("spec.training.emaDecay", '"0.99"', "training.ema_decay", 0.99, id="decimal-in-quotes"),
        pytest.param("spec.training.deterministic", "true", "training.deterministic", True, id="boolean"),
        pytest.param("spec.training.lrHorizon", "True", "training.lr_horizon", "True", id="word-like-a-boolean"),
        pytest.param("spec.refinement.strategy", "None", "refinement.strategy", "None", id="word-like-nothing"),
        pytest.param("spec.training.classWeights", "[1, 2.5]", "training.class_weights", (1.0, 2.5), id="decimals"),
        pytest.param("spec.dataset.evaluate", "[testA]", "dataset.evaluate", ("testA",), id="list"),
        pytest.param("spec.model", "{imageSize: 96}", "model.image_size", 96, id="section"),
        pytest.param("spec.dataset.labeled.percent", "5", "dataset.labeled_percent", "5", id="percent"),
        pytest.param("spec.output", "elsewhere", "output", "elsewhere", id="top-level"),
    ],
)
def test_an_override_replaces_a_value(
    path: str, value: str, attribute: str, expected: object, manifest_file: Files, manifest_text: str
) -> None:
    resolved: object = resolve(load_manifest(manifest_file(manifest_text), [(path, value)]))

    for name in attribute.split("."):
        resolved = getattr(resolved, name)
    assert resolved == expected


def test_a_label_with_dots_can_be_set(manifest_file: Files, manifest_text: str) -> None:
    job = load_manifest(manifest_file(manifest_text), [("spec.pod.nodeSelector.example.org/gpu", "big")])

    assert job.spec.pod.node_selector == {"example.org/gpu": "big"}


def test_null_takes_a_value_away(manifest_file: Files, manifest_text: str) -> None:
    text = manifest_text + "  training: {epochs: 3}\n"

    job = load_manifest(manifest_file(text), [("spec.training.epochs", "null")])

    assert resolve(job).training.epochs == 40


def test_the_last_of_two_overrides_wins(manifest_file: Files, manifest_text: str) -> None:
    pairs = [("spec.training.epochs", "3"), ("spec.training.epochs", "4")]

    assert resolve(load_manifest(manifest_file(manifest_text), pairs)).training.epochs == 4


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        pytest.param(
            "spec.training.epoch",
            "3",
            '--set spec.training.epoch: unknown key "epoch". Did you mean "epochs"?',
            id="unknown",
        ),
        pytest.param(
            "spec.training.epochs.first",
            "3",
            '--set spec.training.epochs.first: "first" leads nowhere. spec.training.epochs has no keys',
            id="too-deep",
        ),
        pytest.param(
            "spec.training.epochs", "many", '--set spec.training.epochs: expected a whole number, got "many"', id="type"
        ),
        pytest.param("spec.training.emaDecay", "2", '--set spec.training.emaDecay: "2" is out of range', id="range"),
        pytest.param("spec.training.epochs", "[", "--set spec.training.epochs, line 1, column 2:", id="yaml"),
    ],
)
def test_a_wrong_override_is_told_as_such(
    path: str, value: str, expected: str, manifest_file: Files, manifest_text: str
) -> None:
    assert complaint(manifest_file(manifest_text), (path, value)).startswith(expected)


def test_an_override_below_a_number_in_the_file_is_told(manifest_file: Files, manifest_text: str) -> None:
    path = manifest_file(manifest_text + "  training: 3\n")

    line = complaint(path, ("spec.training.epochs", "3"))

    assert line == '--set spec.training.epochs: "training" is not a mapping in the file. Correct the file'
