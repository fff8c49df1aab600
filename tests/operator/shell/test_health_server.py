"""/healthz, /readyz and /metrics are answered from their own thread, whatever the loops do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest

from semires_operator.server import LONGEST_SILENCE, Heartbeats, Server


@dataclass
class Facts:
    """What the server is told."""

    problems: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)

    def metrics(self) -> bytes:
        return b"up 1\n"

    def unhealthy(self) -> list[str]:
        return self.problems

    def unready(self) -> list[str]:
        return self.waits


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def get(server: Server, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://{host}:{server.port}{path}", timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_metrics_are_served_on_both_kinds_of_address(host):
    with Server(0, Facts()) as server:
        assert get(server, "/metrics", host) == (200, b"up 1\n")


@pytest.mark.parametrize(
    ("facts", "path", "code"),
    [
        pytest.param(Facts(), "/healthz", 200, id="healthy"),
        pytest.param(Facts(problems=["hangs"]), "/healthz", 503, id="unhealthy"),
        pytest.param(Facts(waits=["syncs"]), "/healthz", 200, id="unready-is-healthy"),
        pytest.param(Facts(), "/readyz", 200, id="ready"),
        pytest.param(Facts(waits=["syncs"]), "/readyz", 503, id="unready"),
        pytest.param(Facts(), "/", 404, id="nothing"),
    ],
)
def test_the_status_tells_the_truth(facts, path, code):
    with Server(0, facts) as server:
        assert get(server, path)[0] == code


def test_the_answer_says_why():
    with Server(0, Facts(waits=["the objects are not known yet"])) as server:
        _, content = get(server, "/readyz")

    assert json.loads(content) == {"ok": False, "problems": ["the objects are not known yet"]}


def test_a_loop_that_is_silent_for_too_long_is_dead():
    clock = Clock()
    heartbeats = Heartbeats(clock=clock)
    heartbeats.beat("main")
    clock.now = LONGEST_SILENCE + 1

    assert heartbeats.dead() == ["the main loop has been silent for 31 s"]


def test_a_pause_of_half_a_minute_is_survived():
    clock = Clock()
    heartbeats = Heartbeats(clock=clock)
    heartbeats.beat("main")
    clock.now = LONGEST_SILENCE

    assert heartbeats.dead() == []
    assert heartbeats.lags() == {"main": LONGEST_SILENCE - 1}


def test_a_loop_that_has_ended_is_not_dead():
    clock = Clock()
    heartbeats = Heartbeats(clock=clock)
    heartbeats.beat("streams")
    heartbeats.stop("streams")
    clock.now = 1000

    assert heartbeats.dead() == []
