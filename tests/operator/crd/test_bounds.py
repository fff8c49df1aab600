"""Every bound of every field, on both sides: the API server refuses what lies outside, and says as the models do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from testbed.rules import needless, rules_of, schema_of
from testbed.semiresjobs import SPECS, Change, Document, Node, changed, changes, generic, manifest, places, written
from testbed.verdicts import Answer, ApiServer, models_accept

from semires_operator.crd import build_crd, spec_schema
from semires_trainer.config import SemiRESJob

CRD, SPEC = build_crd(), spec_schema()
LIST_BOUNDS = ("x-kubernetes-list-type", "minItems", "maxItems")
BOUNDS = ("enum", "minimum", "maximum", "multipleOf", "minLength", "maxLength", "pattern", "maxProperties", "required")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A changed manifest."""

    spec: Document
    change: Change

    @property
    def document(self) -> Document:
        """The manifest after the change."""
        return manifest(changed(self.spec, self.change.path, self.change.value))


def trials_by_field() -> dict[str, list[Trial]]:
    """All changes of each field, in all example specs."""
    found: dict[str, list[Trial]] = {}
    for spec in SPECS.values():
        for place in places(SPEC, spec):
            for change in changes(place) if place.path else ():
                found.setdefault(generic(change.path), []).append(Trial(spec=spec, change=change))
    return found


TRIALS = trials_by_field()


def bounds_of(node: Node, path: str = "") -> Iterator[tuple[str, str]]:
    """Field and keyword of each bound of the schema, rules of a value's form among them."""
    own = [key for key in (*BOUNDS, *LIST_BOUNDS) if key in node and node[key] != "atomic"]
    if "x-kubernetes-validations" in node and "properties" not in node:
        own.append("rule")
    for key in own if path else ():
        yield path, key
    for key, child in node.get("properties", {}).items():
        yield from bounds_of(child, f"{path}.{key}" if path else key)
    if "items" in node:
        yield from bounds_of(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        example = next(field for field in TRIALS if field.startswith(f"{path}."))
        yield from bounds_of(node["additionalProperties"], example)


@pytest.fixture(scope="session")
def answers(api: ApiServer) -> Callable[[str], list[tuple[Trial, Answer]]]:
    """What the API server says about all changes of a field; it is asked once."""
    known: dict[str, list[tuple[Trial, Answer]]] = {}

    def of(field: str) -> list[tuple[Trial, Answer]]:
        if field not in known:
            known[field] = [(trial, api.judge(trial.document)) for trial in TRIALS[field]]
        return known[field]

    return of


Answers = Callable[[str], list[tuple[Trial, Answer]]]


@pytest.mark.parametrize("field", sorted(TRIALS))
def test_the_api_server_judges_a_change_as_the_models_do(field: str, answers: Answers) -> None:
    different = [
        (written(trial.change.path), trial.change.value, answer.message)
        for trial, answer in answers(field)
        if answer.accepted != isinstance(models_accept(trial.document), SemiRESJob)
    ]

    assert different == []


@pytest.mark.parametrize(("field", "bound"), [pytest.param(*pair, id="-".join(pair)) for pair in bounds_of(SPEC)])
def test_a_bound_accepts_what_is_inside_and_alone_refuses_what_is_outside(
    field: str, bound: str, answers: Answers
) -> None:
    of_bound = [(trial, answer) for trial, answer in answers(field) if trial.change.bound == bound]
    inside = [answer for trial, answer in of_bound if trial.change.inside]
    outside = [answer for trial, answer in of_bound if not trial.change.inside]

    assert any(answer.accepted for answer in inside) or bound == "required"
    assert any(len(answer.causes) == 1 and names(answer, field) for answer in outside), [a.message for a in outside]


def names(answer: Answer, field: str) -> bool:
    """Whether the only cause lies in the field, or in what is missing from it."""
    inner = generic_of(answer.causes[0].field).removeprefix("spec.")
    # A value of a map is named by its key in brackets.
    return inner.startswith((field, field.partition(".example.com/")[0])) or inner.startswith(
        f"{field.rpartition('.')[0]}["
    )


def generic_of(path: str) -> str:
    """ "spec.pod.env[3].name" -> "spec.pod.env[].name"."""
    head, *rest = path.split("[")
    return head + "".join(f"[]{part.partition(']')[2]}" for part in rest)


@pytest.mark.long
def test_without_a_rule_what_is_outside_is_accepted(api: ApiServer, answers: Answers, whole_crd: None) -> None:
    refused = [(trial, answer) for field in TRIALS for trial, answer in answers(field) if len(answer.causes) == 1]
    cases = []
    for rule in rules_of(schema_of(CRD)):
        if not rule.between_fields:
            trial = next(trial for trial, answer in refused if rule.says(answer.causes[0]))
            cases.append((rule, partial(api.judge, trial.document)))

    assert needless(cases, CRD, api) == []
