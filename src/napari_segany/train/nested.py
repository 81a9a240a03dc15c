"""Crops for Semantic-SAM: everything that is to be seen in them, and clicks with all objects that these lie in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_segany.core.types import BoolMask
from napari_segany.models.text import Vocabulary

from .clicks import first_click
from .crops import (
    CropPlan,
    CropStream,
    augment_intensity,
    borders,
    mask_in,
    pixels_in,
    to_frame,
    window_around,
    zoom_of,
)
from .dataset import Annotated, Annotation
from .simulate import CELL

SMALLEST = 30
"""Frame pixels that an object must show."""
OWN_CLASS = "nucleus"
"""What objects are called that a folder of labels does not name."""


@dataclass(frozen=True, slots=True)
class NestedPlan(CropPlan):
    """How crops are cut: `objects` clicks and boxes in each, at most `seen` true masks."""

    side: int = 192
    objects: int = 6
    zoom: tuple[float, float] = (0.45, 2.2)
    frames: tuple[int, int] = (384, 1280)
    seen: int = 20
    box_share: float = 0.2
    is_many: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class NestedBatch:
    """B crops of side S.

    Attributes
    ----------
    pixels : (B, 3, S, S), 0 to 1
    masks : (B, G, S / 2, S / 2)
        Share of each cell that each object covers; all zero behind the last object.
    levels : (B, G)
        1 to 6, or 0 where it is not known.
    classes : (B, G, 2)
        Index among the vocabulary's objects and parts; one of them is -1, both where there is no object.
    places : (B, K, 4)
        Prompts, (x, y, w, h) in frame pixels, of a click without a size.
    is_box : (B, K)
    inside : (B, K, G)
        The objects that a click lies in, or the one that a box is drawn around.
    is_complete : (B,)
        Whether objects of all levels are annotated.
    """

    pixels: Tensor
    masks: Tensor
    levels: Tensor
    classes: Tensor
    places: Tensor
    is_box: Tensor
    inside: Tensor
    is_complete: Tensor


def cut_nested(
    item: Annotated, plan: NestedPlan, rng: np.random.Generator, *, vocabulary: Vocabulary
) -> tuple[Tensor, ...] | None:
    """Return the fields of `NestedBatch` of one crop around a random object, or None where nothing is large enough."""
    if not item.objects:
        return None
    anchor = _anchor(item, rng)
    scale = zoom_of(anchor, item.labels.shape, plan, rng)
    window = window_around(anchor, item.labels.shape, side=plan.side / scale, rng=rng)
    things = [(thing, mask) for thing in item.objects if (mask := mask_in(thing, window)).any()]
    pixels = augment_intensity(pixels_in(item.image, window, rng), rng)
    labels = item.labels[window]
    crop = to_frame(
        pixels,
        np.stack([mask for _, mask in things]),
        np.stack([labels > 0, borders(labels)]),
        plan=plan,
        scale=scale,
        rng=rng,
    )
    coarse = torch.nn.functional.avg_pool2d(crop.masks.float(), CELL)
    large = [
        i for i in range(len(things)) if coarse[i].sum() * CELL**2 >= SMALLEST and (coarse[i] > 0.5).any()
    ]
    if not large:
        return None
    kept = np.sort(rng.permutation(large)[: plan.seen])
    facts = [_facts(things[i][0], vocabulary) for i in kept]
    return _fields(crop.pixels, coarse[kept], facts, plan, rng=rng, is_complete=item.is_complete)


def _anchor(item: Annotated, rng: np.random.Generator) -> Annotation:
    """Return a random object of a random level."""
    levels = sorted({thing.level for thing in item.objects})
    level = levels[rng.integers(len(levels))]
    pool = [thing for thing in item.objects if thing.level == level]
    return pool[rng.integers(len(pool))]


def _facts(thing: Annotation, vocabulary: Vocabulary) -> tuple[int, int, int]:
    """Return level, class as an object, class as a part; a class that the vocabulary lacks is -1."""
    kind = thing.kind or OWN_CLASS
    words = vocabulary.parts if thing.is_part else vocabulary.objects
    index = words.index(kind) if kind in words else -1
    return (thing.level, -1, index) if thing.is_part else (thing.level, index, -1)


def _fields(
    pixels: Tensor,
    masks: Tensor,
    facts: list[tuple[int, int, int]],
    plan: NestedPlan,
    *,
    rng: np.random.Generator,
    is_complete: bool,
) -> tuple[Tensor, ...]:
    """Return a crop's fields, filled up to the plan's numbers of objects and prompts."""
    count, size = plan.seen, masks.shape[1]
    binary: BoolMask = (masks > 0.5).numpy()
    seen = torch.zeros(count, size, size)
    seen[: len(masks)] = masks
    table = torch.full((count, 3), -1, dtype=torch.long)
    table[:, 0] = 0
    table[: len(facts)] = torch.tensor(facts)
    places, is_box = torch.zeros(plan.objects, 4), torch.zeros(plan.objects, dtype=torch.bool)
    inside = torch.zeros(plan.objects, count, dtype=torch.bool)
    levels = np.array([fact[0] for fact in facts])
    for k in range(plan.objects):
        level = rng.choice(np.unique(levels))
        chosen = int(rng.choice(np.flatnonzero(levels == level)))
        if rng.random() < plan.box_share:
            is_box[k], inside[k, chosen] = True, True
            places[k] = _box(binary[chosen], rng)
        else:
            click = first_click(binary[chosen], rng)
            places[k, :2] = torch.tensor([(click.col + 0.5) * CELL, (click.row + 0.5) * CELL])
            inside[k, : len(binary)] = torch.from_numpy(binary[:, int(click.row), int(click.col)])
    return (
        pixels,
        (seen * 255).byte(),
        table[:, 0],
        table[:, 1:],
        places,
        is_box,
        inside,
        torch.tensor(is_complete),
    )


def _box(mask: BoolMask, rng: np.random.Generator) -> Tensor:
    """Return (x, y, w, h) in frame pixels of a box around a mask, drawn by a hurried hand."""
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    ends = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], dtype=np.float64) * CELL
    sides = np.tile(ends[2:] - ends[:2], 2)
    ends += np.clip(rng.normal(0, 0.07, size=4), -0.2, 0.2) * sides
    return torch.tensor(np.concatenate(((ends[:2] + ends[2:]) / 2, ends[2:] - ends[:2])), dtype=torch.float32)


class NestedStream(CropStream):
    """An endless stream of nested crops: a share from annotated images, the rest from scenes."""

    plan: NestedPlan

    def __init__(
        self,
        images: list[Annotated],
        plan: NestedPlan,
        *,
        vocabulary: Vocabulary,
        seed: int,
        scene_share: float,
        kinds: tuple[str, ...],
    ) -> None:
        super().__init__(images, plan, seed=seed, scene_share=scene_share, kinds=kinds)
        self.vocabulary = vocabulary

    def cut(self, item: Annotated, rng: np.random.Generator) -> tuple[Tensor, ...] | None:
        """Return the fields of one crop, or None where there is nothing to learn from it."""
        return cut_nested(item, self.plan, rng, vocabulary=self.vocabulary)


def batches(fields: Iterator[list[Tensor]]) -> Iterator[NestedBatch]:
    """Yield what a loader collated as batches."""
    for each in fields:
        yield NestedBatch(*each)
