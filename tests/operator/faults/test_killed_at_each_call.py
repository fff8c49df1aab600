"""The operator is killed at a call to the API server, before or after the server has done it, and started again.

The life of the job has a failed attempt, a suspension and a success. Whatever the call was, each attempt has had one
check and one PyTorchJob in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from testbed.api_cluster import ApiCluster
from testbed.api_proxy import ApiRequest, KillAt
from testbed.bench import Bench, bench
from testbed.player import tour


def of_lease(request: ApiRequest) -> bool:
    return request.resource == "leases"


def of_work(request: ApiRequest) -> bool:
    return request.resource != "leases"


def be_killed(place: Bench, index: int, *, after: bool, matches: Callable[[ApiRequest], bool] = of_work) -> bool:
    """Whether there were so many calls; the job has come to its right end then or not."""
    place.play(tour())
    operator = place.operator()
    fault = KillAt(index, operator.kill, after=after, matches=matches)
    place.proxy.interference = fault
    operator.start()
    status = place.tour()

    ends = [(one["ended"], one["counted"]) for one in status["attempts"]]
    assert (status["phase"], ends) == ("Succeeded", [("Failed", True), ("Stopped", False), ("Succeeded", False)])
    assert place.made("pytorchjobs") == ["a-a1", "a-a2", "a-a3"]
    assert place.made("jobs") == ["a-p1", "a-p2", "a-p3"]
    assert operator.tracebacks() == 0, operator.tail()
    assert operator.starts == (2 if fault.done else 1)
    return fault.done


@pytest.mark.parametrize(
    ("index", "after"),
    [
        pytest.param(2, False, id="while it finds out what there is"),
        pytest.param(20, True, id="at the first looks"),
        pytest.param(40, False, id="during the first attempt"),
        pytest.param(70, True, id="between two attempts"),
        pytest.param(100, False, id="about the suspension"),
        pytest.param(130, True, id="during the last attempt"),
    ],
)
def test_each_attempt_has_one_pytorchjob_wherever_the_operator_is_killed(
    place: Bench, index: int, after: bool
) -> None:
    assert be_killed(place, index, after=after)


@pytest.mark.parametrize("written", ["semiresjobs", "jobs", "pytorchjobs"])
def test_a_write_whose_answer_was_lost_is_not_repeated(place: Bench, written: str) -> None:
    assert be_killed(place, 1, after=True, matches=lambda one: one.writes and one.resource == written)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("after", [pytest.param(False, id="before"), pytest.param(True, id="after")])
@pytest.mark.parametrize("matches", [of_work, of_lease])
def test_at_every_call_of_a_life(
    own_api_cluster: ApiCluster, tmp_path: Path, matches: Callable[[ApiRequest], bool], after: bool
) -> None:
    index, there_was_one = 0, True
    while there_was_one:
        with bench(own_api_cluster, tmp_path / str(index)) as place:
            there_was_one = be_killed(place, index, after=after, matches=matches)
        index += 1

    assert index > 5
