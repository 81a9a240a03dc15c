"""The six-level ladder: how coarse a mask is, 1 (finest) to 6 (coarsest), with one meaning over every family.

Semantic-SAM answers a click with six masks, one for each level; SAM, HQ-SAM and SAM 2 with three, at 2, 4 and 6; a
single mask stands in the middle. Levels follow area, so a coarser level is never a smaller mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import SettingsError
from .types import BoolMask

LEVELS = (1, 2, 3, 4, 5, 6)
SAME_IOU = 0.9
"""Masks that overlap as much look the same to a person."""

_OF_COUNT = {1: (4,), 2: (3, 5), 3: (2, 4, 6), 4: (2, 3, 4, 5), 5: (1, 2, 3, 4, 5), 6: LEVELS}


def check_level(level: int | None) -> int | None:
    """Return a level, or None for "whichever scores best"; a SettingsError if it is no step of the ladder."""
    if level is not None and level not in LEVELS:
        raise SettingsError(f"level {level!r} is not on the ladder; choose 1 (finest) to 6 (coarsest), or none")
    return level


def levels_of(masks: BoolMask) -> NDArray[np.int_]:
    """Return the level of each of (M, H, W) masks that answer one prompt, M up to 6, by their areas."""
    areas = [np.count_nonzero(mask) for mask in masks]  # many times faster than a sum of bools
    levels = np.empty(len(masks), dtype=int)
    levels[np.argsort(areas, kind="stable")] = _OF_COUNT[len(masks)]
    return levels


def nearest(levels: Sequence[int] | NDArray[np.int_], level: int) -> int:
    """Return the index of the entry that is nearest to a level; of several the first, which scores best."""
    return int(np.argmin(np.abs(np.asarray(levels) - level)))


def distinct(masks: BoolMask, *, same_iou: float = SAME_IOU) -> list[int]:
    """Return the indices of those of (M, H, W) masks that differ from all earlier ones and are not empty.

    Two masks are the same if their IoU is more than `same_iou`.
    """
    kept: list[int] = []
    for index, mask in enumerate(masks):
        if mask.any() and all(_iou(mask, masks[other]) <= same_iou for other in kept):
            kept.append(index)
    return kept


def _iou(a: BoolMask, b: BoolMask) -> float:
    """Return the IoU of two masks that are not both empty."""
    both = np.count_nonzero(a & b)
    return both / (np.count_nonzero(a) + np.count_nonzero(b) - both)
