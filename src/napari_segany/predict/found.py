"""What was found without prompts, put together: label images, maps of classes, and parts with what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import Labels, ScoredMask

LEAST_SEEN = 0.5
"""Share of its pixels that an object must keep beside better ones."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """What every pixel shows: `index` (H, W) uint8, 0 for nothing, else 1 + the index among `classes`."""

    index: NDArray[np.uint8]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Panoptic:
    """Every pixel's object: `labels` (H, W) uint32, 0 for none, and of each label its class name, "" where none fits or
    nothing was named, and its score, NaN where there is none.
    """

    labels: Labels
    names: dict[int, str] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part, and the index of the object that it lies in, -1 where it lies in none that was found."""

    found: ScoredMask
    of: int


def class_map(masks: Sequence[ScoredMask], shape: tuple[int, int], *, classes: Sequence[str]) -> ClassMap:
    """Return what every pixel shows: of the named masks on it the smallest, as a part hides its whole."""
    index = np.zeros(shape, dtype=np.uint8)
    places = {name: place for place, name in enumerate(classes, start=1)}
    for found in sorted(masks, key=lambda each: -np.count_nonzero(each.mask)):
        if found.name in places:
            index[found.mask] = places[found.name]
    return ClassMap(index, tuple(classes))


def panoptic_of_masks(masks: Sequence[ScoredMask], shape: tuple[int, int]) -> Panoptic:
    """Return masks as (H, W) labels with their names, numbered from 1, better ones first.

    A pixel belongs to the best mask on it; what keeps less than half of its pixels is left out.
    """
    labels = np.zeros(shape, dtype=np.uint32)
    names: dict[int, str] = {}
    scores: dict[int, float] = {}
    for found in sorted(masks, key=lambda each: -each.score):
        free = found.mask & (labels == 0)
        if np.count_nonzero(free) >= LEAST_SEEN * np.count_nonzero(found.mask):
            number = len(names) + 1
            names[number], scores[number] = found.name, found.score
            labels[free] = number
    return Panoptic(labels, names, scores)


def parts_of_masks(masks: Sequence[ScoredMask]) -> tuple[list[ScoredMask], list[Part]]:
    """Return the objects, and the parts with the smallest object that holds most of each."""
    objects = [found for found in masks if not found.is_part]
    areas = [np.count_nonzero(found.mask) for found in objects]
    parts = []
    for found in masks:
        if found.is_part:
            own = np.count_nonzero(found.mask)
            holding = [
                index
                for index, thing in enumerate(objects)
                if areas[index] > own and np.count_nonzero(thing.mask & found.mask) > 0.5 * own
            ]
            parts.append(Part(found, min(holding, key=lambda index: areas[index], default=-1)))
    return objects, parts
