"""Storage that refuses or does not answer: exit codes 5 and 150."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest


@pytest.fixture
def user(server: Any, client: Any) -> tuple[str, str]:
    """An account that may do nothing yet."""
    access = f"user-{uuid.uuid4().hex[:8]}"
    server.add_user(access, "a-secret-of-some-length")
    return access, "a-secret-of-some-length"


def test_a_wrong_key_is_refused_at_the_secret(scene: Any, servers: Any, tmp_path: Any) -> None:
    folder = servers.write_credentials(tmp_path / "wrong", secret="no secret of ours")

    told = scene.run(SEMIRES_CREDENTIALS=str(folder))

    assert (told.code, told.error["reason"]) == (5, "InvalidCredentials")
    assert told.error["field"] == "spec.storage.credentialsSecret"
    assert told.message.endswith("Correct AWS_SECRET_ACCESS_KEY; look for spaces and line ends in it")


def test_a_secret_that_is_not_mounted_is_named(scene: Any, tmp_path: Any) -> None:
    told = scene.run(SEMIRES_CREDENTIALS=str(tmp_path / "nothing"))

    assert (told.code, told.error["reason"]) == (5, "CredentialsMissing")
    assert told.error["field"] == "spec.storage.credentialsSecret"


def test_a_bucket_that_does_not_exist_is_named(scene: Any) -> None:
    scene.set("dataset.images", "s3://no-such-bucket/images")

    told = scene.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (5, "NoSuchBucket", "spec.dataset.images")


def test_credentials_that_may_only_read_cannot_write_the_output(
    scene: Any, servers: Any, client: Any, user: tuple[str, str], tmp_path: Any
) -> None:
    access, secret = user
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [access]},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"],
    }
    client.put_bucket_policy(Bucket="bucket", Policy=json.dumps({"Statement": [statement]}))
    folder = servers.write_credentials(tmp_path / "reader", access=access, secret=secret)

    try:
        told = scene.run(SEMIRES_CREDENTIALS=str(folder))
    finally:
        client.delete_bucket_policy(Bucket="bucket")

    assert (told.code, told.error["reason"], told.error["field"]) == (5, "AccessDenied", "spec.output")
    assert "/out/.preflight-job-uid is denied" in told.message


def test_a_store_that_can_only_be_read_is_a_warning(scene: Any, make_proxy: Any, faults: Any) -> None:
    def refuse(request: Any) -> Any:
        refused = request.method == "PUT" and "/store/" in request.path
        return faults.Answer(status=403, code="AccessDenied") if refused else None

    scene.set("proposals.store", f"{scene.uri}/store")

    told = scene.run(SEMIRES_ENDPOINT_URL=make_proxy(refuse).url)

    assert told.code == 0, told.outcome
    assert told.found["warnings"][0].startswith("New proposals can't be kept for other jobs: spec.proposals.store:")


def test_a_server_that_ignores_conditions_is_a_warning(scene: Any, make_proxy: Any, faults: Any) -> None:
    def ignore(request: Any) -> Any:
        return faults.Answer(status=501, code="NotImplemented") if request.conditional else None

    told = scene.run(SEMIRES_ENDPOINT_URL=make_proxy(ignore).url)

    assert told.code == 0, told.outcome
    assert "does not support conditional writes" in told.found["warnings"][0]


def test_clocks_that_differ_are_told_by_how_much(scene: Any, make_proxy: Any, faults: Any) -> None:
    def skewed(_request: Any) -> Any:
        headers = {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}
        return faults.Answer(status=403, code="RequestTimeTooSkewed", headers=headers)

    told = scene.run(SEMIRES_ENDPOINT_URL=make_proxy(skewed).url)

    assert (told.code, told.error["reason"]) == (150, "RequestTimeTooSkewed")


def test_an_endpoint_where_nobody_answers_is_infrastructure(scene: Any, servers: Any) -> None:
    scene.set("preflight.deadlineSeconds", 12)

    told = scene.run(SEMIRES_ENDPOINT_URL=f"http://127.0.0.1:{servers.free_port()}")

    assert (told.code, told.error["reason"]) == (150, "EndpointUnreachable")
    assert told.error["field"] == "spec.storage.endpoint"
