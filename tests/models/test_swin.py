"""Semantic-SAM's encoder: fast windows equal plain ones, the reference is met, keys are those of the checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_weights import randomised
from torch import Tensor, nn

from napari_segany.core.errors import ImageError
from napari_segany.models.swin import (
    SWIN,
    PatchMerging,
    Swin,
    SwinConfig,
    WindowAttention,
    windows_of,
)
from napari_segany.models.weights import load_strictly

LAYOUTS = Path(__file__).parents[1] / "golden" / "layouts"
SMALL = SwinConfig(8, (2, 2, 2, 2), (1, 2, 2, 4), 3)
CPU = torch.device("cpu")
SIZES = [(6, 9), (7, 7), (8, 5), (3, 3), (2, 4), (1, 1)]


def small_encoder() -> Swin:
    return randomised(Swin(SMALL))


def small_attention(window: int = 3) -> WindowAttention:
    return randomised(WindowAttention(8, heads=2, window=window))


def pixels(height: int = 96, width: int = 64, *, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


def tokens(size: tuple[int, int], *, batch: int = 2) -> Tensor:
    return torch.randn(batch, *size, 8, generator=torch.Generator().manual_seed(9))


def attend_slowly(attention: WindowAttention, x: Tensor, *, shift: int) -> Tensor:
    """Attend over (B, H, W, C), pair by pair of cells, as the paper has it: pad, roll, one window after the other."""
    height, width = x.shape[1:3]
    side, heads = attention.window, attention.heads
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    lines, columns = x.shape[1:3]
    q, k, v = attention.qkv(x).unflatten(3, (3, heads, -1)).unbind(3)  # (B, H, W, heads, d) each
    out = torch.empty_like(q)

    def place(y: int, column: int) -> tuple[int, int]:
        return (y + shift) % lines, (column + shift) % columns  # where a cell of the rolled grid was

    def end(cell: int, length: int) -> int:
        return int(cell >= length - shift)

    for y in range(lines):
        for column in range(columns):
            mine = place(y, column)
            logits, values = [], []
            for i in range(side):
                for j in range(side):
                    other = y // side * side + i, column // side * side + j
                    theirs = place(*other)
                    table = (y % side - i + side - 1) * (2 * side - 1) + column % side - j + side - 1
                    logit = (q[:, mine[0], mine[1]] * k[:, theirs[0], theirs[1]]).sum(2)
                    logit = (
                        logit / math.sqrt(q.shape[4]) + attention.relative_position_bias_table[table]
                    )  # (B, heads)
                    torn = end(y, lines) != end(other[0], lines)
                    torn |= end(column, columns) != end(other[1], columns)
                    logits.append(logit - 100.0 if torn else logit)
                    values.append(v[:, theirs[0], theirs[1]])
            shares = torch.stack(logits).softmax(0)[..., None]  # (N, B, heads, 1)
            out[:, mine[0], mine[1]] = (shares * torch.stack(values)).sum(0)
    return attention.proj(out.flatten(3)[:, :height, :width])


@pytest.mark.parametrize("gathers", [True, False], ids=["gathered", "whole"])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_windows_equal_the_plain_ones(size: tuple[int, int], shift: int, *, gathers: bool) -> None:
    attention, x = small_attention(), tokens(size)
    windows = windows_of((2, *size), window=3, shift=shift, device=CPU) if gathers else None
    with torch.no_grad():
        ours = attention(x, shift=shift, windows=windows)
        torch.testing.assert_close(ours, attend_slowly(attention, x, shift=shift), rtol=1e-4, atol=1e-5)


def test_an_even_window_shifts_by_half() -> None:
    attention, x = small_attention(4), tokens((6, 9))
    windows = windows_of((2, 6, 9), window=4, shift=2, device=CPU)
    with torch.no_grad():
        expected = attend_slowly(attention, x, shift=2)
        for way in (windows, None):
            torch.testing.assert_close(attention(x, shift=2, windows=way), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 23), st.integers(1, 23)),
    window=st.integers(2, 7),
    shifts=st.booleans(),
)
def test_every_token_has_one_cell_and_comes_back(
    shape: tuple[int, int, int], window: int, *, shifts: bool
) -> None:
    windows = windows_of(shape, window=window, shift=window // 2 if shifts else 0, device=CPU)
    count, cells = math.prod(shape), len(windows.tokens)
    assert cells == sum(windows.counts) * window**2
    assert windows.tokens[windows.cells].tolist() == list(range(count))
    assert sorted(windows.cells.tolist() + windows.empty.tolist()) == list(range(cells))


def test_predicting_equals_training() -> None:
    encoder = small_encoder()
    with torch.no_grad():
        expected = [each.clone() for each in encoder(pixels(batch=2))]
    for ours, theirs in zip(encoder(pixels(batch=2)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_maps_have_four_strides_and_are_normalised() -> None:
    encoder = Swin(SMALL).eval()
    with torch.no_grad():
        maps = encoder(pixels(96, 160, batch=2))
    assert [tuple(each.shape) for each in maps] == [
        (2, 8, 24, 40),
        (2, 16, 12, 20),
        (2, 32, 6, 10),
        (2, 64, 3, 5),
    ]
    for each in maps:
        torch.testing.assert_close(each.mean(1), torch.zeros_like(each[:, 0]), rtol=0, atol=1e-5)
        assert each.is_contiguous(memory_format=torch.channels_last)


def test_memory_order_changes_nothing() -> None:
    encoder = small_encoder()
    with torch.inference_mode():
        expected = encoder(pixels())
        ours = encoder(pixels().to(memory_format=torch.channels_last))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32() -> None:
    encoder = small_encoder()
    with torch.inference_mode():
        exact = encoder(pixels())
        rough = encoder.to(torch.bfloat16)(pixels().bfloat16().to(memory_format=torch.channels_last))
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() / other.norm() < 0.05


def test_every_parameter_gets_a_gradient() -> None:
    encoder = small_encoder().train()
    generator = torch.Generator().manual_seed(1)
    total = sum((each * torch.randn(each.shape, generator=generator)).sum() for each in encoder(pixels()))
    assert isinstance(total, Tensor)
    total.backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_traced_at_one_size_it_encodes_another() -> None:
    encoder = small_encoder()
    with pytest.warns(Warning):  # tracing is deprecated, and warns of what it fixes
        traced = torch.jit.trace(encoder, pixels(64, 96), check_trace=False)
    other = pixels(160, 128)
    for ours, theirs in zip(traced(other), encoder(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_answers_follow_the_weights() -> None:
    encoder = small_encoder()
    with torch.no_grad():
        before = [each.clone() for each in encoder(pixels())]
        encoder.layers[2].blocks[1].attn.relative_position_bias_table.mul_(3)
        after = encoder(pixels())
    changed = [float((one - other).abs().max()) > 1e-3 for one, other in zip(after, before, strict=True)]
    assert changed == [False, False, True, True]


def test_merging_lays_columns_of_neighbours_side_by_side() -> None:
    merging = PatchMerging(1)
    merging.norm = nn.Identity()
    merging.reduction = nn.Identity()
    grid = torch.arange(8.0).view(1, 2, 4, 1)
    assert merging(grid).tolist() == [[[[0, 4, 1, 5], [2, 6, 3, 7]]]]


def test_a_size_between_strides_is_refused() -> None:
    with pytest.raises(ImageError, match="96 x 70"):
        small_encoder()(pixels(96, 70))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((8, (2, 2, 2, 2), (1, 3, 2, 4), 3), "16 channels are no multiple of 3 heads"),
        ((8, (2, 2, 2, 2), (1, 2, 2, 4), 1), "window 1"),
    ],
)
def test_impossible_configurations_are_refused(
    numbers: tuple[int, tuple[int, int, int, int], tuple[int, int, int, int], int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SwinConfig(*numbers)


@pytest.mark.parametrize("letter", ["T", "L"])
def test_keys_and_shapes_are_those_of_the_checkpoint(letter: str) -> None:
    layout = json.loads((LAYOUTS / f"semantic_sam_swin{letter}.json").read_text())
    with torch.device("meta"):
        encoder = Swin(SWIN[f"swin_{letter.lower()}"])
    ours = {f"model.backbone.{key}": list(tensor.shape) for key, tensor in encoder.state_dict().items()}
    theirs = {key: shape for key, shape in layout["keys"].items() if key.startswith("model.backbone.")}
    assert ours == {
        key: shape for key, shape in theirs.items() if not key.endswith("relative_position_index")
    }


def test_built_without_memory_it_takes_the_weights_themselves() -> None:
    original = small_encoder()
    with torch.device("meta"):
        encoder = Swin(SMALL)
    load_strictly(encoder, original.state_dict(), where="a test")
    with torch.inference_mode():
        for ours, theirs in zip(encoder.eval()(pixels()), original(pixels()), strict=True):
            torch.testing.assert_close(ours, theirs)
