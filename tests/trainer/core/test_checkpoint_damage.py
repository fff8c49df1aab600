"""Damaged checkpoints: each cut and each flipped bit is noticed before anything is loaded, and what is good stays."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semires_trainer.checkpoint import load_checkpoint
from semires_trainer.checkpoint_folders import (
    checkpoints_of,
    folder_of,
    is_valid,
    manifest_text,
    newest_valid,
    number_of,
    prune_checkpoints,
)
from semires_trainer.errors import WeightsError

FILES = ("manifest.json", "optimizer.safetensors", "state.json", "student.safetensors", "teacher.safetensors")
TRUNCATIONS, FLIPS = 64, 1000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, states: ModuleType) -> Path:
    """Checkpoints 6 and 7: whoever damages one mends it."""
    root = tmp_path_factory.mktemp("pair")
    for number in (6, 7):
        states.save(root, states.state_after(number), number=number)
    return root


def places(folder: Path, count: int) -> list[tuple[Path, int]]:
    """Places in all files together, evenly spread, the first and the last byte of each file among them."""
    sizes = {folder / name: (folder / name).stat().st_size for name in FILES}
    found = [(path, offset) for path, size in sizes.items() for offset in (0, size - 1)]
    rest, total = count - len(found), sum(sizes.values())
    for number in range(rest):
        place = number * total // rest
        for path, size in sizes.items():
            if place < size:
                found.append((path, place))
                break
            place -= size
    return found


def assert_passed_over(pair: Path, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The message names the damaged file; damage to the manifest may read like damage to a file that it lists."""
    caplog.clear()
    assert newest_valid(pair) == folder_of(pair, 6)
    named = path.parent if path.name == "manifest.json" else path
    assert str(named) in caplog.text


