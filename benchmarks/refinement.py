"""What refinement is worth: oIoU of each strategy on the synthetic benchmark, all from the same burn-in model.

    python benchmarks/refinement.py --folder FOLDER [--seed 0 --seed 1 --seed 2]

For each seed the quickstart runs whole (its strategy is CPI-U); the others start from its burn-in model and use its
proposals. Runs that are in FOLDER already are read, not repeated, so that several processes may share the seeds.
"""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path

import click
from harness import PROGRAM, QUICKSTART, environment, settings

from semires_trainer.results import BURN_IN, ORIGINAL, TEACHER, TITLES, read_results

FULL = "CPI-U"
OTHERS = ("None", "IOM", "CPI", "CPI-O")
SPLITS = ("val", "testA", "testB")
Figures = dict[str, float]


def semires(folder: Path, *arguments: str) -> None:
    """Run the program in the benchmark's folder; its bars and messages are shown."""
    subprocess.run([*PROGRAM, *arguments], cwd=folder, env=environment(), check=True)


def figures(output: Path, model: str) -> Figures:
    """oIoU in percent of a model of a run, per split, at the training size."""
    scores = read_results(output / "results.json").scores
    return {s.split: s.overall_iou for s in scores if s.model == model and s.size != ORIGINAL}


def run_seed(folder: Path, seed: int) -> dict[str, Figures]:
    """All strategies with one seed: strategy -> split -> oIoU."""
    whole = f"seed-{seed}"
    if not (folder / whole / "results.json").is_file():
        semires(folder, "run", str(QUICKSTART), "--output", whole, "--set", f"training.seed={seed}")
    for strategy in OTHERS:
        if (folder / f"{whole}-{strategy}" / "results.json").is_file():
            continue
        changes = {
            "training.seed": seed,
            "training.burnInEpochs": "null",
            "refinement.strategy": strategy,
            "model.initFrom": f"{whole}/burn-in",
            "proposals.store": f"{whole}/proposals",
        }
        semires(folder, "run", str(QUICKSTART), "--output", f"{whole}-{strategy}", *settings(changes))
    outputs = {FULL: folder / whole, **{name: folder / f"{whole}-{name}" for name in OTHERS}}
    return {TITLES[BURN_IN]: figures(folder / whole, BURN_IN)} | {
        name: figures(output, TEACHER) for name, output in outputs.items()
    }


def table(results: dict[int, dict[str, Figures]]) -> str:
    """Mean over seeds, and each seed's figure in brackets."""
    lines = [f"| strategy | {' | '.join(SPLITS)} |", "|---" * (len(SPLITS) + 1) + "|"]
    for strategy in (TITLES[BURN_IN], *OTHERS, FULL):
        cells = []
        for split in SPLITS:
            values = [one[strategy][split] for one in results.values()]
            cells.append(f"{statistics.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})")
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="Where data and runs go.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2), show_default=True)
def main(folder: Path, seeds: tuple[int, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    semires(folder, "data", "synthetic", "--output", "synthetic", "--images", "1500", "--eval-images", "50")
    click.echo(table({seed: run_seed(folder.resolve(), seed) for seed in seeds}))


if __name__ == "__main__":
    main()
