"""What the network promises beyond equal numbers: any size, any precision, nothing hidden in its state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from semires_trainer.models.lavt import LAVT, LAVTConfig
from semires_trainer.models.swin import drop_path_rates, shifted_window_mask
from semires_trainer.models.text import encode_text

Batch = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.mark.parametrize(
    ("height", "width"),
    [
        pytest.param(64, 64, id="windows-fit"),
        pytest.param(100, 136, id="padding-in-every-stage"),
        pytest.param(50, 71, id="not-divisible-by-the-patch"),
        pytest.param(33, 33, id="window-larger-than-the-last-grids"),
        pytest.param(32, 64, id="one-row-in-the-last-stage"),
    ],
)
def test_logits_have_the_size_of_the_image(tiny: LAVT, batch: Batch, height: int, width: int) -> None:
    logits = tiny(*batch(height, width))

    assert logits.shape == (2, 2, height, width)
    assert logits.isfinite().all()


def test_where_windows_fit_the_grid_the_stages_are_those_of_timm(tiny: LAVT) -> None:
    config = tiny.config
    peer = SwinTransformer(
        img_size=128,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.heads,
        window_size=config.window,
        always_partition=True,
        drop_path_rate=0.0,
    )
    found = peer.load_state_dict(tiny.backbone.state_dict(), strict=False)
    assert {name.split(".")[0] for name in found.missing_keys} == {"norm", "head"}
    assert not found.unexpected_keys
    image = torch.randn(1, 3, 128, 128)

    ours, theirs = tiny.backbone.patch_embed(image), peer.patch_embed(image)
    for our_stage, their_stage in zip(tiny.backbone.layers, peer.layers, strict=True):
        ours, theirs = our_stage(ours), their_stage(theirs)

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_shift_mask_blocks_exactly_the_pairs_that_the_roll_brought_together() -> None:
    height, width, window, shift = 5, 11, 4, 2
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    original = torch.stack([rows, columns]).roll((-shift, -shift), dims=(1, 2))
    windows = original.unfold(1, window, window).unfold(2, window, window).reshape(2, -1, window * window)
    far = (windows[:, :, :, None] - windows[:, :, None, :]).abs().amax(0) >= window

    mask = shifted_window_mask(height, width, window=window, device=torch.device("cpu"), dtype=torch.float32)

    assert torch.equal(mask, far * -100.0)


def test_padded_words_change_nothing(tiny: LAVT, batch: Batch) -> None:
    image, input_ids, mask = batch()
    tiny.eval()

    others = torch.where(mask.bool(), input_ids, 59)

    torch.testing.assert_close(tiny(image, input_ids, mask), tiny(image, others, mask), rtol=0, atol=1e-6)


def test_words_change_the_mask(tiny: LAVT, batch: Batch) -> None:
    image, input_ids, mask = batch()

    assert not torch.allclose(tiny(image, input_ids, mask), tiny(image, input_ids.roll(1, 0), mask))


def test_several_fusion_heads_equal_attention_head_by_head(tiny_config: LAVTConfig) -> None:
    fusion = LAVT(replace(tiny_config, fusion_heads=(2, 2, 4, 4))).fusions[2].double()
    x, text = torch.randn(2, 6, 32).double(), torch.randn(2, 5, 24).double()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])

    query = nn.functional.instance_norm(fusion.query(x).transpose(1, 2)).transpose(1, 2)
    key, value = fusion.key(text) * mask[..., None], fusion.value(text) * mask[..., None]
    heads = []
    for q, k, v in zip(query.chunk(4, -1), key.chunk(4, -1), value.chunk(4, -1), strict=True):
        scores = q @ k.transpose(1, 2) * 32**-0.5 + (1e4 * mask - 1e4)[:, None]
        heads.append(scores.softmax(-1) @ v)
    mixed = nn.functional.instance_norm(fusion.output(torch.cat(heads, -1)).transpose(1, 2)).transpose(1, 2)
    expected = nn.functional.gelu(fusion.fused(nn.functional.gelu(fusion.vision(x)) * mixed))

    torch.testing.assert_close(fusion(x, text, mask), expected, rtol=0, atol=1e-12)


def test_the_same_weights_and_inputs_give_the_same_bits(tiny: LAVT, batch: Batch) -> None:
    inputs = batch(50, 71)
    gradients = []
    for _ in range(2):
        tiny.zero_grad()
        tiny(*inputs).square().mean().backward()
        gradients.append([parameter.grad for parameter in tiny.parameters()])

    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_in_train_mode_without_dropout_only_batch_norm_differs_from_eval(tiny: LAVT, batch: Batch) -> None:
    inputs = batch()
    tiny.train()
    for module in tiny.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    training = tiny(*inputs)

    assert torch.equal(training, tiny.eval()(*inputs))


def test_dropout_and_drop_path_are_on_in_train_mode(tiny_config: LAVTConfig, batch: Batch) -> None:
    for changed in (
        replace(tiny_config, drop_path=0.9),
        replace(tiny_config, text=replace(tiny_config.text, dropout=0.5)),
    ):
        model = LAVT(changed)
        assert not torch.equal(model(*batch()), model(*batch()))


def test_bfloat16_autocast_stays_close_and_float32_outside(tiny: LAVT, batch: Batch) -> None:
    inputs = batch(50, 71)
    exact = tiny.eval()(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiny(*inputs)
    rough.float().square().mean().backward()

    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05 * float(exact.detach().abs().max()))
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in tiny.parameters())


def test_channels_last_gives_the_same_logits(tiny: LAVT, batch: Batch) -> None:
    image, input_ids, mask = batch()
    expected = tiny.eval()(image, input_ids, mask)

    model = tiny.to(memory_format=torch.channels_last)
    found = model(image.contiguous(memory_format=torch.channels_last), input_ids, mask)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_torch_compile_sees_one_graph(tiny_config: LAVTConfig, batch: Batch) -> None:
    small = replace(tiny_config, depths=(2, 1, 1, 1), text=replace(tiny_config.text, layers=1))
    model, inputs = LAVT(small).eval(), batch()
    compiled = torch.compile(model, backend="eager", fullgraph=True)

    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=0, atol=1e-5)


def test_masks_and_indices_are_not_part_of_the_state(tiny: LAVT, batch: Batch) -> None:
    before = set(tiny.state_dict())
    tiny(*batch(50, 71))

    assert set(tiny.state_dict()) == before
    integers = {name for name, tensor in tiny.state_dict().items() if not tensor.is_floating_point()}
    assert all(name.endswith("num_batches_tracked") for name in integers)


def test_a_model_that_has_predicted_can_still_train(tiny: LAVT, batch: Batch) -> None:
    with torch.inference_mode():
        tiny(*batch())

    tiny(*batch()).sum().backward()

    assert tiny.backbone.patch_embed.proj.weight.grad is not None


def test_a_copy_in_another_precision_is_independent(tiny: LAVT, batch: Batch) -> None:
    image, input_ids, mask = batch()
    tiny.eval()(image, input_ids, mask)
    twin = copy.deepcopy(tiny).double()

    found = twin(image.double(), input_ids, mask)

    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), tiny(image, input_ids, mask), rtol=0, atol=1e-5)


def test_every_parameter_is_used(tiny: LAVT, batch: Batch) -> None:
    tiny(*batch()).square().mean().backward()

    assert [name for name, parameter in tiny.named_parameters() if parameter.grad is None] == []


def test_the_text_encoder_is_bert_without_pooler(tiny: LAVT, batch: Batch) -> None:
    _, input_ids, mask = batch()

    expected = tiny.text(input_ids=input_ids, attention_mask=mask).last_hidden_state

    torch.testing.assert_close(encode_text(tiny.text, input_ids, mask), expected, rtol=0, atol=1e-6)
    assert not any("pooler" in name for name in tiny.state_dict())


def test_drop_path_grows_linearly_over_all_blocks() -> None:
    rates = drop_path_rates((2, 2, 18, 2), 0.3)

    assert [len(stage) for stage in rates] == [2, 2, 18, 2]
    flat = [rate for stage in rates for rate in stage]
    assert flat == pytest.approx([0.3 * i / 23 for i in range(24)])


def test_sizes_that_cannot_be_divided_among_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads\[1\] = 3 does not divide the 16 channels"):
        LAVTConfig(embed_dim=8, heads=(1, 3, 2, 4))
