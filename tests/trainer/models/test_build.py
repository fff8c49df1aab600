"""From a model section to weights: every source, every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from semires_trainer.errors import ConfigError, WeightsError
from semires_trainer.models.build import (
    build_model,
    count_parameters,
    model_shape,
    parameter_groups,
    vocabulary_path,
)
from semires_trainer.models.convert import to_official
from semires_trainer.models.deploy import ModelInfo, save_model
from semires_trainer.models.lavt import LAVT, LAVTConfig

State = dict[str, Tensor]


def timm_file(model: LAVT) -> State:
    """As the hub's files: today's names, with the classifier."""
    state = {name: tensor + 1 for name, tensor in model.backbone.state_dict().items()}
    return state | {"norm.weight": torch.ones(64), "norm.bias": torch.ones(64), "head.fc.weight": torch.ones(9, 64)}


def microsoft_file(model: LAVT) -> State:
    """As Microsoft's releases: merging at the end of a stage, persistent buffers, plain head."""
    state = {}
    for name, tensor in timm_file(model).items():
        part = name.split(".")
        if "downsample" in part:
            part[1] = str(int(part[1]) - 1)
        state[".".join(part).replace("head.fc", "head")] = tensor
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return state


def write_bert(folder: Path, model: LAVT, *, weights: str = "model.safetensors", **changes: Any) -> Path:
    """A folder as google-bert/bert-base-uncased: names of 2018, prefix, pooler and pre-training heads."""
    state = {}
    for name, tensor in model.text.state_dict().items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        state[f"bert.{old}"] = tensor + 1
    state |= {"bert.pooler.dense.weight": torch.ones(24, 24), "cls.predictions.bias": torch.ones(60)}
    state["bert.embeddings.position_ids"] = torch.arange(16)
    settings = {
        "vocab_size": 60,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings | changes))
    (folder / "vocab.txt").write_text("[PAD]\n")
    if weights.endswith(".safetensors"):
        save_file(state, folder / weights)
    else:
        torch.save(state, folder / weights)
    return folder


@pytest.fixture
def reference(section: Any, words: Path) -> LAVT:
    return build_model(section(vocab=str(words)), seed=5)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("".join(f"word{i}\n" for i in range(60)))
    return path


def test_random_weights_are_a_function_of_the_seed(section: Any, words: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build_model(section(vocab=str(words)), seed=seed).state_dict() for seed in (3, 3, 4))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.head.weight"], other["decoder.head.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_text_encoder_has_one_row_for_each_word_of_the_vocabulary(reference: LAVT) -> None:
    assert reference.text.embeddings.word_embeddings.weight.shape == (60, 24)


@pytest.mark.parametrize("names", [timm_file, microsoft_file])
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda state, folder: save_file(state, folder / "model.safetensors"), id="safetensors"),
        pytest.param(lambda state, folder: torch.save({"model": state}, folder / "swin.pth"), id="pth"),
    ],
)
def test_a_swin_file_fills_the_backbone_and_nothing_else(
    section: Any, words: Path, reference: LAVT, tmp_path: Path, names: Callable[..., State], write: Callable[..., None]
) -> None:
    write(names(reference), tmp_path)
    (source,) = (path for path in tmp_path.iterdir() if path.is_file())

    model = build_model(section(vocab=str(words), swin=str(source)), seed=5)

    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor + 1 if name.startswith("backbone.") else tensor), name


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_bert_folder_fills_the_text_encoder(section: Any, reference: LAVT, tmp_path: Path, weights: str) -> None:
    folder = write_bert(tmp_path / "bert", reference, weights=weights)

    given = section(bert=str(folder), text_dimensions=None)
    model = build_model(given, seed=5)

    for name, tensor in reference.text.state_dict().items():
        assert torch.equal(model.text.state_dict()[name], tensor + 1), name
    assert vocabulary_path(given) == folder / "vocab.txt"


