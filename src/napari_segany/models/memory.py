"""The memory of SAM 2: past masks encoded onto image features, attended to by later frames.

Paper: Ravi et al. 2024, section 4 and appendix D. Propagation itself, which decides what is remembered, lives in
`predict.video`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, LayerNorm2d, attend
from .perceiver import PerceiverConfig


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Sizes of the memory: channels per position, attention layers, frames and pointers remembered.

    With a `perceiver` a frame's memory is its tokens; without one it is a map.
    """

    width: int = 64
    layers: int = 4
    mlp_width: int = 2048
    frames: int = 7
    pointers: int = 16
    perceiver: PerceiverConfig | None = None


class MaskDownsampler(nn.Module):
    """(B, 1, S, S) masks to (B, C, S / 16, S / 16)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for _ in range(4):
            layers += [
                nn.Conv2d(channels, channels * 4, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(channels * 4),
                nn.GELU(),
            ]
            channels *= 4
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels, width, kernel_size=1))

    def forward(self, masks: Tensor) -> Tensor:
        """Map (B, 1, S, S) to (B, C, S / 16, S / 16)."""
        return self.encoder(masks)


class FuserBlock(nn.Module):
    """A ConvNeXt block: depthwise 7 x 7, norm, two linear layers, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = LayerNorm2d(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        mixed = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # (B, H, W, C)
        mixed = self.gamma * self.pwconv2(F.gelu(self.pwconv1(mixed)))
        return x + mixed.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """Two ConvNeXt blocks in a row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserBlock(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """An image feature and the mask found on it to one memory."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(width)
        self.pix_feat_proj = nn.Conv2d(width, width, kernel_size=1)
        self.fuser = Fuser(width)
        self.out_proj = nn.Conv2d(width, config.width, kernel_size=1)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Turn (B, C, h, w) features and (B, 1, 16h, 16w) scaled masks into (B, C_mem, h, w) memories."""
        fused = self.fuser(self.pix_feat_proj(features) + self.mask_downsampler(masks))
        return self.out_proj(fused)


class RotaryAttention(Attention):
    """One-head attention whose queries and keys are rotated by their place on the grid (axial RoPE)."""

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        rotation: Tensor,
        key_rotation: Tensor | None = None,
        still: int = 0,
    ) -> Tensor:
        """Attend from (B, N, C) to (B, L, C'); the last `still` keys have no place and are not rotated.

        Parameters
        ----------
        rotation : (N, d / 2) or (B, 1, N, d / 2) complex
            One row a query.
        key_rotation : (L - still, d / 2) or (B, 1, L - still, d / 2) complex
            One row a key with a place; None where keys repeat the queries' grid, frame after frame.
        """
        queries, keys, values = (
            self.split(layer(x)) for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        queries = rotate(queries, rotation)
        placed = keys.shape[2] - still
        if key_rotation is None:
            key_rotation = rotation.repeat(placed // len(rotation), 1)
        keys = torch.cat((rotate(keys[:, :, :placed], key_rotation), keys[:, :, placed:]), dim=2)
        mixed = attend(queries, keys, values)
        return self.out_proj(self.merge(mixed))


def axial_rotation(width: int, size: tuple[int, int], *, theta: float = 10000.0) -> Tensor:
    """Return (H * W, width / 2) complex factors: x turns the first half of the pairs, y the second (RoPE)."""
    cell = torch.arange(size[0] * size[1], dtype=torch.float32)
    return rotation_at(
        width, x=cell % size[1], y=torch.div(cell, size[1], rounding_mode="floor"), theta=theta
    )


def rotation_at(width: int, *, x: Tensor, y: Tensor, theta: float = 10000.0) -> Tensor:
    """Return (..., width / 2) complex factors of places (...) that need not be whole numbers."""
    frequency = theta ** (
        -torch.arange(0, width, 4, dtype=torch.float32, device=x.device) / width
    )  # (width / 4,)
    angle = torch.cat((x[..., None] * frequency, y[..., None] * frequency), dim=-1)
    return torch.polar(torch.ones_like(angle), angle)


def token_rotation(width: int, config: PerceiverConfig) -> Tensor:
    """Return (L, width / 2) complex factors of a perceiver's tokens: ones for those without a place, then the grid's.

    The grid's cells count from 0 on, as published, though each covers several cells of the queries' grid.
    """
    grid = axial_rotation(width, (config.side, config.side))
    return torch.cat((torch.ones_like(grid[:1]).expand(config.latents, -1), grid))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate consecutive channel pairs of (B, heads, N, d) by complex factors, (N, d / 2) or (B, 1, N, d / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


class MemoryLayer(nn.Module):
    """Self-attention over the frame, cross-attention to the memories, MLP; pre-norm."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(width, 1)
        self.cross_attn_image = RotaryAttention(width, 1, key_width=config.width)
        self.linear1 = nn.Linear(width, config.mlp_width)
        self.linear2 = nn.Linear(config.mlp_width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        rotation: Tensor,
        key_rotation: Tensor | None = None,
        pointers: int,
    ) -> Tensor:
        """Update (B, N, C) with (B, L, C_mem) memories, the last `pointers` of which are object pointers."""
        normed = self.norm1(x)
        x = x + self.self_attn.attend(normed, normed, normed, rotation=rotation)
        x = x + self.cross_attn_image.attend(
            self.norm2(x), keys, values, rotation=rotation, key_rotation=key_rotation, still=pointers
        )
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """A stack of memory layers: what this frame looks like, in the light of what was remembered."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryLayer(width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self._perceiver = config.perceiver

    def forward(
        self, features: Tensor, memories: Tensor, *, codes: tuple[Tensor, Tensor], pointers: int
    ) -> Tensor:
        """Condition the features of a frame.

        Parameters
        ----------
        features : (B, C, h, w)
        memories : (B, L, C_mem)
            Spatial memories, frame after frame, then `pointers` pointer tokens.
        codes : (1, C, h, w), (B, L, C_mem)
            Position codes of the features and of the memories (added to keys, not to values).
        pointers
            How many of the last memories have no place on the grid.
        """
        size = (features.shape[2], features.shape[3])
        x = (features + 0.1 * codes[0]).flatten(2).transpose(1, 2)  # (B, hw, C)
        rotation = axial_rotation(x.shape[2], size).to(x.device)
        turn = None if self._perceiver is None else token_rotation(x.shape[2], self._perceiver).to(x.device)
        if turn is not None:
            turn = turn.repeat((memories.shape[1] - pointers) // len(turn), 1)
        for layer in self.layers:
            x = layer(
                x, memories + codes[1], memories, rotation=rotation, key_rotation=turn, pointers=pointers
            )
        x = self.norm(x)
        return x.transpose(1, 2).unflatten(2, size)
