"""Attention with decomposed relative positions (Li et al. 2022, MViTv2) over a whole grid or inside windows, fast.

A query at (y, x) meets a key at (y', x') with the logit q·k / sqrt(d) + q·R_h[y - y'] + q·R_w[x - x']. Adding the
two terms to a table of logits costs more than the products themselves, so they go into the product: the query is
extended by its H + W terms, the key by the one-hot codes of its row and column.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import merge_windows

Rel = tuple[Tensor, Tensor]
"""The tables of rows and of columns, (2 H - 1, d) and (2 W - 1, d)."""


def attend_relative(qkv: Tensor, *, rel: Rel, heads: int) -> Tensor:
    """Attend from every cell of a grid to every cell.

    Parameters
    ----------
    qkv : (B, H, W, 3 C)
        Queries, keys and values side by side, each `heads` blocks of d channels.
    rel : (2 H - 1, d) and (2 W - 1, d)
        Resampled where they are of another length.

    Returns
    -------
    (B, H, W, C)
    """
    batch, height, width, channels = qkv.shape
    depth = channels // 3 // heads
    q, k, v = qkv.reshape(batch, height * width, 3, heads, depth).permute(
        2, 0, 3, 1, 4
    )  # (B, heads, N, d) each
    rows, columns = position_terms(q.reshape(batch, heads, height, width, depth), rel=rel)
    extra = height + width
    fill = -(depth + extra) % 8  # fused kernels want multiples of 8
    q = torch.cat(
        (q * depth**-0.5, rows.flatten(2, 3), columns.flatten(2, 3), q.new_zeros(*q.shape[:3], fill)), dim=3
    )
    codes = F.pad(cell_codes((height, width), like=k), (0, fill)).expand(*k.shape[:3], extra + fill)
    k = torch.cat((k, codes), dim=3)
    v = F.pad(v, (0, extra + fill))  # without equal depths there is no fused kernel
    out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :depth]  # (B, heads, N, d)
    return out.transpose(1, 2).reshape(batch, height, width, heads * depth)


def attend_windows(qkv: Tensor, padding: Tensor, *, rel: Rel, heads: int, window: int) -> Tensor:
    """Attend inside windows of a (B, H, W, 3 C) grid; returns (B, H, W, C).

    The grid is completed to whole windows with `padding` (3 C,): zero tokens, as the layer that made `qkv` sees
    them, which is its bias. They are attended to like all others, as in the released models.
    """
    batch, height, width, channels = qkv.shape
    padded = (height + -height % window, width + -width % window)
    if padded != (height, width):
        grid = padding.to(qkv.dtype).expand(batch, *padded, channels).clone()
        grid[:, :height, :width] = qkv
        qkv = grid
    rows, cols = padded[0] // window, padded[1] // window
    windows = qkv.reshape(batch, rows, window, cols, window, channels).transpose(2, 3)
    out = attend_relative(windows.reshape(-1, window, window, channels), rel=rel, heads=heads)
    return merge_windows(out, window, padded=padded, size=(height, width))


def position_terms(q: Tensor, *, rel: Rel) -> tuple[Tensor, Tensor]:
    """Return what (B, heads, H, W, d) queries add to logits, (B, heads, H, W, H) by row and (…, W) by column."""
    height, width = q.shape[2:4]
    rows = torch.einsum("bnhwc,hkc->bnhwk", q, between(rel[0], height).to(q.dtype))
    columns = torch.einsum("bnhwc,wkc->bnhwk", q, between(rel[1], width).to(q.dtype))
    return rows, columns


def between(table: Tensor, count: int) -> Tensor:
    """Return the (count, count, d) codes between positions, query first, from a (2 count - 1, d) table."""
    if table.shape[0] != 2 * count - 1:
        longer = F.interpolate(table.float().t()[None], size=2 * count - 1, mode="linear")
        table = longer[0].t().to(table.dtype)
    index = torch.arange(count, device=table.device)
    return table[index[:, None] - index[None, :] + count - 1]


def cell_codes(size: tuple[int, int], *, like: Tensor) -> Tensor:
    """Return the (H * W, H + W) one-hot codes of each cell's row and column."""
    height, width = size
    rows = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat((rows, columns), dim=1)
