"""SAM's image encoder: a plain vision transformer with windowed and global attention, and a convolutional neck.

Papers: Kirillov et al. 2023 (Segment Anything), Li et al. 2022 (ViTDet, whose backbone this is), Li et al. 2022
(MViTv2, whose decomposed relative positions it uses). The numbers of the variants are those of the released
checkpoints, whose keys and shapes the tests compare. How the attention is computed fast is in `relative.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_segany.core.errors import ImageError

from .layers import LayerNorm2d
from .relative import attend_grid, attend_windows

HIDDEN = (
    28 * 2**20
)  # bytes of an MLP's inside at a time on a CPU; past 32 MiB, memory is mapped anew each time


@dataclass(frozen=True, slots=True)
class VitConfig:
    """One variant: channels, blocks, heads, and which blocks attend over the whole image."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    image_size: int = 1024
    patch: int = 16
    out_width: int = 256

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}; choose one that is")
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch {self.patch}; choose one")
        if not self.global_blocks or not set(self.global_blocks) <= set(range(self.depth)):
            raise ValueError(
                f"global_blocks {self.global_blocks} must name at least one of the {self.depth} blocks, from 0"
            )

    @property
    def grid(self) -> int:
        """Side of the token grid at `image_size`."""
        return self.image_size // self.patch


class RelativeAttention(nn.Module):
    """Self-attention over a (B, H, W, C) grid with decomposed relative positions; `window` 0 is the whole grid."""

    def __init__(self, width: int, heads: int, *, window: int, grid: int) -> None:
        super().__init__()
        side = window or grid
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        qkv = self.qkv(x)  # (B, H, W, 3 C)
        if self.window:
            x = attend_windows(
                qkv, self.qkv.bias, rel=(self.rel_pos_h, self.rel_pos_w), heads=self.heads, window=self.window
            )
        else:
            x = attend_grid(qkv, rel=(self.rel_pos_h, self.rel_pos_w), heads=self.heads)
        return self.proj(x)


class VitMlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.lin2(F.gelu(self.lin1(x)))
        flat = x.reshape(-1, x.shape[-1])
        step = max(1, HIDDEN // (self.lin1.out_features * x.element_size()))
        parts = [self.lin2(torch.ops.aten.gelu_(self.lin1(part))) for part in flat.split(step)]
        return torch.cat(parts).view(x.shape)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, *, window: int, grid: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = RelativeAttention(width, heads, window=window, grid=grid)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = VitMlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches side by side, each a token."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, S / patch, S / patch, C)."""
        return self.proj(x).permute(0, 2, 3, 1).contiguous()


class VitEncoder(nn.Module):
    """The encoder: (B, 3, S, S) pixels to a map at stride 16, and an early feature for HQ-SAM."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width, out_width = config.width, config.out_width
        self.config = config
        self.patch_embed = PatchEmbed(width, config.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                window=0 if index in config.global_blocks else config.window,
                grid=config.grid,
            )
            for index in range(config.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, out_width, kernel_size=1, bias=False),
            LayerNorm2d(out_width),
            nn.Conv2d(out_width, out_width, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_width),
        )

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Return the (1, H, W, C) position table, resized where the image is not of the trained size."""
        if self.pos_embed.shape[1:3] == size:
            return self.pos_embed
        table = self.pos_embed.permute(0, 3, 1, 2).float()
        table = F.interpolate(table, size=size, mode="bicubic", align_corners=False)
        return table.permute(0, 2, 3, 1).to(self.pos_embed.dtype)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised pixels.

        Parameters
        ----------
        pixels : (B, 3, S, S)
            S a multiple of the patch; positions are resized where it is not the trained `image_size`.

        Returns
        -------
        embedding : (B, out_width, S / patch, S / patch)
        early : (B, S / patch, S / patch, C)
            What the first block with global attention gives.

        Raises
        ------
        ImageError
            If S is no multiple of the patch.
        """
        patch = self.config.patch
        if pixels.shape[2] % patch or pixels.shape[3] % patch:
            raise ImageError(
                f"the encoder got {pixels.shape[2]} x {pixels.shape[3]} pixels; "
                f"both sides must be multiples of {patch}: pad the image or resize it"
            )
        x = self.patch_embed(pixels)
        x = x + self.positions((x.shape[1], x.shape[2]))
        early = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == min(self.config.global_blocks):
                early = x
        return self.neck(x.permute(0, 3, 1, 2)), early


VIT: dict[str, VitConfig] = {
    "vit_b": VitConfig(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": VitConfig(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": VitConfig(1280, 32, 16, (7, 15, 23, 31)),
}
