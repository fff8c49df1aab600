"""Calls to the API server: what they say, what fails, and how often they are counted."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from testbed.api_proxy import Fault, Interference, Refusal

from semires_operator import kube

CONFIG = kube.Resource(plural="configmaps")


class Always(Interference):
    """Does the same to every request."""

    def __init__(self, decision):
        self.decision = decision

    def before(self, request):
        return self.decision


@pytest.fixture
def counts() -> Counter:
    return Counter()


@pytest.fixture
def with_api(run, connection_of_file, proxied, counts):
    """Run a test's coroutine function with calls to the API server, by way of the proxy."""

    def go(test):
        async def scenario():
            count = lambda verb, code: counts.update([(verb, code)])  # noqa: E731
            async with kube.connect(connection_of_file(proxied), count=count) as api:
                return await test(api)

        return run(scenario())

    return go


def config(name: str = "x") -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}}


def test_what_is_not_there_is_none(with_api, api_namespace, counts):
    found = with_api(lambda api: api.find(CONFIG, api_namespace, "x"))

    assert found is None
    assert counts == {("get", 404): 1}


def test_an_error_has_the_words_of_the_server(with_api, api_namespace):
    async def test(api):
        await api.create(CONFIG, api_namespace, config())
        with pytest.raises(kube.ApiError) as caught:
            await api.create(CONFIG, api_namespace, config())
        return caught.value

    error = with_api(test)

    assert (error.code, error.reason) == (409, "AlreadyExists"), error
    assert 'configmaps "x" already exists' in error.message
    assert not error.transient


def test_a_patch_of_an_older_version_is_a_conflict(with_api, api_namespace):
    async def test(api):
        made = await api.create(CONFIG, api_namespace, config())
        version = made["metadata"]["resourceVersion"]
        await api.merge_patch(CONFIG, api_namespace, "x", {"data": {"a": "2"}}, resource_version=version)
        with pytest.raises(kube.ApiError) as caught:
            await api.merge_patch(CONFIG, api_namespace, "x", {"data": {"a": "3"}}, resource_version=version)
        return caught.value.code, (await api.get(CONFIG, api_namespace, "x"))["data"]

    assert with_api(test) == (409, {"a": "2"})


def test_an_object_of_another_uid_is_not_deleted(with_api, api_namespace):
    async def test(api):
        made = await api.create(CONFIG, api_namespace, config())
        await api.delete(CONFIG, api_namespace, "x", uid="another")
        kept = await api.find(CONFIG, api_namespace, "x")
        await api.delete(CONFIG, api_namespace, "x", uid=made["metadata"]["uid"])
        return kept is not None, await api.find(CONFIG, api_namespace, "x")

    assert with_api(test) == (True, None)


def test_a_long_list_is_fetched_in_pages(with_api, api_namespace, monkeypatch, counts):
    monkeypatch.setattr(kube, "PAGE", 3)

    async def test(api):
        for number in range(7):
            await api.create(CONFIG, api_namespace, config(f"n{number}"))
        return await api.list(CONFIG, api_namespace)

    found, version = with_api(test)

    assert len([one for one in found if one["metadata"]["name"].startswith("n")]) == 7
    assert int(version) > 0
    assert counts["list", 200] >= 3


def test_metadata_can_be_had_without_the_rest(with_api, api_namespace):
    async def test(api):
        await api.create(CONFIG, api_namespace, config())
        return await api.list(CONFIG, api_namespace, metadata_only=True)

    found, _ = with_api(test)

    assert all("data" not in one for one in found)
    assert "x" in [one["metadata"]["name"] for one in found]


@pytest.mark.parametrize(
    ("decision", "code", "retry_after"),
    [
        pytest.param(Refusal(status=429, retry_after=7), 429, 7, id="too-many-requests"),
        pytest.param(Refusal(status=500), 500, None, id="error"),
        pytest.param(Fault.RESET, 0, None, id="reset"),
    ],
)
def test_failures_are_told_apart(with_api, api_namespace, proxy, decision, code, retry_after, counts):
    proxy.interference = Always(decision)

    with pytest.raises(kube.ApiError) as caught:
        with_api(lambda api: api.get(CONFIG, api_namespace, "x"))

    assert (caught.value.code, caught.value.retry_after) == (code, retry_after)
    assert counts == {("get", code): 1}


def test_no_answer_is_waited_for_a_bounded_time(with_api, api_namespace, proxy):
    proxy.interference = Always(Fault.HOLD)
    began = time.monotonic()

    async def test(api):
        with pytest.raises(kube.ApiError, match="Timeout"):
            await api.get(CONFIG, api_namespace, "x", seconds=1)
        proxy.interference = Interference()
        proxy.release()

    with_api(test)

    assert time.monotonic() - began < 3


def test_a_token_file_is_read_again_after_a_refusal(run, own_api_cluster, api_namespace, tmp_path, connection):
    token = tmp_path / "token"
    token.write_text("stale")
    by_file = kube.Connection(server=connection.server, ca_file=connection.ca_file, token_file=str(token))

    async def test():
        async with kube.connect(by_file, count=lambda verb, code: None) as api:
            with pytest.raises(kube.ApiError, match="401"):
                await api.find(CONFIG, api_namespace, "x")
            token.write_text(connection.token)
            return await api.find(CONFIG, api_namespace, "x")

    assert run(test()) is None
