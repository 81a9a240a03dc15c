"""Logits to masks of an image: only where there is something to draw, and exact at pixel centres."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def masks_of(
    logits: Tensor, *, cells: tuple[float, float], shape: tuple[int, int]
) -> NDArray[np.bool_]:
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
    masks = np.zeros((len(logits), *shape), dtype=bool)
    inside = logits > 0
    along = [inside.any(dim=2).cpu().numpy(), inside.any(dim=1).cpu().numpy()]  # (M, h), (M, w)
    for index in range(len(logits)):
        spans = [
            _reach(axis[index], count=count, side=side)
            for axis, count, side in zip(along, cells, shape, strict=True)
        ]
        if None in spans:
            continue
        (rows, from_rows), (cols, from_cols) = spans  # type: ignore[misc]  # None was sorted out
        part = logits[index, from_rows, from_cols]
        down = _weights(rows, from_rows, step=cells[0] / shape[0], count=logits.shape[1]).to(part)
        across = _weights(cols, from_cols, step=cells[1] / shape[1], count=logits.shape[2]).to(part)
        masks[index, rows, cols] = ((down @ part @ across.T) > 0).cpu().numpy()
    return masks


def _reach(positive: NDArray[np.bool_], *, count: float, side: int) -> tuple[slice, slice] | None:
    """Return the pixels of an axis that positive logits can reach, and the logits that these pixels read."""
    where = np.flatnonzero(positive)
    if len(where) == 0:
        return None
    step = count / side  # logits per pixel; pixel p reads around (p + 0.5) * step - 0.5
    first = int(np.floor((where[0] - 0.5) / step - 0.5))
    last = int(np.ceil((where[-1] + 1.5) / step - 0.5))
    first, last = max(0, first), min(side - 1, last)
    if first > last:
        return None
    start = max(0, int(np.floor((first + 0.5) * step - 0.5)))
    stop = min(len(positive), int(np.floor((last + 0.5) * step - 0.5)) + 2)
    return slice(first, last + 1), slice(start, max(stop, start + 1))


def _weights(pixels: slice, read: slice, *, step: float, count: int) -> Tensor:
    """Return the (P, R) matrix that interpolates R logits at P pixels; beyond the ends the outermost are repeated."""
    places = np.clip((np.arange(pixels.start, pixels.stop) + 0.5) * step - 0.5, 0, count - 1)
    low = np.floor(places).astype(np.int64)
    share = (places - low).astype(np.float32)
    width = read.stop - read.start
    matrix = np.zeros((len(places), width), dtype=np.float32)
    rows = np.arange(len(places))
    matrix[rows, np.clip(low - read.start, 0, width - 1)] = 1 - share
    matrix[rows, np.clip(low + 1 - read.start, 0, width - 1)] += share
    return torch.from_numpy(matrix)
