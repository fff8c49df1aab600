"""The process above the ranks, PID 1 of a pod: fetches, starts, watches, publishes, and says how it ended. No torch.

    claim the output -> fetch inputs -> restore -> start ranks -> watch and publish -> outcome

Ranks may hang or die at any instruction: progress, uploads and outcome are this process's own.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semires_trainer import __version__, exposition
from semires_trainer.config import Resolved, SemiRESJob, training_hash
from semires_trainer.errors import RankLost, RanksHung, SemiresError
from semires_trainer.fetch import localize
from semires_trainer.identity import claim_output, confirm_output
from semires_trainer.inputs import missing_inputs
from semires_trainer.orders import ControlFolder, Orders, attempt_of, is_one_node
from semires_trainer.outcome import (
    End,
    encoded,
    end_of,
    outcome_json,
    read_end,
    results_of,
    worst,
    write_termination_message,
)
from semires_trainer.ownership import Ownership
from semires_trainer.progress_file import read_progress
from semires_trainer.provisions import Provisions, share_nothing
from semires_trainer.publisher import Publisher
from semires_trainer.publishing import Publishing
from semires_trainer.ranks import SHUTDOWN_SECONDS, Ranks
from semires_trainer.restore import begin_anew_unless, restore
from semires_trainer.serving import Server, serve
from semires_trainer.signals import EXIT_CODES, StopRequested
from semires_trainer.stopping import Interrupted, Stop
from semires_trainer.storage import Storage
from semires_trainer.storage.failures import explain_os_error
from semires_trainer.storage.parallel import Cancelled
from semires_trainer.telemetry import Reporter, ReportFiles, open_reporter
from semires_trainer.watchdog import Watchdog, watchdog_of
from semires_trainer.watched import RunWatch
from semires_trainer.workplace import locked, made, work_field

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
FINAL_PATIENCE_SECONDS = 1800.0
"""How long a storage that is down is waited for at the end (design: then exit code 150)."""


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """What one call of `supervise` works with."""

    job: SemiRESJob
    resolved: Resolved
    processes: str
    """Ranks of this node, as torchrun takes it."""
    stages: tuple[str, ...]
    environment: Mapping[str, str]
    storage: Storage
    cache: Path
    """Where inputs are kept, shared by all runs of this machine."""
    work: Path
    control: ControlFolder
    port: int | None
    """Where progress is served; None: nowhere."""


def supervise(given: Supervision) -> dict[str, Any]:
    """Run a job from beginning to end; returns its outcome, whatever it is. Only bugs raise."""
    stop = Stop()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(stop.listening())
            with made(given.work, field=work_field(given.resolved, given.environment)):
                given.control.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(given.control, given.work))
                given.control.clear()
        except SemiresError as error:
            return refused(given, error)
        return Supervisor(given, stop).run()


def refused(given: Supervision, error: SemiresError) -> dict[str, Any]:
    """The outcome of a run that could not begin, left in the termination message too."""
    outcome = outcome_json(attempt_of(given.resolved.name, given.environment), end_of(error))
    write_termination_message(outcome, given.environment)
    return outcome


class Supervisor:
    """One attempt of one job on one node."""

    def __init__(self, given: Supervision, stop: Stop) -> None:
        self.given = given
        self.stop = stop
        self.attempt = attempt_of(given.resolved.name, given.environment)
        self.watch = RunWatch(control=given.control, attempt=self.described())
        self.reporter: Reporter | None = None
        self.server: Server | None = None
        self.share: Callable[[], None] = share_nothing
        self.watchdog = Watchdog(stalled_seconds=0, startup_seconds=0)  # until the manifest's limits are read

    @property
    def publishing(self) -> Publishing | None:
        """The publisher at work; None before this attempt owns the output, and on nodes that only compute."""
        return self.watch.publishing

    def described(self) -> exposition.Attempt:
        """This attempt as the metrics show it."""
        return exposition.Attempt(
            job=self.attempt.job,
            attempt=self.attempt.number,
            job_uid=self.attempt.job_uid,
            pod_uid=self.attempt.pod_uid,
            strategy=self.given.resolved.refinement.strategy,
            version=__version__,
            began=time.time(),
        )

    def run(self) -> dict[str, Any]:
        """Everything between the first line of the log and the outcome."""
        end, orders = None, None
        try:
            with self.stop.interrupts():
                self.open_page()
                orders = self.prepare()
        except (StopRequested, Interrupted) as stopped:
            end = End(exit_code=stopped.exit_code, reason="Stopped", message=stopped.saved)
        except SemiresError as error:
            end = end_of(error)
        except OSError as error:
            end = end_of(explain_os_error(error, where=str(self.given.work)))
        if orders is not None:
            end = self.train(orders)
        return self.conclude(end)

    def prepare(self) -> Orders:
        """Claim the output, fetch what the job reads, and bring back what it has done already."""
        given = self.given
        if self.attempt.number:
            self.open_log()
        record = claim_output(given.storage, self.output, given.resolved, job_uid=self.attempt.job_uid)
        if not self.is_local:
            begin_anew_unless(record.run_id, given.work)
        self.watchdog = watchdog_of(given.job.spec.health_policy, given.environment, now=time.monotonic())
        if is_one_node(given.environment):
            self.claim_ownership()
        if self.reporter is None:
            self.open_log()  # without a cluster the number of the attempt is known only now
        provisions = self.provisions()
        self.watch.stage = "fetch"
        places = provisions.fetch(given.resolved)
        located = localize(given.resolved, places)
        for error in missing_inputs(located):
            raise error  # the ranks would find it too, seconds later
        try:
            store, self.share = provisions.bring_store(located)
        except Cancelled:
            raise StopRequested(self.stop.exit_code, "What was fetched is kept; start again to go on.") from None
        if not self.is_local:
            restore(given.storage, self.output, given.work)
        orders = Orders(
            job=given.job.model_dump(mode="json", by_alias=True, exclude_unset=True),
            places=dict(places.paths),
            store=str(store),
            work=str(given.work),
            identity=record.identity,
            stages=given.stages,
            attempt=self.attempt,
        )
        orders.write(given.control.orders)
        return orders

    def provisions(self) -> Provisions:
        """Brings inputs to this node; the log is open."""
        assert self.reporter is not None
        return Provisions(
            storage=self.given.storage,
            cache=self.given.cache,
            reporter=self.reporter,
            should_stop=lambda: bool(self.stop.number),
        )

    def claim_ownership(self) -> None:
        """From here on older attempts publish nothing more."""
        ownership = Ownership(self.given.storage, self.output, self.attempt)
        self.attempt = ownership.claim()
        # Another manifest may have taken the output between the check and the claim.
        confirm_output(self.given.storage, self.output, training_hash(self.given.resolved))
        self.watch.attempt = replace(self.watch.attempt, attempt=self.attempt.number)
        publisher = Publisher(
            self.given.storage,
            self.output,
            self.given.work,
            outgoing=self.given.control.outgoing,
            confirm=ownership.confirm,
            keep_last=self.given.resolved.training.keep_last,
            keep_every=self.given.resolved.training.keep_every,
        )
        self.watch.publishing = Publishing(publisher, on_published=self.watch.on_published)

    def train(self, orders: Orders) -> End | None:
        """Start the ranks and stay with them to their end."""
        on_line = None if sys.stderr.isatty() else self.on_line
        ranks = Ranks(self.given.control, self.given.processes, environment=self.given.environment, on_line=on_line)
        self.stop.ranks = self.watch.ranks = ranks
        self.watch.stage = "start"
        if self.stop.number:
            ranks.ask_to_stop(self.stop.number)  # a signal that came before `stop` knew the ranks
        try:
            verdict = self.stay_with(ranks)
        except SemiresError as error:
            verdict = end_of(error)
        finally:
            ranks.kill()
            ranks.finish()
        return verdict or self.end_of_ranks(ranks)

    def stay_with(self, ranks: Ranks) -> End | None:
        """Wait for the ranks; an End if they had to be ended."""
        self.watchdog.moved = time.monotonic()
        stop_until = None
        while ranks.poll() is None:
            time.sleep(LOOK_SECONDS)
            self.start_publishing()
            self.watch.pass_due_request()
            now = time.monotonic()
            if self.publishing is not None and self.publishing.superseded is not None:
                return end_of(self.publishing.superseded)
            if self.stop.is_aborted:
                return End(exit_code=self.stop.exit_code, reason="Stopped", message="Ended at once, as asked twice.")
            if self.stop.number and stop_until is None:
                stop_until = now + SHUTDOWN_SECONDS
            if stop_until is not None and now > stop_until:
                return self.hung(ranks, f"the ranks have not stopped {SHUTDOWN_SECONDS} s after they were asked to")
            silence = self.silence(now)
            if silence is not None:
                return self.hung(ranks, f"nothing moved for {silence:.0f} s although all ranks are alive")
        return None

    def silence(self, now: float) -> float | None:
        """Seconds without progress if they are too many. Only the node with rank 0 can know; when it gives up, the
        ranks of the others lose theirs.
        """
        if not is_one_node(self.given.environment) and not self.given.control.rank(0).is_file():
            return None
        report = read_progress(self.given.control.progress).report
        beat = (report.beat, report.last_updated_time) if report else None  # the time moves on a full disk, too
        return self.watchdog.look(beat=beat, started=bool(report and report.started), now=now)

    def start_publishing(self) -> None:
        """Once: on the node where rank 0 is. Which one that is torchrun decides when there are several."""
        if self.publishing is None and self.given.control.rank(0).is_file():
            self.claim_ownership()
        publishing = self.publishing
        if publishing is not None and not publishing.is_started:
            publishing.share = self.share
            publishing.start()

    def hung(self, ranks: Ranks, symptom: str) -> End:
        """Write down where every rank is, then give up on them."""
        states = ranks.states()
        stacks = ranks.stacks()
        for rank, text in stacks.items():
            logger.error("Stacks of rank %d:\n%s", rank, text)
        stopped = [state.rank for state in states if state.state == "T"]
        which = f"; rank {', '.join(map(str, stopped))} was stopped by a signal" if stopped else ""
        error = RanksHung(
            symptom + which,
            field="spec.healthPolicy.stalledSeconds",
            remedy="The stacks of all ranks are in the log; start again to go on from the last checkpoint",
        )
        return end_of(error)

    def end_of_ranks(self, ranks: Ranks) -> End | None:
        """What the ranks say about their end, or what their silence means."""
        code = ranks.poll()
        if code == 0:
            return None
        control = self.given.control
        states = ranks.states()
        ends = {state.rank: read_end(control.failure(state.rank)) for state in states}
        found = worst(end for end in ends.values() if end is not None)
        if found is not None and found.reason != "PeerLost":
            return found
        if self.stop.number:
            message = "The ranks ended before they could save; the last checkpoint is whole."
            return End(exit_code=self.stop.exit_code, reason="Stopped", message=message)
        lost = [rank for rank, end in ends.items() if end is None]
        names = f"rank {', '.join(map(str, lost))} was lost" if lost else "a rank was lost"
        memory = "; the kernel killed a process because the container's memory is full"
        error = RankLost(
            f"{names}: the ranks ended with exit code {code}{memory if ranks.killed_for_memory() else ''}",
            field="spec.resources.memory" if ranks.killed_for_memory() else "",
            remedy="Look at the log's last lines; start again to go on from the last checkpoint",
        )
        return end_of(error)

    def conclude(self, end: End | None) -> dict[str, Any]:
        """Publish what is left, the log and the outcome; the termination message before and after."""
        write_termination_message(self.outcome(end), self.given.environment)
        if self.publishing is not None:
            self.publishing.share = self.share
            self.watch.is_publishing = True
            try:
                self.publishing.finish(
                    lambda: self.publish_rest(end),
                    patience_seconds=FINAL_PATIENCE_SECONDS,
                    is_aborted=lambda: self.stop.is_aborted,
                )
            except (SemiresError, OSError) as error:
                failure = explain_os_error(error, where=str(self.given.work)) if isinstance(error, OSError) else error
                logger.error("The results could not be published: %s", failure)
                is_answer = end is not None and (end.exit_code not in EXIT_CODES.values() or self.stop.is_aborted)
                end = end if is_answer else end_of(failure)
        outcome = self.outcome(end)
        write_termination_message(outcome, self.given.environment)
        if self.reporter is not None:
            self.reporter.close()
        if self.server is not None:
            self.server.close()
        return outcome

    def publish_rest(self, end: End | None) -> None:
        """Everything that is not a checkpoint; the outcome last."""
        publishing, number = self.publishing, self.attempt.number
        assert publishing is not None
        publishing.publisher.publish_files()
        log = self.given.control.log
        if log.is_file():
            publishing.publisher.publish_bytes(f"log-a{number}.jsonl", log.read_bytes())
        publishing.publisher.publish_bytes(f"outcome-a{number}.json", encoded(self.outcome(end)))

    def outcome(self, end: End | None) -> dict[str, Any]:
        """The outcome as it is known now."""
        entries = self.publishing.publisher.entries if self.publishing else ()
        scored = [entry for entry in entries if entry.metric is not None]
        best = max(scored, key=lambda entry: (entry.stage == "train", entry.metric), default=None)
        return outcome_json(
            self.attempt,
            end,
            results=results_of(self.given.work / "results.json") if end is None else (),
            best_checkpoint=best.as_reference() if best else None,
            last_checkpoint=entries[-1].as_reference() if entries else None,
        )

    def open_page(self) -> None:
        """Serve progress and metrics from now on, if that was asked for."""
        if self.given.port is not None:
            self.server = serve(("::", self.given.port), self.watch)

    @property
    def output(self) -> str:
        """Where results go."""
        return str(self.given.work) if self.is_local else self.given.resolved.output.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the output is the work folder itself."""
        return not self.given.resolved.output.startswith("s3://")

    def open_log(self) -> None:
        """From here on messages go to the terminal or to the pod's log, and to the attempt's own."""
        files = ReportFiles(log=self.given.control.log)
        self.reporter = open_reporter(None, job=self.attempt.job, attempt=self.attempt.number, rank=None, files=files)
        if self.server is not None:
            # On a terminal only warnings of ours are shown: the rest is rank 0's.
            level = logging.WARNING if sys.stderr.isatty() else logging.INFO
            logger.log(level, "Progress is served at port %d.", self.server.port)

    def on_line(self, line: str) -> None:
        """A line of the ranks: ours are JSON and in the log already, others become a message there."""
        if line.startswith("{") and line.endswith("}"):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        elif line.strip():
            logger.info("%s", line)
