"""The network against the published implementation's numbers (tests/data/vectors/lavt).

SEMIRES_VECTORS names a folder with further cases in `lavt/`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from semires_trainer.models.convert import from_official, official_name
from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.text import TextConfig, encode_text

HERE = Path(__file__).resolve().parents[2] / "data" / "vectors" / "lavt"
MORE = [Path(os.environ["SEMIRES_VECTORS"]) / "lavt"] if "SEMIRES_VECTORS" in os.environ else []
CASES = {path.stem: path for folder in [HERE, *MORE] for path in sorted(folder.glob("*_w*.json"))}
GRADIENTS = HERE / "dev_grad.json"


@dataclass
class Case:
    about: dict[str, Any]
    tensors: dict[str, Tensor]
    model: LAVT


def config_of(about: dict[str, Any]) -> LAVTConfig:
    swin, bert = about["swin"], about["bert"]
    no_bert = TextConfig(vocab_size=2, hidden_size=swin["text_dim"], layers=0, max_positions=1)
    text = (
        no_bert
        if bert is None
        else TextConfig(
            vocab_size=bert["vocab_size"],
            hidden_size=bert["hidden_size"],
            layers=bert["num_hidden_layers"],
            heads=bert["num_attention_heads"],
            intermediate_size=bert["intermediate_size"],
            max_positions=bert["max_position_embeddings"],
        )
    )
    return LAVTConfig(
        embed_dim=swin["embed_dim"],
        depths=tuple(swin["depths"]),
        heads=tuple(swin["num_heads"]),
        window=swin["window_size"],
        fusion_heads=tuple(swin["fusion_heads"]),
        drop_path=0.0,
        text=text,
    )


def load_case(path: Path) -> Case:
    about = json.loads(path.read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    model = LAVT(config_of(about)).eval()
    official = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    official = {
        name: value
        for name, value in official.items()
        if not name.endswith("relative_position_index") and "layers.3.res_gate" not in name
    }
    bert = {name.replace("bert_model.", "text.", 1): t for name, t in tensors.items() if name.startswith("bert_model.")}
    official |= bert or {f"text.{name}": value for name, value in model.text.state_dict().items()}
    model.load_state_dict(from_official(official, model.config, where=path.name))
    return Case(about, tensors, model)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


def run(case: Case, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], Tensor]:
    """Text features, stage outputs and logits in `dtype`."""
    model, tensors = case.model.to(dtype), case.tensors
    mask, image = tensors["attention_mask"], tensors["image"].to(dtype)
    with torch.inference_mode():
        if case.about["bert"] is None:
            text = tensors["text_features"].to(dtype)
        else:
            text = encode_text(model.text, tensors["input_ids"], mask)
        return text, model.stage_outputs(image, text, mask), model.forward_from_text(image, text, mask)


def test_logits_in_float64_equal_the_published_network(case: Case) -> None:
    _, _, logits = run(case, torch.float64)

    torch.testing.assert_close(
        logits, case.tensors["logits_float64"], rtol=0, atol=case.about["tolerance"]["logits_float64"]
    )


def test_float32_results_are_within_the_stated_tolerances(case: Case) -> None:
    text, stages, logits = run(case, torch.float32)

    tolerance = case.about["tolerance"]
    torch.testing.assert_close(text, case.tensors["text_features"], rtol=0, atol=tolerance["text_features"])
    for index, stage in enumerate(stages):
        expected = case.tensors[f"stage_outputs.{index}"]
        torch.testing.assert_close(stage, expected, rtol=0, atol=tolerance["stage_outputs"])
    torch.testing.assert_close(logits, case.tensors["logits"], rtol=0, atol=tolerance["logits"])
    assert torch.equal(logits.argmax(1), case.tensors["logits_float64"].argmax(1))


def test_every_position_bias_pairs_tokens_as_the_published_index_does(case: Case) -> None:
    stored = {name: t for name, t in case.tensors.items() if name.endswith("relative_position_index")}
    assert bool(stored) == case.about["relative_position_index_stored"]

    ours = case.model.backbone.layers[0].blocks[0].attn.relative_position_index

    assert all(torch.equal(ours, theirs) for theirs in stored.values())


@pytest.fixture(scope="module")
def training_pass() -> tuple[Case, dict[str, Any], dict[str, Tensor], Tensor, Tensor]:
    """One pass in train mode (BERT in eval mode) in float64, with the burn-in loss."""
    about = json.loads(GRADIENTS.read_text())
    expected = load_file(GRADIENTS.with_suffix(".safetensors"))
    case = load_case(HERE / about["config_file"])
    model = case.model.double().train()
    model.text.eval()
    logits = model(case.tensors["image"].double(), case.tensors["input_ids"], case.tensors["attention_mask"])
    weight = torch.tensor([0.9, 1.1], dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(logits, expected["target"].long(), weight=weight)
    loss.backward()
    return case, about, expected, logits.detach(), loss.detach()


def test_a_training_pass_gives_the_published_loss_and_logits(training_pass: Any) -> None:
    _, about, expected, logits, loss = training_pass

    tolerance = about["tolerance"]
    torch.testing.assert_close(loss, expected["loss_float64"][0], rtol=0, atol=tolerance["loss_float64"])
    torch.testing.assert_close(logits.float(), expected["logits_train"], rtol=0, atol=tolerance["logits_train"])


def test_every_parameter_gets_a_gradient_of_the_published_norm(training_pass: Any) -> None:
    case, about, _, _, _ = training_pass
    norms, zero = dict(about["gradient_l2_norms_float64"]), set(about["parameters_with_zero_gradient"])
    unused = set(about["parameters_without_gradient"])
    names = {dotted(name): parameter for name, parameter in case.model.named_parameters()}

    assert set(names) == set(norms) - unused
    for name, parameter in names.items():
        found = float(parameter.grad.norm())
        if name in zero:
            assert found < 1e-12, name
        else:
            assert found == pytest.approx(norms[name], rel=about["tolerance"]["gradient_norm_relative_float64"]), name


def test_gradients_equal_the_published_ones_entry_by_entry(training_pass: Any) -> None:
    case, about, expected, _, _ = training_pass
    ours = {dotted(name): parameter for name, parameter in case.model.named_parameters()}

    for name in about["gradients"]:
        theirs = expected[f"grad.{name}"]
        found = ours[name].grad.reshape(theirs.shape)
        atol = about["tolerance"]["gradient_relative_to_largest_float64"] * float(theirs.abs().max())
        torch.testing.assert_close(found, theirs.double(), rtol=0, atol=atol, msg=name)


def test_batch_norms_hold_the_published_running_statistics(training_pass: Any) -> None:
    case, about, expected, _, _ = training_pass
    ours = {official_name(name): tensor for name, tensor in case.model.state_dict().items()}

    names = [name.removeprefix("bn_after.") for name in expected if name.startswith("bn_after.")]
    assert len(names) == 18
    for name in names:
        theirs = expected[f"bn_after.{name}"]
        torch.testing.assert_close(ours[name].to(theirs.dtype), theirs, rtol=0, atol=about["tolerance"]["bn_after"])


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize(
    ("ours", "theirs"), [("key", "f_key"), ("query", "f_query"), ("value", "f_value"), ("output", "W")]
)
def test_biases_that_no_output_can_tell_apart_are_mapped_by_name(stage: int, ours: str, theirs: str) -> None:
    expected = f"backbone.layers.{stage}.fusion.image_lang_att.{theirs}.0.bias"

    assert official_name(f"fusions.{stage}.{ours}.bias") == expected


def dotted(name: str) -> str:
    """Name in the vectors: `model.` or `bert_model.` in front."""
    official = official_name(name)
    return official.replace("text.", "bert_model.", 1) if name.startswith("text.") else f"model.{official}"
