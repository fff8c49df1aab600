"""The commands on a terminal and in scripts: what they print, and the codes they exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

import semires_operator
import semires_trainer

ABSENT = {"message": "absent", "details": {"name": "refcoco", "kind": "semiresjobs"}}
CLUSTER_COMMANDS = ("submit", "list", "describe", "logs", "suspend", "resume", "wait")


@pytest.fixture
def run(scripted, semires, tmp_path: Path) -> Callable[..., Result]:
    """Run a command against scripted answers."""

    def run_command(*arguments: object, answers: list[Any]) -> Result:
        return semires(*arguments, "--kubeconfig", scripted(*answers).kubeconfig(tmp_path))

    return run_command


@pytest.fixture
def manifest(make_document, tmp_path: Path) -> Path:
    document = make_document()
    path = tmp_path / "job.yaml"
    kept = {key: document[key] for key in ("apiVersion", "kind", "spec")}
    path.write_text(yaml.safe_dump({**kept, "metadata": {"name": "refcoco"}}))
    return path


def test_the_commands_are_there(semires) -> None:
    words = {line.split()[0] for line in semires("--help").output.splitlines() if line.startswith("  ")}

    assert words >= set(CLUSTER_COMMANDS)


def test_submit_says_what_it_made(run, answer, make_document, manifest: Path) -> None:
    result = run("submit", manifest, answers=[answer(ABSENT, code=404), answer(make_document())])

    assert result.exit_code == 0
    assert result.stdout == "refcoco created in namespace vision\n"
    assert "semires logs refcoco -n vision -f" in result.stderr


def test_a_dry_run_says_what_would_be(run, answer, make_document, manifest: Path) -> None:
    script = [answer(make_document()), answer(make_document())]

    result = run("submit", manifest, "--dry-run", "--set", "activeDeadlineSeconds=60", answers=script)

    assert result.stdout.splitlines() == [
        "refcoco would be changed in namespace vision",
        "  spec.activeDeadlineSeconds (nothing -> 60)",
    ]


def test_what_the_server_refuses_is_one_line_and_exits_with_2(run, answer, make_document, manifest: Path) -> None:
    problem = "Forbidden: what is trained cannot change from 40 to 3. Restore it, or create a job with another name"
    causes = [{"field": "spec.training.epochs", "message": problem}]
    refused = answer({"message": "long", "details": {"causes": causes}}, code=422)

    result = run("submit", manifest, "--set", "training.epochs=3", answers=[answer(make_document()), refused])

    assert result.exit_code == 2
    assert result.stderr == f"Error: spec.training.epochs: {problem.removeprefix('Forbidden: ')}\n"


def test_a_wrong_manifest_is_told_before_the_cluster_is_asked(semires, manifest: Path) -> None:
    result = semires("submit", manifest, "--set", "training.epoch=3", "--kubeconfig", "nowhere")

    assert result.exit_code == 2
    assert 'Did you mean "epochs"?' in result.stderr


@pytest.mark.parametrize(
    ("type_", "code", "words"),
    [
        pytest.param("Complete", 0, "refcoco: Succeeded", id="succeeded"),
        pytest.param("Failed", 1, "refcoco failed: Diverged at step 7", id="failed"),
    ],
)
def test_submit_and_wait_exits_as_the_job_ends(
    run, answer, make_document, make_condition, manifest: Path, type_: str, code: int, words: str
) -> None:
    end = "Succeeded" if type_ == "Complete" else "Failed"
    done = make_document(version=5, phase=end, message="Diverged at step 7", conditions=[make_condition(type_)])
    listed = answer({"metadata": {"resourceVersion": "5"}, "items": [done]})

    result = run("submit", manifest, "--wait", answers=[answer(ABSENT, code=404), answer(make_document()), listed])

    assert result.exit_code == code
    assert words in result.output


def test_time_that_is_over_exits_with_124(run, answer, make_document) -> None:
    listed = answer({"metadata": {"resourceVersion": "1"}, "items": [make_document(phase="Queued")]})

    result = run("wait", "refcoco", "--timeout", "0.2", answers=[answer(make_document()), listed, answer([])])

    assert result.exit_code == 124
    assert "Error: refcoco was not Finished within 0.2 s (Queued)" in result.stderr


@pytest.mark.parametrize("text", ["soon", "-1", "1y", "", "nan", "1e9d"])
def test_a_time_that_is_none_is_a_usage_error(semires, text: str) -> None:
    result = semires("wait", "refcoco", "--timeout", text)

    assert result.exit_code == 2
    assert "is no time: write 90s, 30m, 12h or 2d" in result.stderr


def test_list_prints_whole_columns_where_there_is_no_terminal(run, answer, make_document) -> None:
    display = {"progress": "43%", "eta": "3h02m", "epoch": "12/40", "oIoU": "52.18", "labeled": "1%", "refine": "CPI-U"}
    items = [make_document("a"), make_document("refcoco", phase="Running", attempt=2, display=display)]

    result = run("list", "-A", "-o", "wide", answers=[answer({"items": items})])

    head, _, line = result.stdout.splitlines()
    titles = (
        "NAMESPACE NAME PHASE STAGE EPOCH PROGRESS ETA OIOU ATTEMPT AGE DATASET LABELED REFINE PYTORCHJOB QUEUE MESSAGE"
    )
    assert head.split() == titles.split()
    assert line.split()[:9] == ["vision", "refcoco", "Running", "-", "12/40", "43%", "3h02m", "52.18", "2"]


@pytest.mark.parametrize(
    ("output", "parse"), [pytest.param("json", json.loads, id="json"), pytest.param("yaml", yaml.safe_load, id="yaml")]
)
def test_list_prints_what_the_api_server_has(run, answer, make_document, output: str, parse: Any) -> None:
    result = run("list", "-o", output, answers=[answer({"items": [make_document()]})])

    assert parse(result.stdout) == {"apiVersion": "v1", "kind": "List", "items": [make_document()]}


def test_an_empty_list_is_said_on_stderr(run, answer) -> None:
    result = run("list", answers=[answer({"items": []})])

    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "There are no SemiRESJobs in namespace vision.\n"


def test_describe_tells_events_oldest_first(run, answer, make_document) -> None:
    told = [
        {"type": "Normal", "reason": "Training", "message": "second", "lastTimestamp": "2026-11-25T10:00:00Z"},
        {"type": "Warning", "reason": "Queued", "message": "first", "eventTime": "2026-11-25T09:00:00.000000Z"},
    ]

    result = run("describe", "refcoco", answers=[answer(make_document(phase="Running")), answer({"items": told})])

    assert result.exit_code == 0
    assert result.stdout.index("first") < result.stdout.index("second")


def test_who_may_not_read_events_sees_the_job(run, answer, make_document) -> None:
    refused = answer({"message": 'events is forbidden: User "eve" cannot list resource "events"'}, code=403)

    result = run("describe", "refcoco", answers=[answer(make_document(phase="Running")), refused])

    assert result.exit_code == 0
    assert "Running" in result.stdout
    assert 'Without events: events is forbidden: User "eve" cannot list' in result.stderr


def test_suspend_asks_and_says_how_to_go_on(run, answer, make_document) -> None:
    result = run("suspend", "refcoco", answers=[answer(make_document()), answer(make_document())])

    assert result.exit_code == 0
    assert "`semires resume refcoco -n vision` lets it go on" in result.stdout


def test_logs_are_rendered_or_raw(run, answer, make_document) -> None:
    labels = {"semires.dev/attempt": "1", "semires.dev/role": "training"}
    status = {"phase": "Succeeded", "containerStatuses": [{"name": "pytorch", "state": {"terminated": {}}}]}
    pod = {"metadata": {"name": "p", "uid": "u", "labels": labels}, "status": status}
    line = '{"time": "2026-11-25T09:00:00+00:00", "level": "info", "event": "message", "message": "Hello"}'
    script = [answer(make_document()), answer({"items": [pod]}), answer(f"2026-11-25T09:00:00.1Z {line}\n".encode())]

    assert run("logs", "refcoco", "--json", answers=[*script]).stdout == f"{line}\n"
    assert run("logs", "refcoco", answers=[*script]).stdout.endswith(":00 Hello\n")


def test_without_the_extra_the_commands_say_which_to_install() -> None:
    hidden = (
        "import sys; sys.modules['kubernetes'] = None\n"
        "from semires_trainer.cli import main; main(['list'], prog_name='semires')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False, env=python_path()
    )

    assert answer.returncode == 2
    assert "pip install 'semires[operator]'" in answer.stderr
    assert answer.stderr.startswith("Error: this command needs the package kubernetes")


def test_without_the_operators_package_the_other_commands_work() -> None:
    hidden = (
        "import sys; sys.modules['semires_operator'] = None\n"
        "from semires_trainer.cli import main; main(['--help'], prog_name='semires')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=True, env=python_path()
    )

    assert "doctor" in answer.stdout
    assert "submit" not in answer.stdout


def test_help_of_a_cluster_command_loads_nothing_heavy() -> None:
    program = (
        "import sys; from semires_trainer.cli import main; main(['describe', '--help'], standalone_mode=False);"
        "print(sorted({'kubernetes', 'kopf', 'pydantic', 'rich', 'yaml'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=python_path()
    )

    assert answer.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_has_seen_enough_is_no_error(scripted, answer, make_document, tmp_path: Path) -> None:
    items = [make_document(f"job-{number}") for number in range(500)]
    kubeconfig = scripted(answer({"items": items})).kubeconfig(tmp_path)
    command = f"{sys.executable} -m semires_trainer list -o json --kubeconfig {kubeconfig} | head -1"

    answered = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, env={**os.environ, **python_path()}
    )

    assert answered.stdout == "{\n"
    assert answered.stderr == ""


def test_names_are_completed_by_the_shell(scripted, answer, make_document, tmp_path: Path) -> None:
    kubeconfig = scripted(answer({"items": [make_document("refcoco"), make_document("grefumd")]})).kubeconfig(tmp_path)
    asked = {"_SEMIRES_COMPLETE": "bash_complete", "COMP_WORDS": "semires describe ref", "COMP_CWORD": "2"}
    program = "from semires_trainer.cli import main; main(prog_name='semires')"
    environment = {**python_path(), **asked, "KUBECONFIG": str(kubeconfig)}
    answered = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )

    assert answered.stdout == "plain,refcoco\n"


def test_the_example_of_the_documentation_runs(
    scripted, answer, make_document, make_condition, manifest: Path, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "client.md").read_text(encoding="utf-8")
    program = page.partition("```python\n")[2].partition("```")[0]
    score = {"model": "teacher", "split": "val", "size": "training", "oIoU": "54.93", "mIoU": "58.31"}
    done = make_document(version=5, phase="Succeeded", conditions=[make_condition("Complete")], results=[score])
    listed = answer({"metadata": {"resourceVersion": "5"}, "items": [done]})
    server = scripted(answer(ABSENT, code=404), answer(make_document()), listed)
    environment = {**python_path(), "KUBECONFIG": str(server.kubeconfig(tmp_path))}

    answered = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=manifest.parent,
    )

    assert answered.stdout == "teacher val training 54.93\n", answered.stderr


def python_path() -> dict[str, str]:
    packages = (semires_operator, semires_trainer)
    return {"PYTHONPATH": ":".join(str(Path(package.__file__ or "").parents[1]) for package in packages)}
