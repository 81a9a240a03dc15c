"""Drawn shapes as prompts: rectangles to boxes, polygons to masks, paths to clicks, and back to be shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import BoolMask, Box, FloatArray, Points

_ELLIPSE_CORNERS = 64
_SCRIBBLE_CLICKS = 8


def box_of_corners(corners: FloatArray) -> Box | None:
    """Return the box around (4, 2) corners in pixel-centre coordinates; None if thinner than a pixel."""
    low, high = corners.min(axis=0) + 0.5, corners.max(axis=0) + 0.5
    if (high - low < 1).any():
        return None
    return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def corners_of_box(box: Box) -> FloatArray:
    """Return the (4, 2) corners of a box, in pixel-centre coordinates."""
    row0, col0, row1, col1 = np.array([box.row0, box.col0, box.row1, box.col1]) - 0.5
    return np.array([[row0, col0], [row0, col1], [row1, col1], [row1, col0]], dtype=np.float32)


def ellipse_outline(corners: FloatArray) -> FloatArray:
    """Return a polygon along the ellipse inside (4, 2) corners."""
    centre = corners.mean(axis=0)
    axis_a, axis_b = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    outline: FloatArray = (centre + np.cos(angle) * axis_a + np.sin(angle) * axis_b).astype(np.float32)
    return outline


def fill_outlines(outlines: Iterable[FloatArray], *, shape: tuple[int, int]) -> BoolMask:
    """Return the (H, W) mask of the pixels whose centre is inside any of some polygons."""
    mask = np.zeros(shape, dtype=bool)
    for outline in outlines:
        mask |= fill_outline(outline, shape=shape)
    return mask


def fill_outline(outline: FloatArray, *, shape: tuple[int, int]) -> BoolMask:
    """Return the (H, W) mask inside one polygon of (N, 2) corners, by the even-odd rule."""
    height, width = shape
    flips = np.zeros((height, width + 1), dtype=np.int32)
    for (row_a, col_a), (row_b, col_b) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if row_a == row_b:
            continue
        low, high = sorted((row_a, row_b))
        rows = np.arange(max(0, int(np.ceil(low))), min(height, int(np.ceil(high))))
        cols = col_a + (rows - row_a) * (col_b - col_a) / (row_b - row_a)
        flips[rows, np.clip(np.ceil(cols), 0, width).astype(int)] += 1
    mask: BoolMask = (np.cumsum(flips[:, :width], axis=1) % 2).astype(bool)
    return mask


def scribble_clicks(path: FloatArray, *, positive: bool) -> Points:
    """Return a few clicks, evenly spaced along an (N, 2) path."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    count = int(np.clip(along[-1] / 4, 2, _SCRIBBLE_CLICKS))
    at = np.linspace(0, along[-1], count + 2)[1:-1]
    coords = np.stack([np.interp(at, along, path[:, axis]) for axis in (0, 1)], axis=1)
    return Points(coords.astype(np.float32), np.full(count, positive))


def join_points(parts: Sequence[Points]) -> Points:
    """Return all clicks of some lists, in order."""
    coords: NDArray[np.float32] = np.concatenate([part.coords for part in parts])
    return Points(coords, np.concatenate([part.positive for part in parts]))
