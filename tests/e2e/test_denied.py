"""A job whose Secret does not open the bucket."""

from __future__ import annotations

import json

import pytest
from e2e.world import World, condition_of, phase_of
from testbed.cluster import Object

pytestmark = pytest.mark.timeout(1800)


def test_a_wrong_key_fails_the_job_with_its_reason(denied: Object) -> None:
    status = denied["status"]

    assert status["reason"] == "StorageDenied"
    assert condition_of(denied, "Failed")["reason"] == "StorageDenied"
    assert status["lastFailure"]["exitCode"] == 5


def test_the_reason_is_one_sentence_that_says_what_to_do(denied: Object) -> None:
    message = denied["status"]["message"]

    assert "\n" not in message
    assert len(message) < 400
    assert "not-the-secret" not in json.dumps(denied["status"])
    assert "s3://" in message or "key" in message.lower()


@pytest.mark.usefixtures("chain")
def test_it_was_not_tried_again_and_no_gpu_was_asked_for(world: World, denied: Object) -> None:
    later = world.job("denied")["status"]

    assert (later["attempt"], len(later["attempts"]), phase_of({"status": later})) == (1, 1, "Failed")
    assert world.pods("denied") == []
