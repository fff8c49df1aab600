"""Trainers' pods are asked for progress, and nothing that they answer does any harm."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from semires_operator.observed import Answer, Pod
from semires_operator.polling import MAX_BYTES, MAX_CONNECTIONS, SECONDS, Poller, address_of, can_be_asked, poller
from semires_operator.progress import read_answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOCUMENT = {
    "schemaVersion": 1,
    "jobUid": "job-1",
    "attempt": 2,
    "podUid": "pod-1",
    "stage": "train",
    "step": 120,
    "steps": 400,
    "progressPercentage": 30,
    "metrics": [{"name": "loss", "value": "0.31"}],
    "lastUpdatedTime": "2025-12-31T23:59:59Z",
    "lastCheckpoint": None,
}
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def pod(**changed: Any) -> Pod:
    values = {
        "name": "a-master-0",
        "uid": "pod-1",
        "role": "training",
        "attempt": 2,
        "phase": "Running",
        "ip": "10.0.0.1",
    }
    return Pod(**{**values, "created": NOW, **changed})


def read(asked: Pod, content: bytes) -> Answer | None:
    return read_answer(content, job_uid="job-1", attempt=2, pod=asked.name, pod_uid=asked.uid, now=NOW)


def answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        writer.write(head.encode() + body)

    return handle


def document(**changed: Any) -> Handler:
    return answer(json.dumps({**DOCUMENT, **changed}).encode())


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """A server; its host and port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def ask(*handlers: Handler, pods: list[Pod] | None = None) -> tuple[list[Answer | None], list[str], float]:
    """Ask one pod for each server; the answers, what was counted, and the seconds it took."""
    counted: list[str] = []
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(served(handler)) for handler in handlers]
        pods = pods or [pod(name=f"a-worker-{number}") for number in range(len(handlers))]
        places = {pod.name: address for pod, address in zip(pods, addresses, strict=True)}
        trainers = await stack.enter_async_context(
            poller(count=counted.append, address=lambda asked: places[asked.name])
        )
        began = time.monotonic()
        found = await trainers.progress(pods, read)
        return found, counted, time.monotonic() - began


def test_a_valid_answer_is_taken(run):
    (found,), counted, _ = run(ask(document()))

    assert found is not None
    assert found.document["progress"]["step"] == 120
    assert counted == ["ok"]


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.1)


async def _flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gigabyte, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    for _ in range(16384):
        writer.write(b" " * 65536)
        await writer.drain()


async def _endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        writer.write(f"X-{number}: {'x' * 1000}\r\n".encode())
        await writer.drain()


async def _silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(10)


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


async def _chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("handler", "counted"),
    [
        pytest.param(answer(b"\x00\xff nonsense"), "invalid", id="nonsense"),
        pytest.param(answer(b"[" * 60_000), "invalid", id="deeply-nested"),
        pytest.param(answer(b'{"schemaVersion": 1, "step": 1e999}'), "invalid", id="infinite"),
        pytest.param(document(jobUid="job-2"), "invalid", id="another-job"),
        pytest.param(document(attempt=1), "invalid", id="another-attempt"),
        pytest.param(document(podUid="pod-2"), "invalid", id="another-pod"),
        pytest.param(answer(b"{}", status="500 Error"), "refused", id="error"),
        pytest.param(
            answer(b"", status="302 Found", headers="Location: http://169.254.169.254/latest/\r\n"),
            "refused",
            id="redirect",
        ),
        pytest.param(_drip, "unreachable", id="slow-drip"),
        pytest.param(_silence, "unreachable", id="silence"),
        pytest.param(_hang_up, "unreachable", id="hang-up"),
        pytest.param(_endless_head, "unreachable", id="endless-head"),
        pytest.param(_flood, "too_long", id="gigabyte"),
        pytest.param(_chunks, "too_long", id="endless-chunks"),
        pytest.param(answer(b" " * (MAX_BYTES + 1)), "too_long", id="too-long"),
        pytest.param(
            answer(b"\x1f\x8b" + b"\0" * 100, headers="Content-Encoding: gzip\r\n"), "invalid", id="compressed"
        ),
    ],
)
def test_a_hostile_answer_is_no_answer_and_takes_no_longer_than_two_seconds(run, handler, counted):
    found, counts, seconds = run(ask(handler))

    assert found == [None]
    assert counts == [counted]
    assert seconds < SECONDS + 0.5


def test_a_redirect_is_not_followed(run):
    asked = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append("elsewhere")

    async def scenario() -> None:
        async with served(elsewhere) as place:
            await ask(answer(b"", status="307 Temporary", headers=f"Location: http://{place}/progress\r\n"))

    run(scenario())

    assert asked == []


