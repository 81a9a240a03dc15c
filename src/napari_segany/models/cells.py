"""Maps whose pixels lie cell by cell, as the mask decoder makes them where no gradients are recorded.

A transposed convolution whose kernel is its stride turns each cell into 2 x 2 pixels by a matrix product, and a
convolution turns them into one again; as long as these stay beside each other, nothing needs to be moved.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TWICE_AS_WIDE = {
    torch.float64: torch.complex128,
    torch.float32: torch.int64,
    torch.bfloat16: torch.int32,
    torch.float16: torch.int32,
}


def doubled(conv: nn.Module, cells: Tensor) -> Tensor:
    """Return what a transposed convolution (2 x 2, stride 2) makes of (..., C) cells: (..., 4, C')."""
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    matrix = weight.permute(0, 2, 3, 1).flatten(1)  # (C, 4 * C')
    wide = cells.reshape(-1, cells.shape[-1]) @ matrix
    return wide.reshape(*cells.shape[:-1], 4, len(bias)).add_(bias)


def gathered(conv: nn.Conv2d, cells: Tensor) -> Tensor:
    """Return what a convolution (2^d x 2^d, as its stride) makes of (..., 4^d, C) `nested` cells: (..., C')."""
    depth = conv.kernel_size[0].bit_length() - 1
    matrix = nested(conv.weight, depth).flatten(1)  # (C', 4^d * C)
    return F.linear(cells.flatten(-2), matrix, conv.bias)


def gelu_(x: Tensor) -> Tensor:
    """Return GELU of a tensor, in its own memory."""
    changed: Tensor = torch.ops.aten.gelu_(x)
    return changed


def add_map(cells: Tensor, image: Tensor, depth: int) -> None:
    """Add a (B or 1, C, 2^d h, 2^d w) map to (B, hw, 4^d, C) `nested` cells, in place."""
    seen = _by_cell(image, depth)
    cells.view(len(cells), *seen.shape[1:]).add_(seen)


def _by_cell(x: Tensor, depth: int) -> Tensor:
    """Return a (B, C, 2^d h, 2^d w) map as (B, h, w, 2, 2, ..., C), without moving anything."""
    batch, channels, height, width = x.shape
    split = x.reshape(batch, channels, height >> depth, *(2,) * depth, width >> depth, *(2,) * depth)
    rows, cols = range(3, 3 + depth), range(4 + depth, 4 + 2 * depth)
    pairs = (axis for pair in zip(rows, cols, strict=True) for axis in pair)
    return split.permute(0, 2, 3 + depth, *pairs, 1)


def nested(x: Tensor, depth: int) -> Tensor:
    """Turn a (B, C, 2^d h, 2^d w) map into (B, hw, 4^d, C): the pixels of a cell together, halves within halves."""
    batch, channels, height, width = x.shape
    return _by_cell(x, depth).reshape(batch, (height >> depth) * (width >> depth), 4**depth, channels)


def laid_out(masks: Tensor, depth: int, *, size: tuple[int, int]) -> Tensor:
    """Undo `nested` of maps that come first: (B, M, hw, 4^d) to (B, M, 2^d h, 2^d w) with `size` = (h, w).

    Two pixels that stay beside each other are moved as one number of twice the width.
    """
    pairs = masks.contiguous().view(_TWICE_AS_WIDE[masks.dtype])
    split = pairs.view(*masks.shape[:2], *size, *(2,) * (2 * depth - 1))
    rows, cols = range(4, 3 + 2 * depth, 2), range(5, 3 + 2 * depth, 2)
    moved = split.permute(0, 1, 2, *rows, 3, *cols).contiguous()
    return moved.view(masks.dtype).view(*masks.shape[:2], size[0] << depth, size[1] << depth)
