"""Official checkpoints: read safely, converted exactly, written back."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semires_trainer.errors import WeightsError
from semires_trainer.models.convert import convert_checkpoint, read_official, to_official
from semires_trainer.models.deploy import load_model
from semires_trainer.models.lavt import LAVT

Official = dict[str, dict[str, torch.Tensor]]


def plain(official: Official) -> dict[str, Any]:
    return official


def with_namespace(official: Official) -> dict[str, Any]:
    """As the official training script saves it."""
    arguments = Namespace(img_size=64, mha="", swin_type="base", lr=5e-5, device="cuda:0")
    return {**official, "args": arguments, "epoch": 7, "optimizer": {"state": {}, "param_groups": []}}


def from_ddp(official: Official) -> dict[str, Any]:
    return {part: {f"module.{name}": t for name, t in state.items()} for part, state in official.items()}


def lavt_one(official: Official) -> dict[str, Any]:
    """One model with the text encoder, pooler included, inside."""
    text = {f"text_encoder.{name}": tensor for name, tensor in official["bert_model"].items()}
    return {"model": official["model"] | text | {"text_encoder.pooler.dense.bias": torch.ones(24)}}


@pytest.mark.parametrize("form", [plain, with_namespace, from_ddp, lavt_one])
def test_each_published_form_converts_back_to_the_same_weights(
    tiny: LAVT, tmp_path: Path, form: Callable[[Official], dict[str, Any]]
) -> None:
    torch.save(form(to_official(tiny)), tmp_path / "model_best.pth")

    found = read_official(tmp_path / "model_best.pth", text_heads=2)

    assert set(found.state) == set(tiny.state_dict())
    assert all(torch.equal(found.state[name], tensor) for name, tensor in tiny.state_dict().items())


def test_the_architecture_is_read_off_the_tensors(tiny: LAVT, tmp_path: Path) -> None:
    torch.save(with_namespace(to_official(tiny)), tmp_path / "model_best.pth")

    config = read_official(tmp_path / "model_best.pth", text_heads=2).config

    ours = tiny.config
    for name in ("embed_dim", "depths", "heads", "window", "image_size", "fusion_heads"):
        assert getattr(config, name) == getattr(ours, name), name
    for name in ("vocab_size", "hidden_size", "layers", "heads", "intermediate_size", "max_positions"):
        assert getattr(config.text, name) == getattr(ours.text, name), name


def test_exported_names_are_all_the_official_ones(tiny: LAVT) -> None:
    official = to_official(tiny)

    indices = [name for name in official["model"] if name.endswith("relative_position_index")]
    assert len(indices) == sum(tiny.config.depths)
    assert official["model"]["backbone.layers.3.res_gate.2.weight"].shape == (64, 64)
    assert official["model"]["backbone.layers.2.fusion.image_lang_att.W.0.weight"].shape == (32, 32, 1)
    assert len(official["bert_model"]) == 37


def test_a_converted_checkpoint_is_a_model_folder_that_names_its_source(tiny: LAVT, tmp_path: Path, batch: Any) -> None:
    source, vocab = tmp_path / "model_best.pth", tmp_path / "words.txt"
    torch.save(with_namespace(to_official(tiny)), source)
    vocab.write_text("[PAD]\n")

    convert_checkpoint(source, tmp_path / "out", vocab=vocab, max_tokens=8, text_heads=2)
    model, info = load_model(tmp_path / "out")

    assert torch.equal(model(*batch()), tiny.eval()(*batch()))
    assert (info.image_size, info.max_tokens) == (64, 8)
    assert info.vocab is not None
    assert info.vocab.read_text() == "[PAD]\n"
    assert info.provenance["source"] == "model_best.pth"
    assert len(info.provenance["sha256"]) == 64


class Attack:
    """Runs code when unpickled without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_that_calls_code_is_refused_and_not_executed(tiny: LAVT, tmp_path: Path) -> None:
    torch.save({**to_official(tiny), "args": Attack(tmp_path / "executed")}, tmp_path / "evil.pth")

    with pytest.raises(WeightsError, match=r"evil.pth is damaged or asks for code to be run; refused"):
        convert_checkpoint(tmp_path / "evil.pth", tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param({"state": {}}, "it has no entry 'model'", id="no-model"),
        pytest.param([1, 2], "it has no entry 'model'", id="a-list"),
        pytest.param({"model": {"a": 1}}, "entries that are not tensors: a", id="numbers"),
        pytest.param({"model": {"a": torch.ones(1)}}, "no LAVT checkpoint with four Swin stages", id="other-model"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, problem: str) -> None:
    torch.save(content, tmp_path / "x.pth")

    with pytest.raises(WeightsError, match=problem):
        read_official(tmp_path / "x.pth")


def test_missing_and_foreign_tensors_are_listed(tiny: LAVT, tmp_path: Path) -> None:
    official = to_official(tiny)
    del official["model"]["backbone.norm2.bias"]
    official["model"]["backbone.extra"] = torch.ones(1)
    torch.save(official, tmp_path / "x.pth")

    with pytest.raises(WeightsError, match=r"1 missing: backbone.norm2.bias; 1 foreign: backbone.extra"):
        read_official(tmp_path / "x.pth", text_heads=2)


@pytest.mark.parametrize("kept", [0, 100, 20_000])
def test_a_truncated_checkpoint_is_refused(tiny: LAVT, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.pth"
    torch.save(to_official(tiny), path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(WeightsError, match=r"x.pth is "):
        read_official(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent.pth is not a readable checkpoint: .*No such file"):
        convert_checkpoint(tmp_path / "absent.pth", tmp_path / "out")
