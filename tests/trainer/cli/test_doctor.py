"""doctor turns facts about a machine into verdicts with remedies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from semires_trainer.config import Resolved
from semires_trainer.doctor import (
    GIB,
    OPTIONAL,
    REQUIRED,
    Check,
    Facts,
    Gpu,
    check_device,
    check_job,
    diagnose,
    exit_code_of,
    gather_facts,
)

H100 = Gpu(name="H100", memory_bytes=80 * GIB, bf16=True)
FIT = Facts(
    python=(3, 12, 1),
    packages=dict.fromkeys((*REQUIRED, *OPTIONAL), "1.0"),
    import_error="",
    gpus=(H100,),
    cpu_cores=16,
    memory_bytes=64 * GIB,
    folder=Path("/data"),
    folder_writable=True,
    disk_free_bytes=500 * GIB,
    shm_free_bytes=16 * GIB,
)


def test_a_fit_machine_passes_everything() -> None:
    checks = diagnose(FIT)

    assert {check.status for check in checks} == {"OK"}
    assert exit_code_of(checks) == 0


@pytest.mark.parametrize(
    ("change", "name", "status"),
    [
        pytest.param({"python": (3, 9, 0)}, "Python", "FAIL", id="old-python"),
        pytest.param({"packages": {**FIT.packages, "timm": None}}, "Packages", "FAIL", id="package-missing"),
        pytest.param(
            {"packages": {**FIT.packages, "segment-anything": None}}, "segment-anything", "WARN", id="optional-missing"
        ),
        pytest.param({"import_error": "RuntimeError: nms"}, "torch/torchvision", "FAIL", id="mismatched-pair"),
        pytest.param({"gpus": ()}, "GPU", "WARN", id="no-gpu"),
        pytest.param({"gpus": (dataclasses.replace(H100, bf16=False),)}, "bf16", "WARN", id="no-bf16"),
        pytest.param({"cpu_cores": 1}, "CPU", "WARN", id="one-core"),
        pytest.param({"memory_bytes": 6 * GIB}, "Memory", "WARN", id="little-memory"),
        pytest.param({"memory_bytes": 2 * GIB}, "Memory", "FAIL", id="no-memory"),
        pytest.param({"folder_writable": False}, "Disk", "FAIL", id="read-only"),
        pytest.param({"disk_free_bytes": GIB}, "Disk", "FAIL", id="disk-full"),
        pytest.param({"disk_free_bytes": 5 * GIB}, "Disk", "WARN", id="disk-tight"),
        pytest.param({"shm_free_bytes": 64 << 20}, "Shared memory", "WARN", id="small-shm"),
    ],
)
def test_each_fault_is_named_with_a_remedy(change: dict[str, object], name: str, status: str) -> None:
    checks = diagnose(dataclasses.replace(FIT, **change))

    [fault] = [check for check in checks if check.status != "OK"]
    assert (fault.name, fault.status) == (name, status)
    assert fault.remedy
    assert exit_code_of(checks) == (150 if status == "FAIL" else 0)


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "status"),
    [
        pytest.param("CUDA", 2, 2, "OK", id="enough"),
        pytest.param("CUDA", 1, 2, "FAIL", id="too-few"),
        pytest.param("CUDA", 0, 1, "FAIL", id="none"),
        pytest.param("Auto", 0, 4, "OK", id="auto"),
    ],
)
def test_a_job_that_wants_gpus_fails_without_them(device: str, gpus: int, processes: int, status: str) -> None:
    assert check_device(device, [H100] * gpus, nproc=processes).status == status


def test_a_wrong_manifest_comes_before_a_missing_gpu_in_the_exit_code() -> None:
    checks = [Check(name="a", status="FAIL", detail=""), Check(name="b", status="FAIL", detail="", exit_code=2)]

    assert exit_code_of(checks) == 2


def test_files_of_a_job_are_checked(resolved: Resolved, data: Path) -> None:
    assert check_job(resolved, FIT, processes=1)[0].status == "OK"

    (data / "vocab.txt").unlink()
    fault = check_job(resolved, FIT, processes=1)[0]

    assert (fault.status, fault.exit_code) == ("FAIL", 3)
    assert "spec.model.vocab" in fault.detail


def test_facts_of_this_machine_can_be_gathered_for_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    facts = gather_facts(tmp_path / "a" / "b")

    assert facts.folder == tmp_path
    assert facts.import_error == ""
    assert facts.memory_bytes > 0


def test_the_command_prints_one_line_a_check_or_json(semires, job: Path) -> None:
    lines = semires("doctor", job).stdout.splitlines()
    checks = json.loads(semires("doctor", job, "--json").stdout)

    assert sum(line.startswith(("OK  ", "WARN", "FAIL")) for line in lines) == len(checks)


def test_a_wrong_manifest_does_not_keep_the_doctor_from_looking(semires, job: Path) -> None:
    job.write_text("kind: Nothing\n")

    result = semires("doctor", job)

    assert result.exit_code == 2
    assert "FAIL  Manifest" in result.stdout
    assert "Python" in result.stdout
