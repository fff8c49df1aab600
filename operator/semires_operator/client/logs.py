"""What the trainers of a job say: which pod is read, and how its log goes on when the stream is cut."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from semires_operator.client.errors import NoLog, NotFound, Unreachable
from semires_operator.client.model import Job, clean, time_of
from semires_operator.names import (
    ATTEMPT_LABEL,
    JOB_UID_LABEL,
    PREFLIGHT,
    PREFLIGHT_CONTAINER,
    ROLE_LABEL,
    TRAINER_CONTAINER,
    TRAINING,
)

REPLICA_INDEX_LABEL = "training.kubeflow.org/replica-index"
STAMPED = re.compile(r"(?P<stamp>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+\S*) ?(?P<text>.*)", re.DOTALL)
LOOK_SECONDS = 2.0
"""Between two looks for the pod that comes next."""
PATIENCE_SECONDS = 300.0
"""While a log is followed, an API server that is away for so long ends it with its error."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRequest:
    """Which log is wanted."""

    follow: bool = False
    """Go on until the job has finished; until the attempt has ended if one is named."""
    attempt: int | None = None
    """Default: the newest with a pod; when following, also those that come."""
    role: Literal["training", "preflight"] = "training"
    """The trainer's log, or that of the check before the attempt."""
    pod: str = ""
    """Default: that of node 0."""
    rank: int | None = None
    """Only lines of this rank, from the pod it runs in."""
    tail: int | None = None
    """Only so many last lines of what is there at first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line of a log."""

    text: str
    """As it was written: JSON of the trainer, or anything."""
    pod: str
    """Empty for lines that were kept in the job's status after the pod was gone."""
    attempt: int


