"""`semires`: the command line. Commands are thin; each imports what it needs when it runs."""

from __future__ import annotations

import importlib

import click

from semires_trainer import __version__
from semires_trainer.commands.convert import convert
from semires_trainer.commands.data import data
from semires_trainer.commands.frame import DEBUG_VARIABLE, Program
from semires_trainer.commands.inspect import doctor, plan
from semires_trainer.commands.predict import predict
from semires_trainer.commands.train import evaluate, propose, run, train
from semires_trainer.threads import share_cores


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 a bug or too little memory, 2 configuration, 3 data or weights, 4 diverged, "
    "5 storage refused, 6 GPU memory, 130 or 143 stopped, 150 infrastructure. Of commands on a cluster also: "
    "1 the job failed, 124 time is over.",
)
@click.option("--debug", is_flag=True, help=f"Show the traceback of every error; {DEBUG_VARIABLE}=1 does the same.")
@click.version_option(__version__, prog_name="semires")
def main(debug: bool) -> None:
    """Train referring segmentation from few labels (SemiRES), from one manifest.

    \b
    To begin:
      semires doctor                          is this machine fit?
      semires plan examples/quickstart.yaml   what would be done?
      semires run examples/quickstart.yaml    do it
    """
    share_cores()


def _cluster_commands() -> tuple[click.Command, ...]:
    """Commands of the extra `operator`, which say themselves if it is missing; none where its package is left out."""
    try:
        commands: tuple[click.Command, ...] = importlib.import_module("semires_operator.cli").COMMANDS
    except ModuleNotFoundError as error:
        if error.name not in {"semires_operator", "semires_operator.cli"}:
            raise
        return ()
    return commands


for _command in (run, train, propose, evaluate, predict, convert, data, plan, doctor, *_cluster_commands()):
    main.add_command(_command)
