"""The memory of SAM 2: past masks encoded onto image features, attended to by later frames.

Paper: Ravi et al. 2024, section 4 and appendix D. Propagation itself, which decides what is remembered, lives in
`predict.video`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, LayerNorm2d, attend
from .perceiver import PerceiverConfig

_SCORES = 1 << 22  # at a time; in bfloat16, 8 MiB
_HIDDEN = 1 << 21


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

    def products(self) -> list[nn.Module]:
        """Return the modules that may run in a lower precision: all of them."""
        return [self]

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
        log_counts: Tensor | None = None,
    ) -> Tensor:
        """Attend from (B or 1, N, C) to (B, L, C'); the last `still` keys have no place and are not rotated.

        Parameters
        ----------
        rotation : (N, d / 2) or (B, 1, N, d / 2) complex
            One row a query.
        key_rotation : (L - still, d / 2) or (B, 1, L - still, d / 2) complex
            One row a key with a place; None where keys repeat the queries' grid, frame after frame.
        log_counts : (B, L)
            Logarithms of how many keys each stands for; None where each is one.
        """
        queries, keys = self.split(self.q_proj(q)), self.split(self.k_proj(k))
        queries = rotate(queries, rotation)
        placed = keys.shape[2] - still
        if key_rotation is None:
            key_rotation = rotation.repeat(placed // len(rotation), 1)
        keys = rotate(keys, key_rotation) if not still else torch.cat(
            (rotate(keys[:, :, :placed], key_rotation), keys[:, :, placed:]), dim=2
        )  # fmt: skip
        if mixes_first(queries, heads=self.heads):
            return self.out_proj(self.v_proj(mix(queries[:, 0], keys[:, 0], v, log_counts=log_counts)))
        values = self.split(self.v_proj(v))
        if log_counts is None:
            return self.out_proj(self.merge(attend(queries, keys, values)))
        mask = log_counts[:, None, None].to(queries)
        queries = queries.expand(len(keys), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out_proj(self.merge(mixed))


def mixes_first(queries: Tensor, *, heads: int) -> bool:
    """Return whether `mix` is faster than the fused kernel: on CPUs in bfloat16, where no gradient is recorded."""
    return (
        heads == 1
        and queries.device.type == "cpu"
        and queries.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
    )


def mix(queries: Tensor, keys: Tensor, values: Tensor, *, log_counts: Tensor | None = None) -> Tensor:
    """Return the (B, N, C') mixtures of (B, L, C') values by (B or 1, N, d) queries and (B, L, d) keys.

    Values that are mixed before they are projected are narrow: the weights' sum is 1, so that a projection's bias may
    come after. The scores of a few rows at a time stay in the cache.
    """
    queries = queries * queries.shape[-1] ** -0.5
    mixed = values.new_empty(len(keys), queries.shape[1], values.shape[2])
    rows = max(64, _SCORES // keys.shape[1])
    for index, (turned, own) in enumerate(zip(keys.transpose(1, 2), values, strict=True)):
        row = queries[index if len(queries) > 1 else 0]
        for start in range(0, len(row), rows):
            part = row[start : start + rows]
            scores = part @ turned if log_counts is None else torch.addmm(log_counts[index], part, turned)
            torch.mm(scores.softmax(dim=-1), own, out=mixed[index, start : start + rows])
    return mixed


def axial_rotation(width: int, size: tuple[int, int], *, theta: float = 10000.0) -> Tensor:
    """Return (H * W, width / 2) complex factors: x turns the first half of the pairs, y the second (RoPE)."""
    cell = torch.arange(size[0] * size[1], dtype=torch.float32)
    return rotation_at(
        width, x=cell % size[1], y=torch.div(cell, size[1], rounding_mode="floor"), theta=theta
    )


@lru_cache(maxsize=8)
def grid_rotation(width: int, size: tuple[int, int]) -> Tensor:
    """Return `axial_rotation`, worked out once for each size."""
    with torch.inference_mode(mode=False), torch.no_grad():  # of use in training too
        return axial_rotation(width, size)


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
        log_counts: Tensor | None = None,
    ) -> Tensor:
        """Update (B or 1, N, C) with (B, L, C_mem) memories, the last `pointers` of which are object pointers.

        Sums and norms are worked out in the format of `x`, products in that of the weights.
        """
        dtype = self.linear1.weight.dtype
        normed = self.norm1(x).to(dtype)
        x = x + self.self_attn.attend(normed, normed, normed, rotation=rotation)
        x = x + self.cross_attn_image.attend(
            self.norm2(x).to(dtype),
            keys,
            values,
            rotation=rotation,
            key_rotation=key_rotation,
            still=pointers,
            log_counts=log_counts,
        )
        return x + self._spread(self.norm3(x).to(dtype))

    def _spread(self, x: Tensor) -> Tensor:
        """Return the MLP of (B, N, C), some rows at a time where that keeps the hidden layer in the cache."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.linear2(F.relu(self.linear1(x)))
        rows = x.flatten(0, 1).split(_HIDDEN // self.linear1.out_features)
        return torch.cat([self.linear2(self.linear1(part).relu_()) for part in rows]).view_as(x)


class MemoryAttention(nn.Module):
    """A stack of memory layers: what this frame looks like, in the light of what was remembered."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryLayer(width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self._perceiver = config.perceiver

    @property
    def product_dtype(self) -> torch.dtype:
        """The format that products are worked out in."""
        first = self.layers[0]
        assert isinstance(first, MemoryLayer)
        return first.linear1.weight.dtype

    def products(self) -> list[nn.Module]:
        """Return the modules whose products may run in a lower precision: all but the norms."""
        return [part for layer in self.layers for name, part in layer.named_children() if "norm" not in name]

    def forward(
        self,
        features: Tensor,
        memories: Tensor,
        *,
        codes: tuple[Tensor, Tensor],
        pointers: int,
        turns: Tensor | None = None,
        log_counts: Tensor | None = None,
    ) -> Tensor:
        """Condition the features of a frame.

        Parameters
        ----------
        features : (B or 1, C, h, w)
            Of one frame for all objects: then what does not depend on them is done once.
        memories : (B, L, C_mem)
            Spatial memories, frame after frame, then `pointers` pointer tokens.
        codes : (1, C, h, w), (B, L, C_mem)
            Position codes of the features and of the memories (added to keys, not to values).
        pointers
            How many of the last memories have no place on the grid.
        turns : (B, L - pointers, C / 2) complex
            Rotations of the memories that have a place; None where they are whole maps, or a perceiver's tokens.
        log_counts : (B, L)
            Logarithms of how many places each memory stands for; None where each is one.
        """
        size = (features.shape[2], features.shape[3])
        x = (features + 0.1 * codes[0]).flatten(2).transpose(1, 2)  # (B or 1, hw, C)
        dtype = self.product_dtype
        rotation = grid_rotation(x.shape[2], size).to(x.device)
        keys, values = (memories + codes[1]).to(dtype), memories.to(dtype)
        turn = self._turn(turns, width=x.shape[2], placed=memories.shape[1] - pointers, device=x.device)
        log_counts = None if log_counts is None else log_counts.to(dtype)
        for layer in self.layers:
            x = layer(
                x, keys, values,
                rotation=rotation, key_rotation=turn, pointers=pointers, log_counts=log_counts,
            )  # fmt: skip
        x = self.norm(x)
        return x.transpose(1, 2).unflatten(2, size)

    def _turn(self, turns: Tensor | None, *, width: int, placed: int, device: torch.device) -> Tensor | None:
        """Return the rotations of the memories that have a place; None where they repeat the features' grid."""
        if turns is not None:
            return turns[:, None]
        if self._perceiver is None:
            return None
        tokens = token_rotation(width, self._perceiver).to(device)
        return tokens.repeat(placed // len(tokens), 1)
