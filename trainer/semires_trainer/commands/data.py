"""data: write the synthetic benchmark, check a dataset, look at one."""

from __future__ import annotations

from pathlib import Path

import click

from semires_trainer.commands.frame import console, job_argument, json_option, load_job
from semires_trainer.errors import DataError

MAX_SHOWN = 20


@click.group(short_help="Write, check and look at datasets.")
def data() -> None:
    """Write the synthetic benchmark, check the files of a dataset, look at its examples."""


@data.command()
@click.option(
    "--output",
    "--out",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder that does not exist yet, is empty, or holds the same benchmark.",
)
@click.option("--images", default=1000, show_default=True, metavar="N", help="Training images.")
@click.option(
    "--eval-images", default=100, show_default=True, metavar="N", help="Images in each of val, testA and testB."
)
@click.option("--refs-per-image", default=3, show_default=True, metavar="N", help="Objects referred to, at most.")
@click.option("--size", default=128, show_default=True, metavar="PIXELS", help="Side of an image.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Another seed gives other pictures.")
def synthetic(output: Path, images: int, eval_images: int, refs_per_image: int, size: int, seed: int) -> None:
    """Write the synthetic benchmark: pictures of overlapping, textured objects with sentences, in REFER's format.

    The same options give the same files on every machine.

    \b
    Example:
      semires data synthetic --output data/synthetic --images 400
    """
    from semires_trainer.data.synthetic import SyntheticConfig, write_synthetic
    from semires_trainer.telemetry import open_reporter

    config = SyntheticConfig(
        images=images, evaluation_images=eval_images, refs_per_image=refs_per_image, size=size, seed=seed
    )
    with (
        open_reporter(None, job="data synthetic") as reporter,
        reporter.stage("synthetic", images + 3 * eval_images, unit="image", samples_per_unit=1),
    ):
        written = write_synthetic(output, config, progress=lambda done, total: reporter.advance())
    console().print(f"{output}: {'written' if written else 'is there already'}", markup=False, soft_wrap=True)


@data.command()
@job_argument
@json_option
def check(job: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read every picture and draw every mask of the dataset in JOB.yaml; name each that is damaged.

    \b
    Example:
      semires data check job.yaml
    """
    section = load_job(job, overrides).spec.dataset
    from semires_trainer.commands.tables import counts_table
    from semires_trainer.data.images import ImageSource
    from semires_trainer.data.load import load_dataset
    from semires_trainer.survey import count_splits, find_problems
    from semires_trainer.telemetry import open_reporter

    dataset = load_dataset(section)
    counts, problems = count_splits(dataset), []
    images = len({ref.image_id for ref in dataset.refs})
    with (
        open_reporter(None, job="data check") as reporter,
        reporter.stage("check", images, unit="image", samples_per_unit=1),
    ):
        for problem in find_problems(dataset, ImageSource(section.images)):
            reporter.advance()
            problems += [problem] if problem else []
    if as_json:
        splits = {name: vars(found) for name, found in counts.items()}
        console().print_json(data={"dataset": dataset.name, "splits": splits, "problems": problems})
    else:
        console().print(counts_table(counts, title=dataset.name))
        for line in problems[:MAX_SHOWN]:
            click.secho(line, fg="red", err=True)
    if problems:
        raise DataError(f"{len(problems)} of {images} pictures have a problem", remedy="Correct or remove them.")


@data.command()
@job_argument
@click.option("--split", default="train", show_default=True, metavar="NAME", help="Which examples.")
@click.option("--count", default=6, show_default=True, type=click.IntRange(min=1, max=200), metavar="N")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Another seed draws other examples.")
@click.option(
    "--sheet",
    default=Path("examples.png"),
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="Where the picture goes.",
)
def show(job: Path, overrides: tuple[str, ...], split: str, count: int, seed: int, sheet: Path) -> None:
    """Draw examples of the dataset in JOB.yaml, masks laid over the pictures, sentences above.

    \b
    Example:
      semires data show job.yaml --split val --count 12 --sheet val.png
    """
    section = load_job(job, overrides).spec.dataset
    from semires_trainer.data.images import ImageSource
    from semires_trainer.data.load import load_dataset
    from semires_trainer.survey import draw_examples
    from semires_trainer.visualize import save_png

    dataset = load_dataset(section)
    save_png(draw_examples(dataset, ImageSource(section.images), split=split, count=count, seed=seed), sheet)
    console().print(f"{sheet}: {count} examples of {split}", markup=False, soft_wrap=True)
