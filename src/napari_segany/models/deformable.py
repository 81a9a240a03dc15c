"""Multi-scale deformable attention.

Paper: Zhu et al. 2021, "Deformable DETR" (sections 4.1 and A.2). Every query reads a few places of
every level; places outside of a map read zeros.

Instead of one `grid_sample` a level, all corners of all places in all levels are rows of one table, which one
`embedding_bag` weighs and sums: no map is copied, and no sample is ever stored. Reading is linear, so few queries read
the unprojected maps and project what they read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sizes = list[tuple[int, int]]
"""(h, w) of the levels, in the order in which their cells follow each other."""

_QUERIES_AT_ONCE = 1024  # their indices and weights stay in a CPU's cache


@dataclass(frozen=True, slots=True)
class DeformableConfig:
    """How many heads read how many points of how many levels."""

    heads: int = 8
    levels: int = 4
    points: int = 4


class DeformableAttention(nn.Module):
    """Queries read maps at places near their own, that they choose, with weights that they choose."""

    def __init__(self, width: int, config: DeformableConfig) -> None:
        super().__init__()
        self.config = config
        places = config.heads * config.levels * config.points
        self.sampling_offsets = nn.Linear(width, 2 * places)
        self.attention_weights = nn.Linear(width, places)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._point_outwards()

    @torch.no_grad()
    def _point_outwards(self) -> None:
        """Begin as the paper does: each head looks in a direction of its own, its points one step apart."""
        heads, levels, points = self.config.heads, self.config.levels, self.config.points
        angles = torch.arange(heads) * (2 * math.pi / heads)
        ways = torch.stack((angles.cos(), angles.sin()), dim=-1)
        ways = ways / ways.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1)[:, None]
        bias = (ways[:, None, None] * steps).expand(heads, levels, points, 2)
        self.sampling_offsets.bias.copy_(bias.flatten())
        for weight in (self.sampling_offsets.weight, self.attention_weights.weight):
            nn.init.zeros_(weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, boxes: Tensor, cells: Tensor, sizes: Sizes) -> Tensor:
        """Return what (B, Q, C) queries read of (B, S, C) cells: (B, Q, C).

        Parameters
        ----------
        boxes : (B or 1, Q, 2 or 4)
            Where the queries are: (x, y), or (x, y, w, h), as shares of the maps. With a size, offsets are shares of
            half of it; without, they are cells of each level.
        sizes
            Of the levels; S is the sum of their areas.
        """
        if self.is_shared(queries.shape[1], cells.shape[1]):
            return self._of_shared(queries, boxes, cells, sizes)
        values = self.values(cells)
        if torch.is_grad_enabled():
            return self.output_proj(_sampled(values, *self._asked(queries, boxes, sizes), sizes))
        parts = [
            self.read(queries[:, part], boxes[:, part], values, sizes) for part in slices(queries.shape[1])
        ]
        return torch.cat(parts, dim=1)

    def is_shared(self, queries: int, cells: int) -> bool:
        """Return whether so few queries are better off with unprojected cells."""
        return queries * self.config.heads < cells

    def values(self, cells: Tensor) -> Tensor:
        """Return the (B, S, heads, d) projections of (B, S, C) cells."""
        return self.value_proj(cells).unflatten(2, (self.config.heads, -1))

    def read(self, queries: Tensor, boxes: Tensor, values: Tensor, sizes: Sizes) -> Tensor:
        """Return what some of the queries read of (B, S, heads, d) values; without gradients."""
        batch, count, heads, _ = values.shape
        near = Neighbours(*self._asked(queries, boxes, sizes), sizes)
        first = torch.arange(batch, dtype=torch.int32, device=values.device) * count
        head = torch.arange(heads, dtype=torch.int32, device=values.device)[:, None]
        rows = (near.cells + first[:, None, None, None]) * heads + head
        mixed = _sums(values.flatten(0, 2), rows, near.parts)  # (B, Q, heads, d)
        return self.output_proj(mixed.flatten(2))

    def _of_shared(self, queries: Tensor, boxes: Tensor, cells: Tensor, sizes: Sizes) -> Tensor:
        """Return what few queries read of (B, S, C) cells, projected after the reading."""
        heads, width = self.config.heads, cells.shape[-1]
        near = Neighbours(*self._asked(queries, boxes, sizes), sizes)
        first = torch.arange(len(cells), dtype=torch.int32, device=cells.device) * cells.shape[1]
        read = _sums(cells.flatten(0, 1), near.cells + first[:, None, None, None], near.parts)
        value = self.value_proj.weight.view(heads, width // heads, width)
        mixed = torch.einsum("bqhc,hdc->bqhd", read, value)
        inside = near.parts.sum(dim=-1, keepdim=True).to(
            mixed.dtype
        )  # places outside read zeros, without bias
        mixed = mixed + inside * self.value_proj.bias.view(heads, -1)
        return self.output_proj(mixed.flatten(2))

    def _asked(self, queries: Tensor, boxes: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
        """Return places x and y in cells of their level, centres at integers, and weights.

        Each is (B, Q, heads, levels * points), contiguous: what follows is many times faster for it.
        """
        config, linear = self.config, self.sampling_offsets
        weights = self.attention_weights(queries).unflatten(2, (config.heads, -1)).float().softmax(dim=-1)
        places = []
        for axis in (0, 1):
            offsets = F.linear(queries, linear.weight[axis::2], linear.bias[axis::2]).float()
            offsets = offsets.unflatten(2, (config.heads, -1))
            sides = _each(offsets, [size[1 - axis] for size in sizes], config.points)
            centre = boxes[:, :, None, axis : axis + 1].float()
            if boxes.shape[-1] == 4:
                extent = boxes[:, :, None, axis + 2 : axis + 3].float()
                places.append((centre + offsets * (0.5 / config.points) * extent) * sides - 0.5)
            else:
                places.append(centre * sides + offsets - 0.5)
        return places[0], places[1], weights


class Neighbours:
    """The four cells around every place, (B, Q, heads, 4 * levels * points), and how much each of them counts."""

    def __init__(self, x: Tensor, y: Tensor, weights: Tensor, sizes: Sizes) -> None:
        points = x.shape[-1] // len(sizes)
        width = _each(x, [size[1] for size in sizes], points)
        height = _each(x, [size[0] for size in sizes], points)
        first = _each(x, [0, *_ends(sizes)[:-1]], points)
        columns, across = _two(x, width)
        rows, down = _two(y, height)
        shape = (*x.shape[:3], 4, x.shape[3])
        self.cells = torch.empty(shape, dtype=torch.int32, device=x.device)
        parts = []
        for i, (row, part) in enumerate(zip(rows, down, strict=True)):
            start, weighted = row * width + first, part * weights
            for j in (0, 1):
                self.cells[..., 2 * i + j, :] = start + columns[j]
                parts.append(weighted * across[j])
        self.cells = self.cells.flatten(3)
        self.parts = torch.stack(parts, dim=3).flatten(3)


def _each(like: Tensor, values: list[int], points: int) -> Tensor:
    """Return one number a level, each repeated for its points: (levels * points,)."""
    return torch.tensor(values, dtype=torch.float32, device=like.device).repeat_interleave(points)


def _two(place: Tensor, side: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two cells beside each place along one axis, and their shares: 0 for cells that do not exist."""
    low = place.detach().floor()
    far = place - low
    high = low + 1
    shares = ((1 - far) * ((low >= 0) & (low < side)), far * ((high >= 0) & (high < side)))
    last = side - 1
    return (low.clamp(min=0).minimum(last), high.clamp(min=0).minimum(last)), shares


