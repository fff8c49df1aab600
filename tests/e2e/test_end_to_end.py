"""The mission on real parts: a SemiRESJob becomes a tested checkpoint in S3, whatever is killed on the way.

The stories are fixtures, told once and in this order; each test looks at one thing in them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from e2e import inputs
from e2e.world import World, condition_of, phase_of
from testbed import demo_install
from testbed.cluster import REPOSITORY, Object
from testbed.s3_server import ACCESS
from testbed.waiting import wait_until

from semires_trainer.config import parse_job, resolve
from semires_trainer.proposals.build import build_key
from semires_trainer.proposals.store import ProposalStore

pytestmark = pytest.mark.timeout(1800)

Say = Callable[[str], None]
MIB = 1 << 20
MOST_IDLE_BYTES = 110 * MIB
MOST_WRITES = 4
"""Of the operator for a job of one attempt, beside status and events."""
ALL_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
FOR_OTHER_CLUSTERS = {
    ("semires.dev", "semiresjobs", "delete"),
    ("", "nodes", "get"),
    ("kueue.x-k8s.io", "workloads", "list"),
    ("kueue.x-k8s.io", "workloads", "watch"),
}
"""Rights that none of these stories needs: ttlSecondsAfterFinished, a lost node, Kueue. Those of tests/operator do."""
LIES = 8
"""That the impostor knows."""
IMPOSTOR = Path(__file__).parent / "impostor" / "pod.py"
IMPOSTOR_FOLDER = "/opt/impostor"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def messages(world: World, name: str, attempt: int) -> list[str]:
    """What an attempt has told, in words."""
    return [str(record.get("message", "")) for record in world.log(name, attempt)]


# -- A job from `kubectl apply` to its results


@pytest.fixture(scope="module")
def chain(world: World, say: Say, wrong_key: str, impostor: str) -> Object:
    """A job that nobody disturbs; two others fail and lie beside it."""
    say("A: a job of four ranks, from kubectl apply to its results")
    applied = world.apply("chain")
    world.wait_for_phase("chain", "Running")
    running = time.monotonic()
    world.wait("chain", "trains", lambda job: job["status"].get("progress", {}).get("stage") == "train")
    ended = world.wait_for_phase("chain", "Succeeded")
    world.seconds |= {"apply -> Running": running - applied, "training": time.monotonic() - running}
    return ended


def test_the_job_is_complete(chain: Object) -> None:
    kinds = ("Complete", "Failed", "Finished", "Running")

    assert [condition_of(chain, kind)["status"] for kind in kinds] == ["True", "False", "True", "False"]


def test_one_attempt_was_enough(chain: Object) -> None:
    status = chain["status"]

    assert (status["attempt"], status.get("failures", 0), status.get("freeRetries", 0)) == (1, 0, 0)
    assert [one["ended"] for one in status["attempts"]] == ["Succeeded"]


def test_four_ranks_of_one_pod_have_trained_on_four_gpus(world: World, chain: Object) -> None:
    child = world.cluster.get("pytorchjob", "chain-a1", "-n", world.namespace)
    (container,) = child["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]

    assert chain["status"]["child"] == "chain-a1"
    assert (child["spec"]["nprocPerNode"], container["resources"]["limits"]["nvidia.com/gpu"]) == ("4", "4")


@pytest.mark.parametrize("stage", ["proposals", "burn-in", "train", "evaluate"])
def test_all_stages_were_run(world: World, chain: Object, stage: str) -> None:
    ended = {record["stage"] for record in world.log("chain", 1) if record["event"] == "stage_end"}

    assert stage in ended


def test_the_masks_are_those_of_the_sam_in_the_bucket(world: World, chain: Object) -> None:
    store = store_of(world, "chain", f"{world.output('chain')}/proposals")

    assert all(len(store.get(digest)) for digest in picture_digests(world))


def test_checkpoints_in_s3_are_what_their_manifests_say(world: World, chain: Object) -> None:
    for entry in world.ledger("chain"):
        content = world.read(f"{entry['uri']}/manifest.json")
        files = json.loads(content)

        assert sha256(content) == entry["sha256"]
        assert files
        for name, told in files.items():
            assert sha256(world.read(f"{entry['uri']}/{name}")) == told["sha256"]


def test_the_status_names_the_last_checkpoint(world: World, chain: Object) -> None:
    last, told = world.ledger("chain")[-1], chain["status"]["lastCheckpoint"]

    assert (told["uri"], told["step"], told["sha256"]) == (last["uri"], last["number"], last["sha256"])


def test_the_model_in_s3_is_the_one_that_its_description_names(world: World, chain: Object) -> None:
    description = json.loads(world.read(f"{world.output('chain')}/model/model.json"))

    for name, digest in description["sha256"].items():
        assert sha256(world.read(f"{world.output('chain')}/model/{name}")) == digest


def test_kubectl_shows_the_overall_iou_of_the_results(world: World, chain: Object) -> None:
    results = json.loads(world.read(f"{world.output('chain')}/results.json"))
    (score,) = [
        one
        for one in results["scores"]
        if (one["model"], one["split"]) == ("teacher", "val") and one["size"] != "original"
    ]
    heading, row = world.kubectl("get", "srj", "chain").splitlines()
    start = heading.index("OIOU")

    assert row[start:].split()[0] == f"{float(score['oIoU']):.2f}"


def test_the_wide_table_names_the_child(world: World, chain: Object) -> None:
    heading, row = world.kubectl("get", "srj", "chain", "-o", "wide").splitlines()

    assert row[heading.index("PYTORCHJOB") :].startswith("chain-a1")
    assert row.split()[1] == "Succeeded"


def test_events_tell_the_course(world: World, chain: Object) -> None:
    events = world.cluster.items("events.events.k8s.io", "-n", world.namespace)
    told = [event["reason"] for event in events if event["regarding"]["name"] == "chain"]

    assert {"CheckingInputs", "Training", "Completed"} <= set(told)
    assert len(told) <= 12


def test_provenance_names_image_and_document(world: World, chain: Object) -> None:
    provenance = chain["status"]["provenance"]
    (pod,) = world.pods("chain")
    given = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}

    assert "semires-trainer" in provenance["image"]
    assert provenance["documentSha256"] == sha256(given["SEMIRES_DOCUMENT"].encode())


def test_prometheus_knows_the_operator(world: World, chain: Object) -> None:
    def leads() -> list[str]:
        return sorted(one["value"][1] for one in world.query("semires_operator_leader"))

    wait_until("one replica leads and one waits", lambda: leads() == ["0", "1"], seconds=30, every=1)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param('semires_job_status_condition{name="chain",type="Complete",status="true"}', 1.0, id="complete"),
        pytest.param('semires_job_progress_ratio{name="chain"}', 1.0, id="progress"),
        pytest.param('semires_job_restarts_total{name="chain"}', 0.0, id="restarts"),
    ],
)
def test_prometheus_knows_the_job_from_the_operator(
    world: World, chain: Object, expression: str, expected: float
) -> None:
    def found() -> list[Object]:
        series = [one for one in world.query(expression) if one["metric"]["namespace"] == demo_install.NAMESPACE]
        return [one for one in series if float(one["value"][1]) == expected]

    (series,) = wait_until(f"{expression} is scraped and is {expected}", found, seconds=20, every=0.5)

    assert series["metric"]["exported_namespace"] == world.namespace


@pytest.mark.parametrize("page", ["metrics.md", "operations.md"])
def test_prometheus_understands_the_questions_of_the_docs(world: World, chain: Object, page: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    table = text.partition("| question | PromQL |\n")[2].partition("\n\n")[0]
    questions = re.findall(r"`([^`]+)`", table)

    assert len(questions) >= 5
    for promql in questions:
        world.query(promql)


@pytest.mark.parametrize("name", ["semires_train_loss", "semires_train_step_seconds_count", "semires_eval_oiou_ratio"])
def test_prometheus_knows_the_trainer_from_its_pod(world: World, chain: Object, name: str) -> None:
    assert world.query(f'last_over_time({name}{{namespace="{world.namespace}",pod="chain-a1-master-0"}}[1h])')


def test_the_operator_wrote_little(world: World, chain: Object) -> None:
    writes = [event for event in world.operator_writes() if event["objectRef"].get("name", "").startswith("chain")]

    assert 2 <= len(writes) <= MOST_WRITES, [(one["verb"], one["objectRef"]) for one in writes]


# -- The wrong key


@pytest.fixture(scope="module")
def wrong_key(world: World) -> str:
    """A job whose Secret does not open the bucket."""
    world.make_secret("wrong-key", ACCESS, "not-the-secret")
    world.apply("denied", storage={"credentialsSecret": "wrong-key"})
    return "denied"


@pytest.fixture(scope="module")
def denied(world: World, wrong_key: str) -> Object:
    return world.wait_for_phase(wrong_key, "Failed")


def test_a_wrong_key_fails_the_job_with_its_reason(denied: Object) -> None:
    status = denied["status"]

    assert status["reason"] == "StorageDenied"
    assert condition_of(denied, "Failed")["reason"] == "StorageDenied"
    assert status["lastFailure"]["exitCode"] == 5


def test_the_reason_is_one_sentence_that_says_what_to_do(denied: Object) -> None:
    message = denied["status"]["message"]

    assert "\n" not in message
    assert len(message) < 400
    assert "not-the-secret" not in json.dumps(denied["status"])
    assert "s3://" in message or "key" in message.lower()


@pytest.mark.usefixtures("chain")
def test_it_was_not_tried_again_and_no_gpu_was_asked_for(world: World, denied: Object) -> None:
    later = world.job("denied")["status"]

    assert (later["attempt"], len(later["attempts"]), phase_of({"status": later})) == (1, 1, "Failed")
    assert world.pods("denied") == []


# -- A container that lies


@pytest.fixture(scope="module")
def impostor(world: World) -> str:
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


@dataclass
class Believed:
    """What the operator made of all the lies."""

    job: Object
    told: int
    shown: list[Object] = field(default_factory=list)
    """Everything that status.progress was."""


@pytest.fixture(scope="module")
def believed(world: World, impostor: str) -> Believed:
    world.wait_for_phase(impostor, "Running")
    (pod,) = world.pods(impostor)
    found = Believed(job=world.job(impostor), told=0)

    def all_told() -> bool:
        found.job = world.job(impostor)
        found.shown += [found.job["status"].get("progress") or {}]
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:9464/told", timeout=5) as answer:
            found.told = int(answer.read())
        return found.told > LIES

    wait_until("the liar has told all its lies", all_told, seconds=120, every=1)
    return found


def test_a_liar_is_not_believed(believed: Believed) -> None:
    shown = json.dumps(believed.shown)

    assert "99" not in shown
    assert "oIoU" not in shown


def test_lies_change_nothing_about_the_life_of_the_job(believed: Believed) -> None:
    status = believed.job["status"]

    assert (status["phase"], status["attempt"]) == ("Running", 1)
    assert condition_of(believed.job, "Running")["status"] == "True"


def test_lies_are_counted(world: World, believed: Believed) -> None:
    counted = world.query('sum(max_over_time(semires_operator_polls_total{result=~"invalid|too_long"}[1h]))')

    assert float(counted[0]["value"][1]) >= LIES


def test_a_deleted_job_is_gone_at_once_with_its_pod_and_its_series(world: World, believed: Believed) -> None:
    world.kubectl("delete", "srj", "liar", "--timeout=20s")
    wait_until("its pod is gone", lambda: not world.pods("liar"), seconds=60, every=0.5)

    wait_until("its series are gone", lambda: not world.query('semires_job_info{name="liar"}'), seconds=30, every=1)


# -- What is killed, and what is asked to wait


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


@pytest.fixture(scope="module")
def survived(world: World, say: Say, chain: Object) -> Survived:
    say("B, C, E: the same job; its pod is killed, it is suspended, and the operator dies each time")
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


def test_a_killed_job_ends_well(survived: Survived) -> None:
    assert condition_of(survived.job, "Complete")["status"] == "True"
    assert survived.job["status"]["attempt"] == 3


def test_the_history_tells_what_happened(survived: Survived) -> None:
    killed, stopped, done = survived.job["status"]["attempts"]

    assert (killed["ended"], killed["failure"]["exitCode"], killed["counted"]) == ("Failed", 137, True)
    assert (stopped["ended"], stopped["counted"]) == ("Stopped", False)
    assert done["ended"] == "Succeeded"


def test_the_next_attempt_goes_on_where_the_newest_checkpoint_ends(world: World, survived: Survived) -> None:
    place = survived.after_kill["uri"].rpartition("/")[2]

    assert any(told.startswith("Going on from") and place[:13] in told for told in messages(world, "survivor", 2))


def test_a_suspended_job_has_no_pods(survived: Survived) -> None:
    # One that has ended holds no GPU; the kubelet may not have let go of its name yet.
    assert [pod["status"]["phase"] for pod in survived.pods if pod["status"]["phase"] not in inputs.ENDED] == []
    assert condition_of(survived.suspended, "Suspended")["status"] == "True"


def test_the_stop_has_left_a_new_checkpoint(survived: Survived) -> None:
    last = survived.suspended["status"]["lastCheckpoint"]

    assert moment(last["time"]) >= moment(survived.stopping["requestedAt"])
    assert last["step"] == survived.after_stop["number"]


def test_a_resumed_job_goes_on_from_the_checkpoint_of_its_stop(world: World, survived: Survived) -> None:
    place = survived.after_stop["uri"].rpartition("/")[2]

    assert any(told.startswith("Going on from") and place[:13] in told for told in messages(world, "survivor", 3))


def test_three_attempts_give_the_same_bits_as_one(world: World, survived: Survived) -> None:
    weights = [sha256(world.read(f"{world.output(name)}/model/model.safetensors")) for name in ("chain", "survivor")]

    assert weights[0] == weights[1]


def test_no_child_was_made_twice(world: World, survived: Survived) -> None:
    made = [
        event["objectRef"]["name"]
        for event in world.operator_writes()
        if event["verb"] == "create" and event["objectRef"].get("name", "").startswith("survivor")
    ]

    assert sorted(made) == [f"survivor-{role}{attempt}" for role, attempt in itertools.product("ap", (1, 2, 3))]


def test_another_replica_takes_over_in_time(survived: Survived) -> None:
    assert max(survived.takeovers) <= 20, survived.takeovers


# -- Two jobs, one store


@dataclass
class Pair:
    """Two jobs that ran at the same time."""

    jobs: list[Object]
    store: str
    intervals: list[tuple[datetime, datetime]]
    """When the trainer of each ran."""


@pytest.fixture(scope="module")
def pair(world: World, say: Say, survived: Survived) -> Pair:
    say("F: two jobs of two ranks, one store of masks")
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


def test_two_jobs_of_two_gpus_run_at_the_same_time(pair: Pair) -> None:
    (left_began, left_ended), (right_began, right_ended) = pair.intervals

    assert left_began < right_ended
    assert right_began < left_ended


def test_both_have_used_one_store_with_the_masks_of_all_images(world: World, pair: Pair) -> None:
    store = store_of(world, "left", pair.store)

    assert len(list(world.path(pair.store).iterdir())) == 1
    assert store.missing(picture_digests(world)) == []


@pytest.mark.parametrize("name", ["left", "right"])
def test_each_counts_the_masks_of_all_images(world: World, pair: Pair, name: str) -> None:
    (told,) = [record for record in world.log(name, 1) if str(record.get("message", "")).startswith("Proposals of")]

    assert told["images"] == told["present"] + told["new"] == inputs.IMAGES


def store_of(world: World, name: str, uri: str) -> ProposalStore:
    """A store of masks, from the server's own files."""
    proposals = inputs.manifest(name, world.bucket, world.sam_sha256, {})
    return ProposalStore(world.path(uri), build_key(resolve(parse_job(proposals)).proposals))


