"""How long a checkpoint keeps training waiting: ours against `torch.save` in its place.

    python benchmarks/checkpoints.py [--json]

The state is that of mutual learning: student, teacher and AdamW's moments of a Swin-T with BERT-base (a Swin-B on a
GPU, 3.3 GB). Ours is `CheckpointWriter.save`: a copy to memory, while a thread writes, syncs and hashes. The peer
writes the same state where training would wait, without sync or checksum. What both wrote is compared with the state
first. Beside: a training step of one picture, alone and while a checkpoint is written.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from harness import interleave, machine
from torch import Tensor, nn

from semires_trainer.checkpoint import TrainingState, contents_of, load_checkpoint
from semires_trainer.checkpoint_folders import Progress, newest_valid
from semires_trainer.checkpoint_writer import CheckpointWriter, Written
from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.teacher import EmaTeacher

SWIN_T = LAVTConfig(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, image_size=224)
SWIN_B = LAVTConfig()
WORDS = 20


class Training:
    """A state, and steps that change it."""

    def __init__(self, config: LAVTConfig, device: torch.device) -> None:
        torch.manual_seed(0)
        student, teacher = LAVT(config).to(device), LAVT(config).to(device).requires_grad_(False)
        teacher.load_state_dict(student.state_dict())
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=device.type == "cuda")
        self.ema = EmaTeacher(teacher, student)
        self.device = device
        self.image = torch.randn(1, 3, config.image_size, config.image_size, device=device)
        self.words = torch.ones(1, WORDS, dtype=torch.long, device=device)
        self.state = TrainingState(
            student=student,
            teacher=teacher,
            optimizer=optimizer,
            progress=Progress(stage="train"),
            identity="benchmark",
            steps_per_epoch=1,
        )

    def step(self) -> float:
        """One optimizer step with its mean teacher; returns seconds."""
        started = time.perf_counter()
        logits = self.state.student(self.image, self.words, self.words)
        nn.functional.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.long)).backward()
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.ema.update(0.996)
        self.wait()
        self.state.progress = dataclasses.replace(self.state.progress, step=self.state.progress.step + 1)
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    found = contents_of(state).tensors
    return {f"{file}/{name}": tensor for file, tensors in found.items() for name, tensor in tensors.items()}


def check(training: Training, root: Path, peer_file: Path) -> None:
    """Stop unless ours can be loaded and both hold the state, bit by bit."""
    wanted = {name: tensor.clone() for name, tensor in tensors_of(training.state).items()}
    newest = newest_valid(root)
    if newest is None:
        raise click.ClickException(f"{root} has no valid checkpoint")
    training.step()
    load_checkpoint(newest, training.state)
    theirs = torch.load(peer_file, map_location=training.device, weights_only=True)
    for found in (tensors_of(training.state), theirs):
        if wanted.keys() != found.keys() or not all(torch.equal(wanted[name], found[name]) for name in wanted):
            raise click.ClickException("what was saved is not what was there")


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def steps_around(
    training: Training, writer: CheckpointWriter, told: list[Written], save: Callable[[], None]
) -> tuple[float, float]:
    """Median seconds of a step alone, and of one that runs while a checkpoint is written, in alternation."""
    alone, beside = [], []
    for _ in range(3):
        alone += [training.step() for _ in range(2)]
        ended = len(told) + 1
        save()
        while len(told) < ended:
            beside.append(training.step())
            writer.settle()
    return statistics.median(alone), statistics.median(beside)


def measure(config: LAVTConfig, name: str, device: torch.device, *, rounds: int, as_json: bool) -> None:
    training, told = Training(config, device), list[Written]()
    for _ in range(2):
        training.step()
    with tempfile.TemporaryDirectory() as text:
        root, peer_file = Path(text) / "ours", Path(text) / "peer.pt"
        writer = CheckpointWriter(root, keep_last=1, tell=told.append)

        def save() -> None:
            progress = dataclasses.replace(training.state.progress, step=training.state.progress.step + 1)
            training.state.progress = progress
            writer.save(training.state, progress.step)

        def peer() -> None:
            torch.save(tensors_of(training.state), peer_file)

        first = seconds_of(save)
        writer.flush()
        peer()
        check(training, root, peer_file)
        result = interleave(save, peer, rounds=rounds, settle=writer.flush)
        writer.flush()
        alone, beside = steps_around(training, writer, told, save)
        writer.close()
    failed = [written.error for written in told if written.error is not None]
    if failed:
        raise click.ClickException(str(failed[0]))
    facts = {
        "MB": round(told[-1].bytes / 1e6),
        "written beside, ms": round(1000 * statistics.median(written.write_seconds for written in told)),
        "first save, which makes the buffers, ms": round(1000 * first),
        "step, ms": round(1000 * alone),
        "step beside a write, ms": round(1000 * beside),
        "stall as a share of a step, %": round(result.ours_ms / alone / 10, 1),
    }
    if as_json:
        click.echo(result.row("checkpoints", model=name, device=device.type, peer="torch.save", MB=facts["MB"]))
        click.echo(json.dumps({"benchmark": "checkpoints", "model": name, **facts, "machine": machine()}))
        return
    times = f"{result.ours_ms:9.1f}{result.peer_ms:9.1f}{result.ratio:7.1f}x{result.ratio_min:7.1f}x"
    click.echo(f"{name + ' on ' + device.type:40}{times}\n  {facts}")


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of the table.")
@click.option("--rounds", default=7, show_default=True, help="Interleaved rounds.")
@click.option("--threads", default=1, show_default=True, help="Threads of PyTorch; more only on a quiet machine.")
def main(as_json: bool, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    measure(SWIN_T, "Swin-T, BERT-base", torch.device("cpu"), rounds=rounds, as_json=as_json)
    if torch.cuda.is_available():
        measure(SWIN_B, "Swin-B, BERT-base", torch.device("cuda"), rounds=rounds, as_json=as_json)
        return
    missing = {"benchmark": "checkpoints", "GPU": "not measured (none here); aim: 150 ms for 3.3 GB"}
    click.echo(json.dumps(missing) if as_json else missing["GPU"])


if __name__ == "__main__":
    main()
