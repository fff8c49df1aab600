"""Questions to the trainers' pods: the only module that dials them. Nothing that a pod answers can hurt.

A pod is the user's: it may answer slowly, endlessly, with a redirect, or with nonsense. Its answer only ever informs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import aiohttp

from semires_operator.names import PORT
from semires_operator.observed import Answer, Pod

logger = logging.getLogger(__name__)

SECONDS = 2.0
"""Of a whole question, connection included."""
MAX_BYTES = 64 * 1024
MAX_CONNECTIONS = 32
MAX_PODS = 64
"""Pods of an attempt that are asked."""
SILENT_SECONDS, LONGEST_SILENCE_SECONDS = 15.0, 300.0
"""How long a pod that did not answer is left alone, at first and at most: a question without an answer holds a worker
up for SECONDS, and there are few. One that refuses at once costs nothing: its trainer is about to begin."""
MAX_SILENT = 4096
"""Pods that are remembered for that."""
Address = Callable[[Pod], str]
"""Host and port at which a pod is asked."""
Read = Callable[[Pod, bytes], Answer | None]
"""What a pod's answer says; None if it is not valid for this pod."""
Count = Callable[[str], None]
Clock = Callable[[], float]


def address_of(pod: Pod) -> str:
    """Host and port of a pod on the pod network. ValueError for what is no address of one."""
    ip = ipaddress.ip_address(pod.ip)
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        raise ValueError(f"{pod.ip} is not an address of a pod")
    return f"[{ip}]:{PORT}" if ip.version == 6 else f"{ip}:{PORT}"


class Poller:
    """Asks pods, a bounded number of them at once."""

    def __init__(self, session: aiohttp.ClientSession, *, address: Address, count: Count, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._address = address
        self._count = count
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._silent: dict[str, tuple[float, float]] = {}
        """UIDs of pods that did not answer, with the seconds for which and the time until which they are not asked."""

    async def progress(self, pods: Iterable[Pod], read: Read) -> list[Answer | None]:
        """Ask the running pods of an attempt: the answer of each, None for one that gave no valid one."""
        running = [pod for pod in pods if can_be_asked(pod)][:MAX_PODS]
        return await asyncio.gather(*(self._progress_of(pod, read) for pod in running))

    async def request_checkpoint(self, pod: Pod) -> bool:
        """Ask for a checkpoint; whether the pod took the request. `lastCheckpoint` tells when it is done.

        A pod that did not answer is asked all the same, for a stop may not wait; if it answers, so may its progress.
        """
        return await self._ask(pod, "POST", "/checkpoint", status=202) is not None

    async def _progress_of(self, pod: Pod, read: Read) -> Answer | None:
        if self._is_left_alone(pod):
            return None
        content = await self._ask(pod, "GET", "/progress", status=200)
        if content is None:
            return None
        answer = read(pod, content)
        self._count("invalid" if answer is None else "ok")
        return answer

    async def _ask(self, pod: Pod, method: str, path: str, *, status: int) -> bytes | None:
        content = None
        try:
            url = f"http://{self._address(pod)}{path}"
            async with (
                self._places,
                asyncio.timeout(SECONDS),
                self._session.request(method, url, allow_redirects=False) as response,
            ):
                if response.status == status:
                    content = await self._read(response)
                else:
                    self._count("refused")
            self._silent.pop(pod.uid, None)
        except (TimeoutError, OSError, ValueError, aiohttp.ClientError) as error:
            self._count("unreachable")
            self._leave_alone(pod, doubled=isinstance(error, TimeoutError))
            logger.debug("Pod %s did not answer %s: %r.", pod.name, path, error)
        return content

    def _is_left_alone(self, pod: Pod) -> bool:
        return pod.uid in self._silent and self._silent[pod.uid][1] > self._clock()

    def _leave_alone(self, pod: Pod, *, doubled: bool) -> None:
        if len(self._silent) >= MAX_SILENT:
            self._silent.clear()
        last, _ = self._silent.get(pod.uid, (0.0, 0.0))
        silence = min(max(2 * last, SILENT_SECONDS), LONGEST_SILENCE_SECONDS) if doubled else SILENT_SECONDS
        self._silent[pod.uid] = silence, self._clock() + silence

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        content = b""
        async for piece in response.content.iter_any():
            content += piece
            if len(content) > MAX_BYTES:
                self._count("too_long")
                response.close()
                return None
        return content


def can_be_asked(pod: Pod) -> bool:
    """Whether it is a training pod that runs, on the pod network (`ip` is empty for those on a host's)."""
    return pod.role == "training" and pod.phase == "Running" and bool(pod.ip)


@asynccontextmanager
async def poller(
    *, count: Count, address: Address = address_of, clock: Clock = time.monotonic
) -> AsyncIterator[Poller]:
    """A poller; its connections are closed at the end. No proxy, no cookies, no compression, no kept connections."""
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "Accept": "application/json"},
        auto_decompress=False,
        trust_env=False,
        read_bufsize=MAX_BYTES,
    ) as session:
        yield Poller(session, address=address, count=count, clock=clock)