def _sums(table: Tensor, rows: Tensor, parts: Tensor) -> Tensor:
    """Return (..., D) sums of `parts` (..., K) times the rows (..., K) of a (R, D) table."""
    read = F.embedding_bag(
        rows.flatten(0, -2), table.float(), mode="sum", per_sample_weights=parts.flatten(0, -2)
    )
    return read.unflatten(0, rows.shape[:-1]).to(table.dtype)


def _sampled(values: Tensor, x: Tensor, y: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """Return what `read` mixes, (B, Q, C), level by level: slower, but faster where gradients must come back."""
    heads, points = values.shape[2], x.shape[-1] // len(sizes)
    total = values.new_zeros(())
    for level, (part, (height, width)) in enumerate(
        zip(values.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
        own = slice(level * points, (level + 1) * points)
        at = torch.stack(((x[..., own] + 0.5) / width, (y[..., own] + 0.5) / height), dim=-1) * 2 - 1
        grid = at.transpose(1, 2).flatten(0, 1).to(maps.dtype)  # (B * heads, Q, points, 2)
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = weights[..., own].transpose(1, 2).flatten(0, 1)[:, None].to(read.dtype)
        total = total + (read * share).sum(dim=-1)  # (B * heads, d, Q)
    return total.unflatten(0, (-1, heads)).permute(0, 3, 1, 2).flatten(2)


def slices(count: int) -> list[slice]:
    """Return the parts in which `count` queries are worked off."""
    return [slice(start, start + _QUERIES_AT_ONCE) for start in range(0, count, _QUERIES_AT_ONCE)]


def _ends(sizes: Sizes) -> list[int]:
    """Return where each level ends among the cells of all."""
    ends = [0]
    for height, width in sizes:
        ends.append(ends[-1] + height * width)
    return ends[1:]


def cut_levels(cells: Tensor, sizes: Sizes) -> list[Tensor]:
    """Return the (B, C, h, w) maps of (B, S, C) cells."""
    ends = [0, *_ends(sizes)]
    return [
        cells[:, start:stop].transpose(1, 2).unflatten(2, size)
        for (start, stop), size in zip(pairwise(ends), sizes, strict=True)
    ]


def join_levels(maps: list[Tensor]) -> tuple[Tensor, Sizes]:
    """Return the (B, S, C) cells of (B, C, h, w) maps, one map after the other, and the maps' sizes."""
    sizes = [(x.shape[2], x.shape[3]) for x in maps]
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1), sizes
