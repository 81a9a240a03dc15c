"""Semantic-SAM's pixel decoder: a trunk's maps read each other deformably, and become levels and mask features.

Papers: Li et al. 2023, "Mask DINO" (section 3.3) and "Semantic-SAM" (section 3.1); Zhu et al. 2021, "Deformable DETR".
The bundled model draws its masks at twice the resolution, from maps that stay narrow there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable import (
    DeformableAttention,
    DeformableConfig,
    Sizes,
    cut_levels,
    join_levels,
    slices,
)
from .layers import sine_position_code


@dataclass(frozen=True, slots=True)
class PixelDecoderConfig:
    """Sizes of a pixel decoder, with channels inside of `width`.

    `layers` and `mlp_width` are those of its encoder, `mask_width` the channels of the mask features. With
    `is_narrow`, masks are drawn at the trunk's finest map, two maps above the finest that is read deformably, not one,
    and cells get no code of their place, so that frames of any size look alike. `votes` are maps of two channels each
    behind the mask features, in which every pixel says where the middle of its object is (see `query_decoder`).
    """

    width: int = 256
    layers: int = 6
    mlp_width: int = 2048
    mask_width: int = 256
    groups: int = 32
    is_narrow: bool = False
    votes: int = 0
    deformable: DeformableConfig = field(default_factory=DeformableConfig)


class PixelEncoderLayer(nn.Module):
    """Every cell of every level reads around itself, then an MLP; post-norm."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = DeformableAttention(width, config.deformable)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.mlp_width)
        self.linear2 = nn.Linear(config.mlp_width, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, cells: Tensor, code: Tensor, places: Tensor, sizes: Sizes) -> Tensor:
        """Map (B, S, C) cells to the same shape; `code` (1, S, C), `places` (1, S, 2) as shares of the maps."""
        if torch.is_grad_enabled():
            return self._mixed(cells, self.self_attn(cells + code, places, cells, sizes))
        values = self.self_attn.values(cells)
        parts = []
        for part in slices(cells.shape[1]):  # nothing as large as the MLP's inside is ever whole
            own = cells[:, part]
            read = self.self_attn.read(own + code[:, part], places[:, part], values, sizes)
            parts.append(self._mixed(own, read))
        return torch.cat(parts, dim=1)

    def _mixed(self, cells: Tensor, read: Tensor) -> Tensor:
        """Add what was read, then the MLP's answer."""
        cells = self.norm1(cells + read)
        return self.norm2(cells + self.linear2(F.relu(self.linear1(cells))))


class PixelEncoder(nn.Module):
    """The layers; parameters are called as in the released checkpoints (`encoder.layers.N`)."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.zeros(config.deformable.levels, config.width))
        nn.init.normal_(self.level_embed)
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(PixelEncoderLayer(config) for _ in range(config.layers))}
        )
        self.has_code = not config.is_narrow

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map (B, C, h, w) maps, one a level, to maps of the same shapes."""
        cells, sizes = join_levels(maps)
        code = torch.cat([self._code(level, size, cells) for level, size in enumerate(sizes)])[None]
        places = torch.cat([_centres(size, cells) for size in sizes])[None]
        for layer in cast(nn.ModuleList, self.encoder["layers"]):
            cells = layer(cells, code, places, sizes)
        return cut_levels(cells, sizes)

    def _code(self, level: int, size: tuple[int, int], cells: Tensor) -> Tensor:
        """Return the (h w, C) code of a level's cells: of the level and, except in narrow decoders, of the place."""
        own = self.level_embed[level]
        if not self.has_code:
            return own.expand(size[0] * size[1], -1)
        return sine_position_code(own.shape[0], size).to(cells).flatten(1).T + own


def _centres(size: tuple[int, int], cells: Tensor) -> Tensor:
    """Return the (h w, 2) centres (x, y) of a map's cells, as shares of it."""
    y, x = ((torch.arange(side, dtype=torch.float32, device=cells.device) + 0.5) / side for side in size)
    return torch.stack((x.expand(size[0], -1), y[:, None].expand(-1, size[1])), dim=-1).flatten(0, 1)


class ConvGroupNorm(nn.Conv2d):
    """A convolution without bias and its group norm, under one name as in the released checkpoints."""

    def __init__(self, width: int, out_width: int, *, kernel: int, groups: int) -> None:
        super().__init__(width, out_width, kernel_size=kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(groups, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return self.norm(super().forward(x))


class PixelDecoder(nn.Module):
    """A trunk's four maps, finest first, to levels of one width and mask features."""

    def __init__(self, widths: tuple[int, ...], config: PixelDecoderConfig) -> None:
        super().__init__()
        width, groups = config.width, config.groups
        self.config = config
        first = 2 if config.is_narrow else 1
        self.first = first
        steps = [nn.Conv2d(each, width, kernel_size=1) for each in widths[first:]]
        coarser = nn.Conv2d(widths[-1], width, kernel_size=3, stride=2, padding=1)
        self.input_proj = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(groups, width)) for conv in (*steps, coarser)
        )
        self.transformer = PixelEncoder(config)
        if config.is_narrow:
            self.adapter_1 = nn.Conv2d(widths[1], config.mask_width, kernel_size=1)
            self.down_1 = nn.Conv2d(width, config.mask_width, kernel_size=1)
            self.adapter_0 = nn.Conv2d(widths[0], config.mask_width, kernel_size=1)
            self.layer_1 = nn.Conv2d(config.mask_width, config.mask_width, kernel_size=3, padding=1)
            self.mask_features = nn.Conv2d(
                config.mask_width, config.mask_width + 2 * config.votes, kernel_size=1
            )
        else:
            self.adapter_1 = ConvGroupNorm(widths[0], width, kernel=1, groups=groups)
            self.layer_1 = ConvGroupNorm(width, width, kernel=3, groups=groups)
            self.mask_features = nn.Conv2d(width, config.mask_width, kernel_size=1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the (B, C', H, W) mask features, votes behind them, and the (B, C, h, w) levels, finest first."""
        read = [proj(x) for proj, x in zip(self.input_proj, (*maps[self.first :], maps[-1]), strict=True)]
        levels = self.transformer(read)
        return self._masks(maps, levels[0]), levels

    def _masks(self, maps: list[Tensor], finest: Tensor) -> Tensor:
        """Return the mask features, at the resolution of the trunk's finest map."""
        if not self.config.is_narrow:
            fine = self.adapter_1(maps[0])
            fine = fine + _resized(finest, fine)
            return self.mask_features(F.relu(self.layer_1(fine)))
        fine = self.adapter_1(maps[1])
        fine = F.relu(self.layer_1(fine + _resized(self.down_1(finest), fine)))
        finest_lateral = self.adapter_0(maps[0])
        return self.mask_features(F.relu(finest_lateral + _resized(fine, finest_lateral)))


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Return (B, C, h, w) at the size of another map, bilinearly."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
