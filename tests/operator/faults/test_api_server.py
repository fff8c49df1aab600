"""The API server is away, refuses, or says nothing any more: the job comes to the same end, and nothing is doubled."""

from __future__ import annotations

import time

import pytest
from testbed.api_cluster import ApiCluster
from testbed.api_proxy import Errors
from testbed.bench import Bench
from testbed.cluster import Object
from testbed.operators import SHIPPED_LEASE
from testbed.player import End, Script, tour

DOWN_SECONDS = 5.0


def test_an_api_server_that_is_killed_and_away_for_seconds(place: Bench, own_api_cluster: ApiCluster) -> None:
    """In the middle of an attempt. A leader may have lost its Lease by then; it is started again like any pod."""
    place.play(tour())
    place.operator(**SHIPPED_LEASE).start()
    times: list[float] = []

    def meanwhile(status: Object) -> None:
        if status.get("phase") == "Preflight" and not times:
            own_api_cluster.stop_apiserver(kill=True)
            time.sleep(DOWN_SECONDS)
            own_api_cluster.start_apiserver()
            times.append(time.monotonic())

    place.check_tour(place.tour(seconds=180, meanwhile=meanwhile))

    assert times


def test_watches_that_are_cut_each_second(place: Bench) -> None:
    place.play(tour())
    place.operator().start()
    cuts: list[int] = []
    last = [time.monotonic()]

    def meanwhile(status: Object) -> None:
        if time.monotonic() - last[0] >= 1:
            last[0] = time.monotonic()
            cuts.append(place.proxy.cut_watches())

    place.check_tour(place.tour(meanwhile=meanwhile))

    assert sum(cuts) >= 4


def test_a_third_of_all_answers_are_429_500_or_409(place: Bench) -> None:
    """From the start of the operator on."""
    place.play(Script())
    operator = place.operator()
    place.proxy.interference = Errors(seed=1)
    operator.start()
    place.submit()

    assert place.wait_for_phase("Succeeded", seconds=180)["attempt"] == 1
    assert (place.made("jobs"), place.made("pytorchjobs")) == (["a-p1"], ["a-a1"])
    assert operator.tracebacks() == 0, operator.tail()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_third_of_all_answers_are_errors_over_several_attempts(place: Bench, seed: int) -> None:
    place.play(tour())
    operator = place.operator()
    place.proxy.interference = Errors(seed=seed)
    operator.start()

    place.check_tour(place.tour(seconds=500))


@pytest.mark.long
def test_watches_that_fall_silent_are_noticed(place: Bench) -> None:
    """They stay open, and nothing comes: a job that was made meanwhile is found."""
    place.play(Script(training=lambda attempt: End()))
    operator = place.operator()
    operator.start()
    operator.wait_until_ready()
    time.sleep(3)
    place.proxy.silent = True
    place.submit()
    began = time.monotonic()
    place.wait("it is found", lambda status: status.get("attempt") == 1, seconds=150)
    found = time.monotonic() - began
    place.proxy.silent = False

    assert place.wait_for_phase("Succeeded", seconds=150)["attempt"] == 1
    assert found < 90
