"""What follows from the end of an attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from semires_operator.failure import End, classify
from semires_operator.observed import Child, Pod
from semires_operator.outcome import Outcome
from semires_operator.reasons import Reason
from semires_trainer.config import FailureRule

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CHILD = Child(name="refcoco-a1", uid="1", attempt=1, created=NOW, state="Failed", message="it failed")


def pod(exit_code: int | None = None, **fields: Any) -> Pod:
    given = {"phase": "Failed", "node": "node-1", **fields}
    return Pod(
        name="refcoco-a1-master-0", uid="2", role="training", attempt=1, created=NOW, exit_code=exit_code, **given
    )


def end(exit_code: int | None = None, *, outcome: Outcome | None = None, **fields: Any) -> End:
    return End(child=CHILD, pod=pod(exit_code, **fields), outcome=outcome)


def rules(*listed: dict[str, Any]) -> list[FailureRule]:
    return [FailureRule.model_validate(rule) for rule in listed]


FITTING = Outcome(exit_code=6, reason="GpuMemory", message="Too little GPU memory.", micro_batch=6)
HUNG = Outcome(exit_code=150, reason="RanksHung", message="Nothing moved.")


@pytest.mark.parametrize(
    ("ended", "action", "reason"),
    [
        pytest.param(end(1), "Retry", Reason.UNEXPECTED, id="bug"),
        pytest.param(end(2), "Fail", Reason.CONFIG_INVALID, id="configuration"),
        pytest.param(end(3), "Fail", Reason.DATA_INVALID, id="data"),
        pytest.param(end(4), "Fail", Reason.DIVERGED, id="diverged"),
        pytest.param(end(5), "Fail", Reason.STORAGE_DENIED, id="denied"),
        pytest.param(
            end(5, disrupted="PreemptionByScheduler"), "Fail", Reason.STORAGE_DENIED, id="denied-then-drained"
        ),
        pytest.param(end(6, outcome=FITTING), "RetryFree", Reason.GPU_MEMORY, id="gpu-memory"),
        pytest.param(end(6), "Fail", Reason.GPU_MEMORY, id="gpu-memory-without-a-way-out"),
        pytest.param(end(126), "Fail", Reason.IMAGE_BROKEN, id="not-executable"),
        pytest.param(end(127), "Fail", Reason.IMAGE_BROKEN, id="no-command"),
        pytest.param(end(130), "RetryFree", Reason.TERMINATED, id="sigint"),
        pytest.param(end(143), "RetryFree", Reason.TERMINATED, id="sigterm"),
        pytest.param(end(137, reason="OOMKilled"), "Retry", Reason.OUT_OF_MEMORY, id="out-of-memory"),
        pytest.param(end(137), "Retry", Reason.UNEXPECTED, id="killed"),
        pytest.param(end(137, deleting_since=NOW), "RetryFree", Reason.DISRUPTED, id="killed-after-its-grace-period"),
        pytest.param(end(143, disrupted="DeletionByTaintManager"), "RetryFree", Reason.DISRUPTED, id="drained"),
        pytest.param(end(150), "RetryFree", Reason.INFRASTRUCTURE, id="infrastructure"),
        pytest.param(end(150, outcome=HUNG), "Retry", Reason.RANKS_HUNG, id="hung"),
        pytest.param(end(139), "Retry", Reason.UNEXPECTED, id="segmentation-fault"),
        pytest.param(end(reason="Evicted"), "Retry", Reason.UNEXPECTED, id="evicted-for-its-own-limit"),
        pytest.param(
            end(reason="UnexpectedAdmissionError"), "RetryFree", Reason.INFRASTRUCTURE, id="device-plugin-refused"
        ),
        pytest.param(end(reason="OutOfnvidia.com/gpu"), "RetryFree", Reason.INFRASTRUCTURE, id="others-were-faster"),
        pytest.param(end(reason="NodeAffinity"), "RetryFree", Reason.INFRASTRUCTURE, id="labels-of-the-node-changed"),
        pytest.param(end(reason="Odd", started=NOW), "Retry", Reason.UNEXPECTED, id="ended-after-it-had-begun"),
        pytest.param(
            end(reason="Evicted", disrupted="TerminationByKubelet"), "RetryFree", Reason.DISRUPTED, id="evicted"
        ),
        pytest.param(end(reason="NodeLost", phase="Unknown"), "RetryFree", Reason.DISRUPTED, id="node-lost"),
        pytest.param(end(), "RetryFree", Reason.POD_VANISHED, id="no-last-word"),
        pytest.param(
            end(128, reason="StartError", termination_message='exec: "python": executable file not found in $PATH'),
            "Fail",
            Reason.IMAGE_BROKEN,
            id="no-such-program",
        ),
        pytest.param(
            end(128, reason="StartError", termination_message="nvidia-container-cli: initialization error"),
            "RetryFree",
            Reason.INFRASTRUCTURE,
            id="device-broken",
        ),
        pytest.param(End(child=CHILD, pod=None, outcome=None), "RetryFree", Reason.POD_VANISHED, id="no-pod"),
        pytest.param(End(child=None, pod=None, outcome=None), "RetryFree", Reason.CHILD_DELETED, id="no-child"),
    ],
)
def test_the_table_of_ends(ended: End, action: str, reason: Reason) -> None:
    verdict = classify(ended, ())

    assert (verdict.action, verdict.reason) == (action, reason)


@pytest.mark.parametrize(
    ("rule", "ended", "action", "reason"),
    [
        pytest.param({"exitCodes": [3], "action": "Retry"}, end(3), "Retry", Reason.DATA_INVALID, id="code"),
        pytest.param({"exitCodes": [1], "action": "Fail"}, end(1), "Fail", Reason.FAILED_BY_RULE, id="fail"),
        pytest.param({"exitCodes": [2], "action": "Fail"}, end(2), "Fail", Reason.CONFIG_INVALID, id="fails-anyway"),
        pytest.param(
            {"podReasons": ["OOMKilled"], "action": "Fail"},
            end(137, reason="OOMKilled"),
            "Fail",
            Reason.FAILED_BY_RULE,
            id="reason",
        ),
        pytest.param(
            {"podReasons": ["DisruptionTarget"], "action": "Retry"},
            end(143, disrupted="PreemptionByScheduler"),
            "Retry",
            Reason.DISRUPTED,
            id="any-disruption",
        ),
        pytest.param({"exitCodes": [9], "action": "Fail"}, end(1), "Retry", Reason.UNEXPECTED, id="no-match"),
    ],
)
def test_a_rule_of_the_user_comes_first(rule: dict[str, Any], ended: End, action: str, reason: Reason) -> None:
    verdict = classify(ended, rules(rule))

    assert (verdict.action, verdict.reason) == (action, reason)


def test_the_first_rule_that_matches_wins() -> None:
    both = rules({"exitCodes": [1, 2], "action": "RetryFree"}, {"exitCodes": [1], "action": "Fail"})

    assert classify(end(1), both).action == "RetryFree"


def test_the_trainers_own_sentence_field_and_word_are_told() -> None:
    outcome = Outcome(exit_code=5, reason="AccessDenied", message="s3://x: denied.", field="spec.output")
    failure = classify(end(5, outcome=outcome), ()).failure

    assert (failure.reason, failure.message, failure.field) == ("AccessDenied", "s3://x: denied.", "spec.output")
    assert (failure.exit_code, failure.node) == (5, "node-1")


def test_a_pod_without_a_last_word_is_named_with_its_node_and_code() -> None:
    failure = classify(end(137, reason="OOMKilled"), ()).failure

    assert failure.message == "Pod refcoco-a1-master-0 on node node-1 ended with exit code 137 (OOMKilled)."
    assert failure.reason == "OOMKilled"


def test_a_pod_that_its_node_refused_is_told_in_the_kubelets_words() -> None:
    words = "Pod was rejected: Allocate failed due to no healthy devices present."
    failure = classify(end(reason="UnexpectedAdmissionError", message=words), ()).failure

    assert failure.message == (
        "Node node-1 refused pod refcoco-a1-master-0 "
        "(UnexpectedAdmissionError: Pod was rejected: Allocate failed due to no healthy devices present)."
    )
    assert (failure.reason, failure.node) == ("UnexpectedAdmissionError", "node-1")


def test_only_the_end_of_a_log_is_kept() -> None:
    ended = End(child=CHILD, pod=pod(1), outcome=None, log_tail="x" * 5000 + "the end")

    assert classify(ended, ()).failure.log_tail.endswith("the end")
    assert len(classify(ended, ()).failure.log_tail) == 4096
