"""LAVT: language-aware vision transformer for referring segmentation (Yang et al., CVPR 2022).

After each Swin stage the words are fused into the visual tokens. The fused residual goes to the decoder;
gated, it is also added to the tokens that the next stage reads. The last stage has no gate.

Shapes: B batch, H, W image (or grid) size, C channels, T tokens of text, L language width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from semires_trainer.models.decoder import Decoder, resize
from semires_trainer.models.fusion import LanguageGate, WordFusion
from semires_trainer.models.swin import SwinBackbone
from semires_trainer.models.text import TextConfig, build_text_encoder, encode_text

STAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LAVTConfig:
    """Everything that decides the shape of the network; the defaults are the published Swin-B, window 12."""

    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 12
    """Tokens along one side of a window, at any image size."""
    image_size: int = 480
    """Size the model is trained for; other sizes work as well."""
    drop_path: float = 0.3
    fusion_heads: tuple[int, ...] = (1, 1, 1, 1)
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        for name in ("heads", "fusion_heads"):
            for stage, heads in enumerate(getattr(self, name)):
                channels = self.embed_dim * 2**stage
                if channels % heads:
                    raise ValueError(f"{name}[{stage}] = {heads} does not divide the {channels} channels of the stage")


class LAVT(nn.Module):
    """Image and expression to a mask; parts `backbone`, `fusions`, `gates`, `norms`, `decoder` and `text`.

    `text` follows train() and eval() like every part; burn-in calls `model.text.eval()` after `model.train()`
    because the published burn-in runs without BERT's dropout.
    """

    def __init__(self, config: LAVTConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.embed_dim * 2**i for i in range(STAGES)]
        self.backbone = SwinBackbone(
            embed_dim=config.embed_dim,
            depths=config.depths,
            heads=config.heads,
            window=config.window,
            drop_path=config.drop_path,
        )
        self.fusions = nn.ModuleList(
            WordFusion(width, text_width=config.text.hidden_size, heads=heads)
            for width, heads in zip(widths, config.fusion_heads, strict=True)
        )
        self.gates = nn.ModuleList(LanguageGate(width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.decoder = Decoder(config.embed_dim)
        self.text = build_text_encoder(config.text)

    def forward(self, image_BCHW: Tensor, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Logits (B, 2, H, W), background first.

        `image_BCHW` is normalised RGB, wider or higher than 32 (a single last token cannot be normalised);
        `input_ids_BT` and the 1/0 `attention_mask_BT` come from the tokenizer.
        """
        text_BTL = encode_text(self.text, input_ids_BT, attention_mask_BT)
        return self.forward_from_text(image_BCHW, text_BTL, attention_mask_BT)

    def forward_from_text(self, image_BCHW: Tensor, text_BTL: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Logits (B, 2, H, W) for words that are encoded already, (B, T, L)."""
        stages = self.stage_outputs(image_BCHW, text_BTL, attention_mask_BT)
        return resize(self.decoder(stages), image_BCHW.shape[-2:])

    def stage_outputs(self, image_BCHW: Tensor, text_BTL: Tensor, attention_mask_BT: Tensor) -> list[Tensor]:
        """What the decoder reads, finest first: the normalised fused residuals, (B, C, H/4, W/4) to 1/32."""
        outputs = []
        x_BHWC = self.backbone.patch_embed(image_BCHW)
        for index, stage in enumerate(self.backbone.layers):
            x_BHWC = stage(x_BHWC)
            residual = self.fusions[index](x_BHWC.flatten(1, 2), text_BTL, attention_mask_BT).view_as(x_BHWC)
            outputs.append(self.norms[index](residual).permute(0, 3, 1, 2))
            if index < len(self.gates):
                x_BHWC = self.gates[index](x_BHWC, residual)
        return outputs
