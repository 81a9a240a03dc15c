"""Deformable attention: every way to read maps gives what `grid_sample` gives, level by level."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_segany.models.deformable import (
    DeformableAttention,
    DeformableConfig,
    Sizes,
    cut_levels,
    join_levels,
)

WIDTH = 16


def attention(config: DeformableConfig, *, seed: int) -> DeformableAttention:
    """Return a layer whose weights are random everywhere, with offsets of several cells."""
    generator = torch.Generator().manual_seed(seed)
    layer = DeformableAttention(WIDTH, config)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def slow(layer: DeformableAttention, queries: Tensor, boxes: Tensor, cells: Tensor, sizes: Sizes) -> Tensor:
    """Return what a layer reads, written as the paper writes it: one sampling for each level, nothing shared."""
    heads, levels, points = layer.config.heads, layer.config.levels, layer.config.points
    batch, count, _ = queries.shape
    offsets = layer.sampling_offsets(queries).reshape(batch, count, heads, levels, points, 2)
    weights = layer.attention_weights(queries).reshape(batch, count, heads, levels * points).softmax(-1)
    maps = cut_levels(layer.value_proj(cells), sizes)
    mixed = torch.zeros(batch, count, heads, WIDTH // heads)
    for level, (height, width) in enumerate(sizes):
        side = torch.tensor([width, height], dtype=torch.float32)
        around = boxes[:, :, None, None].expand(batch, -1, -1, -1, -1)
        if boxes.shape[-1] == 2:
            places = around + offsets[:, :, :, level] / side
        else:
            places = around[..., :2] + offsets[:, :, :, level] / points * around[..., 2:] * 0.5
        for head in range(heads):
            own = maps[level].unflatten(1, (heads, -1))[:, head]
            read = F.grid_sample(own, places[:, :, head] * 2 - 1, align_corners=False)  # (B, d, Q, P)
            share = weights[:, :, head, level * points : (level + 1) * points]
            mixed[:, :, head] += (read * share[:, None]).sum(-1).transpose(1, 2)
    return layer.output_proj(mixed.flatten(2))


@given(
    heads=st.sampled_from([1, 2, 4]),
    points=st.integers(1, 3),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    queries=st.integers(1, 40),
    batch=st.integers(1, 2),
    has_sides=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_all_ways_read_what_sampling_reads(
    *, heads: int, points: int, sizes: Sizes, queries: int, batch: int, has_sides: bool, seed: int
) -> None:
    layer = attention(DeformableConfig(heads, len(sizes), points), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    cells = torch.randn(batch, sum(h * w for h, w in sizes), WIDTH, generator=generator)
    asked = torch.randn(batch, queries, WIDTH, generator=generator)
    boxes = torch.rand(batch, queries, 4 if has_sides else 2, generator=generator) * 1.4 - 0.2
    with torch.no_grad():
        wanted = slow(layer, asked, boxes, cells, sizes)
        fast = layer(asked, boxes, cells, sizes)
        projected = layer.read(asked, boxes, layer.values(cells), sizes)
        shared = layer._of_shared(asked, boxes, cells, sizes)
    learning = layer(asked, boxes, cells, sizes).detach()
    for way in (fast, projected, shared, learning):
        torch.testing.assert_close(way, wanted, rtol=1e-4, atol=2e-4)


def test_gradients_reach_everything_by_both_ways() -> None:
    config = DeformableConfig(2, 1, 2)
    for queries in (3, 60):  # fewer and more than pay off with unprojected cells
        layer = attention(config, seed=0)
        assert layer.is_shared(queries, 36) == (queries == 3)
        cells = torch.randn(1, 36, WIDTH, requires_grad=True)
        asked = torch.randn(1, queries, WIDTH, requires_grad=True)
        boxes = torch.full((1, queries, 2), 0.5)
        layer(asked, boxes, cells, [(6, 6)]).square().sum().backward()
        for tensor in (cells, asked, *layer.parameters()):
            assert tensor.grad is not None
            assert tensor.grad.abs().sum() > 0


def test_what_lies_outside_reads_zeros() -> None:
    layer = attention(DeformableConfig(2, 1, 1), seed=3)
    with torch.no_grad():
        layer.sampling_offsets.weight.zero_()
        layer.sampling_offsets.bias.zero_()
        far = layer(
            torch.randn(1, 1, WIDTH), torch.tensor([[[3.0, 3.0]]]), torch.randn(1, 30, WIDTH), [(5, 6)]
        )
    torch.testing.assert_close(far[0, 0], layer.output_proj.bias)


def test_levels_come_apart_as_they_were_joined() -> None:
    maps = [torch.randn(2, 5, 3, 4), torch.randn(2, 5, 2, 1)]
    cells, sizes = join_levels(maps)
    assert cells.shape == (2, 14, 5)
    for one, two in zip(cut_levels(cells, sizes), maps, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_heads_begin_in_directions_of_their_own(heads: int) -> None:
    layer = DeformableAttention(24, DeformableConfig(heads, 2, 2))
    ways = layer.sampling_offsets.bias.detach().view(heads, 2, 2, 2)
    assert torch.allclose(ways[:, 0], ways[:, 1])  # on both levels
    assert torch.allclose(ways[:, :, 1], 2 * ways[:, :, 0])  # one step apart
    assert len({tuple(way.tolist()) for way in ways[:, 0, 0].round(decimals=4)}) == heads
