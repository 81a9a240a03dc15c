"""Windows of frames: where they lie, cutting them out at any scale, and carrying logits from one to another.

A window is square, `side` frame pixels wide on its own grid, and lies somewhere in an image: bundled models follow each
object in a window of its own that moves with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

OUTSIDE_LOGIT = -10.0
"""What a window is told of places that an earlier one did not see."""

LARGEST_SCALE = 4.5
"""Window pixels per image pixel beyond which there is nothing more to see."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where B windows lie.

    Attributes
    ----------
    corner : (B, 2)
        (x, y) of the first pixel's outer corner in image pixels, edges at integers.
    scale : (B,)
        Window pixels per image pixel.
    """

    corner: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.scale)

    def rows(self, index: Tensor) -> Places:
        """Return the places of some windows."""
        return Places(self.corner[index], self.scale[index])

    def centres(self, size: tuple[int, int], *, stride: float) -> Tensor:
        """Return the (B, h * w, 2) places (x, y), in image pixels from the edge, of cells of `stride` window pixels."""
        y, x = (
            (torch.arange(count, dtype=torch.float32, device=self.scale.device) + 0.5) * stride
            for count in size
        )
        cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)  # (h w, 2)
        return self.corner[:, None] + cells / self.scale[:, None, None]

    def cells(self, xy: Tensor, *, stride: float) -> Tensor:
        """Return image places (B, N, 2) in cells of these windows, centres at integers."""
        return (xy - self.corner[:, None]) * self.scale[:, None, None] / stride - 0.5


def corner_around(
    centre: NDArray[np.float64], extent: float, *, size: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the corner (x, y) of a window of `extent` image pixels around a place (x, y), moved inside where it fits.

    `size` is (H, W) of the image; a window larger than that is centred on it.
    """
    room = np.array([size[1], size[0]], dtype=float) - extent
    return np.where(room >= 0, np.clip(centre - extent / 2, 0, np.maximum(room, 0)), room / 2)


def cut(images: Tensor, places: Places, *, side: int) -> Tensor:
    """Return the (B, C, side, side) windows of (B or 1, C, H, W) images; edges are continued outwards.

    Where a window is smaller than what it shows, the image is averaged first, so that nothing aliases.
    """
    images = images.expand(len(places), -1, -1, -1)
    factor = max(1, int(1 / float(places.scale.max()) + 1e-4))
    if factor > 1:
        images = F.avg_pool2d(images, factor, ceil_mode=True, count_include_pad=False)
    shown = Places(places.corner / factor, places.scale * factor)
    xy = shown.centres((side, side), stride=1.0).unflatten(1, (side, side))
    return _at(images, xy, padding="border")


def carried(
    logits: Tensor, *, source: Places, target: Places, cell: float, size: int | None = None
) -> Tensor:
    """Return (B, 1, h, w) logits of one set of windows on the grid of another; `OUTSIDE_LOGIT` where they saw nothing.

    `cell` is how many window pixels a logit is wide, `size` how many there are on the side of the target windows; None
    for as many as in the source.
    """
    grid = (size or logits.shape[2], size or logits.shape[3])
    xy = target.centres(grid, stride=cell)
    there = ((xy - source.corner[:, None]) * source.scale[:, None, None] / cell).unflatten(1, grid)
    inside = ((there >= 0) & (there <= there.new_tensor([logits.shape[3], logits.shape[2]]))).all(-1)[:, None]
    return torch.where(inside, _at(logits.float(), there, padding="border"), OUTSIDE_LOGIT)


def _at(maps: Tensor, xy: Tensor, *, padding: str) -> Tensor:
    """Return (B, C, h, w) values of (B, C, H, W) maps at (B, h, w, 2) places, edges at 0 and W or H."""
    size = xy.new_tensor([maps.shape[3], maps.shape[2]])
    return F.grid_sample(
        maps, (xy / size * 2 - 1).to(maps.dtype), mode="bilinear", padding_mode=padding, align_corners=False
    )
