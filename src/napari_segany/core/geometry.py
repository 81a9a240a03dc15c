"""Resize maps between an image and a model's frame: pure functions, exact at pixel centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError


@dataclass(frozen=True, slots=True)
class ResizeMap:
    """How an image of `source` (H, W) fills the top left `target` (h, w) of a model's frame.

    Pixel centres map exactly: source centre `c` goes to `(c + 0.5) * scale - 0.5` on each axis.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    def __post_init__(self) -> None:
        if min(*self.source, *self.target) < 1:
            raise ImageError(
                f"cannot resize {self.source} to {self.target}: every side needs at least one pixel"
            )

    @property
    def scale(self) -> tuple[float, float]:
        """Target pixels per source pixel, (row, col)."""
        return self.target[0] / self.source[0], self.target[1] / self.source[1]

    def forward(self, coords: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 2) source centres (row, col) to target centres."""
        mapped = (coords + 0.5) * np.asarray(self.scale) - 0.5
        return np.asarray(mapped, dtype=np.float32)

    def backward(self, coords: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map (N, 2) target centres (row, col) to source centres."""
        mapped = (coords + 0.5) / np.asarray(self.scale) - 0.5
        return np.asarray(mapped, dtype=np.float32)


def fit_long_side(shape: tuple[int, int], *, long_side: int, multiple: int = 1) -> ResizeMap:
    """Return the map that keeps the aspect ratio and brings the longer side to `long_side` pixels.

    The sides are rounded to multiples of `multiple` (at least one), so that nothing needs padding; the scales of the
    two axes may differ by that rounding, and `ResizeMap` accounts for it exactly.
    """
    scale = long_side / max(shape)
    height, width = (max(1, int(side * scale / multiple + 0.5)) * multiple for side in shape)
    return ResizeMap(shape, (height, width))


def fit_short_side(shape: tuple[int, int], *, short_side: int) -> ResizeMap:
    """Return the map that keeps the aspect ratio and brings the shorter side to `short_side` pixels (Semantic-SAM)."""
    height, width = (max(1, int(side * short_side / min(shape))) for side in shape)
    return ResizeMap(shape, (height, width))


def stretch(shape: tuple[int, int], *, side: int) -> ResizeMap:
    """Return the map that stretches an image to a square, whatever its aspect ratio (SAM 2)."""
    return ResizeMap(shape, (side, side))
