"""What a supervisor tells the ranks it starts, and the folder in which both leave each other word."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semires_trainer import atomic
from semires_trainer.errors import ConfigError

CONTROL_FOLDER = ".run"
STAGES = ("propose", "train", "evaluate")
"""All that a run does, in order."""
JOB_UID, ATTEMPT, POD_UID, POD_NAME = ("SEMIRES_JOB_UID", "SEMIRES_ATTEMPT", "SEMIRES_POD_UID", "SEMIRES_POD_NAME")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """Who trains: what every line, progress report and outcome names."""

    job: str
    job_uid: str = ""
    """UID of the SemiRESJob; empty without a cluster."""
    number: int = 0
    """1, 2, ... over the life of a run; 0 while it is not known: the owner's record in the output then tells."""
    pod_uid: str = ""
    """UID of the pod; a random one without a cluster."""

    def numbered(self, number: int) -> Attempt:
        """This attempt with its number."""
        return replace(self, number=number)


def attempt_of(job: str, environment: Mapping[str, str]) -> Attempt:
    """The attempt that the operator's variables name, or a local one. ConfigError if the number is none."""
    text = environment.get(ATTEMPT, "0")
    if not text.isdecimal():
        raise ConfigError(f"the attempt is a number, got {text!r}", field=ATTEMPT, remedy="Leave it to the operator")
    pod = environment.get(POD_UID) or str(uuid.uuid4())
    return Attempt(job=job, job_uid=environment.get(JOB_UID, ""), number=int(text), pod_uid=pod)


@dataclass(frozen=True, slots=True)
class ControlFolder:
    """`<work folder>/.run`: never published. Each file has one writer."""

    path: Path

    @property
    def orders(self) -> Path:
        """What the ranks shall do; by the supervisor."""
        return self.path / "orders.json"

    @property
    def progress(self) -> Path:
        """How far the run is; by rank 0."""
        return self.path / "progress.json"

    @property
    def checkpoint_request(self) -> Path:
        """Number of the last checkpoint that was asked for; by the supervisor."""
        return self.path / "checkpoint-request"

    @property
    def bad_images(self) -> Path:
        """A file for each image that could not be used; by whoever met it."""
        return self.path / "bad-images"

    @property
    def log(self) -> Path:
        """JSON lines of this attempt; everybody appends."""
        return self.path / "log.jsonl"

    @property
    def outgoing(self) -> Path:
        """Links to what is being uploaded."""
        return self.path / "outgoing"

    def rank(self, rank: int) -> Path:
        """Process id of a rank; by that rank."""
        return self.path / f"rank-{rank}.json"

    def stacks(self, rank: int) -> Path:
        """Where a rank writes the stacks of its threads when it is asked to."""
        return self.path / f"stacks-{rank}.txt"

    def failure(self, rank: int) -> Path:
        """How a rank ended, unless it succeeded; by that rank."""
        return self.path / f"end-{rank}.json"

    def clear(self) -> None:
        """Forget what earlier attempts left, their log too. Bad images stay: training looks at them again."""
        self.path.mkdir(parents=True, exist_ok=True)
        for pattern in ("orders.json", "progress.json", "checkpoint-request", "log.jsonl", "*-*.json", "stacks-*.txt"):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """Everything a rank needs to know."""

    job: dict[str, Any]
    """The manifest, as it was given."""
    places: dict[str, str]
    """Field of the manifest -> local path of what it names."""
    store: str
    """Local folder of the proposal store."""
    work: str
    """The folder to write to."""
    identity: str
    """Hash of what is trained."""
    stages: tuple[str, ...]
    attempt: Attempt

    def write(self, path: Path) -> None:
        """Leave the orders for the ranks."""
        atomic.write_json(path, asdict(self))


def read_orders(path: Path) -> Orders:
    """The orders in a file that a supervisor of this version wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Orders(**{**content, "stages": tuple(content["stages"]), "attempt": Attempt(**content["attempt"])})


def control_folder(work: Path, environment: Mapping[str, str] = os.environ) -> ControlFolder:
    """The control folder of this node; nodes may share a work folder."""
    node = environment.get(POD_NAME) or environment.get("HOSTNAME", "")
    return ControlFolder(
        work / (f"{CONTROL_FOLDER}-{node}" if node and not is_one_node(environment) else CONTROL_FOLDER)
    )


def is_one_node(environment: Mapping[str, str]) -> bool:
    """Whether this node trains alone."""
    return environment.get("PET_NNODES", "1") in {"", "1", "1:1"}
