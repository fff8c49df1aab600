"""convert: files of the official release into ours."""

from __future__ import annotations

from pathlib import Path

import click

from semires_trainer.commands.frame import console, job_argument, load_job, output_option
from semires_trainer.errors import ConfigError

_PATH = click.Path(path_type=Path)


@click.group(short_help="Files of the official release into ours.")
def convert() -> None:
    """Turn files of the official LAVT and SemiRES releases into ours. Nothing in them is executed."""


@convert.command()
@click.argument("source", type=_PATH, metavar="FILE.pth")
@click.argument("destination", type=_PATH, metavar="DIR")
@click.option("--vocab", type=_PATH, metavar="FILE", help="BERT's vocab.txt, copied into DIR; predict needs it.")
@click.option("--image-size", type=click.IntRange(min=64), metavar="PIXELS", help="Default: as stored in the file.")
@click.option("--max-tokens", default=20, show_default=True, metavar="N", help="Longest sentence in tokens.")
@click.option("--text-heads", type=click.IntRange(min=1), metavar="N", help="Needed if BERT's heads are not 64 wide.")
def checkpoint(
    source: Path,
    destination: Path,
    vocab: Path | None,
    image_size: int | None,
    max_tokens: int,
    text_heads: int | None,
) -> None:
    """Convert an official LAVT or SemiRES checkpoint to a model folder (safetensors and JSON).

    The folder serves predict, evaluate and model.initFrom.

    \b
    Example:
      semires convert checkpoint model_best_refcoco.pth models/lavt --vocab bert/vocab.txt
    """
    from semires_trainer.models.convert import convert_checkpoint

    info = convert_checkpoint(
        source, destination, vocab=vocab, max_tokens=max_tokens, image_size=image_size, text_heads=text_heads
    )
    console().print(f"{destination}: model for {info.image_size} x {info.image_size} pixels", markup=False)
    if info.vocab is None:
        click.secho("It holds no vocabulary: give --vocab here, or to predict.", fg="yellow", err=True)


@convert.command()
@job_argument
@output_option
def proposals(job: Path, overrides: tuple[str, ...], output: str | None) -> None:
    """Put the official release's JSON masks into the proposal store of JOB.yaml.

    The manifest says where they are: proposals {generator: Precomputed, precomputed: {path: FOLDER}}.

    \b
    Example:
      semires convert proposals job.yaml --set proposals.store=stores/official
    """
    manifest = load_job(job, overrides, output)
    if manifest.spec.proposals.generator != "Precomputed":
        raise ConfigError(
            f"the generator is {manifest.spec.proposals.generator}, nothing is there to convert",
            field="spec.proposals.generator",
            remedy="Set generator: Precomputed and precomputed: {path: FOLDER}",
        )
    from semires_trainer.run import run_here

    run_here(manifest, stages=("propose",))
    store = manifest.spec.proposals.store or f"{manifest.spec.output}/proposals"
    console().print(f"The masks are in {store}", markup=False, soft_wrap=True)
