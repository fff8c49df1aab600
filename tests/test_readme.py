"""What README, guides and examples show is run: commands, manifests, snippets."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import pickle
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from click.testing import Result
from PIL import Image

from semires_trainer.cli import main
from semires_trainer.commands.frame import load_job
from semires_trainer.config import resolve
from semires_trainer.data.custom import load_custom
from semires_trainer.data.masks import rasterize
from semires_trainer.data.records import Annotation
from semires_trainer.results import BURN_IN, TEACHER, read_results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
QUICKSTART = ROOT / "examples" / "quickstart.yaml"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}

Words = list[str]
Semires = Callable[..., Result]


def blocks(page: str, language: str = r"\w*") -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def commands_in(text: str, prefix: str = "") -> list[Words]:
    """The `semires` and `make` lines of a text as words, without their comments."""
    lines = re.findall(rf"^{prefix}((?:semires|make) .*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def examples_in_help(command: click.Command) -> Iterator[Words]:
    """The lines that the help of a command and of those below it gives as examples."""
    for line in re.findall(r"^\s+(semires .*)$", command.help or "", re.MULTILINE):
        yield shlex.split(re.split(r" {2,}", line)[0])
    for below in getattr(command, "commands", {}).values():
        yield from examples_in_help(below)


def shown_lines() -> dict[str, list[Words]]:
    """Where -> whole command lines."""
    yaml = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.yaml"))}
    return {
        **{name: [words for block in blocks(page) for words in commands_in(block)] for name, page in PAGES.items()},
        **{name: commands_in(text, prefix="# +") for name, text in yaml.items()},
        "--help": list(examples_in_help(main)),
    }


def named_in_prose() -> dict[str, list[Words]]:
    """Where -> commands in code spans, which may leave out what they need, or list several with `|`."""
    found = {name: re.findall(r"`((?:semires|make) [^`|]+)`", page) for name, page in PAGES.items()}
    return {name: [shlex.split(span) for span in spans] for name, spans in found.items()}


def cases(places: Mapping[str, Sequence[Words]], program: str) -> list[Any]:
    return [
        pytest.param(words, id=f"{place}: {' '.join(words)[:70]}")
        for place, lines in places.items()
        for words in lines
        if words[0] == program
    ]


def parse(words: Words) -> dict[str, Any]:
    """The parameters of a `semires` line, parsed and not run; click's error if it is none."""
    command, rest = main, words[1:]
    while isinstance(command, click.Group) and rest:
        command, rest = command.commands[rest[0]], rest[1:]
    if isinstance(command, click.Group):
        return {}
    with command.make_context(words[1], rest) as context:
        return context.params


SHOWN, NAMED = shown_lines(), named_in_prose()


@pytest.mark.parametrize("words", cases(SHOWN, "semires"))
def test_a_command_line_that_is_shown_parses(words: Words) -> None:
    assert parse(words)


@pytest.mark.parametrize("words", cases(NAMED, "semires"))
def test_a_command_that_is_named_exists(words: Words) -> None:
    """Without what it needs: prose leaves that out."""
    with contextlib.suppress(click.MissingParameter):
        parse(words)


@pytest.mark.parametrize("words", [case for case in cases(SHOWN, "semires") if "--set" in case.values[0]])
def test_a_value_that_is_shown_is_one_of_the_manifest(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parameters = parse(words)
    manifest = parameters["job"] if parameters["job"].exists() else QUICKSTART

    assert resolve(load_job(manifest, parameters["overrides"])).training


@pytest.mark.parametrize("words", [*cases(SHOWN, "make"), *cases(NAMED, "make")])
def test_a_target_that_is_shown_exists(words: Words) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE)

    assert set(words[1:]) <= set(targets)


def test_every_line_of_the_readme_is_one_of_these_tests() -> None:
    """Those of kubectl are run by tests/operator/shown."""
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    (bin_folder,) = re.findall(r"^BIN := (.*)$", MAKEFILE, re.MULTILINE)

    others = [line for line in lines if line.split()[0] not in {"semires", "make", "kubectl"}]

    assert others == [f"source {bin_folder}/activate"]


def test_the_readme_names_every_command() -> None:
    (span,) = re.findall(r"`semires (run \|[^`]+)`", README)

    assert span.split(" | ") == list(main.commands)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGES[name])
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (ROOT / name).parent.joinpath(link).exists()] == []


SMALLER = {
    "data": ["--images", "14", "--eval-images", "2"],
    "run": [
        *("--set", 'dataset.labeled.percent="50"'),
        *("--set", "training.burnInEpochs=2", "--set", "training.checkpoint.intervalSteps=2"),
    ],
}
"""Options after those shown count: 7 labelled images instead of 37, 2 steps of burn-in instead of 400."""


