"""Attention with decomposed relative positions (Li et al. 2022, MViTv2) over a whole grid or inside windows, fast.

A query at (y, x) meets a key at (y', x') with the logit q·k / sqrt(d) + q·R_h[y - y'] + q·R_w[x - x']. Three ways to
the same numbers:

- where gradients are recorded, and on GPUs, the terms go into the product: the query is extended by its H + W terms,
  the key by the one-hot codes of its row and column, and the framework's fused kernel does the rest;
- inside windows on a CPU the same product is taken in plain steps, which beat the fused kernel there;
- over the whole grid on a CPU a slab of queries at a time, small enough for the cache: the product is added to a
  buffer that already holds the terms, whose H + W differences are read where they lie, without being gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import merge_windows

Rel = tuple[Tensor, Tensor]
"""The tables of rows and of columns, (2 H - 1, d) and (2 W - 1, d); of other lengths they are resampled."""

Region = tuple[slice, ...]

SLAB = 8 * 2**20  # bytes of logits at a time on a CPU: more falls out of its caches


def attend_grid(qkv: Tensor, *, rel: Rel, heads: int) -> Tensor:
    """Attend from every cell of a (B, H, W, 3 C) grid of queries, keys, values to every cell; returns (B, H, W, C)."""
    if _records(qkv):
        return _attend_fused(qkv, rel=rel, heads=heads)
    q, k, v = split_heads(qkv, heads=heads)  # (B * heads, H, W, d) each
    k, v = k.flatten(1, 2).contiguous(), v.flatten(1, 2).contiguous()  # once, not in every product
    return _merge_heads(_attend_by_slabs(q.contiguous(), k, v, rel=rel), batch=len(qkv))


def attend_windows(qkv: Tensor, padding: Tensor, *, rel: Rel, heads: int, window: int) -> Tensor:
    """Attend inside windows of a (B, H, W, 3 C) grid of queries, keys, values; returns (B, H, W, C).

    The grid is completed to whole windows with `padding` (3 C,): what zero tokens become in the layer that made
    `qkv`, which is its bias. They are attended to like all others, as in the released models.
    """
    if not _records(qkv):
        return _attend_windows_plainly(qkv, padding, rel=rel, heads=heads, window=window)
    batch, height, width, channels = qkv.shape
    padded = (height + -height % window, width + -width % window)
    if padded != (height, width):
        grid = padding.to(qkv.dtype).expand(batch, *padded, channels).clone()
        grid[:, :height, :width] = qkv
        qkv = grid
    rows, cols = padded[0] // window, padded[1] // window
    windows = qkv.reshape(batch, rows, window, cols, window, channels).transpose(2, 3)
    out = _attend_fused(
        windows.flatten(1, 2).flatten(0, 1), rel=rel, heads=heads
    )  # (B * n, window, window, C)
    return merge_windows(out, window, padded=padded, size=(height, width))


def split_heads(qkv: Tensor, *, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut (B, H, W, 3 C) into queries, keys and values (B * heads, H, W, d)."""
    batch, height, width, channels = qkv.shape
    parts = qkv.reshape(batch, height, width, 3, heads, channels // 3 // heads).permute(3, 0, 4, 1, 2, 5)
    q, k, v = parts.flatten(1, 2)
    return q, k, v


def between(table: Tensor, count: int) -> Tensor:
    """Return the (count, count, d) codes between positions, query first, from a table."""
    table = resampled(table, count)
    index = torch.arange(count, device=table.device)
    return table[index[:, None] - index[None, :] + count - 1]


def resampled(table: Tensor, count: int) -> Tensor:
    """Return the (2 count - 1, d) table for `count` positions, linearly from one of another length."""
    if table.shape[0] == 2 * count - 1:
        return table
    longer = F.interpolate(table.float().t()[None], size=2 * count - 1, mode="linear")
    return longer[0].t().to(table.dtype)


def _records(x: Tensor) -> bool:
    """Return whether to use the fused kernel: its backward pass is the fast one, and GPUs are made for it."""
    return torch.is_grad_enabled() or x.device.type != "cpu"


def _attend_fused(qkv: Tensor, *, rel: Rel, heads: int) -> Tensor:
    """Attend over (B, H, W, 3 C) with the framework's kernel; returns (B, H, W, C)."""
    batch, height, width, channels = qkv.shape
    q, k, v = split_heads(qkv, heads=heads)  # (B * heads, H, W, d)
    depth = q.shape[3]
    rows = torch.einsum("nhwc,hkc->nhwk", q, between(rel[0], height).to(q.dtype))
    columns = torch.einsum("nhwc,wkc->nhwk", q, between(rel[1], width).to(q.dtype))
    q, k = _extended(q, k, terms=(rows, columns))  # (B * heads, N, d + H + W)
    q, k = (t.unflatten(0, (batch, heads)) for t in (q, k))
    v = v.reshape(batch, heads, height * width, depth)
    v = F.pad(v, (0, q.shape[3] - depth))  # without equal depths there is no fused kernel
    out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :depth]  # (B, heads, N, d)
    return out.transpose(1, 2).reshape(batch, height, width, channels // 3)


def _attend_windows_plainly(qkv: Tensor, padding: Tensor, *, rel: Rel, heads: int, window: int) -> Tensor:
    """Attend inside windows of (B, H, W, 3 C), copying every cell once each way; returns (B, H, W, C)."""
    parts = qkv.unflatten(3, (3, heads, -1)).unbind(3)  # (B, H, W, heads, d) each
    fills = padding.to(qkv.dtype).unflatten(0, (3, heads, -1))  # (3, heads, d)
    q, k, v = (_cut(part, fill, window=window) for part, fill in zip(parts, fills, strict=True))
    answers = _attend_plainly(*(t.flatten(0, 3) for t in (q, k, v)), rel=rel).view(q.shape)
    out = torch.empty_like(parts[0], memory_format=torch.contiguous_format)  # (B, H, W, heads, d)
    for inside, cells in _regions(out.shape[1:3], window=window):
        out[cells] = answers[inside].permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
    return out.flatten(3)


def _cut(x: Tensor, fill: Tensor, *, window: int) -> Tensor:
    """Copy (B, H, W, heads, d) to (B, rows, cols, heads, window, window, d), completed with `fill` (heads, d)."""
    batch, height, width, heads, depth = x.shape
    out = x.new_empty(batch, -(-height // window), -(-width // window), heads, window, window, depth)
    out[:, height // window :] = fill[:, None, None]
    out[:, :, width // window :] = fill[:, None, None]
    for inside, cells in _regions((height, width), window=window):
        target = out[inside]
        part = x[cells].unflatten(2, (target.shape[2], -1)).unflatten(1, (target.shape[1], -1))
        target.copy_(part.permute(0, 1, 3, 5, 2, 4, 6))
    return out


def _regions(size: Sequence[int], *, window: int) -> Iterator[tuple[Region, Region]]:
    """Yield where the cells of a grid are, in (B, rows, cols, heads, y, x) and in (B, H, W).

    First those of whole windows, then of the narrow ones at the right, the low ones at the bottom and the last.
    """
    whole = slice(None)
    for rows, tall, lines in _spans(size[0], window):
        for cols, wide, columns in _spans(size[1], window):
            yield (whole, rows, cols, whole, tall, wide), (whole, lines, columns)


def _spans(count: int, window: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield which windows along an axis are alike, what of each lies in the grid, and where in the grid they are."""
    full, rest = divmod(count, window)
    if full:
        yield slice(0, full), slice(0, window), slice(0, full * window)
    if rest:
        yield slice(full, full + 1), slice(0, rest), slice(full * window, count)


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, *, rel: Rel) -> Tensor:
    """Attend over many small (G, H, W, d) grids, some at a time; returns (G, H, W, d)."""
    height, width = q.shape[1:3]
    terms = q @ _reversed_tables(rel, (height, width), like=q)  # (G, H, W, 2 H - 1 + 2 W - 1)
    q, k = _extended(q, k, terms=_differences(terms, first=0, size=(height, width)))  # (G, N, d + H + W)
    out = torch.empty_like(v)
    values, answers = v.flatten(1, 2), out.flatten(1, 2)  # (G, N, d)
    cells = height * width
    step = max(1, SLAB // (cells * cells * q.element_size()))
    buffer = q.new_empty(min(step, len(q)), cells, cells)
    for start in range(0, len(q), step):
        part = slice(start, min(start + step, len(q)))
        weights = buffer[: part.stop - start]
        torch.bmm(q[part], k[part].transpose(1, 2), out=weights)
        torch.softmax(weights, dim=2, out=weights)
        torch.bmm(weights, values[part], out=answers[part])
    return out


def _merge_heads(x: Tensor, *, batch: int) -> Tensor:
    """Turn (B * heads, H, W, d) into (B, H, W, C)."""
    return x.unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4).flatten(3)


def _extended(q: Tensor, k: Tensor, *, terms: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scaled queries with their terms, and keys with the codes of their cells: (G, H * W, d + H + W) each."""
    height, width, depth = q.shape[1:]
    codes = torch.cat(
        (
            torch.eye(height, dtype=k.dtype, device=k.device)[:, None].expand(height, width, height),
            torch.eye(width, dtype=k.dtype, device=k.device)[None].expand(height, width, width),
        ),
        dim=2,
    )
    fill = -(depth + height + width) % 8  # fused kernels want multiples of 8
    codes = F.pad(codes, (0, fill)).expand(len(k), -1, -1, -1)
    q = torch.cat((q * depth**-0.5, *terms, q.new_zeros(*q.shape[:3], fill)), dim=3)
    return q.flatten(1, 2), torch.cat((k, codes), dim=3).flatten(1, 2)


def _attend_by_slabs(q: Tensor, k: Tensor, v: Tensor, *, rel: Rel) -> Tensor:
    """Attend from (G, H, W, d) queries to (G, H * W, d) keys and values, a slab of logits at a time.

    Returns
    -------
    (G, H, W, d)
    """
    groups, height, width, depth = q.shape
    table = _reversed_tables(rel, (height, width), like=q)
    lines = min(4, height)  # of queries in a slab
    line_bytes = width * height * width * q.element_size()
    step = min(groups, max(1, SLAB // (lines * line_bytes)))
    out = torch.empty_like(q)
    buffer = q.new_empty(step * lines * width * height * width)
    for g in range(0, groups, step):
        for y in range(0, height, lines):
            part = q[g : g + step, y : y + lines]  # (n, l, W, d)
            logits = buffer[: part[..., 0].numel() * height * width].view(*part.shape[:3], height, width)
            rows, columns = _differences(part @ table, first=y, size=(height, width))
            torch.add(rows[..., None], columns[..., None, :], out=logits)
            logits = logits.view(len(part), -1, height * width)  # (n, l * W, N)
            keys = k[g : g + step].transpose(1, 2)
            torch.baddbmm(logits, part.flatten(1, 2), keys, alpha=depth**-0.5, out=logits)
            torch.softmax(logits, dim=2, out=logits)
            out[g : g + step, y : y + lines] = torch.bmm(logits, v[g : g + step]).view(part.shape)
    return out


def _reversed_tables(rel: Rel, size: tuple[int, int], *, like: Tensor) -> Tensor:
    """Return both tables side by side, (d, 2 H - 1 + 2 W - 1), each from the last difference to the first."""
    tables = [resampled(table, count).flip(0) for table, count in zip(rel, size, strict=True)]
    return torch.cat(tables).to(like.dtype).t()


def _differences(terms: Tensor, *, first: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return views of what queries add to logits: (n, l, W, H) by the key's row, (n, l, W, W) by its column.

    `terms` (n, l, W, 2 H - 1 + 2 W - 1) are products with the reversed tables, for the l lines of queries from
    `first`: the terms of the query in line y begin at H - 1 - y, so those of the next line one earlier.
    """
    height, width = size
    n, lines = terms.shape[:2]
    by_group, by_line, by_column, _ = terms.stride()
    begin = terms.storage_offset() + height - 1 - first
    rows = terms.as_strided((n, lines, width, height), (by_group, by_line - 1, by_column, 1), begin)
    begin = terms.storage_offset() + 2 * height - 1 + width - 1
    columns = terms.as_strided((n, lines, width, width), (by_group, by_line, by_column - 1, 1), begin)
    return rows, columns
