"""Simulated people: the first prompt on an object, and the corrective clicks after it.

Papers: Kirillov et al. 2023, appendix A ("Training algorithm"); Sofiiuk et al. 2022 for the deepest-point protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.errors import EmptyMaskError
from napari_segany.core.masks import box_of
from napari_segany.core.types import BoolMask, Box, Points


@dataclass(frozen=True, slots=True)
class Click:
    """One simulated click at (row, col) of the mask's pixels."""

    row: float
    col: float
    is_positive: bool


def depth(mask: BoolMask) -> NDArray[np.float32]:
    """Return each pixel's distance to the outside of an (H, W) mask; the image's edge counts as outside."""
    padded = np.pad(mask, 1)
    distance: NDArray[np.float32] = ndimage.distance_transform_edt(padded)[1:-1, 1:-1].astype(np.float32)
    return distance


def deepest_point(mask: BoolMask) -> tuple[int, int]:
    """Return the (row, col) that is farthest from the outside of an (H, W) mask.

    Raises
    ------
    EmptyMaskError
        If nothing is True.
    """
    if not mask.any():
        raise EmptyMaskError(f"an empty mask of shape {mask.shape} has no deepest point")
    row, col = np.unravel_index(int(np.argmax(depth(mask))), mask.shape)
    return int(row), int(col)


def random_point(mask: BoolMask, rng: np.random.Generator) -> tuple[int, int]:
    """Return a random (row, col) inside an (H, W) mask that is not empty."""
    inside = np.flatnonzero(mask)
    row, col = np.unravel_index(int(inside[rng.integers(len(inside))]), mask.shape)
    return int(row), int(col)


def any_click(mask: BoolMask, rng: np.random.Generator) -> Points:
    """Return a click on an object as answers are collected for: three of four in its middle, others off its rim."""
    click = first_click(mask, rng)
    at = deepest_point(mask) if rng.random() < 0.5 else (click.row, click.col)
    return Points(np.array([at], dtype=np.float32), np.array([True]))


def first_click(mask: BoolMask, rng: np.random.Generator) -> Click:
    """Return a positive click: half of the time the deepest point, else any point that is not on the rim."""
    if rng.random() < 0.5:
        return Click(*deepest_point(mask), is_positive=True)
    distance = depth(mask)
    core = distance > min(1.0, 0.5 * float(distance.max()))
    return Click(*random_point(core, rng), is_positive=True)


def corrective_click(
    truth: BoolMask, guess: BoolMask, *, rng: np.random.Generator | None = None
) -> Click | None:
    """Return a click on the larger error, None where there is no error.

    Parameters
    ----------
    truth, guess : (H, W)
    rng
        Where given, half of the clicks fall anywhere inside the error; without it, always at its deepest point.
    """
    missed, extra = depth(truth & ~guess), depth(guess & ~truth)
    is_positive = bool(missed.max() >= extra.max())
    error = missed if is_positive else extra
    if error.max() == 0:
        return None
    if rng is not None and rng.random() < 0.5:
        return Click(*random_point(error > 0, rng), is_positive=is_positive)
    row, col = np.unravel_index(int(np.argmax(error)), error.shape)
    return Click(int(row), int(col), is_positive=is_positive)


def first_correction(
    truth: BoolMask, guess: BoolMask, *, rng: np.random.Generator | None = None
) -> Click | None:
    """Return the first click on a wrong mask: where most of the object is missed, it is shown; else as any correction.

    Whoever sees a mask on the neighbour clicks on the object, not on the neighbour.
    """
    if 2 * np.count_nonzero(truth & guess) < np.count_nonzero(truth):
        return Click(*deepest_point(truth & ~guess), is_positive=True)
    return corrective_click(truth, guess, rng=rng)


def noisy_box(
    mask: BoolMask, rng: np.random.Generator | None, *, noise: float = 0.1, most: float = 20.0
) -> Box:
    """Return the box of a mask, each end moved by Gaussian noise of `noise` times its side, at most `most` pixels."""
    box = box_of(mask)
    if rng is None:
        return box
    sides = np.array([box.height, box.width, box.height, box.width])
    moves = np.clip(rng.normal(0, noise, size=4) * sides, -most, most)
    ends = np.array([box.row0, box.col0, box.row1, box.col1]) + moves
    ends[2:] = np.maximum(ends[2:], ends[:2] + 1)
    return Box(*(float(end) for end in ends))


def coarse_mask(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Return a mask as a hurried hand would draw it: grown or shrunk, with a wobbly outline, never empty."""
    outside = ndimage.distance_transform_edt(~mask).astype(np.float32)  # no object beyond the image's edge
    distance = depth(mask) - outside
    wobble = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4)
    wobble *= 0.25 * float(distance.max()) / max(float(wobble.std()), 1e-6)
    shift = rng.uniform(-0.35, 0.35) * float(distance.max())
    coarse: BoolMask = distance + wobble + shift > 0
    return coarse if (coarse & mask).any() else mask


def spoilt_mask(mask: BoolMask, rng: np.random.Generator) -> BoolMask:
    """Return a mask as it may be after it was followed for long: cut in two, a part of it alone, or too much.

    One of fewer than 12 pixels stays as it is, as does one of which less than 6 would be left.
    """
    if np.count_nonzero(mask) < 12:
        return mask
    rows, cols = np.ogrid[: mask.shape[0], : mask.shape[1]]
    row, col = random_point(mask, rng)
    size = float(np.sqrt(np.count_nonzero(mask)))
    way = rng.random()
    if way < 0.45:
        angle = rng.uniform(0, 2 * np.pi)
        spoilt = mask & ((rows - row) * np.sin(angle) + (cols - col) * np.cos(angle) > 0)
    elif way < 0.8:
        spoilt = mask & (np.hypot(rows - row, cols - col) < size * rng.uniform(0.25, 0.6))
    else:
        rim = ndimage.binary_dilation(mask) & ~mask
        row, col = random_point(rim, rng) if rim.any() else (row, col)
        spoilt = mask | (np.hypot(rows - row, cols - col) < size * rng.uniform(0.2, 0.6))
    return spoilt if np.count_nonzero(spoilt) >= 6 else mask
