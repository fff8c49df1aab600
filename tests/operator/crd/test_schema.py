"""The CRD is what the models say, and keeps to the conventions: described, bounded, structural."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from testbed.semiresjobs import SPECS, Document, changed, changes, generic, manifest, places

from semires_operator.changes import CHANGEABLE_ANYTIME, CHANGEABLE_WHILE_SUSPENDED, ONE_VALUE
from semires_operator.crd import MAX_BYTES, build_crd, crd_text, files, main, spec_schema, status_schema
from semires_trainer.config import json_schema, parse_job, resolve, training_hash
from semires_trainer.errors import ConfigError
from semires_trainer.presets import BY_PATH, PRESET_NAMES

ROOT = Path(__file__).parents[3]
SPEC, STATUS = spec_schema(), status_schema()


def fields(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field and item below `node`."""
    for key, child in node.get("properties", {}).items():
        place = f"{path}.{key}" if path else key
        yield place, child
        yield from fields(child, place)
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if key in node:
            yield path + suffix, node[key]
            yield from fields(node[key], path + suffix)


FIELDS = [*fields(SPEC, "spec"), *fields(STATUS, "status")]
BOUNDS = {"string": "maxLength", "integer": "maximum", "array": "maxItems"}


@pytest.mark.parametrize("name", sorted(files()))
def test_a_generated_file_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == files()[name], "run `make generate`"


def test_check_fails_and_says_what_to_do(tmp_path: Path) -> None:
    options = (["--check"], ["--write"], ["--check"])

    results = [CliRunner().invoke(main, [*option, "--root", str(tmp_path)]) for option in options]

    assert [result.exit_code for result in results] == [1, 0, 0]
    assert "make generate" in results[0].output


def test_the_crd_fits_the_annotation_of_kubectl_apply() -> None:
    assert len(json.dumps(build_crd())) < MAX_BYTES
    assert len(crd_text().encode()) < MAX_BYTES


def test_every_field_is_described() -> None:
    assert [path for path, node in FIELDS if not node.get("description") and path[-1] not in "]}"] == []


def test_the_descriptions_are_those_of_the_documentation() -> None:
    training = json_schema()["$defs"]["Training"]["properties"]

    assert (
        SPEC["properties"]["training"]["properties"]["emaDecay"]["description"] == training["emaDecay"]["description"]
    )


def test_every_value_is_bounded() -> None:
    unbounded = [
        path for path, node in FIELDS if node["type"] in BOUNDS and not {BOUNDS[node["type"]], "enum"} & node.keys()
    ]
    unbounded += [path for path, node in FIELDS if "additionalProperties" in node and "maxProperties" not in node]

    assert unbounded == []


def test_every_list_says_how_it_is_merged() -> None:
    assert [path for path, node in FIELDS if node["type"] == "array" and "x-kubernetes-list-type" not in node] == []


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        pytest.param("spec.pod.env", ["name"], id="env"),
        pytest.param("spec.pod.volumes", ["name"], id="volumes"),
        pytest.param("spec.pod.volumeMounts", ["mountPath"], id="mounts"),
        pytest.param("spec.pod.imagePullSecrets", ["name"], id="pull-secrets"),
        pytest.param("status.conditions", ["type"], id="conditions"),
        pytest.param("status.progress.metrics", ["name"], id="metrics"),
        pytest.param("status.attempts", ["number"], id="attempts"),
        pytest.param("status.results", ["model", "split", "size"], id="results"),
    ],
)
def test_a_list_whose_items_have_a_key_is_a_map(path: str, keys: list[str]) -> None:
    node = dict(FIELDS)[path]

    assert node["x-kubernetes-list-type"] == "map"
    assert node["x-kubernetes-list-map-keys"] == keys


@pytest.mark.parametrize("path", sorted(BY_PATH))
def test_what_a_preset_governs_has_no_default(path: str) -> None:
    assert "default" not in dict(FIELDS)[f"spec.{path}"]


def test_presets_train_something() -> None:
    assert all(
        BY_PATH[f"training.{name}"].value(preset) for name in ("epochs", "burnInEpochs") for preset in PRESET_NAMES
    )


def test_the_example_specs_use_every_field() -> None:
    used = {f"spec.{generic(place.path)}" for spec in SPECS.values() for place in places(SPEC, spec)}

    assert {path for path, _ in fields(SPEC, "spec") if "{}" not in path} - used == set()


def valid_changes() -> Iterator[tuple[str, Document, Document]]:
    """Field, spec before, spec after: one change of each field that its bounds allow."""
    for spec in SPECS.values():
        seen = set()
        for place in places(SPEC, spec):
            for change in changes(place) if place.path else ():
                field = generic(change.path)
                if change.inside and change.value != place.value and field not in seen:
                    seen.add(field)
                    yield field, spec, changed(spec, change.path, change.value)


def same_training(before: Document, after: Document) -> bool:
    """Whether a run may be continued after the change."""
    hashes = [training_hash(resolve(parse_job(manifest(spec)))) for spec in (before, after)]
    return hashes[0] == hashes[1] and before["output"] == after["output"]


def test_what_may_change_is_what_does_not_change_the_model() -> None:
    """Exceptions: the endpoint is no part of the training, but another one has none of the checkpoints."""
    changeable = CHANGEABLE_ANYTIME | set(CHANGEABLE_WHILE_SUSPENDED) | ONE_VALUE | {"storage.endpoint"}
    wrong = set()
    for field, before, after in valid_changes():
        allowed = any(f"{field}.".startswith((f"{path}.", f"{path}[")) for path in changeable)
        try:
            same = same_training(before, after)
        except ConfigError:
            continue
        if same != allowed and resolve(parse_job(manifest(before))) != resolve(parse_job(manifest(after))):
            wrong.add(field)

    assert wrong == set()


def test_columns_are_those_of_the_documentation() -> None:
    columns = build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    narrow = [column["name"].upper() for column in columns if not column.get("priority")]
    wide = [column["name"].upper() for column in columns if column.get("priority") == 1]

    assert narrow == ["PHASE", "STAGE", "EPOCH", "PROGRESS", "ETA", "OIOU", "ATTEMPT", "AGE"]
    assert wide == ["DATASET", "LABELED", "REFINE", "PYTORCHJOB", "QUEUE", "MESSAGE"]


@pytest.mark.parametrize(
    "column", build_crd()["spec"]["versions"][0]["additionalPrinterColumns"], ids=lambda c: c["name"]
)
def test_a_column_shows_a_field_of_the_schema(column: dict[str, Any]) -> None:
    path = column["jsonPath"].removeprefix(".")

    assert path == "metadata.creationTimestamp" or path in dict(FIELDS)
