"""The six-level ladder: how coarse a mask is, 1 (finest) to 6 (coarsest), with one meaning over every family.

Levels follow area, so a coarser level is never a smaller mask: Semantic-SAM answers a click with six masks, one for
each level; SAM, HQ-SAM and SAM 2 with three, at 2, 4 and 6; a single mask stands in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import SettingsError
from .types import BoolMask, MaskPrediction

LEVELS = (1, 2, 3, 4, 5, 6)
SAME_IOU = 0.9
"""Masks that overlap as much look the same to a person."""

_OF_COUNT = {1: (4,), 2: (3, 5), 3: (2, 4, 6), 4: (2, 3, 4, 5), 5: (1, 2, 3, 4, 5), 6: LEVELS}
_WORD = 8  # bytes that are looked at together


def check_level(level: int | None) -> int | None:
    """Return a level, or None for "whichever scores best"; a SettingsError if it is no step of the ladder."""
    if level is not None and level not in LEVELS:
        raise SettingsError(
            f"level {level!r} is not on the ladder; choose 1 (finest) to 6 (coarsest), or none"
        )
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


def led_by(prediction: MaskPrediction, level: int | None) -> MaskPrediction:
    """Return the same answers with the mask nearest to a level first; as they are where no level is asked for."""
    if level is None:
        return prediction
    first = nearest(prediction.levels, level)
    return _chosen(prediction, [first, *(index for index in range(len(prediction)) if index != first)])


def first_of(prediction: MaskPrediction) -> MaskPrediction:
    """Return the first of the answers alone."""
    return _chosen(prediction, [0])


def _chosen(prediction: MaskPrediction, order: list[int]) -> MaskPrediction:
    """Return some of the answers, in an order."""
    return MaskPrediction(
        prediction.masks[order],
        prediction.scores[order],
        prediction.logits[order],
        prediction.levels[order],
        tuple(prediction.names[index] for index in order) if prediction.names else (),
    )


def distinct(masks: BoolMask, *, same_iou: float = SAME_IOU) -> list[int]:
    """Return the indices of those of (M, H, W) masks that differ from all earlier ones and are not empty.

    Two masks are the same if their IoU is more than `same_iou`.
    """
    likes = _likes([_Spot.of(mask) for mask in masks], same_iou)
    return [index for index, like in enumerate(likes) if like == index]


@dataclass(frozen=True, slots=True)
class Ladder:
    """What there is to choose among the M masks of one answer, worked out once.

    Attributes
    ----------
    levels, areas
        Of each mask, best first; areas in pixels.
    boxes
        (row0, col0, row1, col1) around each mask, half-open; empty boxes around empty masks.
    likes
        The index of the best mask that looks as each does, its own for a mask that differs from all better ones; -1
        for an empty mask.
    """

    levels: tuple[int, ...]
    areas: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    likes: tuple[int, ...]

    @classmethod
    def of(cls, prediction: MaskPrediction, *, same_iou: float = SAME_IOU) -> Ladder:
        """Return the ladder of an answer."""
        spots = [_Spot.of(mask) for mask in prediction.masks]
        return cls(
            tuple(int(level) for level in prediction.levels),
            tuple(spot.area for spot in spots),
            tuple(spot.box for spot in spots),
            tuple(_likes(spots, same_iou)),
        )

    @property
    def distinct(self) -> tuple[int, ...]:
        """The indices of masks that differ, best first."""
        return tuple(index for index, like in enumerate(self.likes) if like == index)

    @property
    def stops(self) -> tuple[int, ...]:
        """The levels of masks that differ, fine to coarse."""
        return tuple(sorted({self.levels[index] for index in self.distinct}))

    def stop_beyond(self, shown: int, *, step: int) -> int | None:
        """Return the next coarser (step 1) or finer (-1) level whose mask differs from the one at index `shown`.

        None at the end of the ladder.
        """
        like = self.likes[shown]
        around = [self.levels[index] for index in {shown, like if like >= 0 else shown}]
        if step > 0:
            return min((stop for stop in self.stops if stop > max(around)), default=None)
        return max((stop for stop in self.stops if stop < min(around)), default=None)


@dataclass(frozen=True, slots=True, eq=False)
class _Spot:
    """The part of a mask that is not empty."""

    crop: BoolMask
    box: tuple[int, int, int, int]
    area: int

    @classmethod
    def of(cls, mask: BoolMask) -> _Spot:
        """Return the part of an (H, W) mask that is not empty."""
        left, right = _span(mask)
        rows = np.flatnonzero(mask[:, left:right].any(axis=1))
        if not rows.size:
            return cls(mask[:0, :0], (0, 0, 0, 0), 0)
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        cols = np.flatnonzero(mask[top:bottom, left:right].any(axis=0))
        left, right = left + int(cols[0]), left + int(cols[-1]) + 1
        crop = mask[top:bottom, left:right]
        return cls(crop, (top, left, bottom, right), int(np.count_nonzero(crop)))

    def iou(self, other: _Spot) -> float:
        """Return the IoU with another mask; 0 with an empty one."""
        low, high = (
            np.array(pair) for pair in ((self.box[:2], other.box[:2]), (self.box[2:], other.box[2:]))
        )
        top, left = low.max(axis=0)
        bottom, right = high.min(axis=0)
        if bottom <= top or right <= left:
            return 0.0
        parts = [
            spot.crop[top - spot.box[0] : bottom - spot.box[0], left - spot.box[1] : right - spot.box[1]]
            for spot in (self, other)
        ]
        both = int(np.count_nonzero(parts[0] & parts[1]))
        return both / (self.area + other.area - both)


def _span(mask: BoolMask) -> tuple[int, int]:
    """Return columns between which all of a mask lies, to within a word: eight are looked at at a time."""
    width = mask.shape[1]
    if width % _WORD or not mask.flags.c_contiguous:
        return 0, width
    words = np.flatnonzero(np.bitwise_or.reduce(mask.view(np.uint64), axis=0))
    return (_WORD * int(words[0]), _WORD * (int(words[-1]) + 1)) if words.size else (0, 0)


def _likes(spots: Sequence[_Spot], same_iou: float) -> list[int]:
    """Return, of each mask, the first different one that it is the same as, its own index if none; -1 if empty."""
    likes: list[int] = []
    for index, spot in enumerate(spots):
        kept = [other for other in range(index) if likes[other] == other]
        same = (other for other in kept if _may_be_same(spot, spots[other], same_iou))
        same = (other for other in same if spot.iou(spots[other]) > same_iou)
        likes.append(next(same, index) if spot.area else -1)
    return likes


def _may_be_same(a: _Spot, b: _Spot, same_iou: float) -> bool:
    """Whether the areas of two masks allow their IoU to be more than a limit."""
    return min(a.area, b.area) > same_iou * max(a.area, b.area)