def quickstart(semires: Semires, folder: Path, more: Mapping[str, Words]) -> list[Result]:
    """What `make quickstart` runs, in a folder that has the examples; `more` options by command."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    (recipe,) = re.findall(r"^quickstart:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    lines = [shlex.split(line.removeprefix("\t$(BIN)/")) for line in recipe.splitlines()]
    return [semires(*words[1:], *more.get(words[1], ()), folder=folder) for words in lines]


@pytest.fixture(scope="module")
def quick(semires: Semires, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """The folder of a small quickstart and what its commands said."""
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, quickstart(semires, folder, SMALLER)


def test_the_quickstart_ends_with_a_table(quick: tuple[Path, list[Result]]) -> None:
    _, results = quick

    assert [result.exit_code for result in results] == [0, 0], results[-1].output
    assert "SemiRES teacher" in results[-1].stdout
    assert results[-1].stdout.splitlines()[-1] == "Everything is in runs/quickstart"


@pytest.mark.parametrize(
    "pattern",
    [
        *("model/model.safetensors", "model/model.json", "checkpoints/step-*/state.json", "results.json"),
        *("events/*tfevents*", "curves.png", "overlays/sheet.png"),
    ],
)
def test_the_quickstart_leaves_what_the_readme_promises(quick: tuple[Path, list[Result]], pattern: str) -> None:
    files = list((quick[0] / "runs" / "quickstart").glob(pattern))

    assert files
    assert all(path.stat().st_size > 0 for path in files)


def test_the_readme_then_predicts_on_a_picture(quick: tuple[Path, list[Result]], semires: Semires) -> None:
    (words,) = [words for words in SHOWN["README.md"] if words[1] == "predict"]

    result = semires(*words[1:], folder=quick[0])

    assert result.exit_code == 0, result.output
    with Image.open(quick[0] / "overlay.png") as overlay:
        assert overlay.size == (128, 128)


def test_the_ablation_of_the_synthetic_benchmark_starts_from_the_quickstart(
    quick: tuple[Path, list[Result]], semires: Semires
) -> None:
    (words,) = [words for words in SHOWN["docs/synthetic.md"] if words[1] == "run"]

    result = semires(*words[1:], *SMALLER["run"][:2], folder=quick[0])

    assert result.exit_code == 0, result.output
    burn_in, other = (
        [score for score in read_results(quick[0] / "runs" / name / "results.json").scores if score.model == BURN_IN]
        for name in ("quickstart", "none")
    )
    assert burn_in == other


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_quickstart_as_it_stands_gains_on_every_split(semires: Semires, tmp_path: Path) -> None:
    results = quickstart(semires, tmp_path, {})

    assert [result.exit_code for result in results] == [0, 0], results[-1].output
    scores = read_results(tmp_path / "runs" / "quickstart" / "results.json")
    for split in ("val", "testA", "testB"):
        for size in scores.sizes():
            first, last = (scores.find(model, split, size) for model in (BURN_IN, TEACHER))
            assert last.overall_iou > first.overall_iou, (split, size)


MANIFEST_NAME = "refcoco-1pct.yaml"
"""By which the README calls the manifest that it shows."""
SPLITS = {"train": 100, "val": 2, "testA": 1, "testB": 1}
OBJECTS = 9


def refer_documents() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """REFER's refs and instances of 104 pictures with 9 people each."""
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    refs: list[dict[str, Any]] = []
    instances: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for image_id, split in enumerate(splits, start=1):
        name = f"COCO_train2014_{image_id:012d}"
        instances["images"].append({"id": image_id, "file_name": f"{name}.jpg", "height": 48, "width": 64})
        for place in range(OBJECTS):
            key, left = OBJECTS * image_id + place, 7 * place
            outline = [left, 4, left + 6, 4, left + 6, 40, left, 40]
            object_of = {"image_id": image_id, "category_id": 1}
            box = {"bbox": [left, 4, 6, 36], "area": 216, "iscrowd": 0}
            instances["annotations"].append({"id": key, **object_of, **box, "segmentation": [outline]})
            text = f"man number {place} from the left"
            sentence = {"sent_id": key, "sent": text, "raw": text.title(), "tokens": text.split()}
            names = {"ref_id": key, "ann_id": key, "file_name": f"{name}_{key}.jpg", "sent_ids": [key]}
            refs.append({**names, **object_of, "split": split, "sentences": [sentence]})
    return refs, instances


