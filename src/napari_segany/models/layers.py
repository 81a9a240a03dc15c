"""Building blocks that several architectures share: norms, MLPs, attention, windows, position codes.

Sources: Segment Anything (Kirillov et al. 2023), SAM 2 (Ravi et al. 2024). Layer-norm epsilons follow the released
weights: 1e-6 in encoders and channel-first norms, PyTorch's 1e-5 in mask decoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, C, H, W), at each pixel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); same shape."""
        # One fused kernel; the permutations are free where the memory is channels-last.
        return self.of_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_last(self, x: Tensor) -> Tensor:
        """Normalise (..., C) over its last axis."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@runtime_checkable
class Foldable(Protocol):
    """A module whose batch norm can be folded into its convolution."""

    def fold(self) -> None:
        """Fold it; a second time changes nothing."""


def fold_norms(module: nn.Module) -> None:
    """Fold every batch norm of a module that is in evaluation mode into its convolution, for inference."""
    for part in list(module.modules()):
        if isinstance(part, Foldable):
            part.fold()


REACHES = (1, 2, 4, 8)
"""How far apart the places are that each step of `DilatedSteps` looks at."""


class DilatedSteps(nn.ModuleList):
    """Residual convolutions in which each place hears of places further and further away."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, kernel_size=3, padding=reach, dilation=reach) for reach in REACHES
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        for step in self:
            x = step(F.gelu(x)).add_(x)
        return x


