"""Logits to masks of an image: only where there is something to draw, and exact at pixel centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_Places = NDArray[np.float64]  # along an axis


def masks_of(logits: Tensor, *, cells: tuple[float, float], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return masks of an image from coarse logits, resized bilinearly and cut at zero.

    Only the part of the image that a mask's positive logits can reach is worked out.

    Parameters
    ----------
    logits : (M, h, w)
        float32.
    cells
        How many logits, from the first, the image covers along each axis; at most h and w.
    shape
        (H, W) of the image.

    Returns
    -------
    array
        (M, H, W) bool.
    """
    if tuple(cells) == shape == tuple(logits.shape[1:]):
        whole: NDArray[np.bool_] = (logits > 0).cpu().numpy()
        return whole
    masks = np.zeros((len(logits), *shape), dtype=bool)
    inside = (logits > 0).cpu().numpy()  # NumPy looks through rows ten times as fast
    along = [np.asarray(inside.any(axis=axis)) for axis in (2, 1)]  # (M, h), (M, w)
    steps = (cells[0] / shape[0], cells[1] / shape[1])  # logits per pixel
    for index in range(len(logits)):
        rows, cols = (
            _reach(axis[index], step=step, side=side)
            for axis, step, side in zip(along, steps, shape, strict=True)
        )
        if rows is not None and cols is not None:
            sample = _from_origin if _prefers_origin(rows, cols) else _by_products
            part = sample(logits[index], rows, cols, steps)
            np.greater(part.cpu().numpy(), 0, out=masks[index, rows.pixels, cols.pixels])
    return masks


@dataclass(frozen=True, slots=True)
class _Reach:
    """Pixels of one axis, and the logits that they are interpolated from."""

    pixels: slice
    cells: slice

    @property
    def count(self) -> int:
        """How many pixels."""
        return int(self.pixels.stop - self.pixels.start)


def _prefers_origin(rows: _Reach, cols: _Reach) -> bool:
    """Return whether resizing everything up to the window costs less than two matrix products over the window.

    Measured: a pixel of the one costs about as much as a hundred multiplications of the other.
    """
    products = (
        rows.count * (cols.cells.stop - cols.cells.start) * (rows.cells.stop - rows.cells.start + cols.count)
    )
    return 100 * int(rows.pixels.stop * cols.pixels.stop) < products


def _from_origin(logits: Tensor, rows: _Reach, cols: _Reach, steps: tuple[float, float]) -> Tensor:
    """Return the (R, C) window of (h, w) logits, resized from the first one on."""
    height, width = (
        min(size, max(reach.cells.stop, int(np.ceil(reach.pixels.stop * step)) + 1))
        for size, reach, step in zip(logits.shape, (rows, cols), steps, strict=True)
    )
    wide = F.interpolate(
        logits[None, None, :height, :width],
        scale_factor=(1 / steps[0], 1 / steps[1]),
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
    )
    part = wide[0, 0, rows.pixels, cols.pixels]
    sizes = zip(wide.shape[2:], (height, width), steps, strict=True)
    is_copied = any(
        new == old and step != 1 for new, old, step in sizes
    )  # PyTorch asks for sizes, not for scales
    if part.shape == (rows.count, cols.count) and not is_copied:
        return part
    return _by_products(logits, rows, cols, steps)  # a rounding left a row or column out


def _by_products(logits: Tensor, rows: _Reach, cols: _Reach, steps: tuple[float, float]) -> Tensor:
    """Return the (R, C) window of (h, w) logits as two matrix products."""
    places = [
        (np.arange(reach.pixels.start, reach.pixels.stop) + 0.5) * step - 0.5
        for reach, step in zip((rows, cols), steps, strict=True)
    ]
    return interpolated(logits, places[0], places[1])


def interpolated(logits: Tensor, rows: _Places, cols: _Places) -> Tensor:
    """Interpolate (..., h, w) logits bilinearly where R rising rows and C columns meet: (..., R, C).

    Cells' centres are whole numbers; beyond the ends the outermost logits go on.
    """
    height, width = logits.shape[-2:]
    (high, down), (wide, across) = _weights(rows, count=height), _weights(cols, count=width)
    return down.to(logits) @ logits[..., high, wide] @ across.T.to(logits)


def _reach(positive: NDArray[np.bool_], *, step: float, side: int) -> _Reach | None:
    """Return the pixels of an axis that positive logits can reach; pixel p reads around (p + 0.5) * step - 0.5."""
    where = np.flatnonzero(positive)
    if len(where) == 0:
        return None
    first = max(0, int(np.floor((where[0] - 0.5) / step - 0.5)))
    last = min(side - 1, int(np.ceil((where[-1] + 1.5) / step - 0.5)))
    if first > last:
        return None
    ends = (np.array([first, last]) + 0.5) * step - 0.5
    return _Reach(slice(first, last + 1), _cells_beside(ends, count=len(positive)))


def _cells_beside(places: _Places, *, count: int) -> slice:
    """Return which of `count` cells rising places lie between; beyond the ends it is the outermost."""
    low, high = np.clip(places[[0, -1]], 0, count - 1).astype(np.intp).tolist()
    return slice(low, min(high + 2, count))


def _weights(places: _Places, *, count: int) -> tuple[slice, Tensor]:
    """Return which of `count` cells P rising places lie between, R of them, and the (P, R) matrix that interpolates."""
    cells = _cells_beside(places, count=count)
    places = np.clip(places, 0, count - 1)
    low = places.astype(np.intp)
    share = (places - low).astype(np.float32)
    last = cells.stop - cells.start - 1
    matrix = np.zeros((len(places), last + 1), dtype=np.float32)
    rows = np.arange(len(places))
    matrix[rows, low - cells.start] = 1 - share
    matrix[rows, np.minimum(low - cells.start + 1, last)] += share
    return cells, torch.from_numpy(matrix)
