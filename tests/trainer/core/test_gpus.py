"""GPUs that were asked for and are not there end the run; nobody trains on the CPU by mistake."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from semires_trainer.gpus import GpuNotVisible, Wish, device_of, wish_of

UUIDS = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-GPU-8932f937-d72c/1/0"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with as many GPUs as told, and an environment that says nothing of them."""
    for name in ("SEMIRES_GPUS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def describe(*, gpus: int, cuda: str | None = "13.2", problem: str = "", **environment: str) -> None:
        def init() -> None:
            if problem:
                raise RuntimeError(problem)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return describe


@pytest.mark.parametrize(
    ("environment", "wish"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"SEMIRES_GPUS": "4", "CUDA_VISIBLE_DEVICES": "0"}, 4, id="the-operator-comes-first"),
        pytest.param({"SEMIRES_GPUS": ""}, None, id="empty"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0, 3", "NVIDIA_VISIBLE_DEVICES": "0,1,2,3"}, 2, id="cuda-narrows"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "0"}, 0, id="cuda-hides-all"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, 1, id="cuda-stops-at-minus-one"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, id="slurm-without-gpus"),
        pytest.param({"NVIDIA_VISIBLE_DEVICES": UUIDS}, 2, id="device-plugin"),
        pytest.param({"NVIDIA_VISIBLE_DEVICES": "all"}, None, id="set-by-base-images"),
        pytest.param({"NVIDIA_VISIBLE_DEVICES": "void"}, None, id="void"),
    ],
)
def test_what_the_environment_asks_for(environment: dict[str, str], wish: int | None) -> None:
    found = wish_of(environment)

    assert (found and found.count) == wish
    assert found is None or isinstance(found, Wish)


@pytest.mark.parametrize(
    ("wanted", "facts", "message"),
    [
        pytest.param("CUDA", {"gpus": 0}, "device CUDA asks for a GPU, but PyTorch sees no GPU", id="cuda"),
        pytest.param(
            "Auto",
            {"gpus": 0, "SEMIRES_GPUS": "4"},
            "SEMIRES_GPUS=4 asks for 4 GPUs, but PyTorch sees no GPU",
            id="all",
        ),
        pytest.param("Auto", {"gpus": 3, "SEMIRES_GPUS": "4"}, "asks for 4 GPUs, but PyTorch sees 3 GPUs", id="one"),
        pytest.param("CUDA", {"gpus": 1, "SEMIRES_GPUS": "2"}, "asks for 2 GPUs, but PyTorch sees 1 GPU", id="half"),
        pytest.param("Auto", {"gpus": 0, "CUDA_VISIBLE_DEVICES": "0"}, "DEVICES=0 asks for 1 GPU", id="named"),
        pytest.param("Auto", {"gpus": 1, "NVIDIA_VISIBLE_DEVICES": UUIDS}, "MIG.* asks for 2 GPUs", id="device-plugin"),
    ],
)
def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error_of_the_infrastructure(
    machine: Any, wanted: str, facts: dict[str, Any], message: str
) -> None:
    machine(**facts)

    with pytest.raises(GpuNotVisible, match=rf"^spec\.training\.device: .*{message}.*device: CPU") as refused:
        device_of(wanted, 0)

    assert refused.value.exit_code == 150


@pytest.mark.parametrize("wanted", ["Auto", "CUDA"])
@pytest.mark.parametrize("rank", [0, 3])
def test_more_processes_than_gpus_are_refused_on_every_rank(machine: Any, wanted: str, rank: int) -> None:
    machine(gpus=2)

    with pytest.raises(GpuNotVisible, match="4 processes need a GPU each, but PyTorch sees 2 GPUs"):
        device_of(wanted, rank, local_size=4)


def test_the_driver_is_quoted(machine: Any) -> None:
    machine(gpus=0, problem="The NVIDIA driver on your system is too old (found version 11040). Please update.")

    with pytest.raises(GpuNotVisible, match=r"driver on your system is too old \(found .* 11040\)\).*nvidia"):
        device_of("CUDA", 0)


def test_a_build_for_the_cpu_is_told(machine: Any) -> None:
    machine(gpus=0, cuda=None)

    with pytest.raises(GpuNotVisible, match=r"is built for the CPU only.*Install a build of PyTorch for GPUs"):
        device_of("CUDA", 0)


@pytest.mark.parametrize(
    ("wanted", "facts", "device"),
    [
        pytest.param("Auto", {"gpus": 0}, "cpu", id="none-there-none-asked"),
        pytest.param("Auto", {"gpus": 0, "NVIDIA_VISIBLE_DEVICES": "all"}, "cpu", id="an-image-for-gpus-without-one"),
        pytest.param("Auto", {"gpus": 0, "CUDA_VISIBLE_DEVICES": ""}, "cpu", id="hidden"),
        pytest.param("Auto", {"gpus": 0, "SEMIRES_GPUS": "0"}, "cpu", id="a-pod-without-gpus"),
        pytest.param("Auto", {"gpus": 2, "SEMIRES_GPUS": "2"}, "cuda:1", id="as-many-as-asked"),
        pytest.param("Auto", {"gpus": 4, "SEMIRES_GPUS": "2"}, "cuda:1", id="more-than-asked"),
        pytest.param("CPU", {"gpus": 0, "SEMIRES_GPUS": "2"}, "cpu", id="the-manifest-says-cpu"),
    ],
)
def test_where_a_process_computes(machine: Any, wanted: str, facts: dict[str, Any], device: str) -> None:
    machine(**facts)

    assert device_of(wanted, 1, local_size=2) == torch.device(device)
