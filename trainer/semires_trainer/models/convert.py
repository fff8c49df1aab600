"""Official LAVT and SemiRES checkpoints (pickles) to our names and back. Nothing in them is ever executed.

The official model differs in four ways: patch merging belongs to the stage before; fusion, gate and norm live
inside the backbone; projections of the fusion are 1x1 convolutions; the last stage has a gate without effect.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semires_trainer.atomic import file_sha256
from semires_trainer.errors import WeightsError
from semires_trainer.models.deploy import ModelInfo, save_model
from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.pretrained import window_of
from semires_trainer.models.text import TextConfig
from semires_trainer.models.weights import check_tensors, read_pickle, tensors_of

_FUSION = {
    "vision": "vis_project.0",
    "query": "image_lang_att.f_query.0",
    "key": "image_lang_att.f_key.0",
    "value": "image_lang_att.f_value.0",
    "output": "image_lang_att.W.0",
    "fused": "project_mm.0",
}
_GATE = {"inner": "0", "outer": "2"}
_RULES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"backbone\.layers\.(\d+)\.downsample\.(.*)",
        lambda m: f"backbone.layers.{int(m[1]) - 1}.downsample.{m[2]}",
    ),
    (r"fusions\.(\d+)\.(\w+)\.(\w+)", lambda m: f"backbone.layers.{m[1]}.fusion.{_FUSION[m[2]]}.{m[3]}"),
    (r"gates\.(\d+)\.(\w+)\.weight", lambda m: f"backbone.layers.{m[1]}.res_gate.{_GATE[m[2]]}.weight"),
    (r"norms\.(\d+)\.(\w+)", lambda m: f"backbone.norm{m[1]}.{m[2]}"),
    (r"decoder\.merges\.(\d+)\.conv(\d)\.(\w+)", lambda m: f"classifier.conv{m[2]}_{4 - int(m[1])}.{m[3]}"),
    (r"decoder\.merges\.(\d+)\.norm(\d)\.(\w+)", lambda m: f"classifier.bn{m[2]}_{4 - int(m[1])}.{m[3]}"),
    (r"decoder\.head\.(\w+)", lambda m: f"classifier.conv1_1.{m[1]}"),
)
_TEXT = "text."
_IGNORED = re.compile(
    r"relative_position_index$|attn_mask$|^backbone\.layers\.3\.res_gate\."
    r"|^text\.(pooler\.|embeddings\.position_ids$)"
)
_BERT_HEAD_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """A converted checkpoint: its architecture and the tensors under our names."""

    config: LAVTConfig
    state: dict[str, Tensor]


def official_name(name: str) -> str:
    """Official name of one of our tensors; the text encoder's keep the prefix `text.`."""
    for pattern, rename in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return rename(match)
    return name


