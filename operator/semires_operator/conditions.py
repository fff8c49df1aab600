"""Conditions as in metav1: one per type, lastTransitionTime moves only when the status flips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from semires_operator.status import MAX_MESSAGE, Condition

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What holds now."""

    type: str
    status: Truth
    reason: str
    message: str = ""


def truth(holds: bool) -> Truth:
    """True or False as the API writes it."""
    return "True" if holds else "False"


def merged(
    before: Iterable[Condition], findings: Iterable[Finding], *, now: datetime, generation: int
) -> tuple[Condition, ...]:
    """The conditions after `findings`, in their order. Types that nobody speaks of are kept: a newer operator wrote
    them."""
    known = {condition.type: condition for condition in before}
    result = []
    for finding in findings:
        old = known.pop(finding.type, None)
        since = old.last_transition_time if old and old.status == finding.status else now
        result.append(
            Condition(
                type=finding.type,
                status=finding.status,
                reason=finding.reason,
                message=finding.message[:MAX_MESSAGE],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return (*result, *known.values())
