"""The operator is killed at a call to the API server, before or after the server has done it, and started again.

The life of the job has a failed attempt, a suspension and a success. Whatever the call was, each attempt has had one
check and one PyTorchJob in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testbed.api_cluster import ApiCluster
from testbed.api_proxy import ApiRequest, Decision, KillAgain, KillAt
from testbed.bench import Bench, bench
from testbed.player import tour

logger = logging.getLogger(__name__)
AT_ONCE = 4
"""Lives beside one another: each mostly waits."""


def of_lease(request: ApiRequest) -> bool:
    return request.resource == "leases"


def of_work(request: ApiRequest) -> bool:
    return request.resource != "leases"


def test_killed_again_and_again_it_makes_one_pytorchjob_for_each_attempt(place: Bench) -> None:
    place.play(tour())
    operator = place.operator()
    fault = place.proxy.interference = KillAgain(35, operator.kill, matches=of_work)
    operator.start()

    place.check_tour(place.tour(seconds=180))

    assert fault.times >= 3


def test_a_write_whose_answer_was_lost_is_not_repeated(place: Bench) -> None:
    """Each creation, deletion and second status is done, and the operator dies before it hears of it."""
    place.play(tour())
    operator = place.operator()
    fault = place.proxy.interference = KillWriters(operator.kill)
    operator.start()

    place.check_tour(place.tour(seconds=180))

    assert fault.struck >= {"create jobs", "create pytorchjobs", "delete pytorchjobs", "patch semiresjobs"}


class KillWriters(KillAt):
    """Kills at the first write of each kind, after the server has done it."""

    def __init__(self, kill: Callable[[], None]) -> None:
        super().__init__(0, kill, after=True, matches=self._is_new)
        self.struck: set[str] = set()

    def _is_new(self, request: ApiRequest) -> bool:
        if not request.writes or request.resource in ("leases", "events"):
            return False
        return f"{request.verb} {request.resource}" not in self.struck

    def before(self, request: ApiRequest) -> Decision:
        super().before(request)
        if self._chosen is request:
            self.struck.add(f"{request.verb} {request.resource}")
        return None

    def after(self, request: ApiRequest) -> Decision:
        decision = super().after(request)
        if decision is not None:
            self._chosen, self._left = None, 0
        return decision


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("after", [pytest.param(False, id="before"), pytest.param(True, id="after")])
@pytest.mark.parametrize("matches", [of_work, of_lease])
def test_at_every_call_of_a_life(
    own_api_cluster: ApiCluster, tmp_path: Path, matches: Callable[[ApiRequest], bool], after: bool
) -> None:
    """As many as an undisturbed life has; what it asks while it waits makes a life beside others a little longer."""
    with bench(own_api_cluster, tmp_path / "undisturbed") as place:
        calls = be_counted(place, matches=matches)

    def live(index: int) -> bool | str:
        try:
            with bench(own_api_cluster, tmp_path / str(index)) as place:
                return be_killed(place, index, after=after, matches=matches)
        except Exception as error:
            return f"call {index}: {error}"

    with ThreadPoolExecutor(AT_ONCE) as lives:
        found = list(lives.map(live, range(calls)))

    logger.info("Killed at %d of %d calls.", found.count(True), calls)
    assert [one for one in found if isinstance(one, str)] == []
    assert found.count(True) >= 0.9 * calls > 5


def be_counted(place: Bench, *, matches: Callable[[ApiRequest], bool]) -> int:
    """The calls of an undisturbed life."""
    place.play(tour())
    place.operator().start()

    place.check_tour(place.tour())

    return sum(matches(exchange.request) for exchange in place.proxy.exchanges())


def be_killed(place: Bench, index: int, *, after: bool, matches: Callable[[ApiRequest], bool]) -> bool:
    """Whether the life had so many calls; checked in any case."""
    place.play(tour())
    operator = place.operator()
    fault = place.proxy.interference = KillAt(index, operator.kill, after=after, matches=matches)
    operator.start()

    place.check_tour(place.tour())

    return fault.done