def picture_digests(world: World) -> list[str]:
    """Names of the records of all training images."""
    pictures = sorted(world.path(f"s3://{world.bucket}/images").glob("train*"))
    return [sha256(path.read_bytes()) for path in pictures]


# -- At the end


def test_the_operator_needs_little_memory(world: World, pair: Pair, say: Say) -> None:
    used = {pod["metadata"]["name"]: world.memory_of(pod) for pod in world.operator_pods()}
    say("; ".join(f"{name}: {size / MIB:.0f} MiB" for name, size in used.items()))

    assert max(used.values()) <= MOST_IDLE_BYTES


def test_the_operator_was_never_refused_anything(world: World, chain: Object, pair: Pair) -> None:
    # An earlier operator of a cluster that is kept may have lost its rights before its end.
    began = moment(chain["metadata"]["creationTimestamp"])
    refused = [
        (event["verb"], event["objectRef"])
        for event in world.cluster.audited(demo_install.ACCOUNT, verbs=ALL_VERBS)
        if event["responseStatus"].get("code") == 403 and moment(event["requestReceivedTimestamp"]) >= began
    ]

    assert refused == []


def test_the_operator_has_no_right_that_it_does_not_use(
    world: World, survived: Survived, believed: Believed, denied: Object
) -> None:
    used = {right_of(event) for event in world.cluster.audited(demo_install.ACCOUNT, verbs=ALL_VERBS)}
    role = world.cluster.get("clusterrole", demo_install.NAME)
    lease = world.cluster.get("role", f"{demo_install.NAME}-lease", "-n", demo_install.NAMESPACE)

    assert set(rights_of(role, lease)) - used == FOR_OTHER_CLUSTERS


def right_of(event: Object) -> tuple[str, str, str]:
    """API group, resource and verb of an audited request."""
    about = event["objectRef"]
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    return about.get("apiGroup", ""), resource, event["verb"]


def rights_of(*roles: Object) -> Iterator[tuple[str, str, str]]:
    """What the rules of roles grant."""
    for rule in itertools.chain.from_iterable(role["rules"] for role in roles):
        yield from itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])


def test_no_replica_crashed(world: World, pair: Pair) -> None:
    restarts: list[Any] = [
        status["restartCount"] for pod in world.operator_pods() for status in pod["status"]["containerStatuses"]
    ]

    assert restarts == [0, 0]