def test_each_truncation_is_noticed(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    cuts = places(folder_of(pair, 7), TRUNCATIONS)
    for path, size in cuts:
        content = path.read_bytes()
        path.write_bytes(content[:size])
        assert_passed_over(pair, path, caplog)
        path.write_bytes(content)

    assert len(cuts) == TRUNCATIONS
    assert newest_valid(pair) == folder_of(pair, 7)


def test_each_flipped_bit_is_noticed(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(0)
    flips = places(folder_of(pair, 7), FLIPS)
    for path, offset in flips:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert_passed_over(pair, path, caplog)
        path.write_bytes(content)

    assert len(flips) == FLIPS
    assert newest_valid(pair) == folder_of(pair, 7)


@pytest.fixture
def own_pair(pair: Path, tmp_path: Path) -> Path:
    """Checkpoints 6 and 7 of one's own."""
    return Path(shutil.copytree(pair, tmp_path / "checkpoints"))


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_is_noticed(own_pair: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (folder_of(own_pair, 7) / name).write_bytes(b"")

    assert_passed_over(own_pair, folder_of(own_pair, 7) / name, caplog)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_file_of_another_checkpoint_is_noticed(
    own_pair: Path, name: str, states: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    state = states.state_after(6, seed=5)
    state.progress = states.Progress(stage="train", step=1)
    other = states.save(own_pair / "other", state, number=7)
    shutil.copyfile(other / name, folder_of(own_pair, 7) / name)

    assert_passed_over(own_pair, folder_of(own_pair, 7) / name, caplog)


def test_files_that_took_each_others_place_are_noticed(own_pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = (folder_of(own_pair, 7) / f"{name}.safetensors" for name in ("student", "teacher"))
    aside = student.rename(own_pair / "aside")
    teacher.rename(student)
    aside.rename(teacher)

    assert_passed_over(own_pair, student, caplog)


def rewrite_state(folder: Path, **changes: object) -> None:
    """Another state.json, with a manifest that agrees."""
    state = json.loads((folder / "state.json").read_text())
    content = json.dumps({**state, **changes}).encode()
    (folder / "state.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(manifest_text(manifest))


def assert_refused(folder: Path, states: ModuleType, words: str, *, width: int = 4) -> None:
    """The load is refused in these words and has changed nothing."""
    state, untouched = (states.state_after(1, seed=3, width=width) for _ in range(2))
    assert is_valid(folder)

    with pytest.raises(WeightsError, match=words) as refused:
        load_checkpoint(folder, state)

    assert str(folder) in str(refused.value)
    assert states.difference(state, untouched) == []


def test_an_old_schema_is_refused_before_anything_is_loaded(own_pair: Path, states: ModuleType) -> None:
    folder = folder_of(own_pair, 7)
    rewrite_state(folder, schemaVersion=0)

    assert_refused(folder, states, "another version")


def test_another_model_is_refused_before_anything_is_loaded(own_pair: Path, states: ModuleType) -> None:
    assert_refused(
        folder_of(own_pair, 7), states, r"student\.safetensors has 0\.bias \(4,\), wanted is \(5,\)", width=5
    )


def test_moments_of_another_model_are_refused_before_anything_is_loaded(own_pair: Path, states: ModuleType) -> None:
    state = states.state_after(1)
    name = next(iter(state.parameter_names))
    state.parameter_names[name] = "elsewhere.weight"
    folder = states.save(own_pair, state, number=8)

    assert_refused(folder, states, r"optimizer\.safetensors has elsewhere\.weight/\w+, there is no such parameter")


def test_moments_of_another_shape_are_refused_before_anything_is_loaded(own_pair: Path, states: ModuleType) -> None:
    state = states.state_after(1)
    parameter = next(iter(state.parameter_names))
    state.optimizer.state[parameter]["exp_avg"] = torch.zeros(3)
    folder = states.save(own_pair, state, number=8)

    assert_refused(
        folder, states, r"optimizer\.safetensors has 0\.weight/exp_avg \(3,\), the parameter is \(4, 1, 3, 3\)"
    )


def write_small(root: Path, number: int) -> None:
    """The least that counts as a checkpoint."""
    folder = folder_of(root, number)
    folder.mkdir(parents=True)
    manifest = {}
    for name in ("state.json", "student.safetensors"):
        content = f"{name} {number}".encode()
        (folder / name).write_bytes(content)
        manifest[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(manifest_text(manifest))


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.sets(st.integers(0, 40), min_size=1, max_size=9),
    damaged=st.sets(st.integers(0, 40), max_size=9),
    aside=st.sets(st.integers(0, 40), max_size=3),
    keep_last=st.integers(1, 4),
    keep_numbers=st.sets(st.integers(0, 40), max_size=4),
)
def test_pruning_never_takes_the_last_valid_checkpoint(
    numbers: set[int], damaged: set[int], aside: set[int], keep_last: int, keep_numbers: set[int]
) -> None:
    """Whatever is damaged; `aside`: a replacement of these was cut short before the new one had its name."""
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        for number in numbers:
            write_small(root, number)
            folder = folder_of(root, number)
            if number in aside:
                folder = folder.rename(folder.with_name(f"{folder.name}.replaced"))
            if number in damaged:
                (folder / "state.json").write_bytes(b"")
        before = newest_valid(root)

        prune_checkpoints(root, keep_last=keep_last, keep_numbers=keep_numbers)

        left = {number_of(path) for path in checkpoints_of(root)}
        newest = set(sorted(numbers)[-keep_last:])
        assert newest_valid(root) == before
        assert left == (newest | keep_numbers & numbers if newest - damaged else numbers)


def test_of_a_thousand_checkpoints_the_last_the_best_and_the_milestones_are_left(tmp_path: Path) -> None:
    for number in range(1000):
        write_small(tmp_path, number)

    prune_checkpoints(tmp_path, keep_last=3, keep_numbers={123, 250, 500, 750})

    assert [number_of(path) for path in checkpoints_of(tmp_path)] == [123, 250, 500, 750, 997, 998, 999]
