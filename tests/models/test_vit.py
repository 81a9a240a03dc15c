"""SAM's encoder: its fast attention equals the plain one, and its keys are those of the released checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.errors import ImageError
from napari_segany.models.relative import between
from napari_segany.models.vit import VIT, RelativeAttention, VitConfig, VitEncoder

LAYOUTS = Path(__file__).parents[1] / "golden" / "layouts"
SMALL = VitConfig(24, 4, 3, (1, 3), window=3, image_size=128, patch=16, out_width=32)


def randomised(module: torch.nn.Module, *, seed: int = 3) -> torch.nn.Module:
    """Give every parameter a value; tables start at zero, which would hide what they do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def small_encoder() -> VitEncoder:
    encoder = randomised(VitEncoder(SMALL))
    assert isinstance(encoder, VitEncoder)
    return encoder


def pixels(side: int = 128, *, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(5))


def attend_slowly(attention: RelativeAttention, x: Tensor) -> Tensor:
    """Attend over (B, H, W, C), cell by cell as the paper has it: terms looked up and added to the logits."""
    batch, height, width, channels = x.shape
    depth = channels // attention.heads
    qkv = attention.qkv(x).reshape(batch, height, width, 3, attention.heads, depth)
    q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)  # (B, heads, H, W, d) each
    logits = torch.einsum("bnhwd,bnyxd->bnhwyx", q, k) / math.sqrt(depth)
    for y in range(height):
        for other in range(height):
            term = q[:, :, y] @ attention.rel_pos_h[y - other + height - 1]
            logits[:, :, y, :, other, :] += term[..., None]
    for column in range(width):
        for other in range(width):
            term = q[:, :, :, column] @ attention.rel_pos_w[column - other + width - 1]
            logits[:, :, :, column, :, other] += term[..., None]
    weights = logits.flatten(4).softmax(dim=4).reshape(logits.shape)
    out = torch.einsum("bnhwyx,bnyxd->bhwnd", weights, v).reshape(batch, height, width, channels)
    return attention.proj(out)


def attend_in_windows_slowly(attention: RelativeAttention, x: Tensor) -> Tensor:
    """Pad (B, H, W, C) with zero tokens, attend window by window, crop."""
    window = attention.window
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    out = torch.empty_like(x)
    for y in range(0, x.shape[1], window):
        for column in range(0, x.shape[2], window):
            part = (slice(None), slice(y, y + window), slice(column, column + window))
            out[part] = attend_slowly(attention, x[part])
    return out[:, :height, :width]


def tokens(size: tuple[int, int], *, width: int = 24, batch: int = 2) -> Tensor:
    return torch.randn(batch, *size, width, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("records", [False, True], ids=["predicting", "training"])
@pytest.mark.parametrize("heads", [1, 3])
def test_global_attention_equals_the_plain_one(heads: int, *, records: bool) -> None:
    attention = randomised(RelativeAttention(24, heads, window=0, grid=9))
    assert isinstance(attention, RelativeAttention)
    x = tokens((9, 9))
    with torch.set_grad_enabled(records):
        torch.testing.assert_close(attention(x), attend_slowly(attention, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("records", [False, True], ids=["predicting", "training"])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (14, 14), (3, 5), (15, 8)])
def test_windows_equal_the_plain_ones(size: tuple[int, int], *, records: bool) -> None:
    attention = randomised(RelativeAttention(24, 3, window=7, grid=99))
    assert isinstance(attention, RelativeAttention)
    x = tokens(size)
    with torch.set_grad_enabled(records):
        torch.testing.assert_close(attention(x), attend_in_windows_slowly(attention, x), rtol=1e-4, atol=1e-5)


def test_padding_is_attended_to() -> None:
    attention = randomised(RelativeAttention(24, 3, window=7, grid=99))
    assert isinstance(attention, RelativeAttention)
    x = tokens((5, 5))
    with torch.no_grad():
        padded = attention(x)
        attention.window = 0
        attention.rel_pos_h.data = attention.rel_pos_h[2:-2]  # 9 of 13: the same steps
        attention.rel_pos_w.data = attention.rel_pos_w[2:-2]
        alone = attention(x)
    assert (padded - alone).abs().max() > 0.01


def test_bfloat16_is_near_float32() -> None:
    encoder = small_encoder()
    with torch.inference_mode():
        exact, early = encoder(pixels())
        rough, rough_early = encoder.to(torch.bfloat16)(pixels().bfloat16())
    assert rough.dtype == rough_early.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() / exact.norm() < 0.03
    assert (rough_early.float() - early).norm() / early.norm() < 0.03


def test_predicting_equals_training() -> None:
    encoder = small_encoder()
    with torch.no_grad():
        expected = [tensor.clone() for tensor in encoder(pixels(batch=2))]
    for ours, theirs in zip(encoder(pixels(batch=2)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    encoder = small_encoder().train()
    embedding, _ = encoder(pixels())
    (embedding * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_answers_follow_the_weights() -> None:
    encoder = small_encoder()
    with torch.no_grad():
        before = encoder(pixels())[0].clone()
        encoder.blocks[1].attn.rel_pos_h.mul_(2)  # a shift would cancel in the softmax
        assert (encoder(pixels())[0] - before).abs().max() > 1e-3


def test_early_is_the_first_global_block() -> None:
    encoder = small_encoder()
    seen: list[Tensor] = []
    encoder.blocks[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        embedding, early = encoder(pixels(batch=2))
    assert embedding.shape == (2, 32, 8, 8)
    assert early.shape == (2, 8, 8, 24)
    assert torch.equal(early, seen[0])


@pytest.mark.parametrize("side", [64, 192])
def test_other_sizes_are_encoded_too(side: int) -> None:
    with torch.no_grad():
        embedding, early = small_encoder()(pixels(side))
    assert embedding.shape == (1, 32, side // 16, side // 16)
    assert early.shape == (1, side // 16, side // 16, 24)
    assert bool(embedding.isfinite().all())


def test_a_size_between_patches_is_refused() -> None:
    with pytest.raises(ImageError, match="130 x 130"):
        small_encoder()(pixels(130))


def test_relative_positions_count_from_the_key_to_the_query() -> None:
    table = torch.arange(5.0)[:, None]  # of three positions: steps -2 ... 2
    assert between(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


def test_relative_positions_of_another_size_are_resampled_linearly() -> None:
    resampled = between(torch.arange(9.0)[:, None], 3)[..., 0]  # nine entries for five steps
    assert resampled[0].tolist() == pytest.approx([4.0, 2.2, 0.4])
    assert resampled[:, 0].tolist() == pytest.approx([4.0, 5.8, 7.6])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "width 24 is no multiple of heads 5"),
        ({"image_size": 100}, "image_size 100"),
        ({"global_blocks": ()}, "at least one"),
        ({"global_blocks": (4,)}, "4 blocks"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    numbers: dict[str, object] = {
        "width": 24,
        "depth": 4,
        "heads": 3,
        "global_blocks": (1,),
        "image_size": 128,
    }
    with pytest.raises(ValueError, match=message):
        VitConfig(**(numbers | changes))  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("letter", ["b", "l", "h"])
def test_keys_and_shapes_are_those_of_the_checkpoint(letter: str) -> None:
    layout = json.loads((LAYOUTS / f"sam_vit_{letter}.json").read_text())
    with torch.device("meta"):
        encoder = VitEncoder(VIT[f"vit_{letter}"])
    ours = {f"image_encoder.{key}": list(tensor.shape) for key, tensor in encoder.state_dict().items()}
    assert ours == {key: shape for key, shape in layout["keys"].items() if key.startswith("image_encoder.")}