class Mlp(nn.Module):
    """`depth` linear layers with an activation between them (and a sigmoid behind, where asked)."""

    def __init__(
        self,
        widths: tuple[int, ...],
        *,
        activation: Callable[[Tensor], Tensor] = F.relu,
        has_sigmoid: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation
        self.has_sigmoid = has_sigmoid

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        *inner, last = self.layers  # slices would be modules, which take as long to make as a layer does
        for layer in inner:
            x = self.activation(layer(x))
        x = last(x)
        return torch.sigmoid(x) if self.has_sigmoid else x


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v of (B, heads, N, d), (B, heads, L, d) and (B, heads, L, d).

    Either side may be a batch of one that serves all B of the other. On a CPU, while gradients are recorded, plain
    products are used: the fused kernel's backward pass takes twice as long where either side is a handful of tokens,
    as in mask decoders.
    """
    if len(k) == 1 and len(q) > 1:  # queries do not see each other: all are one long row of them
        batch, heads, count, channels = q.shape
        row = q.transpose(0, 1).reshape(1, heads, batch * count, channels)
        return attend(row, k, v).reshape(heads, batch, count, v.shape[-1]).transpose(0, 1)
    q = q.expand(len(k), -1, -1, -1)
    if q.device.type == "cpu" and torch.is_grad_enabled():
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return weights @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head attention with separate projections, inside at `width / downsample` channels."""

    def __init__(self, width: int, heads: int, *, downsample: int = 1, key_width: int | None = None) -> None:
        super().__init__()
        inner = width // downsample
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(key_width or width, inner)
        self.v_proj = nn.Linear(key_width or width, inner)
        self.out_proj = nn.Linear(inner, width)

    def split(self, x: Tensor) -> Tensor:
        """Turn (B, N, heads * d) into (B, heads, N, d)."""
        batch, count, channels = x.shape
        return x.reshape(batch, count, self.heads, channels // self.heads).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """Turn (B, heads, N, d) back into (B, N, heads * d)."""
        return x.transpose(1, 2).flatten(2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from (B, N, C) queries to (B, L, C) keys and values; returns (B, N, C)."""
        q, k, v = self.split(self.q_proj(q)), self.split(self.k_proj(k)), self.split(self.v_proj(v))
        return self.out_proj(self.merge(attend(q, k, v)))

    def is_absorbable(self, count: int) -> bool:
        """Return whether few enough tokens, `count`, face an image for `read` and `write` to pay off."""
        return not torch.is_grad_enabled() and count * self.heads <= self.q_proj.out_features

    def read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return `forward` of few (B, N, C) queries and many (B or 1, L, C) keys and values, without projecting these.

        A query is taken back through the key projection instead, and the mixture of values forth through theirs; what
        the keys' bias adds to a query's scores is the same for all keys and drops out of the softmax.
        """
        batch, count, _ = q.shape
        queries = self.split(self.q_proj(q)) * (self.k_proj.out_features // self.heads) ** -0.5
        rows = (queries @ _by_head(self.k_proj.weight, self.heads)).flatten(1, 2)  # (B, heads * N, C)
        if len(k) == 1:
            rows = rows.flatten(0, 1)[None]
        mixed = (rows @ k.transpose(1, 2)).softmax(dim=-1) @ v  # (B, heads * N, C)
        mixed = mixed.reshape(batch, self.heads, count, v.shape[-1])
        values = mixed @ _by_head(self.v_proj.weight, self.heads).transpose(1, 2)  # (B, heads, N, d)
        return self.out_proj(self.merge(values) + self.v_proj.bias)

    def read_ready(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return `read` of (1, heads, L, d) keys and values that were projected and split before."""
        return self.out_proj(self.merge(attend(self.split(self.q_proj(q)), keys, values)))

    def write(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return x + `forward` of many (B or 1, L, C) queries and few (B, N, C) keys and values, likewise.

        Keys are taken back through the query projection, values forth through the output's.
        """
        rows, bias = self._taken_back(k)
        if len(q) == 1:  # one product for all prompts
            scores = torch.addmm(bias.flatten(), q[0], rows.flatten(0, 1).T)
            scores = scores.unflatten(1, (len(k), -1)).transpose(0, 1)
        else:
            scores = torch.baddbmm(bias.transpose(1, 2), q, rows.transpose(1, 2))
        return self._written(x, scores.unflatten(2, (self.heads, -1)).softmax(dim=-1).flatten(2), v)

    def write_ready(self, x: Tensor, queries: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return `write` of (1, heads, L, d) queries that were projected and split before."""
        keys = self.split(self.k_proj(k)) * (queries.shape[-1] ** -0.5)  # (B, heads, N, d)
        batch, heads, count, channels = keys.shape
        rows = keys.transpose(0, 1).reshape(heads, batch * count, channels)
        scores = (rows @ queries[0].transpose(1, 2)).unflatten(1, (batch, count))  # (heads, B, N, L)
        return self._written(x, scores.softmax(dim=2).transpose(0, 1).flatten(1, 2).transpose(1, 2), v)

    def _taken_back(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, heads * N, C) rows and (B, heads * N, 1) numbers that make scores of unprojected queries."""
        batch = len(k)
        keys = (
            self.split(self.k_proj(k)) * (self.q_proj.out_features // self.heads) ** -0.5
        )  # (B, heads, N, d)
        rows = (keys @ _by_head(self.q_proj.weight, self.heads)).flatten(1, 2)
        return rows, (keys @ self.q_proj.bias.view(self.heads, -1, 1)).reshape(batch, -1, 1)

    def _written(self, x: Tensor, shares: Tensor, v: Tensor) -> Tensor:
        """Return (B or 1, L, C) x + the mixtures of (B, N, C) values by (B, L, heads * N) shares."""
        out = _by_head(self.out_proj.weight.T, self.heads)  # (heads, d, C)
        values = self.split(self.v_proj(v))  # (B, heads, N, d)
        mixed = (values @ out + self.out_proj.bias / self.heads).flatten(1, 2)  # (B, heads * N, C)
        return torch.baddbmm(x.expand(len(v), -1, -1), shares, mixed)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """Turn a (heads * d, C) projection into (heads, d, C)."""
    return weight.reshape(heads, -1, weight.shape[1])


def partition_windows(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut (B, H, W, C) into (B * windows, window, window, C), padding with zeros at the bottom and the right.

    Returns
    -------
    windows : (B * n, window, window, C)
    padded : (Hp, Wp)
        The padded size, for `merge_windows`.
    """
    batch, height, width, channels = x.shape
    pad_h, pad_w = -height % window, -width % window
    if pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    rows, cols = (height + pad_h) // window, (width + pad_w) // window
    x = x.reshape(batch, rows, window, cols, window, channels).transpose(2, 3)
    return x.reshape(-1, window, window, channels), (height + pad_h, width + pad_w)


def merge_windows(windows: Tensor, window: int, *, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo `partition_windows`: (B * n, window, window, C) to (B, H, W, C) with `size` = (H, W)."""
    rows, cols = padded[0] // window, padded[1] // window
    x = windows.reshape(-1, rows, cols, window, window, windows.shape[-1]).transpose(2, 3)
    x = x.reshape(-1, rows * window, cols * window, windows.shape[-1])
    return x[:, : size[0], : size[1]]


def sine_position_code(channels: int, size: tuple[int, int], *, temperature: float = 10000.0) -> Tensor:
    """Return the (channels, H, W) sine code of a grid: half of the channels for y, then half for x (DETR, SAM 2)."""
    height, width = size
    axis = channels // 2
    index = torch.arange(axis, dtype=torch.float32)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / axis)
    codes = []
    for count in (height, width):
        position = torch.arange(1, count + 1, dtype=torch.float32) / (count + 1e-6) * 2 * math.pi
        angle = position[:, None] / frequency  # (count, axis)
        codes.append(torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1))
    y = codes[0][:, None, :].expand(height, width, axis)
    x = codes[1][None, :, :].expand(height, width, axis)
    return torch.cat((y, x), dim=2).permute(2, 0, 1).contiguous()
