"""Memories whose places far from the object are put together: which, what of them stays, and what that changes."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from random_weights import randomised
from torch import Tensor

from napari_segany.models.condensing import BLOCK, NEAR, STEP, condensed, grid_code, joined, near_blocks
from napari_segany.models.memory import MemoryAttention, MemoryConfig, grid_rotation

SIDE = 40  # cells: 10 x 10 blocks
WIDTH, CHANNELS = 32, 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits_of(row: int, col: int, *, size: int) -> Tensor:
    """Return (1, 1, 160, 160) logits of a square whose first cell is given, `size` cells wide."""
    logits = torch.full((1, 1, 4 * SIDE, 4 * SIDE), -5.0)
    logits[..., 4 * row : 4 * (row + size), 4 * col : 4 * (col + size)] = 5.0
    return logits


def test_blocks_at_and_around_the_object_are_near() -> None:
    near = near_blocks(logits_of(17, 25, size=6))
    assert near is not None
    assert near.shape == (1, NEAR)
    assert len(set(near[0].tolist())) == NEAR
    around = {10 * row + col for row in range(3, 7) for col in range(5, 9)}
    assert around <= set(near[0].tolist())


def test_the_outline_of_a_large_object_comes_before_its_inside() -> None:
    near = near_blocks(
        logits_of(4, 4, size=32)
    )  # its outline and its surroundings alone are 84 of 100 blocks
    assert near is not None
    inside = {10 * row + col for row in range(3, 7) for col in range(3, 7)}
    assert not inside & set(near[0].tolist())


@pytest.mark.parametrize("side", [24, 39])  # 36 blocks, which may all be near; no whole blocks
def test_maps_that_cannot_be_condensed_stay_whole(side: int) -> None:
    assert near_blocks(torch.zeros(1, 1, 4 * side, 4 * side)) is None


def test_near_cells_stay_and_far_ones_are_means() -> None:
    spatial = noise(2, CHANNELS, SIDE, SIDE)
    near = torch.cat([near_blocks(logits_of(4, 8, size=3)), near_blocks(logits_of(30, 20, size=3))])
    tokens = condensed(spatial, near, width=WIDTH)
    fine, coarse = NEAR * BLOCK**2, (100 - NEAR) * (BLOCK // STEP) ** 2
    assert tokens.values.shape == (2, fine + coarse, CHANNELS)
    assert tokens.turns is not None and tokens.turns.shape == (2, fine + coarse, WIDTH // 2)
    assert tokens.log_counts is not None
    assert (tokens.log_counts[:, :fine] == 0).all()
    assert tokens.log_counts[:, fine:].unique().tolist() == pytest.approx([math.log(STEP**2)])
    assert tokens.log_counts.exp().sum(dim=1).tolist() == pytest.approx([SIDE**2] * 2)

    row, col = divmod(int(near[1, 2]), 10)
    first = 2 * BLOCK**2 + 1 * BLOCK + 3  # the third near block's cell in row 1, column 3
    y, x = BLOCK * row + 1, BLOCK * col + 3
    assert torch.equal(tokens.values[1, first], spatial[1, :, y, x])
    assert torch.equal(tokens.codes[1, first], grid_code(CHANNELS, (SIDE, SIDE))[:, y, x])
    assert torch.equal(tokens.turns[1, first], grid_rotation(WIDTH, (SIDE, SIDE))[y * SIDE + x])

    far = sorted(set(range(100)) - set(near[0].tolist()))
    row, col = divmod(far[0], 10)
    part = spatial[0, :, BLOCK * row : BLOCK * row + STEP, BLOCK * col : BLOCK * col + STEP]
    torch.testing.assert_close(tokens.values[0, fine], part.mean(dim=(1, 2)))


@functools.cache
def attention() -> MemoryAttention:
    module = MemoryAttention(WIDTH, MemoryConfig(width=CHANNELS, layers=2, mlp_width=48))
    return randomised(module, seed=2).requires_grad_(False)


def recalled(spatial: Tensor, near: Tensor | None) -> Tensor:
    """Return what a frame of noise becomes in the light of maps, whole or condensed, and of a pointer."""
    pointers = noise(len(spatial), 2, CHANNELS, seed=5)
    if near is None:
        values, turns, counts = spatial.flatten(2).transpose(1, 2), None, None
        codes = grid_code(CHANNELS, (SIDE, SIDE)).flatten(1).T.expand_as(values)
    else:
        one = joined([condensed(spatial, near, width=WIDTH)])
        values, codes, turns = one.values, one.codes, one.turns
        assert one.log_counts is not None
        counts = torch.nn.functional.pad(one.log_counts, (0, 2))
    still = torch.zeros_like(pointers)
    return attention()(
        noise(1, WIDTH, SIDE, SIDE, seed=9),
        torch.cat((values, pointers), dim=1),
        codes=(torch.zeros(1, WIDTH, SIDE, SIDE), torch.cat((codes.expand_as(values), still), dim=1)),
        pointers=2,
        turns=turns,
        log_counts=counts,
    )


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_what_is_near_decides_where_the_far_is_plain() -> None:
    spatial = torch.zeros(2, CHANNELS, SIDE, SIDE)
    spatial[0, :, 17:23, 25:31] = noise(CHANNELS, 6, 6)
    spatial[1, :, 17:23, 25:31] = noise(CHANNELS, 6, 6, seed=1)
    near = near_blocks(logits_of(17, 25, size=6))
    other = near_blocks(logits_of(2, 2, size=3))
    assert near is not None and other is not None
    whole = recalled(spatial, None)
    kept = difference(recalled(spatial, near.expand(2, -1)), whole)
    lost = difference(recalled(spatial, other.expand(2, -1)), whole)
    assert kept < 0.01
    assert kept < lost


def test_all_blocks_near_is_the_whole_map_in_another_order() -> None:
    spatial = noise(2, CHANNELS, SIDE, SIDE)
    every = torch.arange(100).expand(2, -1)
    torch.testing.assert_close(recalled(spatial, every), recalled(spatial, None), atol=1e-4, rtol=1e-3)
