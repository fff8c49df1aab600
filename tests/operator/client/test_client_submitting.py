"""What is sent to the API server, and how often, when others write too."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from semires_operator.client import Conflict, Refused
from semires_operator.client.differences import differences
from semires_operator.client.jobs import body_of, merged
from semires_trainer.config import SemiRESJob, parse_job
from semires_trainer.errors import ConfigError

ABSENT = {"message": "absent", "details": {"name": "refcoco", "kind": "semiresjobs"}}


@pytest.fixture
def manifest(make_document) -> SemiRESJob:
    document = make_document()
    return parse_job(
        {**{key: document[key] for key in ("apiVersion", "kind", "spec")}, "metadata": {"name": "refcoco"}}
    )


def changed(manifest: SemiRESJob, **spec: Any) -> SemiRESJob:
    document = manifest.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return parse_job({**document, "spec": {**document["spec"], **spec}})


def test_only_what_the_manifest_gives_is_sent(make_client, answer, make_document, manifest) -> None:
    client, server = make_client(answer(ABSENT, code=404), answer(make_document()))

    applied = client.apply(manifest)

    assert applied.outcome == "created"
    assert server.bodies[1]["spec"].keys() == {"dataset", "proposals", "output"}
    method, path = server.asked[1]
    assert (method, path.partition("?")[0]) == ("POST", "/apis/semires.dev/v1alpha1/namespaces/vision/semiresjobs")
    assert "fieldValidation=Strict" in path


def test_a_dry_run_is_one_of_the_server(make_client, answer, make_document, manifest) -> None:
    client, server = make_client(answer(ABSENT, code=404), answer(make_document()))

    client.apply(manifest, dry_run=True)

    assert "dryRun=All" in server.asked[1][1]


def test_submitting_the_same_again_writes_nothing(make_client, answer, make_document, manifest) -> None:
    client, server = make_client(answer(make_document()))

    assert client.apply(manifest).outcome == "unchanged"
    assert [method for method, _ in server.asked] == ["GET"]


def test_a_change_carries_the_version_it_was_made_from(make_client, answer, make_document, manifest) -> None:
    client, server = make_client(answer(make_document(version=7)), answer(make_document(version=8)))

    applied = client.apply(changed(manifest, ttlSecondsAfterFinished=60))

    assert applied.outcome == "changed"
    assert [str(change) for change in applied.changes] == ["spec.ttlSecondsAfterFinished (nothing -> 60)"]
    assert server.asked[1][0] == "PUT"
    assert server.bodies[1]["metadata"]["resourceVersion"] == "7"


def test_a_change_that_meets_anothers_is_made_again(make_client, answer, make_document, manifest) -> None:
    conflict = answer({"message": "changed meanwhile"}, code=409)
    script = (answer(make_document(version=7)), conflict, answer(make_document(version=8)))
    client, server = make_client(*script, answer(make_document(version=9)))

    client.apply(changed(manifest, ttlSecondsAfterFinished=60))

    assert server.bodies[3]["metadata"]["resourceVersion"] == "8"


def test_a_connection_that_was_closed_meanwhile_is_made_anew(make_client, answer, make_document, manifest) -> None:
    script = (answer(ABSENT, code=404), answer(silent=True), answer(make_document()))
    client, server = make_client(*script)

    assert client.apply(manifest).outcome == "created"
    assert [method for method, _ in server.asked] == ["GET", "POST", "POST"]


def test_an_answer_that_was_lost_makes_no_second_job(make_client, answer, make_document, manifest) -> None:
    exists = answer({"message": "already exists"}, code=409)
    client, _ = make_client(answer(ABSENT, code=404), answer(silent=True), exists, answer(make_document()))

    assert client.apply(manifest).outcome == "unchanged"


def test_a_suspend_that_always_meets_anothers_write_is_told(make_client, answer, make_document) -> None:
    client, server = make_client(answer(make_document()), answer({"message": "changed meanwhile"}, code=409))

    with pytest.raises(Conflict, match="changed meanwhile"):
        client.suspend("refcoco")

    assert [method for method, _ in server.asked] == ["GET", *["PATCH"] * 5]


def test_suspend_and_resume_are_merge_patches(make_client, answer, make_document) -> None:
    suspended = make_document()
    suspended["spec"]["suspend"] = True
    client, server = make_client(answer(make_document()), answer(suspended), answer(suspended), answer(make_document()))

    assert client.suspend("refcoco").is_suspended
    assert not client.resume("refcoco").is_suspended
    assert [body for body in server.bodies if body] == [{"spec": {"suspend": True}}, {"spec": {"suspend": False}}]
    assert server.types == {"PATCH": "application/merge-patch+json"}


def test_suspending_twice_writes_once(make_client, answer, make_document) -> None:
    suspended = make_document()
    suspended["spec"]["suspend"] = True
    client, server = make_client(answer(suspended))

    assert client.suspend("refcoco").is_suspended
    assert [method for method, _ in server.asked] == ["GET"]


def test_a_finished_job_is_not_suspended(make_client, answer, make_document, make_condition) -> None:
    client, _ = make_client(answer(make_document(phase="Succeeded", conditions=[make_condition("Complete")])))

    with pytest.raises(Refused, match=r"refcoco has finished \(Succeeded\): there is nothing to suspend"):
        client.suspend("refcoco")


def test_a_job_that_is_being_deleted_is_not_changed(make_client, answer, make_document, manifest) -> None:
    document = make_document()
    document["metadata"]["deletionTimestamp"] = "2026-11-25T09:00:00Z"
    client, _ = make_client(answer(document))

    with pytest.raises(Refused, match="is being deleted"):
        client.apply(changed(manifest, suspend=True))


def test_a_suspended_job_stays_suspended_unless_the_manifest_says_otherwise(make_job, manifest) -> None:
    job = make_job()
    job.document["spec"]["suspend"] = True

    assert merged(job, body_of(manifest))["spec"]["suspend"] is True
    assert merged(job, body_of(changed(manifest, suspend=False)))["spec"]["suspend"] is False


def test_labels_of_others_stay(make_job, manifest) -> None:
    job = make_job()
    job.document["metadata"]["labels"] = {"team": "a", "old": "1"}
    body = body_of(manifest)
    body["metadata"]["labels"] = {"old": "2"}

    assert merged(job, body)["metadata"]["labels"] == {"team": "a", "old": "2"}


def test_a_default_that_is_written_out_is_no_difference(manifest) -> None:
    assert differences(manifest, changed(manifest, suspend=False, backend="PyTorchJob")) == ()


def test_a_manifest_of_another_namespace_is_refused(make_client, answer, manifest) -> None:
    client, _ = make_client(answer(), namespace="team-a")
    named = manifest.model_copy(update={"metadata": manifest.metadata.model_copy(update={"namespace": "team-b"})})

    with pytest.raises(ConfigError, match=r'metadata.namespace: "team-b" contradicts -n team-a'):
        client.submit(named)


def test_a_file_is_checked_before_anything_is_asked(make_client, answer, make_document, tmp_path) -> None:
    client, server = make_client(answer())
    document = {**make_document(), "metadata": {"name": "refcoco"}, "spec": {"dataset": {}}}
    document.pop("status")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))

    with pytest.raises(ConfigError, match=r"job.yaml, line \d+"):
        client.submit(path)

    assert server.asked == []
