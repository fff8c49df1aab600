"""A job from its creation to its end, run by the operator as a program with the rights of the cluster's overlay."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from testbed.bench import Bench
from testbed.player import End, Player, Script, progress_of, tour
from testbed.prometheus_server import lint
from testbed.waiting import wait_until

MOST_WRITES, MOST_EVENTS, MOST_MIB = 4, 12, 110
PORT = 9464
SCORE = {"model": "teacher", "split": "val", "size": "original", "oIoU": 47.31, "mIoU": 50.1}
logger = logging.getLogger(__name__)


class Trainer(ThreadingHTTPServer):
    """What training pods serve, on an address of this machine: the operator asks no pod on a loopback address."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, PORT), _Page)
        self.player: Player | None = None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class _Page(BaseHTTPRequestHandler):
    server: Trainer

    def do_GET(self) -> None:
        body = progress_of(self.server.player.training_pod) if self.server.player else b""
        self.send_response(200 if body else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has loopback addresses only")
    made = Trainer(address)
    yield made
    made.shutdown()
    made.server_close()


def test_a_life_costs_few_writes_few_events_and_little_memory_and_leaves_no_series(
    place: Bench, trainer: Trainer
) -> None:
    script = Script(
        ip=str(trainer.server_address[0]), training=lambda attempt: End(after=4, outcome={"results": [SCORE]})
    )
    trainer.player = place.play(script)
    operator = place.operator(overlay="cluster")
    operator.start()
    operator.wait_until_ready()
    place.submit()
    began = time.monotonic()
    running = place.wait("it tells its progress", lambda status: status.get("progress", {}).get("step"))
    shown = operator.page("/metrics")[1]
    status = place.wait_for_phase("Succeeded")
    logger.info("From creation to success in %.1f s, 4 of them training.", time.monotonic() - began)

    writes, events = place.writes(), place.writes(beside=()).count("create events")
    logger.info("Writes beside status and events: %s; events: %d.", writes, events)
    logger.info("Writes of the status: %d.", place.writes(beside=()).count("patch semiresjobs/status"))
    assert running["progress"]["step"] == 10
    assert status["results"][0]["oIoU"] == "47.31"
    assert len(writes) <= MOST_WRITES
    assert events <= MOST_EVENTS
    assert lint(shown.encode()) == ""
    assert f'semires_job_step{{name="a",namespace="{place.namespace}"}} 10.0' in shown

    place.proxy.forget()
    time.sleep(5)

    assert place.writes(beside=("leases",)) == []

    place.api.delete("semiresjobs", "a")

    wait_until("its series are gone", lambda: place.namespace not in operator.page("/metrics")[1], seconds=20)
    logger.info("Resident: %.0f MiB.", operator.resident_mib)
    assert operator.resident_mib <= MOST_MIB
    assert lint(operator.page("/metrics")[1].encode()) == ""
    assert operator.tracebacks() == 0, operator.tail()


def test_a_tour_of_three_attempts_at_full_speed(place: Bench) -> None:
    """Failed, suspended and resumed, succeeded: still few writes and events an attempt."""
    place.play(tour())
    place.operator().start()
    began = time.monotonic()

    place.check_tour(place.tour())

    writes, events = place.writes(), place.writes(beside=()).count("create events")
    logger.info("A tour in %.1f s; writes %s; events %d.", time.monotonic() - began, writes, events)
    assert writes.count("delete jobs") == 0
    assert len(writes) == 8  # three checks, three PyTorchJobs, of which two are deleted
    assert events <= 3 * MOST_EVENTS
