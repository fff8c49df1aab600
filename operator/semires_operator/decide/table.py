"""The state machine. Rules are asked from top to bottom; the first that applies decides.

A rule either says where the job is (and what to do), or writes something down, after which the table is asked again.
The shell writes the status first and acts afterwards, so whatever an action needs stands in the status by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from semires_operator.actions import Decision
from semires_operator.decide import attempt, between, stop
from semires_operator.decide.look import Builder, Look, Step
from semires_operator.decide.record import absorb
from semires_operator.decide.tell import tell
from semires_operator.observed import Observed
from semires_operator.seen import Job
from semires_operator.settings import Settings

MOST_ROUNDS = 12
"""Of the table in one look: the longest way is an attempt that ends, a new one that begins, and its stop."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row."""

    name: str
    """The situation."""
    applies: Callable[[Look], bool]
    then: Callable[[Look], Step]


JOB: tuple[Rule, ...] = (
    Rule("it is being deleted: everything goes with it", lambda look: look.job.deleting, between.leave),
    Rule("it has finished, something still lives", between.finished_but_alive, between.remove_live_children),
    Rule("it has finished", lambda look: look.is_finished, between.wait_for_ttl),
    Rule("its spec can't be read", lambda look: look.job.spec is None, between.tell_invalid_spec),
)
ATTEMPT: tuple[Rule, ...] = (
    Rule("the check is over", attempt.preflight_ended, attempt.end_preflight),
    Rule("the training has succeeded", attempt.child_succeeded, attempt.succeed),
    Rule("a stop is under way", stop.is_under_way, stop.go_on),
    Rule("the training is over", attempt.child_ended, attempt.end_child),
    Rule("the training was deleted", attempt.child_vanished, attempt.end_vanished),
    Rule("the end is being read", attempt.is_ending, attempt.wait_for_end),
    Rule("its pods were taken away, others may come", attempt.was_evicted, attempt.wait_again),
    Rule("a stop is wanted", stop.is_wanted, stop.begin),
    Rule("the check is left out", attempt.preflight_is_skipped, attempt.skip_preflight),
    Rule("something made earlier lives", attempt.earlier_lives, between.wait_for_previous),
    Rule("there is no check yet", attempt.preflight_is_missing, attempt.create_preflight),
    Rule("the check takes too long", attempt.preflight_is_overdue, attempt.end_overdue_preflight),
    Rule("the check is under way", lambda look: not look.preflight_is_done, attempt.watch_preflight),
    Rule("there is no training yet", lambda look: look.child is None, attempt.create_child),
    Rule("somebody holds it back", attempt.is_held_back, attempt.tell_queue),
    Rule("all pods run", attempt.all_pods_run, attempt.watch_training),
    Rule("pods are awaited", lambda look: True, attempt.watch_pending),
)
BETWEEN: tuple[Rule, ...] = (
    Rule("something of the last attempt lives", between.child_lives, between.remove_live_children),
    Rule("it is suspended", lambda look: look.spec.suspend, between.suspend),
    Rule("it has run for long enough", between.is_out_of_time, between.fail_out_of_time),
    Rule("too many attempts have failed", between.has_failed_too_often, between.fail_too_often),
    Rule("too many attempts were lost", between.was_lost_too_often, between.fail_lost),
    Rule("the next attempt has to wait", between.backs_off, between.wait_for_retry),
    Rule("no PyTorchJob is known here", lambda look: not look.seen.backend.pytorchjobs, between.tell_backend_missing),
    Rule("nothing is in the way", lambda look: True, between.begin_attempt),
)


def decide(job: Job, seen: Observed, settings: Settings, now: datetime, builder: Builder) -> Decision:
    """What the status should say and what should be done, in that order. Pure.

    Nothing depends on anything but the arguments: two operators that see the same decide the same.
    """
    whole_seconds = now.replace(microsecond=0)
    look = Look(job=job, seen=seen, settings=settings, builder=builder, now=whole_seconds, status=job.status)
    look = absorb(look) if not (job.deleting or look.is_finished) else look
    for _ in range(MOST_ROUNDS):
        rule = rule_for(look)
        step = rule.then(look)
        look = look.with_status(step.status)
        if not step.again:
            return tell(look, step)
    raise AssertionError(f"the table has no end for {job.namespace}/{job.name}; last rule: {rule.name}")


def rule_for(look: Look) -> Rule:
    """The row that decides."""
    rows = (*JOB, *(ATTEMPT if look.attempt_is_open else BETWEEN))
    return next(rule for rule in rows if rule.applies(look))
