"""Waiting holds over expired versions, cut streams and restarts, and ends when what is waited for can't come."""

from __future__ import annotations

from typing import Any

import pytest

from semires_operator.client import JobFailed, JobGone, JobNotFound, Unreachable, WaitTimedOut
from semires_operator.client import watching as client_watching
from semires_operator.client.jobs import is_reached
from semires_operator.client.watching import JobWatch
from semires_trainer.errors import ConfigError

EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}


def listed(*documents: dict[str, Any], version: int = 1) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(documents)}


def event(document: dict[str, Any], kind: str = "MODIFIED") -> dict[str, Any]:
    return {"type": kind, "object": document}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_watching, "LONGEST_PAUSE", 0.01)


@pytest.fixture
def finished(make_document, make_condition) -> dict[str, Any]:
    return make_document(version=9, phase="Succeeded", conditions=[make_condition("Complete")])


def test_a_wait_ends_with_the_state_waited_for(make_client, answer, make_document, finished) -> None:
    pending, running = make_document(version=1), make_document(version=2, phase="Running")
    client, server = make_client(answer(listed(pending)), answer([event(running), event(finished)]))
    seen: list[str] = []

    job = client.wait("refcoco", on_change=lambda job: seen.append(job.status.phase))

    assert job.is_complete
    assert seen == ["Pending", "Running", "Succeeded"]
    assert "resourceVersion=1" in server.asked[1][1]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([{"body": [EXPIRED]}], id="expired-event"),
        pytest.param([{"body": {"code": 410, "message": "gone"}, "code": 410}], id="expired-answer"),
        pytest.param([{"body": b"", "cut": True}], id="cut"),
        pytest.param([{"body": b'{"type": "MODI'}], id="half-an-event"),
        pytest.param([{"body": {"message": "starting"}, "code": 503}] * 3, id="restart"),
        pytest.param([{"body": {"message": "slow"}, "code": 429}], id="throttled"),
    ],
)
def test_a_watch_that_breaks_begins_anew(make_client, answer, make_document, finished, faults) -> None:
    broken = [answer(**fault) for fault in faults]
    client, _ = make_client(answer(listed(make_document())), *broken, answer(listed(finished, version=9)))

    assert client.wait("refcoco", timeout=10).is_complete


def test_bookmarks_move_the_version_and_tell_nothing(make_client, answer, make_document, finished) -> None:
    bookmark = event({"metadata": {"resourceVersion": "7"}}, "BOOKMARK")
    script = (answer(listed(make_document())), answer([bookmark]), answer([event(finished)]))
    client, server = make_client(*script)
    seen: list[str] = []

    client.wait("refcoco", on_change=lambda job: seen.append(job.version))

    assert seen == ["1", "9"]
    assert "resourceVersion=7" in server.asked[2][1]


def test_a_state_is_told_once(make_client, answer, make_document, finished) -> None:
    script = (
        answer(listed(make_document())),
        answer([EXPIRED]),
        answer(listed(make_document())),
        answer([event(finished)]),
    )
    client, _ = make_client(*script)

    assert [job.version for job in client.watch("refcoco", timeout=0.5)] == ["1", "9"]


def test_a_deleted_job_ends_the_wait(make_client, answer, make_document) -> None:
    client, _ = make_client(answer(listed(make_document())), answer([event(make_document(version=3), "DELETED")]))

    with pytest.raises(JobGone, match="was deleted") as caught:
        client.wait("refcoco")

    assert caught.value.exit_code == 1


def test_another_job_of_the_same_name_is_not_the_one_waited_for(make_client, answer, make_document) -> None:
    other = make_document(version=5)
    other["metadata"]["uid"] = "another"
    client, _ = make_client(answer(listed(make_document())), answer([EXPIRED]), answer(listed(other, version=5)))

    with pytest.raises(JobGone):
        client.wait("refcoco")


def test_a_job_that_is_not_there_is_not_waited_for(make_client, answer) -> None:
    client, _ = make_client(answer(listed()))

    with pytest.raises(JobNotFound, match='no SemiRESJob "refcoco"'):
        client.wait("refcoco")


def test_a_word_that_is_no_condition_is_not_waited_for(make_client, answer) -> None:
    client, server = make_client(answer())

    with pytest.raises(ConfigError, match=r'"Completed" is no condition. Did you mean "Complete"'):
        client.wait("refcoco", until="Completed")

    assert server.asked == []


def test_time_that_is_over_is_told_with_the_state(make_client, answer, make_document) -> None:
    pending = make_document(phase="Pending", message="Waits for 4 GPUs.")
    client, _ = make_client(answer(listed(pending)), answer([]))

    with pytest.raises(WaitTimedOut, match=r"not Finished within 0.2 s \(Pending: Waits for 4 GPUs.\)") as caught:
        client.wait("refcoco", timeout=0.2)

    assert caught.value.exit_code == 124


def test_a_job_that_fails_ends_the_wait_for_its_success(make_client, answer, make_document, make_condition) -> None:
    failure = {"reason": "StorageDenied", "message": "Wrong key", "field": "spec.storage"}
    failed = make_document(phase="Failed", conditions=[make_condition("Failed")], lastFailure=failure)
    client, _ = make_client(answer(listed(failed)))

    with pytest.raises(JobFailed, match=r"spec.storage: refcoco failed: Wrong key. See: semires describe") as caught:
        client.wait("refcoco", until="Complete")

    assert caught.value.exit_code == 1
    assert caught.value.job.status.phase == "Failed"


def test_an_api_server_that_stays_away_ends_the_wait(make_document) -> None:
    class Away:
        clock, lists = 0.0, 0

        def list_jobs(self, *_: object, **__: object) -> dict[str, Any]:
            self.lists += 1
            if self.lists > 1:
                raise Unreachable("away")
            return listed(make_document())

        def watch_jobs(self, *_: object, **__: object) -> Any:
            raise Unreachable("cut")

    source = Away()

    def sleep(seconds: float) -> None:
        source.clock += max(seconds, 1.0)

    watch = JobWatch(source=source, namespace="vision", name="refcoco", clock=lambda: source.clock, sleep=sleep)
    with pytest.raises(Unreachable, match="away"):
        list(watch.states())

    assert client_watching.PATIENCE_SECONDS < source.clock < client_watching.PATIENCE_SECONDS + 20


@pytest.mark.parametrize(
    ("until", "types", "observed", "reached"),
    [
        pytest.param("Finished", ["Failed"], 1, True, id="failed-is-finished"),
        pytest.param("Complete", ["Complete"], 1, True, id="ends-hold-for-any-generation"),
        pytest.param("Suspended", ["Suspended"], 2, True, id="current"),
        pytest.param("Suspended", ["Suspended"], 1, False, id="of-the-spec-before"),
        pytest.param("Running", ["Complete"], 2, True, id="succeeded-has-run"),
        pytest.param("Running", [], 2, False, id="not-yet"),
    ],
)
def test_a_condition_counts_if_it_speaks_of_the_present_spec(
    make_job, make_condition, until: str, types: list[str], observed: int, reached: bool
) -> None:
    conditions = [make_condition(type_) for type_ in types]
    job = make_job(generation=2, observedGeneration=observed, conditions=conditions)

    assert is_reached(job, until) is reached