class Source(Protocol):
    """What the gateway offers."""

    def list_pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Pods by labels."""

    def read_log(self, namespace: str, pod: str, container: str, **options: Any) -> Generator[str]:
        """Lines of a log."""


@dataclass(kw_only=True)
class LogReader:
    """Reads the logs of one job."""

    source: Source
    look: Callable[[], Job]
    """The job as it is now."""
    request: LogRequest
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def lines(self) -> Iterator[LogLine]:
        """The lines wanted. Raises NoLog if there are none and none will come."""
        job, read = self.look(), set[str]()
        while True:
            pod = self._next_pod(job, read)
            if pod is not None:
                read.add(_uid(pod))
                yield from self._read(job, pod)
            if not self.request.follow:
                break
            if pod is None:
                if self._is_over(job, read):
                    break
                self.sleep(LOOK_SECONDS)
            job = self._ask(self.look)
        if not read:
            yield from self._kept(job)

    def _next_pod(self, job: Job, read: set[str]) -> dict[str, Any] | None:
        """The pod to read: the newest that can be, of those that were not read yet."""
        selector = f"{JOB_UID_LABEL}={job.uid},{ROLE_LABEL}={self.request.role}"
        if self.request.attempt is not None:
            selector += f",{ATTEMPT_LABEL}={self.request.attempt}"
        found = self._ask(lambda: self.source.list_pods(job.namespace, selector))
        pods = [pod for pod in found if self._is_wanted(job, pod)]
        if self.request.pod and not pods and not self.request.follow:
            raise NoLog(f'{job.name} has no pod "{self.request.pod}"', remedy=f"See: semires describe {job.name}")
        fresh = [pod for pod in pods if _uid(pod) not in read and has_started(pod)]
        newest = max(fresh, key=lambda pod: (attempt_of(pod), _created(pod)), default=None)
        seen = max((attempt_of(pod) for pod in pods if _uid(pod) in read), default=0)
        return newest if newest is not None and attempt_of(newest) >= seen else None

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """The answer to a question that was answered before: it can be waited for."""
        began = self.clock()
        while True:
            try:
                return question()
            except Unreachable:
                if not self.request.follow or self.clock() - began > PATIENCE_SECONDS:
                    raise
                self.sleep(LOOK_SECONDS)

    def _is_wanted(self, job: Job, pod: Mapping[str, Any]) -> bool:
        if self.request.pod:
            return bool(pod["metadata"]["name"] == self.request.pod)
        return index_of(pod) == node_of_rank(job, self.request.rank)

    def _is_over(self, job: Job, read: set[str]) -> bool:
        """Whether no pod that is wanted can come any more."""
        if read and (self.request.pod or self.request.role == PREFLIGHT):
            return True
        named = self.request.attempt
        ended = {attempt.number for attempt in job.status.attempts}
        return job.is_finished or (named is not None and (named in ended or job.status.attempt > named))

    def _read(self, job: Job, pod: dict[str, Any]) -> Iterator[LogLine]:
        name, attempt = str(pod["metadata"]["name"]), attempt_of(pod)
        stream = PodLog(source=self.source, namespace=job.namespace, pod=pod, clock=self.clock, sleep=self.sleep)
        for text in stream.lines(follow=self.request.follow, tail=self.request.tail):
            if self.request.rank is None or rank_of(text) == self.request.rank:
                yield LogLine(text=text, pod=name, attempt=attempt)

    def _kept(self, job: Job) -> Iterator[LogLine]:
        """The last lines of failed attempts, which the operator keeps when the pods are gone."""
        kept = [
            LogLine(text=text, pod="", attempt=attempt.number)
            for attempt in job.status.attempts
            if attempt.failure is not None and self.request.attempt in {None, attempt.number}
            for text in attempt.failure.log_tail.splitlines()
        ]
        newest = max((line.attempt for line in kept), default=0)
        if not kept or self.request.role == PREFLIGHT:
            where = f" of attempt {self.request.attempt}" if self.request.attempt is not None else ""
            state = clean(f"{job.status.phase}: {job.status.message}".rstrip(": "))
            raise NoLog(f"there is no pod{where} of {job.name} to read ({state})", remedy=_remedy(job))
        yield from (line for line in kept if line.attempt == newest)


@dataclass(kw_only=True)
class PodLog:
    """Reads the log of one pod to its end, each line once."""

    source: Source
    namespace: str
    pod: dict[str, Any]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _last: str = ""
    """Time of the last line, as the API server writes it: nanoseconds and Z, so that text sorts as time does."""

    def lines(self, *, follow: bool, tail: int | None) -> Iterator[str]:
        """Lines from the first, or the last `tail`, to the end; with `follow` to the end of the container."""
        reached = self.clock()
        while True:
            is_last = not follow or has_ended(self.pod)
            try:
                for line in self._pass(follow=not is_last, tail=tail if not self._last else None):
                    reached = self.clock()
                    yield line
                if is_last:
                    return
                self._look_again()
            except NotFound:
                return  # the pod is gone
            except Unreachable:
                if is_last:
                    raise
                # A container that says nothing for long is cut off too: the server itself tells the difference.
                if self._answers():
                    reached = self.clock()
                elif self.clock() - reached > PATIENCE_SECONDS:
                    raise
                self.sleep(LOOK_SECONDS)

    def _pass(self, *, follow: bool, tail: int | None) -> Iterator[str]:
        """One request: what was not read yet."""
        options: dict[str, Any] = {"timestamps": True, "follow": follow}
        if tail is not None:
            options["tail_lines"] = tail
        last = time_of(self._last)
        if last is not None:
            options["since_seconds"] = max(1, math.ceil((self.now() - last).total_seconds()) + 1)
        name, container = str(self.pod["metadata"]["name"]), container_of(self.pod)
        read_before = self._last
        with contextlib.closing(self.source.read_log(self.namespace, name, container, **options)) as lines:
            for line in lines:
                stamped = STAMPED.match(line)
                if stamped and read_before and stamped["stamp"] <= read_before:
                    continue
                read_before = ""  # what follows is new, whatever its clock says
                self._last = stamped["stamp"] if stamped else self._last
                yield stamped["text"] if stamped else line

    def _answers(self) -> bool:
        """Whether the API server answers, whatever it says of the pod."""
        try:
            with contextlib.suppress(NotFound):  # the next pass finds out too
                self._look_again()
        except Unreachable:
            return False
        return True

    def _look_again(self) -> None:
        """The pod as it is now; as it was if it is gone."""
        uid = self.pod["metadata"]["uid"]
        labels = self.pod["metadata"].get("labels") or {}
        selector = f"{JOB_UID_LABEL}={labels.get(JOB_UID_LABEL, '')}"
        same = [pod for pod in self.source.list_pods(self.namespace, selector) if _uid(pod) == uid]
        if not same:
            raise NotFound(f"pod {self.pod['metadata']['name']} is gone")
        self.pod = same[0]


def attempt_of(pod: Mapping[str, Any]) -> int:
    """The attempt that a pod belongs to."""
    text = str((pod["metadata"].get("labels") or {}).get(ATTEMPT_LABEL, ""))
    return int(text) if text.isdecimal() else 0


def index_of(pod: Mapping[str, Any]) -> int:
    """Which node of the attempt a pod is, from 0."""
    text = str((pod["metadata"].get("labels") or {}).get(REPLICA_INDEX_LABEL, "0"))
    return int(text) if text.isdecimal() else 0


def node_of_rank(job: Job, rank: int | None) -> int:
    """The node that a rank runs on: ranks are dealt to nodes in order."""
    return (rank or 0) // max(1, int((job.spec.get("resources") or {}).get("gpusPerNode", 4)))


def rank_of(text: str) -> int | None:
    """The rank that a line of the trainer is from; None for lines of others."""
    found = record_of(text).get("rank")
    return found if isinstance(found, int) else None


def record_of(text: str) -> Mapping[str, Any]:
    """The JSON object of a line; empty for lines that hold none."""
    if not text.startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def container_of(pod: Mapping[str, Any]) -> str:
    """The container of a pod that says something."""
    role = (pod["metadata"].get("labels") or {}).get(ROLE_LABEL, TRAINING)
    return PREFLIGHT_CONTAINER if role == PREFLIGHT else TRAINER_CONTAINER


def has_started(pod: Mapping[str, Any]) -> bool:
    """Whether there is a log: the container runs or has ended."""
    return any("running" in state or "terminated" in state for state in _states(pod))


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether nothing is added to the log any more."""
    is_over = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    return is_over or any("terminated" in state for state in _states(pod))


def _states(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return [status.get("state") or {} for status in statuses if status.get("name") == container_of(pod)]


def _uid(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["uid"])


def _created(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def _remedy(job: Job) -> str:
    if job.is_finished:
        return f"The whole log is {job.spec.get('output', 'the output')}/log-a{job.status.attempt}.jsonl"
    if job.status.phase == "Preflight":
        return f"The check before the attempt has one: semires logs {job.name} --preflight"
    return f"Wait for it: semires logs {job.name} --follow"
