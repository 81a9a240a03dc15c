"""What drawn masks learn of their surroundings: the bundled models' change of masks that dot products made.

A dot product decides each pixel alone. Here a place hears what the masks are around it and what is to be seen there, so
that a mask ends where its outline closes, goes on where a fibre does, and a level ends where the next one begins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import gathered
from .layers import DilatedSteps

CELL_DEPTH = 2
CELL = 2**CELL_DEPTH
"""Mask pixels along a side of the cells that hear of each other: their 4 x 4 pixels are changed together."""
_CALM = 5.0  # logits are divided by this where a network sees them
_NEAR = (1.0, 4.0)  # how far from its prompt a place knows of it, in cells


class MaskSpread(nn.Module):
    """Changes masks in groups, each group by itself; begins as if it were not there.

    Parameters
    ----------
    masks
        T, how many of them are changed together.
    told
        C, channels of what tells each of them.
    seen
        C', channels of what is to be seen.
    inner
        Channels inside.
    is_asked
        Whether it is told where the prompts are.
    """

    def __init__(self, *, masks: int, told: int, seen: int, inner: int, is_asked: bool) -> None:
        super().__init__()
        self.masks = masks
        self.is_asked = is_asked
        self.seen = nn.Conv2d(seen, inner, kernel_size=CELL, stride=CELL)
        self.told = nn.Linear(masks * told, inner)
        looked = masks * CELL**2 + (len(_NEAR) + 2) * is_asked
        self.drawn = nn.Conv2d(looked, inner, kernel_size=1, bias=False)
        self.steps = DilatedSteps(inner)
        self.change = nn.Conv2d(inner, masks * CELL**2, kernel_size=1)
        nn.init.zeros_(self.change.weight)
        assert self.change.bias is not None
        nn.init.zeros_(self.change.bias)

    def forward(self, logits: Tensor, told: Tensor, seen: Tensor, asked: Tensor | None = None) -> Tensor:
        """Return new (B, N * T, H, W) logits.

        Parameters
        ----------
        logits : (B, N * T, H, W)
            H and W multiples of `CELL`.
        told : (B, N * T, C)
            What tells each mask: its token, or its query's state.
        seen : (B, H W / 16, 16, C')
            What is to be seen, `nested` twice (see `cells`).
        asked : (B, N, 2)
            Where the prompts are: clicks, or middles of boxes, (x, y) as shares of the frame.
        """
        kind = self.told.weight.dtype
        batch, _, height, width = logits.shape
        size = (height // CELL, width // CELL)
        looked = gathered(self.seen, seen.to(kind))  # (B, hw, c)
        meant = self.told(told.to(kind).unflatten(1, (-1, self.masks)).flatten(2))  # (B, N, c)
        masks = F.pixel_unshuffle(logits.unflatten(1, (-1, self.masks)).flatten(0, 1) / _CALM, CELL)
        if self.is_asked:
            assert asked is not None
            places = _places(asked.flatten(0, 1).float(), size)
            masks = torch.cat((masks, places), dim=1)
        rows = masks.to(kind).flatten(2).transpose(1, 2)  # (B N, hw, T * 16 or some more)
        drawn = F.linear(rows, self.drawn.weight.flatten(1)).unflatten(0, (batch, -1))
        x = (drawn + looked[:, None] + meant[:, :, None]).flatten(0, 1).unflatten(1, size)  # (B N, h, w, c)
        change = self.change(F.gelu(self.steps(x.permute(0, 3, 1, 2))))  # which is channels last
        return logits + _CALM * F.pixel_shuffle(change.float(), CELL).unflatten(0, (batch, -1)).flatten(1, 2)


def _places(asked: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N, 4, h, w) maps of how near (N, 2) places are, twice, and in which direction within a cell or so."""
    x, y = (
        torch.arange(side, dtype=torch.float32, device=asked.device) + 0.5 - asked[:, axis, None] * side
        for axis, side in ((0, size[1]), (1, size[0]))
    )  # (N, w), (N, h)
    x, y = x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])
    away = x**2 + y**2
    near = [torch.exp(-away / (2 * far**2)) for far in _NEAR]
    return torch.stack((*near, near[0] * x, near[0] * y), dim=1)
