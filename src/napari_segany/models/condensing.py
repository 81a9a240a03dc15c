"""Memories whose places far from their object are put together, 2 x 2 to one: fewer tokens to attend to.

A map of a memory is cut into blocks of 4 x 4 cells. Those at the object's outline, or in the object, are recalled cell
by cell; of each other one, means of 2 x 2 cells, which count as the four that they are. It is an approximation of the
whole attention, exact where the cells of a mean are alike. Pooled memories are due to Xiong et al. 2024
(EfficientTAM), where all places are pooled and the network is trained with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import sine_position_code
from .memory import grid_rotation

BLOCK = 4
"""Cells along a block's side."""

STEP = 2
"""Cells along the side of what is put together."""

NEAR = 40
"""Blocks that are recalled cell by cell."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedTokens:
    """Memories as they are attended to.

    Attributes
    ----------
    values : (B, L, C_mem)
    codes : (B or 1, L, C_mem)
        Of their places, and of their ages.
    turns : (B, L, C / 2) complex
        Rotations of their places; None where they are whole maps, or a perceiver's tokens.
    log_counts : (B, L)
        Logarithms of how many cells each stands for; None where each is one.
    """

    values: Tensor
    codes: Tensor
    turns: Tensor | None = None
    log_counts: Tensor | None = None


def joined(parts: Sequence[PlacedTokens]) -> PlacedTokens:
    """Return all tokens, in this order: either all parts are condensed or none is."""
    values, codes = (torch.cat([getattr(p, name) for p in parts], dim=1) for name in ("values", "codes"))
    turns = [p.turns for p in parts if p.turns is not None]
    counts = [p.log_counts for p in parts if p.log_counts is not None]
    if not turns:
        return PlacedTokens(values, codes)
    return PlacedTokens(values, codes, torch.cat(turns, dim=1), torch.cat(counts, dim=1))


def near_blocks(logits: Tensor) -> Tensor | None:
    """Return the (B, NEAR) blocks of a memory near the object in (B, 1, 4h, 4w) logits; None where that is all.

    First those within a block of its outline, then those inside, then any.
    """
    side = 4 * BLOCK
    rows, cols = logits.shape[2] // side, logits.shape[3] // side
    if logits.shape[2] % side or logits.shape[3] % side or rows * cols <= NEAR:
        return None
    inside = (logits > 0).float()
    share = F.avg_pool2d(inside, side)  # (B, 1, rows, cols)
    around = F.max_pool2d(F.max_pool2d(inside, side), 3, stride=1, padding=1)
    clear = -F.max_pool2d(F.max_pool2d(-inside, side), 3, stride=1, padding=1)
    score = 2 * (around - clear) + share
    return score.flatten(1).topk(NEAR, dim=1).indices


def condensed(spatial: Tensor, near: Tensor, *, width: int) -> PlacedTokens:
    """Return (B, C_mem, h, w) maps with the blocks `near` (B, k) cell by cell, the others as means.

    The mean of rotated keys is taken as the mean key, rotated by the mean rotation: neighbours of like content whose
    rotations differ cancel in part, as they should.
    """
    size = (spatial.shape[2], spatial.shape[3])
    batch, kept = near.shape
    cells = _blocks(spatial.flatten(2).transpose(1, 2), size)  # (B, blocks, 16, C_mem)
    codes, turns = _places(spatial.shape[1], width, size)
    codes, turns = codes.to(spatial), turns.to(spatial.device)
    is_far = torch.ones(batch, cells.shape[1], dtype=torch.bool, device=near.device).scatter_(
        1, near, value=False
    )
    far = is_far.nonzero()[:, 1].view(batch, -1)
    values, codes, turns = (
        torch.cat((_picked(x, near), _picked(_means(x), far)), dim=1)
        for x in (cells, codes[None], turns[None])
    )
    counts = values.new_zeros(batch, values.shape[1])
    counts[:, kept * BLOCK**2 :] = math.log(STEP**2)
    return PlacedTokens(values, codes, turns, counts)


@lru_cache(maxsize=8)
def grid_code(channels: int, size: tuple[int, int]) -> Tensor:
    """Return `sine_position_code`, worked out once for each size."""
    with torch.inference_mode(mode=False), torch.no_grad():
        return sine_position_code(channels, size)


@lru_cache(maxsize=8)
def _places(channels: int, width: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the codes (blocks, 16, channels) and rotations (blocks, 16, width / 2) of a map's blocks."""
    with torch.inference_mode(mode=False), torch.no_grad():
        codes = grid_code(channels, size).flatten(1).T
        return _blocks(codes[None], size)[0], _blocks(grid_rotation(width, size)[None], size)[0]


def _blocks(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn (B, h * w, C) into (B, blocks, 16, C), the cells of a block row by row."""
    h, w = size[0] // BLOCK, size[1] // BLOCK
    split = cells.unflatten(1, (h, BLOCK, w, BLOCK)).transpose(2, 3)
    return split.flatten(3, 4).flatten(1, 2)


def _means(blocks: Tensor) -> Tensor:
    """Return the (B, blocks, parts, C) means of (B, blocks, 16, C): those of squares of `STEP` cells."""
    parts = BLOCK // STEP
    split = blocks.unflatten(2, (parts, STEP, parts, STEP))
    return split.mean(dim=(3, 5)).flatten(2, 3)


def _picked(blocks: Tensor, index: Tensor) -> Tensor:
    """Return the (B, k * n, C) tokens of blocks (B, k) of (B or 1, blocks, n, C)."""
    rows = torch.arange(len(index), device=index.device)[:, None] if len(blocks) > 1 else 0
    return blocks[rows, index].flatten(1, 2)
