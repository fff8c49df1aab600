"""The deployable folder: whole or absent, verified before use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semires_trainer.atomic import replace_directory
from semires_trainer.errors import WeightsError
from semires_trainer.models.deploy import ModelInfo, load_model, save_model
from semires_trainer.models.lavt import LAVT

INFO = ModelInfo(image_size=64, max_tokens=8, provenance={"run": "here", "oIoU": 12.5})


@pytest.fixture
def folder(tiny: LAVT, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", tiny, INFO)
    return tmp_path / "model"


def test_a_saved_model_comes_back_whole(tiny: LAVT, folder: Path, batch: Any) -> None:
    model, info = load_model(folder)

    assert info == INFO
    assert model.config == tiny.config
    assert not model.training
    assert torch.equal(model(*batch()), tiny.eval()(*batch()))
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)

    assert torch.equal(torch.get_rng_state(), before)


def test_saving_again_replaces_the_folder_as_a_whole(tiny: LAVT, folder: Path) -> None:
    (folder / "stray").touch()
    save_model(folder, tiny, ModelInfo(image_size=96, max_tokens=8))

    assert load_model(folder)[1].image_size == 96
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert not (folder / "stray").exists()


def test_a_save_that_fails_leaves_the_old_folder_and_no_litter(tiny: LAVT, folder: Path) -> None:
    missing = ModelInfo(image_size=96, max_tokens=8, vocab=folder / "absent.txt")

    with pytest.raises(WeightsError, match=r"cannot read the vocabulary .*absent.txt"):
        save_model(folder, tiny, missing)

    assert load_model(folder)[1] == INFO
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_channels_last_model_is_saved_in_plain_layout(tiny: LAVT, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny.to(memory_format=torch.channels_last), INFO)

    assert all(tensor.is_contiguous() for tensor in load_model(tmp_path / "model")[0].state_dict().values())


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change(**entries: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return apply


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        pytest.param(flip_a_byte, r"model.safetensors is damaged: its sha256 is not", id="flipped-bit"),
        pytest.param(lambda f: (f / "model.safetensors").unlink(), r"model.safetensors is missing", id="no-tensors"),
        pytest.param(lambda f: (f / "model.json").unlink(), r"is no model folder.*semires convert", id="no-json"),
        pytest.param(lambda f: (f / "model.json").write_text("{"), r"does not describe a model", id="broken-json"),
        pytest.param(change(schemaVersion=2), r"schemaVersion is 2, not 1", id="newer-schema"),
        pytest.param(change(sha256={}), r"sha256 must list model.safetensors", id="nothing-listed"),
        pytest.param(change(architecture={"text": {"x": 1}}), r"does not describe a model", id="unknown-field"),
        pytest.param(change(maxTokens=None), r"does not describe a model", id="no-tokens"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(folder)

    with pytest.raises(WeightsError, match=problem):
        load_model(folder)


def test_names_outside_the_folder_are_refused(folder: Path) -> None:
    listed = json.loads((folder / "model.json").read_text())["sha256"]
    change(sha256=listed | {"../secret": "0"})(folder)

    with pytest.raises(WeightsError, match=r"sha256 must list model.safetensors and at most vocab.txt, got .*secret"):
        load_model(folder)


def test_tensors_of_another_architecture_are_listed(folder: Path, tmp_path: Path) -> None:
    description = json.loads((folder / "model.json").read_text())
    change(architecture=description["architecture"] | {"depths": [2, 2, 2, 1]})(folder)

    with pytest.raises(WeightsError, match=r"not for this architecture: 13 missing: .* and 3 more"):
        load_model(folder)


def test_precision_is_kept(tiny: LAVT, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny.double(), INFO)

    assert load_file(tmp_path / "model" / "model.safetensors")["decoder.head.weight"].dtype == torch.float64


def fail_half_way(folder: Path) -> None:
    with replace_directory(folder) as temporary:
        save_file({"a": torch.ones(1)}, temporary / "a.safetensors")
        raise RuntimeError("half way")


def test_a_folder_that_fails_half_way_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(tmp_path / "out")

    assert list(tmp_path.iterdir()) == []
