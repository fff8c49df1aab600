"""Checkpoints: exact, verified before use, never mixed between runs, pruned without losing the last good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from semires_trainer.checkpoint import load_checkpoint
from semires_trainer.checkpoint_folders import (
    Progress,
    Summary,
    checkpoints_of,
    fault_of,
    newest_valid,
    prune_checkpoints,
    read_progress,
    read_summary,
)
from semires_trainer.errors import WeightsError


def test_what_is_saved_is_loaded_exactly(tmp_path: Path, states: ModuleType) -> None:
    saved, loaded = states.state_after(3), states.state_after(0, seed=1)
    loaded.progress = Progress(stage="train")

    load_checkpoint(states.save(tmp_path, saved, number=7), loaded)

    assert states.difference(saved, loaded) == []


def test_an_optimizer_continues_exactly(tmp_path: Path, states: ModuleType) -> None:
    saved, loaded = states.state_after(3), states.state_after(0, seed=1)
    load_checkpoint(states.save(tmp_path, saved, number=7), loaded)
    picture = torch.randn(2, 1, 8, 8)
    for state in (saved, loaded):
        state.optimizer.zero_grad()
        state.student(picture).square().mean().backward()
        state.optimizer.step()

    assert states.difference(saved, loaded) == []


def test_a_checkpoint_tells_what_a_ledger_needs_without_torch(tmp_path: Path, states: ModuleType) -> None:
    folder = states.save(tmp_path, states.state_after(1), number=107)

    assert read_summary(folder) == Summary(
        number=107, stage="train", step=7, epoch=2, steps_per_epoch=3, best_oiou=12.5, oiou=None, finished=False
    )


def test_burn_in_has_no_teacher(tmp_path: Path, states: ModuleType) -> None:
    state = states.state_after(1)
    state.teacher = None

    folder = states.save(tmp_path, state, number=1)

    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
        "student.safetensors",
    ]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, states: ModuleType) -> Path:
    """Checkpoints 6 and 7, shared: written once, because each write waits for the disk."""
    root = tmp_path_factory.mktemp("pristine")
    for number in (6, 7):
        states.save(root, states.state_after(number), number=number)
    return root


@pytest.fixture
def pair(pristine: Path, tmp_path: Path) -> Path:
    """Checkpoints 6 and 7 of one's own."""
    return Path(shutil.copytree(pristine, tmp_path / "checkpoints"))


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [remove, truncate, flip_a_bit])
@pytest.mark.parametrize(
    "name", ["student.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_file_is_noticed_and_the_older_checkpoint_chosen(
    pair: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = checkpoints_of(pair)
    assert newest_valid(pair) == newer

    damage(newer / name)

    assert newest_valid(pair) == older
    assert str(newer) in caplog.text
    assert fault_of(newer) is not None


def test_a_manifest_that_lists_nothing_is_no_checkpoint(pair: Path) -> None:
    for folder in checkpoints_of(pair):
        (folder / "manifest.json").write_text("{}")

    assert newest_valid(pair) is None


def test_other_folders_are_no_checkpoints(pair: Path) -> None:
    (pair / "step-mine").mkdir()
    (pair / "step-00000009").write_text("a file")

    prune_checkpoints(pair, keep_last=1)

    assert checkpoints_of(pair) == [pair / "step-00000007"]


def test_a_checkpoint_of_another_run_is_refused_naming_both(tmp_path: Path, states: ModuleType) -> None:
    folder = states.save(tmp_path, states.state_after(1, identity="a" * 64), number=6)

    with pytest.raises(WeightsError, match=r"another training configuration \(a{12}, this one is b{12}\)"):
        load_checkpoint(folder, states.state_after(0, identity="b" * 64))


def test_a_checkpoint_of_another_version_is_refused(pair: Path) -> None:
    folder = checkpoints_of(pair)[0]
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "schemaVersion": 99}))

    with pytest.raises(WeightsError, match="another version"):
        read_progress(folder, identity="one")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, states: ModuleType) -> None:
    folder = states.save(tmp_path, states.state_after(1, width=4), number=6)

    with pytest.raises(WeightsError, match=r"step-00000006 does not fit this model.*empty output") as refused:
        load_checkpoint(folder, states.state_after(0, width=5))

    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 3


