"""What happens to the jobs of these tests: each story is told once, and tests look at what it left."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from e2e import inputs
from e2e.world import World, moment
from testbed.cluster import Object
from testbed.s3_server import ACCESS
from testbed.waiting import wait_until

LIES = 8
"""That the impostor knows."""
IMPOSTOR = Path(__file__).parent / "impostor" / "pod.py"
IMPOSTOR_FOLDER = "/opt/impostor"


@dataclass
class Believed:
    """What the operator made of all the lies."""

    job: Object
    told: int
    shown: list[Object] = field(default_factory=list)
    """Everything that status.progress was."""


@dataclass
class Survived:
    """A job of three attempts: the first was killed, the second suspended; its operator was killed after both."""

    job: Object
    """At its end."""
    after_kill: Object
    """The newest checkpoint when the pod was gone."""
    suspended: Object
    """The job while it waited."""
    stopping: Object
    """status.stopping of the stop."""
    after_stop: Object
    """The newest checkpoint then."""
    pods: list[Object]
    """Of the job while it waited."""
    takeovers: list[float]
    """Seconds from the end of a leader until another led."""


@dataclass
class Pair:
    """Two jobs that ran at the same time."""

    jobs: list[Object]
    store: str
    intervals: list[tuple[datetime, datetime]]
    """When the trainer of each ran."""


def train(world: World) -> Object:
    """A job from `kubectl apply` to its end; returns it."""
    applied = world.apply("chain")
    world.wait_for_phase("chain", "Running")
    running = time.monotonic()
    world.wait("chain", "trains", lambda job: job["status"].get("progress", {}).get("stage") == "train")
    ended = world.wait_for_phase("chain", "Succeeded")
    world.seconds |= {"apply -> Running": running - applied, "training": time.monotonic() - running}
    return ended


def apply_with_wrong_key(world: World) -> str:
    """A job whose Secret does not open the bucket."""
    world.make_secret("wrong-key", ACCESS, "not-the-secret")
    world.apply("denied", storage={"credentialsSecret": "wrong-key"})
    return "denied"


def apply_impostor(world: World) -> str:
    """A job whose pod runs something else in place of the trainer; it needs no GPU."""
    files = [f"--from-file=pod.py={IMPOSTOR}", "--from-literal=__init__.py="]
    world.kubectl("create", "configmap", "impostor", *files)
    mount = {"name": "impostor", "mountPath": f"{IMPOSTOR_FOLDER}/semires_trainer", "readOnly": True}
    pod = {
        "env": [{"name": "PYTHONPATH", "value": IMPOSTOR_FOLDER}],
        "volumes": [{"name": "impostor", "configMap": {"name": "impostor"}}],
        "volumeMounts": [mount],
    }
    resources = {"gpusPerNode": 0, "cpu": "50m", "memory": "256Mi", "shm": "16Mi"}
    world.apply("liar", pod=pod, preflight={"mode": "Skip"}, resources=resources)
    return "liar"


def hear_all_lies(world: World, name: str) -> Believed:
    """What is shown of a job until its impostor has told everything it knows."""
    world.wait_for_phase(name, "Running")
    (pod,) = world.pods(name)
    found = Believed(job=world.job(name), told=0)

    def all_told() -> bool:
        found.job = world.job(name)
        found.shown += [found.job["status"].get("progress") or {}]
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9464/told", timeout=5) as answer:
            found.told = int(answer.read())
        return found.told > LIES

    wait_until("the liar has told all its lies", all_told, seconds=120, every=1)
    return found


def survive(world: World) -> Survived:
    """A job like the undisturbed one: its pod is killed, it is suspended, and the operator dies each time."""
    world.apply("survivor")
    world.wait_for_checkpoint("survivor", stage="train")
    (pod,) = world.pods("survivor")
    world.kill_container(pod)
    takeovers = [kill_operator(world)]
    world.wait("survivor", "begins attempt 2", lambda job: job["status"].get("attempt") == 2)
    after_kill = world.ledger("survivor")[-1]
    world.wait_for_checkpoint("survivor", stage="train", after=after_kill["number"])
    world.set("survivor", suspend=True)
    stopping = world.wait("survivor", "is stopping", lambda job: job["status"].get("stopping"))["status"]["stopping"]
    takeovers.append(kill_operator(world))
    suspended = world.wait_for_phase("survivor", "Suspended")
    pods, after_stop = world.pods("survivor"), world.ledger("survivor")[-1]
    world.set("survivor", suspend=False)
    return Survived(
        job=world.wait_for_phase("survivor", "Succeeded"),
        after_kill=after_kill,
        suspended=suspended,
        stopping=stopping,
        after_stop=after_stop,
        pods=pods,
        takeovers=takeovers,
    )


def kill_operator(world: World) -> float:
    """Kill the leader; the time until another leads."""
    dead, began = world.kill_operator(), time.monotonic()
    wait_until("another replica leads", lambda: world.leader() not in ("", dead), seconds=60, every=0.2)
    return time.monotonic() - began


def train_two(world: World) -> Pair:
    """Two jobs of two ranks at once, with one store of masks."""
    store = f"s3://{world.bucket}/shared/proposals"
    sam = inputs.manifest("any", world.bucket, world.sam_sha256, {})["spec"]["proposals"]
    for seed, name in enumerate(("left", "right")):
        training = {"seed": seed, "epochs": 1, "burnInEpochs": 1}
        resources = {"gpusPerNode": 2, "cpu": "750m", "memory": "3Gi"}
        world.apply(name, training=training, resources=resources, proposals={**sam, "store": store})
    jobs = [world.wait_for_phase(name, "Succeeded") for name in ("left", "right")]
    ran = [world.pods(name)[0]["status"]["containerStatuses"][0]["state"]["terminated"] for name in ("left", "right")]
    intervals = [(moment(one["startedAt"]), moment(one["finishedAt"])) for one in ran]
    return Pair(jobs=jobs, store=store, intervals=intervals)
