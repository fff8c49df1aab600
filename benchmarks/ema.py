"""Moving average of a 100-million-parameter teacher: ours against a loop over both state dicts.

    python benchmarks/ema.py [--json]

The peer is written from the description of the official step: build both state dicts, average every tensor into
a new one, load the result. From the same start both must agree to 1e-6 before anything is timed.
"""

from __future__ import annotations

import click
import torch
from harness import interleave
from torch import nn

from semires_trainer.teacher import EmaTeacher

DECAY = 0.996
LAYERS, WIDTH = 12, 832  # a transformer's shapes: 12 WIDTH^2 parameters and their biases and norms a layer


class Layer(nn.Module):
    """The parameters of a transformer layer, and a batch norm for its buffers; it computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.feed_forward = nn.ModuleList((nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)))
        self.norms = nn.ModuleList((nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)))


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*(Layer() for _ in range(LAYERS)))


@torch.no_grad()
def state_dict_loop(teacher: nn.Module, student: nn.Module) -> None:
    source = student.state_dict()
    averaged = {name: own * DECAY + source[name] * (1 - DECAY) for name, own in teacher.state_dict().items()}
    teacher.load_state_dict(averaged)


def check(ema: EmaTeacher, peer: nn.Module, student: nn.Module) -> None:
    """Stop unless one step from the same start gives the same floating tensors."""
    ema.update(DECAY)
    state_dict_loop(peer, student)
    theirs = peer.state_dict()
    for name, own in ema.teacher.state_dict().items():
        if own.is_floating_point() and not torch.allclose(own, theirs[name], rtol=0, atol=1e-6):
            raise click.ClickException(f"{name}: the two averages differ")


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
@click.option("--rounds", default=9, show_default=True, help="Interleaved rounds.")
@click.option("--threads", default=1, show_default=True, help="Threads of PyTorch; more only on a quiet machine.")
def main(as_json: bool, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    teacher, peer, student = make_model(0), make_model(0), make_model(1)
    ema = EmaTeacher(teacher, student)
    check(ema, peer, student)
    result = interleave(lambda: ema.update(DECAY), lambda: state_dict_loop(peer, student), rounds=rounds)
    parameters = sum(parameter.numel() for parameter in student.parameters())
    if as_json:
        click.echo(result.row("ema", parameters=parameters, peer="state-dict loop"))
        return
    click.echo(f"{'parameters':12}{'peer':18}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}{'worst':>8}")
    times = f"{result.ours_ms:9.1f}{result.peer_ms:9.1f}{result.ratio:7.1f}x{result.ratio_min:7.1f}x"
    click.echo(f"{parameters / 1e6:<8.1f} M  {'state-dict loop':18}{times}")


if __name__ == "__main__":
    main()
