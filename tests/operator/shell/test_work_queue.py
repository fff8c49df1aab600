"""Keys are worked on once at a time, as early as anybody wished, and later and later after failures."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from semires_operator.work_queue import Again, Fatal, WorkQueue


class Work:
    """Work that notes what it does; what it returns or raises is given beforehand, by key."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.began: list[tuple[str, float]] = []
        self.at_once: dict[str, int] = {}
        self.most_at_once = 0
        self.seconds = 0.0

    async def __call__(self, key: str) -> float | None:
        self.began.append((key, time.monotonic()))
        self.at_once[key] = self.at_once.get(key, 0) + 1
        self.most_at_once = max(self.most_at_once, sum(self.at_once.values()))
        assert self.at_once[key] == 1
        await asyncio.sleep(self.seconds)
        self.at_once[key] -= 1
        answer = self.answers[key].pop(0) if self.answers.get(key) else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def waits(self, key: str) -> list[float]:
        times = [at for name, at in self.began if name == key]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


async def work_for(queue: WorkQueue[str], work: Work, seconds: float, *, workers: int = 4) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await queue.run(work, workers=workers)


def test_a_key_that_is_added_many_times_is_worked_on_once(run):
    work, queue = Work(), WorkQueue[str]()
    for _ in range(100):
        queue.add("a")

    run(work_for(queue, work, 0.1))

    assert [key for key, _ in work.began] == ["a"]


def test_a_key_that_is_added_while_it_is_worked_on_is_worked_on_again_afterwards(run):
    work, queue = Work(), WorkQueue[str]()
    work.seconds = 0.1

    async def add_again() -> None:
        queue.add("a")
        running = asyncio.create_task(work_for(queue, work, 0.5))
        await asyncio.sleep(0.05)
        for _ in range(10):
            queue.add("a")
        await running

    run(add_again())

    assert len(work.began) == 2
    assert work.waits("a")[0] >= 0.1


def test_the_earliest_of_several_wishes_wins(run):
    work, queue = Work(), WorkQueue[str]()
    queue.add("a", after=30)
    queue.add("a", after=0.05)
    queue.add("a", after=10)

    run(work_for(queue, work, 0.3))

    assert len(work.began) == 1
    assert len(queue) == 0


def test_a_key_comes_back_when_its_work_wants_it(run):
    work, queue = Work(a=[0.1, 0.1]), WorkQueue[str]()
    queue.add("a")

    run(work_for(queue, work, 0.5))

    assert work.waits("a") == [pytest.approx(0.1, abs=0.05)] * 2


def test_the_number_of_keys_at_once_is_bounded(run):
    work, queue = Work(), WorkQueue[str]()
    work.seconds = 0.05
    for number in range(20):
        queue.add(f"k{number}")

    run(work_for(queue, work, 1, workers=3))

    assert work.most_at_once == 3
    assert len(work.began) == 20


@pytest.mark.parametrize("failure", [pytest.param(Again("later"), id="again"), pytest.param(KeyError("bug"), id="bug")])
def test_a_failure_comes_back_with_a_doubling_back_off(run, failure):
    queue = WorkQueue[str](spread=lambda: 0.0)
    work = Work(a=[failure, failure])
    queue.add("a")

    run(work_for(queue, work, 3.5))

    assert work.waits("a") == [pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.1)]


def test_jitter_only_makes_a_wait_longer(run):
    queue = WorkQueue[str](spread=lambda: 1.0)
    work = Work(a=[Again("later")])
    queue.add("a")

    run(work_for(queue, work, 1.5))

    assert work.waits("a") == [pytest.approx(1.2, abs=0.1)]


def test_what_the_server_asks_for_is_waited_for(run):
    queue = WorkQueue[str](spread=lambda: 0.0)
    work = Work(a=[Again("later", after=2)])
    queue.add("a")

    run(work_for(queue, work, 2.5))

    assert work.waits("a") == [pytest.approx(2, abs=0.1)]


def test_success_ends_the_back_off(run):
    queue = WorkQueue[str](spread=lambda: 0.0)
    work = Work(a=[Again("later"), 0.0, Again("later")])
    queue.add("a")

    run(work_for(queue, work, 2.6))

    assert work.waits("a") == [pytest.approx(1, abs=0.1), pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1)]


def test_a_failing_key_holds_no_other_up(run):
    queue = WorkQueue[str]()
    work = Work(a=[Again("later")] * 9)
    queue.add("a")
    queue.add("b")

    run(work_for(queue, work, 0.2, workers=1))

    assert [key for key, _ in work.began] == ["a", "b"]


def test_a_fatal_failure_ends_the_queue(run):
    queue = WorkQueue[str]()
    queue.add("a")
    queue.add("b")

    with pytest.raises(Fatal, match="no longer the leader"):
        run(queue.run(Work(a=[Fatal("no longer the leader")]), workers=2))


def test_a_forgotten_key_is_not_worked_on(run):
    work, queue = Work(), WorkQueue[str]()
    queue.add("a", after=0.05)
    queue.forget("a")

    run(work_for(queue, work, 0.2))

    assert work.began == []
