"""A job that nobody disturbs, from `kubectl apply` to its results."""

from __future__ import annotations

import json
import re

import pytest
from e2e.world import World, condition_of, sha256
from testbed import demo_install
from testbed.cluster import REPOSITORY, Object
from testbed.waiting import wait_until

pytestmark = pytest.mark.timeout(1800)

MOST_WRITES = 4
"""Of the operator for a job of one attempt, beside status and events."""


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
    store = world.store("chain", f"{world.output('chain')}/proposals")

    assert all(len(store.get(digest)) for digest in world.picture_digests())


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
