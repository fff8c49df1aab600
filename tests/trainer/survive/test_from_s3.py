"""The README's run from and to S3, interrupted on one machine and finished on another."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from semires_trainer.atomic import file_sha256
from semires_trainer.config import parse_job, resolve
from semires_trainer.models.build import build_model
from semires_trainer.models.deploy import ModelInfo, save_model

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
NAME = "refcoco-1pct-s3"
Document = dict[str, Any]


def shown_manifest() -> Document:
    """The manifest that the README shows."""
    (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if f"name: {NAME}" in block]
    document: Document = yaml.safe_load(text)
    return document


def shown_options() -> list[str]:
    """What follows the manifest in the command that the README shows."""
    (line,) = re.findall(rf"^semires run {NAME}\.yaml (.*)$", README, re.MULTILINE)
    return shlex.split(line)


def smaller(shown: Document, document: Document) -> Document:
    """The manifest with a network and a schedule that a test can train; masks by Felzenszwalb, as SAM needs a GPU."""
    spec, ours = shown["spec"], document["spec"]
    proposals = {key: value for key, value in ours["proposals"].items() if key != "store"}
    return {
        **shown,
        "spec": {
            **spec,
            "dataset": {**spec["dataset"], "labeled": ours["dataset"]["labeled"], "evaluate": ["val", "testA"]},
            "proposals": proposals,
            "model": {**ours["model"], "initFrom": "s3://models/start"},
            "training": ours["training"],
        },
    }


@pytest.fixture
def reference_job(document_of: Callable[..., Document], data: Path, tmp_path: Path) -> Document:
    """Mutual learning from a model folder; everything lies on this machine."""
    document = document_of(tmp_path / "reference")
    del document["spec"]["training"]["burnInEpochs"]
    model = resolve(parse_job(document)).model
    info = ModelInfo(image_size=model.image_size, max_tokens=model.max_tokens, vocab=data / "vocab.txt")
    save_model(tmp_path / "start", build_model(model, seed=3, text_dropout=0.0), info)
    document["spec"]["model"]["initFrom"] = str(tmp_path / "start")
    return document


@pytest.fixture
def buckets(server: Any, data: Path, reference_job: Document) -> Path:
    """data, models and results, filled as the README's manifest expects them."""
    root = Path(server.folder) / "buckets"
    for name in ("data", "models", "results"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    shutil.copytree(data, root / "data" / "refer", ignore=shutil.ignore_patterns("images", "vocab.txt", "store"))
    with zipfile.ZipFile(root / "data" / "train2014.zip", "w") as archive:
        for picture in sorted((data / "images").iterdir()):
            archive.write(picture, f"train2014/{picture.name}")
    shutil.copytree(reference_job["spec"]["model"]["initFrom"], root / "models" / "start")
    return root


def test_killed_on_one_machine_and_finished_on_another(
    programs: ModuleType, reference_job: Document, server: Any, servers: ModuleType, buckets: Path, tmp_path: Path
) -> None:
    reference = Path(reference_job["spec"]["output"])
    programs.run_to_end(reference_job, tmp_path / "one", "--nproc", "2")
    job = smaller(shown_manifest(), reference_job)
    options = [
        {"4": "2", "9464": "0"}.get(word, f"lab={server.url}" if word.startswith("lab=") else word)
        for word in shown_options()
    ]
    results = buckets / "results" / "refcoco-1pct"

    def started(machine: str) -> Any:
        environment = {
            "AWS_ACCESS_KEY_ID": servers.ACCESS,
            "AWS_SECRET_ACCESS_KEY": servers.SECRET,
            "AWS_REGION": servers.REGION,
            "SEMIRES_CACHE": str(tmp_path / machine),
        }
        return programs.started(job, tmp_path / machine, *options, work=tmp_path / machine, environment=environment)

    with started("first") as program:
        assert program.wait_for(lambda _: (results / "checkpoints.json").is_file()), program.text()[-4000:]
        program.send("supervisor", signal.SIGKILL)
        program.end()
    listed = json.loads((results / "checkpoints.json").read_text())["checkpoints"]
    with started("second") as program:
        assert program.end() == 0, program.text()[-4000:]

    (work,) = (tmp_path / "second" / "runs").iterdir()
    found, expected = programs.fingerprint(work), programs.fingerprint(reference)
    assert {key: value for key, value in found.items() if key != "state"} == {
        key: value for key, value in expected.items() if key != "state"
    }
    assert f"Going on from {work}/checkpoints/step-{listed[-1]['number']:08d}" in program.text()
    for name in ("results.json", "metrics.jsonl", "model/model.safetensors", "model/model.json", "burn-in/model.json"):
        assert file_sha256(results / name) == file_sha256(work / name)
    entries = json.loads((results / "checkpoints.json").read_text())["checkpoints"]
    assert entries[-1]["number"] == 12
    for entry in entries:
        folder = buckets / entry["uri"].removeprefix("s3://")
        assert file_sha256(folder / "manifest.json") == entry["sha256"]
    assert json.loads((results / "outcome-a2.json").read_text())["exitCode"] == 0
    assert {path.name for path in results.glob("outcome-*")} == {"outcome-a2.json"}  # the first attempt had no time
    assert json.loads((results / "owner.json").read_text())["attempt"] == 2
    assert any('"attempt": 2' in line for line in (results / "log-a2.jsonl").read_text().splitlines())
