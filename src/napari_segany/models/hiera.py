"""Hiera, the image encoder of SAM 2: a transformer in four stages, windowed attention, pooling between stages.

Papers: Ryali et al. 2023 (Hiera), Ravi et al. 2024 (SAM 2, section 4 and appendix). The numbers of the variants are
those of the released configurations, checked against every released checkpoint's keys and shapes in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Mlp, merge_windows, partition_windows


@dataclass(frozen=True, slots=True)
class HieraConfig:
    """One variant: blocks per stage, the window of each stage, which blocks attend globally."""

    width: int
    heads: int
    stages: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    position_grid: tuple[int, int] = (7, 7)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width


class WindowAttention(nn.Module):
    """Self-attention over a (B, H, W, C) grid; with `pools`, queries are max-pooled 2 x 2 first."""

    def __init__(self, width: int, out_width: int, *, heads: int, pools: bool) -> None:
        super().__init__()
        self.heads = heads
        self.pools = pools
        self.qkv = nn.Linear(width, 3 * out_width)
        self.proj = nn.Linear(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C'); H' = H / 2 where it pools."""
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, height * width, 3, -1).unbind(2)  # (B, N, C') each
        if self.pools:
            q = pool(q.reshape(batch, height, width, -1))
            height, width = q.shape[1:3]
            q = q.flatten(1, 2)
        q, k, v = (t.reshape(batch, t.shape[1], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N', d)
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, -1))


def pool(x: Tensor) -> Tensor:
    """Max-pool (B, H, W, C) by 2 x 2 to (B, H // 2, W // 2, C)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=2).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm attention and MLP; the first block of a stage widens and pools."""

    def __init__(self, width: int, out_width: int, *, heads: int, window: int, pools: bool) -> None:
        super().__init__()
        self.window = window
        self.pools = pools
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = WindowAttention(width, out_width, heads=heads, pools=pools)
        self.norm2 = nn.LayerNorm(out_width, eps=1e-6)
        self.mlp = Mlp((out_width, 4 * out_width, out_width), activation=F.gelu)
        if width != out_width:
            self.proj = nn.Linear(width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        normed = self.norm1(x)
        shortcut = x
        if hasattr(self, "proj"):
            shortcut = self.proj(normed)
            shortcut = pool(shortcut) if self.pools else shortcut
        x = shortcut + self._attend(normed)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        """Attend inside windows, or over the whole grid where `window` is 0."""
        if self.window == 0:
            return self.attn(x)
        size = (x.shape[1], x.shape[2])
        window = self.window
        windows, padded = partition_windows(x, window)
        windows = self.attn(windows)
        if self.pools:
            window //= 2
            size = (size[0] // 2, size[1] // 2)
            padded = (size[0] + -size[0] % window, size[1] + -size[1] % window)
        return merge_windows(windows, window, padded=padded, size=size)


class PatchEmbed(nn.Module):
    """Overlapping 7 x 7 patches at stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=7, stride=4, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, S / 4, S / 4, C)."""
        return self.proj(x).permute(0, 2, 3, 1)


class Hiera(nn.Module):
    """The trunk: (B, 3, S, S) pixels to four maps at strides 4, 8, 16, 32."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.width, *config.position_grid))
        self.pos_embed_window = nn.Parameter(
            torch.zeros(1, config.width, config.windows[0], config.windows[0])
        )
        self.stage_ends = [sum(config.stages[: i + 1]) - 1 for i in range(len(config.stages))]
        self.blocks = nn.ModuleList(_blocks(config))

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Return the (1, H, W, C) position code: a coarse table resized, plus one window's table tiled."""
        coarse = F.interpolate(self.pos_embed.float(), size=size, mode="bicubic")
        window = self.pos_embed_window
        fine = window.tile([1, 1, size[0] // window.shape[2], size[1] // window.shape[3]])
        return (coarse + fine).permute(0, 2, 3, 1).to(window.dtype)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the (B, C, H, W) maps of the four stages, finest first."""
        x = self.patch_embed(x)
        x = x + self.positions((x.shape[1], x.shape[2]))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                maps.append(x.permute(0, 3, 1, 2))
        return maps


def _blocks(config: HieraConfig) -> list[Block]:
    """Return the blocks in order; a stage's first block still uses the window of the stage before."""
    blocks: list[Block] = []
    widths = config.widths
    for stage, count in enumerate(config.stages):
        for j in range(count):
            opens_stage = stage > 0 and j == 0
            index = len(blocks)
            window = config.windows[stage - 1] if opens_stage else config.windows[stage]
            blocks.append(
                Block(
                    widths[stage - 1] if opens_stage else widths[stage],
                    widths[stage],
                    heads=config.heads * 2**stage,
                    window=0 if index in config.global_blocks else window,
                    pools=opens_stage,
                )
            )
    return blocks


HIERA: dict[str, HieraConfig] = {
    "hiera_tiny": HieraConfig(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "hiera_small": HieraConfig(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera_base_plus": HieraConfig(112, 2, (2, 3, 16, 3), (12, 16, 20), position_grid=(14, 14)),
    "hiera_large": HieraConfig(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}