def test_a_checkpoint_that_holds_this_progress_is_kept_as_it_is(tmp_path: Path, states: ModuleType) -> None:
    state = states.state_after(1)
    folder = states.save(tmp_path, state, number=6)
    written = (folder / "student.safetensors").stat().st_mtime_ns

    states.save(tmp_path, state, number=6)

    assert (folder / "student.safetensors").stat().st_mtime_ns == written


def test_a_checkpoint_of_the_same_step_is_replaced_when_more_is_known(tmp_path: Path, states: ModuleType) -> None:
    """Saved at an epoch end, then again after its evaluation."""
    state = states.state_after(1)
    states.save(tmp_path, state, number=6)
    state.progress = replace(states.PROGRESS, finished=True)

    folder = states.save(tmp_path, state, number=6)

    assert read_progress(folder, identity="one").finished
    assert checkpoints_of(tmp_path) == [folder]


def test_a_replacement_that_was_cut_short_leaves_the_old_one_usable(pair: Path, states: ModuleType) -> None:
    older, newer = checkpoints_of(pair)
    aside = newer.rename(pair / "step-00000007.replaced")

    assert newest_valid(pair) == aside

    again = states.save(pair, states.state_after(1), number=7)
    assert checkpoints_of(pair) == [older, again]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, states: ModuleType) -> None:
    state = states.state_after(1)
    state.progress = replace(states.PROGRESS, best_oiou=object())  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        states.save(tmp_path, state, number=6)

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def seven(pair: Path) -> Path:
    """Checkpoints 1 to 7."""
    for number in range(1, 6):
        shutil.copytree(pair / "step-00000006", pair / f"step-{number:08d}")
    return pair


def numbers_in(root: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints_of(root)]


@pytest.mark.parametrize(
    ("keep_last", "keep_numbers", "left"),
    [
        pytest.param(2, (), [6, 7], id="the-last-two"),
        pytest.param(1, (), [7], id="the-last"),
        pytest.param(2, {3, 6}, [3, 6, 7], id="some-for-good"),
        pytest.param(9, (), [1, 2, 3, 4, 5, 6, 7], id="more-than-there-are"),
    ],
)
def test_old_checkpoints_are_pruned(seven: Path, keep_last: int, keep_numbers: set[int], left: list[int]) -> None:
    prune_checkpoints(seven, keep_last=keep_last, keep_numbers=keep_numbers)

    assert numbers_in(seven) == left


def test_nothing_is_pruned_while_none_of_the_newest_is_valid(seven: Path) -> None:
    for number in (6, 7):
        remove(seven / f"step-{number:08d}" / "student.safetensors")

    prune_checkpoints(seven, keep_last=2)

    assert numbers_in(seven) == [1, 2, 3, 4, 5, 6, 7]


def test_leftovers_of_interrupted_writes_are_removed(seven: Path) -> None:
    (seven / ".step-00000008.0f.tmp").mkdir()

    prune_checkpoints(seven, keep_last=9)

    assert list(seven.glob(".*")) == []


def test_progress_keeps_the_best_and_counts_epochs_without_gain() -> None:
    progress = Progress(stage="train", step=3)
    counts = []
    for step, oiou in ((3, 10.0), (6, 9.0), (9, 10.0), (12, 11.0)):
        progress = replace(progress, step=step).with_evaluation(oiou)
        counts.append((progress.best_step, progress.epochs_without_gain))

    assert counts == [(3, 0), (3, 1), (3, 2), (12, 0)]
    assert progress.evaluated_step == 12


@pytest.mark.parametrize(
    ("progress", "past_burn_in", "past_train"),
    [
        pytest.param(Progress(stage="burn-in", step=5), False, False, id="in-burn-in"),
        pytest.param(Progress(stage="burn-in", finished=True), True, False, id="burn-in-finished"),
        pytest.param(Progress(stage="train", step=5), True, False, id="in-mutual-learning"),
        pytest.param(Progress(stage="train", finished=True), True, True, id="all-finished"),
    ],
)
def test_progress_knows_which_stages_are_past(progress: Progress, past_burn_in: bool, past_train: bool) -> None:
    assert progress.past("burn-in") is past_burn_in
    assert progress.past("train") is past_train