def test_swin_files_for_another_window_are_refused_with_both_sizes(
    section: Any, words: Path, reference: LAVT, tmp_path: Path
) -> None:
    save_file(timm_file(reference), tmp_path / "model.safetensors")

    with pytest.raises(WeightsError, match=r"trained with window 4, the model has window 5.*Set the window to 4"):
        build_model(section(vocab=str(words), swin=str(tmp_path), window=5), seed=0)


def test_missing_foreign_and_misshapen_tensors_are_listed_ten_at_most(
    section: Any, words: Path, reference: LAVT, tmp_path: Path
) -> None:
    state = timm_file(reference)
    for name in [name for name in state if ".mlp." in name]:
        state[f"x{name}"] = state.pop(name)
    state["patch_embed.norm.bias"] = torch.ones(9)
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(WeightsError) as caught:
        build_model(section(vocab=str(words), swin=str(tmp_path)), seed=0)

    message = str(caught.value)
    assert message.startswith("spec.model.swin: ")
    assert "20 missing: layers.0.blocks.0.mlp.fc1.bias, " in message
    assert message.count("layers.") == 20
    assert message.count("and 10 more") == 2
    assert "1 of another shape: patch_embed.norm.bias is (9,), not (8,)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"hidden_act": "relu"}, "hidden_act is 'relu', only 'gelu'", id="activation"),
        pytest.param({"hidden_size": None}, "is not the config.json of a BERT model", id="no-width"),
        pytest.param({"hidden_size": 48}, "35 of another shape: .*LayerNorm.bias is .24,., not .48,.", id="width"),
    ],
)
def test_a_bert_folder_of_another_kind_is_refused(
    section: Any, reference: LAVT, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    folder = write_bert(tmp_path / "bert", reference, **change)

    with pytest.raises(WeightsError, match=rf"^spec.model.bert: .*{problem}"):
        build_model(section(bert=str(folder), text_dimensions=None), seed=0)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        pytest.param("nowhere.pth", "no file or folder nowhere.pth", id="missing"),
        pytest.param("{tmp}", "holds none of model.safetensors, pytorch_model.bin", id="empty-folder"),
        pytest.param("s3://bucket/swin.pth", "cannot read 's3://bucket/swin.pth' from here", id="other-scheme"),
        pytest.param("{tmp}/words/vocab.txt", "damaged or asks for code", id="not-weights"),
    ],
)
def test_a_swin_source_that_cannot_be_read_is_named(
    section: Any, words: Path, tmp_path: Path, source: str, problem: str
) -> None:
    with pytest.raises(WeightsError, match=rf"^spec.model.swin: .*{problem}"):
        build_model(section(vocab=str(words), swin=source.format(tmp=tmp_path)), seed=0)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache folder of a machine without a network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_hub_repository_is_read_from_the_cache(section: Any, words: Path, reference: LAVT, hub_cache: Path) -> None:
    repository = hub_cache / "models--someone--swin"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    torch.save(timm_file(reference), snapshot / "pytorch_model.bin")

    model = build_model(section(vocab=str(words), swin="hf://someone/swin"), seed=0)

    expected = reference.backbone.patch_embed.proj.weight + 1
    assert torch.equal(model.backbone.patch_embed.proj.weight, expected)


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_repository_that_cannot_be_reached_says_what_to_do(section: Any, words: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build_model(section(vocab=str(words), swin="hf://someone/swin"), seed=0)

    message = str(caught.value)
    assert message.startswith("spec.model.swin: could not get model.safetensors of hf://someone/swin: ")
    assert message.endswith("Download the repository on a machine with access, and give its folder as a path")


def test_init_from_a_model_folder_takes_all_weights_and_its_text_encoder(
    section: Any, reference: LAVT, words: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", reference, ModelInfo(image_size=64, max_tokens=8, vocab=words))
    given = section(bert="hf://not/needed", text_dimensions=None, init_from=str(tmp_path / "model"))

    model = build_model(given, seed=99)

    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in reference.state_dict().items())
    assert model.training
    assert vocabulary_path(given).read_text() == words.read_text()


def test_init_from_an_official_checkpoint_takes_all_weights(
    section: Any, words: Path, reference: LAVT, tmp_path: Path
) -> None:
    torch.save(to_official(reference), tmp_path / "model_best.pth")

    model = build_model(section(init_from=str(tmp_path / "model_best.pth"), vocab=str(words)), seed=99)

    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in reference.state_dict().items())


