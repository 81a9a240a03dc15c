"""The spatial perceiver of EdgeTAM: a frame's memory, a map, told by a few hundred tokens.

Paper: Zhou et al. 2025, "EdgeTAM: On-Device Track Anything Model"; perceivers are from Jaegle et al. 2021.
Some latents look at the whole map; the others lie on a grid, and each looks at its own window of the map, so that what
it tells has a place. Both pass through the same layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from napari_segany.core.errors import SettingsError

from .layers import attend, sine_position_code

_EXPANSION = 4  # of the MLPs


@dataclass(frozen=True, slots=True)
class PerceiverConfig:
    """How many latents see the whole map, the side of the grid of those that see a window each, and the layers."""

    latents: int = 256
    side: int = 16
    layers: int = 2

    def __post_init__(self) -> None:
        if min(self.latents, self.side, self.layers) < 1:
            raise SettingsError(f"latents, side and layers of a perceiver must be at least 1, got {self}")

    @property
    def tokens(self) -> int:
        """Tokens of a frame: those without a place first, then the grid, row by row."""
        return self.latents + self.side**2


class LatentAttention(nn.Module):
    """One-head attention without biases; subclasses bring the norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def mixed(self, latents: Tensor, x: Tensor, *, code: Tensor | None = None) -> Tensor:
        """Attend from normed (B, N, C) to normed (B, L, C); an (L, C) code is added to keys and to values."""
        keys, values = self.to_kv(x).chunk(2, dim=-1)
        if code is not None:
            keys, values = keys + code, values + code
        parts = (part[:, None] for part in (self.to_q(latents), keys, values))
        return self.to_out(attend(*parts)[:, 0])


class LookAround(LatentAttention):
    """Latents attend to a map."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm_x = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)

    def forward(self, latents: Tensor, x: Tensor, code: Tensor | None) -> Tensor:
        """Attend from (B, N, C) latents to (B, L, C) places with (L, C) codes; returns (B, N, C)."""
        return self.mixed(self.norm_latents(latents), self.norm_x(x), code=code)


class LookWithin(LatentAttention):
    """Latents attend to each other."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, N, C) to the same shape."""
        normed = self.norm(latents)
        return self.mixed(normed, normed)


class PerceiverLayer(nn.Module):
    """Attention to the map, MLP, attention among latents, MLP; all residual, pre-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = LookAround(width)
        self.ff = _mlp(width)
        self.self_attn = LookWithin(width)
        self.self_ff = _mlp(width)

    def forward(self, latents: Tensor, x: Tensor, *, code: Tensor | None = None) -> Tensor:
        """Update (B, N, C) latents with (B, L, C) places and their (L, C) codes."""
        latents = latents + self.attn(latents, x, code)
        latents = latents + self.ff(latents)
        latents = latents + self.self_attn(latents)
        return latents + self.self_ff(latents)


class SpatialPerceiver(nn.Module):
    """(B, C, h, w) memories to (B, L, C) tokens, whatever their size."""

    def __init__(self, width: int, config: PerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(config.latents, width))
        self.latents_2d = nn.Parameter(torch.randn(config.side**2, width))
        self.layers = nn.ModuleList(PerceiverLayer(width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, memory: Tensor) -> Tensor:
        """Return the tokens of (B, C, h, w), of which h and w are multiples of the grid's side.

        Raises
        ------
        SettingsError
            If the map cannot be cut into the grid's windows.
        """
        if memory.shape[2] % self.config.side or memory.shape[3] % self.config.side:
            raise SettingsError(
                f"a memory of {tuple(memory.shape[2:])} cells cannot be cut into {self.config.side} x "
                f"{self.config.side} windows; its sides must be multiples of {self.config.side}"
            )
        return self.norm(torch.cat((self._of_all(memory), self._of_windows(memory)), dim=1))

    def code(self) -> Tensor:
        """Return the (L, C) codes of the tokens' places; those of tokens without a place are zero."""
        side, width = self.config.side, self.latents.shape[1]
        grid = sine_position_code(width, (side, side)).flatten(1).T.to(self.latents)
        return torch.cat((grid.new_zeros(self.config.latents, width), grid))

    def _of_all(self, memory: Tensor) -> Tensor:
        """Return (B, N, C) latents that saw the whole map, place by place."""
        code = sine_position_code(memory.shape[1], (memory.shape[2], memory.shape[3])).to(memory)
        x, code = memory.flatten(2).transpose(1, 2), code.flatten(1).T
        latents = self.latents.expand(len(memory), -1, -1)
        for layer in self.layers:
            latents = layer(latents, x, code=code)
        return latents

    def _of_windows(self, memory: Tensor) -> Tensor:
        """Return (B, side * side, C) latents that saw one window each."""
        batch, width, height, length = memory.shape
        side = self.config.side
        cut = memory.reshape(batch, width, side, height // side, side, length // side)
        x = cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)  # (B * side * side, places, C)
        latents = self.latents_2d.repeat(batch, 1)[:, None]  # (B * side * side, 1, C)
        for layer in self.layers:
            latents = layer(latents, x)
        return latents.reshape(batch, side * side, width)


def _mlp(width: int) -> nn.Sequential:
    """Return an MLP with its norm inside and no biases but the norm's."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, _EXPANSION * width, bias=False),
        nn.GELU(),
        nn.Linear(_EXPANSION * width, width, bias=False),
    )
