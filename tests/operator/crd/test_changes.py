"""What may change in a job: when it ends at any time, how it runs while it is suspended, what it trains never."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from testbed.rules import RuleAt, needless, node_at, rules_of, schema_of
from testbed.semiresjobs import SPECS, Document, changed, changes, generic, places
from testbed.verdicts import Answer, ApiServer, Cause

from semires_operator.changes import CHANGEABLE_ANYTIME, CHANGEABLE_WHILE_SUSPENDED
from semires_operator.crd import build_crd, spec_schema

CRD, SPEC = build_crd(), spec_schema()
TRANSITIONS = [rule for rule in rules_of(schema_of(CRD)) if rule.is_transition]
Stored = dict[str, Document]


def with_field(job: Document, field: str) -> Iterator[Document]:
    """The job with another value of the field or in it, without it, or with it for the first time."""
    for place in places(SPEC, job["spec"]):
        if place.path and f"{generic(place.path)}.".startswith((f"{field}.", f"{field}[")):
            for change in changes(place):
                if change.inside and change.value != place.value:
                    yield changed(job, ("spec", *change.path), change.value)
            yield changed(job, ("spec", *place.path), ...)
    yield from (changed(job, ("spec", *path), value) for path, value in values_elsewhere(job, field))
    if field == "proposals.generator":
        # The one change of the generator that changes nothing else that may not change.
        yield changed(job, ("spec", "proposals"), {"generator": "Felzenszwalb"})


def values_elsewhere(job: Document, field: str) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Values that other example specs have for a field that this job could have."""
    for spec in SPECS.values():
        for place in places(SPEC, spec):
            if generic(place.path) == field and all(isinstance(part, str) for part in place.path):
                yield place.path, place.value


def answers_to(api: ApiServer, jobs: list[Document], field: str) -> Iterator[Answer]:
    """What the API server says to changes of the field."""
    for job in jobs:
        for document in with_field(job, field):
            yield api.judge_update(document)


def running(stored: Stored) -> list[Document]:
    """The jobs that are not suspended."""
    return [job for job in stored.values() if not job["spec"]["suspend"]]


def suspended(stored: Stored) -> list[Document]:
    """The jobs that are."""
    return [job for job in stored.values() if job["spec"]["suspend"]]


def alone(answer: Answer) -> Cause | None:
    """The one thing that is wrong."""
    return answer.causes[0] if len(answer.causes) == 1 else None


@pytest.mark.parametrize("rule", TRANSITIONS, ids=lambda rule: rule.field)
def test_a_change_is_refused_by_this_rule_alone(rule: RuleAt, api: ApiServer, stored: Stored) -> None:
    """While the job runs, or even while it is suspended, if the rule doesn't mention that."""
    jobs = running(stored) if "suspend" in rule.entry["rule"] else suspended(stored)

    assert any(refuses_alone(rule, answer) for answer in answers_to(api, jobs, changed_by(rule)))


@pytest.mark.long
def test_without_a_rule_a_change_that_it_refuses_is_accepted(api: ApiServer, stored: Stored, whole_crd: None) -> None:
    cases = []
    for rule in TRANSITIONS:
        jobs = running(stored) if "suspend" in rule.entry["rule"] else suspended(stored)
        documents = (document for job in jobs for document in with_field(job, changed_by(rule)))
        refused = next(document for document in documents if refuses_alone(rule, api.judge_update(document)))
        cases.append((rule, partial(api.judge_update, refused)))

    assert needless(cases, CRD, api) == []


def refuses_alone(rule: RuleAt, answer: Answer) -> bool:
    """Whether the rule is the one thing that is wrong."""
    cause = alone(answer)
    return cause is not None and rule.says(cause)


def changed_by(rule: RuleAt) -> str:
    """The field, below spec, that the rule watches."""
    field = rule.field.removeprefix("spec.")
    return "storage.endpoint" if field == "storage" else field


@pytest.mark.parametrize("field", sorted(CHANGEABLE_ANYTIME | set(CHANGEABLE_WHILE_SUSPENDED)))
def test_a_suspended_job_may_run_differently(field: str, api: ApiServer, stored: Stored) -> None:
    leaves = [
        leaf for leaf in leaves_below(field) if any(True for job in suspended(stored) for _ in with_field(job, leaf))
    ]

    assert leaves
    for leaf in leaves:
        assert any(answer.accepted for answer in answers_to(api, suspended(stored), leaf)), leaf


@pytest.mark.parametrize("field", sorted(CHANGEABLE_ANYTIME))
def test_a_running_job_may_be_told_when_to_end(field: str, api: ApiServer, stored: Stored) -> None:
    for leaf in leaves_below(field):
        assert any(answer.accepted for answer in answers_to(api, running(stored), leaf)), leaf


def test_an_unchanged_job_is_accepted_again(api: ApiServer, stored: Stored) -> None:
    answers = [api.judge_update(job) for job in stored.values()]

    assert [answer.message for answer in answers if not answer.accepted] == []


def test_a_job_without_storage_may_say_that_it_means_the_default(api: ApiServer, stored: Stored) -> None:
    job = changed(stored["continued"], ("spec", "storage"), {"endpoint": "default"})

    assert api.judge_update(job).accepted


def test_labelled_images_are_a_set(api: ApiServer, stored: Stored) -> None:
    job = changed(stored["small-model"], ("spec", "dataset", "labeled", "imageIds"), [9, 4, 7])

    assert api.judge_update(job).accepted


def leaves_below(field: str) -> list[str]:
    """The field, or the fields of its section that are no sections themselves."""
    node = node_at(SPEC, field)
    return [f"{field}.{key}" for key in node["properties"]] if "properties" in node else [field]