def test_init_from_another_architecture_is_refused(section: Any, reference: LAVT, tmp_path: Path) -> None:
    save_model(tmp_path / "model", reference, ModelInfo(image_size=64, max_tokens=8))

    with pytest.raises(WeightsError, match=r"^spec.model.initFrom: .* is not for this architecture: 1[0-9]+ missing"):
        build_model(section(depths=(1, 2, 2, 1), init_from=str(tmp_path / "model")), seed=0)


def test_init_from_nothing_is_refused(section: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^spec.model.initFrom: no checkpoint at .*absent"):
        build_model(section(init_from=str(tmp_path / "absent")), seed=0)


def test_more_tokens_than_positions_are_refused(section: Any) -> None:
    with pytest.raises(ConfigError, match=r"spec.model.maxTokens: is 17, but the text encoder has 16 positions"):
        build_model(section(max_tokens=17), seed=0)


def test_a_missing_vocabulary_is_named(section: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"spec.model.vocab: no file or folder .*absent.txt"):
        build_model(section(vocab=str(tmp_path / "absent.txt")), seed=0)


def test_the_published_model_has_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        model = LAVT(LAVTConfig())
    groups = {
        group["name"]: sum(p.numel() for p in group["params"]) for group in parameter_groups(model, weight_decay=0.01)
    }
    dead_gate = 2 * 1024 * 1024

    text = count_parameters(model.text)
    assert round((count_parameters(model) - text + dead_gate) / 1e6, 2) == 118.85
    assert round(groups["text"] / 1e6, 2) == 70.88
    assert round(text / 1e6, 2) == 108.89
    assert sum(groups.values()) == count_parameters(model, trainable=True)


def test_the_shape_of_a_section_needs_no_storage(section: Any) -> None:
    model = model_shape(section())

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_the_shape_of_a_model_folder_is_that_of_the_folder(section: Any, tiny: LAVT, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny, ModelInfo(image_size=64, max_tokens=8))

    model = model_shape(section(init_from=str(tmp_path / "model")))

    assert model.config == tiny.config
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_groups_decay_what_the_published_optimizer_decays(tiny: LAVT) -> None:
    groups = parameter_groups(tiny, weight_decay=0.01, optimized_text_layers=1)
    names = {id(parameter): name for name, parameter in tiny.named_parameters()}
    found = {group["name"]: {names[id(p)] for p in group["params"]} for group in groups}

    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "visual_no_decay": 0.0,
        "visual": 0.01,
        "decoder": 0.01,
        "text": 0.01,
    }
    assert found["decoder"] == {name for name in names.values() if name.startswith("decoder.")}
    assert found["text"] == {name for name in names.values() if name.startswith("text.encoder.layer.0.")}
    assert {"norms.0.weight", "backbone.layers.1.downsample.norm.bias"} <= found["visual_no_decay"]
    assert "backbone.layers.0.blocks.0.attn.relative_position_bias_table" in found["visual_no_decay"]
    assert {"gates.0.inner.weight", "fusions.3.key.bias", "backbone.patch_embed.proj.bias"} <= found["visual"]


def test_what_is_not_optimised_is_frozen_but_passes_gradients_on(tiny: LAVT, batch: Any) -> None:
    parameter_groups(tiny, weight_decay=0.01, optimized_text_layers=1)

    tiny(*batch()).square().mean().backward()

    first, second = tiny.text.encoder.layer
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is None for p in [*second.parameters(), *tiny.text.embeddings.parameters()])


def test_embeddings_can_be_trained_too(tiny: LAVT) -> None:
    *_, text = parameter_groups(tiny, weight_decay=0.01, train_embeddings=True)

    assert len(text["params"]) == sum(1 for _ in tiny.text.parameters())
    assert count_parameters(tiny) == count_parameters(tiny, trainable=True)