def test_a_proxy_of_the_environment_is_not_used(run, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    (found,), _, _ = run(ask(document()))

    assert found is not None


def test_all_pods_of_an_attempt_are_asked_and_slow_ones_do_not_add_up(run):
    found, _, seconds = run(ask(document(step=120), *[_silence] * 6, document(step=200)))

    assert [answer and answer.document["progress"]["step"] for answer in found] == [120, *[None] * 6, 200]
    assert seconds < SECONDS + 0.5


def test_a_checkpoint_is_asked_for_by_post(run):
    heads = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")

    async def scenario() -> bool:
        async with served(handle) as place, poller(count=lambda _: None, address=lambda _: place) as trainers:
            return await trainers.request_checkpoint(pod())

    assert run(scenario())
    assert heads[0].startswith(b"POST /checkpoint HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"ip": ""}, id="host-network-or-none"),
        pytest.param({"phase": "Pending"}, id="pending"),
        pytest.param({"phase": "Succeeded"}, id="ended"),
        pytest.param({"role": "preflight"}, id="preflight"),
    ],
)
def test_other_pods_are_not_asked(changed):
    assert not can_be_asked(pod(**changed))


@pytest.mark.parametrize(
    ("ip", "address"),
    [
        pytest.param("10.0.0.1", "10.0.0.1:9464", id="ipv4"),
        pytest.param("fd00::1", "[fd00::1]:9464", id="ipv6"),
    ],
)
def test_a_pod_is_asked_at_its_port(ip, address):
    assert address_of(pod(ip=ip)) == address


@pytest.mark.parametrize("ip", ["127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "example.com", "10.0.0.1:80/x?"])
def test_an_address_that_no_pod_has_is_not_dialled(ip):
    with pytest.raises(ValueError, match=r"not (an address|appear)"):
        address_of(pod(ip=ip))


def test_the_number_of_connections_is_bounded(run):
    open_at_once, most = 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_at_once, most
        open_at_once += 1
        most = max(most, open_at_once)
        await asyncio.sleep(0.05)
        open_at_once -= 1
        await document()(reader, writer)

    async def scenario() -> None:
        async with served(handle) as place, poller(count=lambda _: None, address=lambda _: place) as trainers:
            await asyncio.gather(*(trainers.progress([pod()], read) for _ in range(100)))

    run(scenario())

    assert most <= MAX_CONNECTIONS


REFUSES = "127.0.0.1:9"


class Asked:
    """A pod that is asked every 5 s, by a clock of the test's; it answers, refuses or is silent, as `place` says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.place: str | None = None
        self.counted: list[str] = []

    def address(self, _: Pod) -> str:
        if self.place is None:
            raise TimeoutError
        return self.place

    def poller(self) -> AbstractAsyncContextManager[Poller]:
        return poller(count=self.counted.append, address=self.address, clock=lambda: self.now)

    async def times(self, trainers: Poller, seconds: float) -> list[float]:
        """When it was asked during this time."""
        begins, found = self.now, []
        while self.now < begins + seconds:
            self.counted.clear()
            await trainers.progress([pod()], read)
            found += [self.now - begins] if self.counted else []
            self.now += 5
        return found


def test_a_pod_that_does_not_answer_is_left_alone_for_longer_each_time(run):
    asked = Asked()

    async def scenario() -> list[float]:
        async with asked.poller() as trainers:
            return await asked.times(trainers, 1200)

    assert run(scenario()) == [0, 15, 45, 105, 225, 465, 765, 1065]


def test_a_pod_that_refuses_is_asked_again_soon(run):
    asked = Asked()
    asked.place = REFUSES

    async def scenario() -> list[float]:
        async with asked.poller() as trainers:
            return await asked.times(trainers, 60)

    assert run(scenario()) == [0, 15, 30, 45]


def test_a_pod_that_has_answered_is_asked_each_time(run):
    asked = Asked()

    async def scenario() -> tuple[list[float], list[float]]:
        async with served(document()) as place, asked.poller() as trainers:
            await asked.times(trainers, 225)
            asked.now += 300
            asked.place = place
            answers = await asked.times(trainers, 20)
            asked.place = None
            return answers, await asked.times(trainers, 40)

    answers, silences = run(scenario())

    assert answers == [0, 5, 10, 15]
    assert silences == [0, 15]


def test_a_stop_asks_a_silent_pod_all_the_same_and_its_progress_if_it_answers(run):
    asked = Asked()

    async def scenario() -> tuple[bool, bool, list[float]]:
        async with served(answer(b"{}", status="202 Accepted")) as place, asked.poller() as trainers:
            await asked.times(trainers, 230)
            silent = await trainers.request_checkpoint(pod())
            asked.place = place
            return silent, await trainers.request_checkpoint(pod()), await asked.times(trainers, 10)

    assert run(scenario()) == (False, True, [0, 5])