@pytest.fixture(scope="module")
def refcoco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the manifest of the README and, in small, every file that it names."""
    folder = tmp_path_factory.mktemp("refcoco")
    (folder / MANIFEST_NAME).write_text(blocks(README, "yaml")[0])
    refs, instances = refer_documents()
    annotations = folder / "data" / "refer" / "refcoco"
    annotations.mkdir(parents=True)
    (annotations / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (annotations / "instances.json").write_text(json.dumps(instances))
    with zipfile.ZipFile(folder / "data" / "train2014.zip", "w") as archive:
        for image in instances["images"]:
            picture, shade = io.BytesIO(), image["id"]
            Image.new("RGB", (image["width"], image["height"]), (shade, 2 * shade, 128)).save(picture, "JPEG")
            archive.writestr(f"train2014/{image['file_name']}", picture.getvalue())
    (folder / "weights").mkdir()
    (folder / "weights" / "sam_vit_h_4b8939.pth").touch()
    return folder


def test_the_manifest_of_the_readme_is_the_paper(refcoco: Path) -> None:
    resolved = resolve(load_job(refcoco / MANIFEST_NAME, ()))

    assert (resolved.training.preset, resolved.model.image_size, resolved.refinement.strategy) == (
        "Paper",
        480,
        "CPI-U",
    )
    assert (resolved.dataset.labeled_percent, resolved.proposals.generator) == ("1", "SAM")


def test_the_readme_plans_its_manifest(refcoco: Path, semires: Semires) -> None:
    (words,) = [words for words in SHOWN["README.md"] if words[1] == "plan"]

    result = semires(*words[1:], folder=refcoco)
    found = json.loads(semires(*words[1:], "--json", folder=refcoco).stdout)

    assert result.exit_code == 0, result.output
    assert found["problems"] == []
    assert (found["dataset"]["labeled"]["images"], found["dataset"]["unlabeled"]["images"]) == (1, 99)
    assert (found["proposals"]["generator"], found["proposals"]["images"]) == ("SAM", 100)


def test_the_readme_examines_its_manifest(refcoco: Path, semires: Semires) -> None:
    (words,) = [words for words in SHOWN["README.md"] if words[1] == "doctor"]

    lines = semires(*words[1:], folder=refcoco).stdout.splitlines()

    (line,) = [line for line in lines if line.split()[1] == "Job"]
    assert line.split() == ["OK", "Job", "refcoco-1pct:", "every", "local", "file", "is", "there"]


def test_the_example_for_a_cluster_without_gpus_reads_what_its_head_makes(semires: Semires, tmp_path: Path) -> None:
    """The folder it uploads to s3://data, read where it lies."""
    manifest = ROOT / "manifests" / "examples" / "cpu.yaml"
    (words,) = commands_in(manifest.read_text(encoding="utf-8"), prefix="# +")
    fields = {"dataset.annotations": "", "dataset.images": "/images", "model.vocab": "/vocab.txt"}
    local = [f"--set={field}=synthetic{rest}" for field, rest in fields.items()]

    made = semires(*words[1:], "--images", "40", "--eval-images", "2", folder=tmp_path)
    planned = semires("plan", manifest, *local, "--set=output=run", "--set=storage=null", "--json", folder=tmp_path)

    assert (made.exit_code, planned.exit_code) == (0, 0), planned.output
    plan = json.loads(planned.stdout)
    assert (plan["problems"], plan["dataset"]["labeled"]["images"]) == ([], 4)
    given = yaml.safe_load(manifest.read_text(encoding="utf-8"))["spec"]
    uploaded = re.findall(r"aws s3 cp --recursive synthetic (\S+)", manifest.read_text(encoding="utf-8"))
    assert [given["dataset"]["annotations"]] == uploaded


def test_the_guide_turns_pixels_into_an_outline() -> None:
    code = next(block for block in blocks(PAGES["docs/custom-data.md"], "python") if "pixels" in block)
    pixels = np.random.default_rng(0).integers(0, 2, (5, 7))
    names: dict[str, Any] = {"pixels": pixels}

    exec(code, names)

    outline = json.loads(json.dumps(names["rle"]))
    annotation = Annotation(id=1, image_id=1, category_id=0, bbox=(0, 0, 7, 5), iscrowd=False, segmentation=outline)
    assert np.array_equal(rasterize(annotation, 5, 7), pixels)


def test_the_guide_merges_an_export_with_a_table_of_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for block in blocks(PAGES["docs/custom-data.md"], "python") if "sentences.csv" in block)
    document = json.loads((ROOT / "examples" / "photos" / "annotations.json").read_text())
    rows = [(item["id"], text) for item in document["annotations"] for text in item.pop("expressions")]
    (tmp_path / "export.json").write_text(json.dumps(document))
    with (tmp_path / "sentences.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("annotation", "sentence"), *rows])
    monkeypatch.chdir(tmp_path)

    exec(code, {})

    merged = load_custom("Custom", tmp_path / "annotations.json")
    assert sum(len(ref.expressions) for ref in merged.refs) == len(rows)
    assert set(merged.splits) == {"train", "val"}
    assert set(merged.images) == {image["id"] for image in document["images"]}