def read_official(path: Path, *, text_heads: int | None = None, field: str = "") -> OfficialCheckpoint:
    """Read `{'model', 'bert_model', ...}`, or lavt_one's `{'model'}` with `text_encoder.*` inside.

    `text_heads` is needed where the text encoder's heads are not 64 wide: no shape tells their number.

    Raises:
        WeightsError: not such a file, unsafe, or tensors of an unknown architecture.
    """
    content = read_pickle(path, field=field)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise WeightsError(f"{path} is no LAVT checkpoint: it has no entry 'model'", field=field)
    official = _plain_names(tensors_of(content["model"], path=path, field=field))
    if "bert_model" in content:
        bert = _plain_names(tensors_of(content["bert_model"], path=path, field=field))
        official |= {_TEXT + name: tensor for name, tensor in bert.items()}
    config = infer_config(official, arguments=content.get("args"), text_heads=text_heads, path=path, field=field)
    return OfficialCheckpoint(config=config, state=from_official(official, config, where=str(path), field=field))


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without DDP's prefix, lavt_one's text encoder under `text.`, without buffers and dead parameters."""
    names = {name: re.sub(r"^text_encoder\.", _TEXT, name.removeprefix("module.")) for name in state}
    return {new: state[old] for old, new in names.items() if not _IGNORED.search(new)}


def from_official(
    official: Mapping[str, Tensor], config: LAVTConfig, *, where: str, field: str = ""
) -> dict[str, Tensor]:
    """Our state dict from tensors under official names (text encoder under `text.`)."""
    with torch.device("meta"):
        expected = LAVT(config).state_dict()
    named = {official_name(name): name for name in expected}
    check_tensors(
        {new: _official_shape(old, expected[old]) for new, old in named.items()},
        official,
        where=where,
        field=field,
    )
    return {old: official[new].reshape(expected[old].shape) for new, old in named.items()}


def to_official(model: LAVT) -> dict[str, dict[str, Tensor]]:
    """`{'model', 'bert_model'}` as the official code loads it; the dead gate of the last stage is zero."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    named = {official_name(name): _official_shape(name, tensor) for name, tensor in state.items()}
    width = 8 * model.config.embed_dim
    named |= {f"backbone.layers.3.res_gate.{i}.weight": torch.zeros(width, width) for i in _GATE.values()}
    for name, buffer in model.backbone.named_buffers(prefix="backbone"):
        if name.endswith("relative_position_index"):
            named[name] = buffer.cpu()
    text = {name.removeprefix(_TEXT): tensor for name, tensor in named.items() if name.startswith(_TEXT)}
    return {"model": {n: t for n, t in named.items() if not n.startswith(_TEXT)}, "bert_model": text}


def _official_shape(name: str, tensor: Tensor) -> Tensor:
    """The fusion's projections are convolutions over one dimension in the official model."""
    return tensor.unsqueeze(-1) if name.startswith("fusions.") and name.endswith(".weight") else tensor


def infer_config(
    official: Mapping[str, Tensor], *, arguments: Any, text_heads: int | None, path: Path, field: str
) -> LAVTConfig:
    """Architecture from the tensors' shapes; image size and fusion heads from the stored arguments."""
    stored = vars(arguments) if isinstance(arguments, Namespace) else {}
    try:
        tables = [official[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"].shape for i in range(4)]
        return LAVTConfig(
            embed_dim=official["backbone.patch_embed.proj.weight"].shape[0],
            depths=_four(_count(official, rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4)),
            heads=_four(table[1] for table in tables),
            window=window_of(tables[0][0]),
            image_size=int(stored.get("img_size") or 480),
            fusion_heads=_four(int(h) for h in (stored.get("mha") or "1-1-1-1").split("-")),
            text=_infer_text(official, heads=text_heads),
        )
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path} is no LAVT checkpoint with four Swin stages: {error}", field=field) from error


def _four(values: Any) -> tuple[int, int, int, int]:
    first, second, third, fourth = values
    return first, second, third, fourth


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in names if (match := re.match(pattern, name)))


def _infer_text(official: Mapping[str, Tensor], *, heads: int | None) -> TextConfig:
    vocab_size, hidden = official["text.embeddings.word_embeddings.weight"].shape
    return TextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        layers=_count(official, r"text\.encoder\.layer\.(\d+)\."),
        heads=heads or math.ceil(hidden / _BERT_HEAD_WIDTH),
        intermediate_size=official["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_positions=official["text.embeddings.position_embeddings.weight"].shape[0],
        token_types=official["text.embeddings.token_type_embeddings.weight"].shape[0],
    )


def convert_checkpoint(
    source: Path,
    destination: Path,
    *,
    vocab: Path | None = None,
    max_tokens: int = 20,
    image_size: int | None = None,
    text_heads: int | None = None,
) -> ModelInfo:
    """Write the deployable folder `destination` from the official checkpoint `source`.

    `image_size` (pixels) overrides the size stored in the checkpoint. `vocab` is copied into the folder.
    """
    checkpoint = read_official(source, text_heads=text_heads)
    model = LAVT(checkpoint.config)
    model.load_state_dict(checkpoint.state)
    info = ModelInfo(
        image_size=image_size or checkpoint.config.image_size,
        max_tokens=max_tokens,
        provenance={"source": source.name, "sha256": file_sha256(source)},
        vocab=vocab,
    )
    save_model(destination, model, info)
    return info
