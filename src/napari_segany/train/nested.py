"""Crops for Semantic-SAM: everything that is to be seen in them, and clicks with all objects that these lie in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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
    """How crops are cut: `objects` clicks and boxes in each, at most `seen` true masks.

    Classes in `again` are shown and asked for once more, each time that they are named, than their rarity says.
    """

    side: int = 192
    objects: int = 6
    zoom: tuple[float, float] = (0.45, 2.2)
    frames: tuple[int, int] = (384, 1280)
    seen: int = 20
    box_share: float = 0.2
    is_many: bool = True
    again: tuple[str, ...] = ()


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
    item: Annotated,
    plan: NestedPlan,
    rng: np.random.Generator,
    *,
    vocabulary: Vocabulary,
    rarity: Mapping[str, float] | None = None,
) -> tuple[Tensor, ...] | None:
    """Return the fields of `NestedBatch` of one crop around a random object, or None where nothing is large enough.

    `rarity` says how often each class is to be chosen, compared with others; a class that it lacks counts 1.
    """
    if not item.objects:
        return None
    anchor = item.objects[_drawn(list(item.objects), rarity or {}, rng)]
    scale = zoom_of(anchor, item.labels.shape, plan, rng)
    window = window_around(anchor, item.labels.shape, side=plan.side / scale, rng=rng)
    things = [(thing, mask) for thing in item.objects if (mask := mask_in(thing, window)).any()]
    seen = augment_intensity(pixels_in(item.image, window, rng), rng)
    labels = item.labels[window]
    pixels, masks, _ = to_frame(
        seen,
        np.stack([mask for _, mask in things]),
        np.stack([labels > 0, borders(labels)]),
        plan=plan,
        scale=scale,
        rng=rng,
    )
    coarse = torch.nn.functional.avg_pool2d(masks.float(), CELL)
    large = [
        i for i in range(len(things)) if coarse[i].sum() * CELL**2 >= SMALLEST and (coarse[i] > 0.5).any()
    ]
    prompts = _prompts(
        [thing for thing, _ in things], coarse > 0.5, large, plan, rarity=rarity or {}, rng=rng
    )
    if not prompts:
        return None
    kept = list(dict.fromkeys(i for prompt in prompts for i in prompt.inside))
    others = rng.permutation(sorted(set(large) - set(kept)))
    kept = sorted([*kept, *others[: plan.seen - len(kept)].tolist()])
    facts = [_facts(things[i][0], vocabulary) for i in kept]
    return _fields(pixels, coarse[kept], facts, plan, prompts, kept=kept, is_complete=item.is_complete)


def class_of(thing: Annotation) -> str:
    """Return what an object is called."""
    return thing.kind or OWN_CLASS


def rarity_of(items: Sequence[Annotated], *, again: Sequence[str] = ()) -> dict[str, float]:
    """Return for each class one by the root of the number of images that show it, times 1 + how often it is `again`."""
    counts = Counter(name for item in items for name in {class_of(thing) for thing in item.objects})
    return {name: (1 + again.count(name)) * count**-0.5 for name, count in counts.items()}


def _drawn(things: list[Annotation], rarity: Mapping[str, float], rng: np.random.Generator) -> int:
    """Return the index of a random object of a random class, rare classes more often."""
    names = sorted({class_of(thing) for thing in things})
    shares = np.array([rarity.get(name, 1.0) for name in names])
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    return int(rng.choice([i for i, thing in enumerate(things) if class_of(thing) == name]))


def _facts(thing: Annotation, vocabulary: Vocabulary) -> tuple[int, int, int]:
    """Return level, class as an object, class as a part; a class that the vocabulary lacks is -1."""
    kind = class_of(thing)
    words = vocabulary.parts if thing.is_part else vocabulary.objects
    index = words.index(kind) if kind in words else -1
    return (thing.level, -1, index) if thing.is_part else (thing.level, index, -1)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A click, or a box: (x, y, w, h) in frame pixels, and the objects that it lies in."""

    place: tuple[float, float, float, float]
    is_box: bool
    inside: tuple[int, ...]


def _prompts(
    things: list[Annotation],
    masks: Tensor,
    large: list[int],
    plan: NestedPlan,
    *,
    rarity: Mapping[str, float],
    rng: np.random.Generator,
) -> list[_Asked]:
    """Return clicks and boxes on random objects of those that are `large`, with no more objects than the plan has."""
    asked: list[_Asked] = []
    seen: set[int] = set()
    pool = [things[i] for i in large]
    binary: BoolMask = masks.numpy()
    for _ in range(plan.objects if large else 0):
        chosen = large[_drawn(pool, rarity, rng)]
        if rng.random() < plan.box_share:
            new = _Asked(_box(binary[chosen], rng), True, (chosen,))
        else:
            click = first_click(binary[chosen], rng)
            inside = tuple(i for i in large if binary[i, int(click.row), int(click.col)])
            new = _Asked(((click.col + 0.5) * CELL, (click.row + 0.5) * CELL, 0.0, 0.0), False, inside)
        if len(seen.union(new.inside)) <= plan.seen:
            seen.update(new.inside)
            asked.append(new)
    return asked


def _fields(
    pixels: Tensor,
    masks: Tensor,
    facts: list[tuple[int, int, int]],
    plan: NestedPlan,
    prompts: list[_Asked],
    *,
    kept: list[int],
    is_complete: bool,
) -> tuple[Tensor, ...]:
    """Return a crop's fields, filled up to the plan's numbers of objects and prompts; the latter by repeating some."""
    count, size = plan.seen, masks.shape[1]
    seen = torch.zeros(count, size, size)
    seen[: len(masks)] = masks
    table = torch.full((count, 3), -1, dtype=torch.long)
    table[:, 0] = 0
    table[: len(facts)] = torch.tensor(facts)
    asked = [prompts[k % len(prompts)] for k in range(plan.objects)]
    inside = torch.zeros(plan.objects, count, dtype=torch.bool)
    for k, prompt in enumerate(asked):
        inside[k, [kept.index(i) for i in prompt.inside]] = True
    return (
        pixels,
        (seen * 255).byte(),
        table[:, 0],
        table[:, 1:],
        torch.tensor([prompt.place for prompt in asked]),
        torch.tensor([prompt.is_box for prompt in asked]),
        inside,
        torch.tensor(is_complete),
    )


def _box(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return (x, y, w, h) in frame pixels of a box around a mask, drawn by a hurried hand."""
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    ends = np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], dtype=np.float64) * CELL
    sides = np.tile(ends[2:] - ends[:2], 2)
    ends += np.clip(rng.normal(0, 0.07, size=4), -0.2, 0.2) * sides
    x, y, w, h = np.concatenate(((ends[:2] + ends[2:]) / 2, ends[2:] - ends[:2])).tolist()
    return x, y, w, h


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
        self._rarity: dict[str, float] = {}

    def shares(self, scenes: list[Annotated]) -> NDArray[np.float64]:
        """Return how often each scene is to be cut from: as often as the rarest class that it shows."""
        self._rarity = rarity_of(scenes, again=self.plan.again)
        rarest = [max((self._rarity[class_of(thing)] for thing in s.objects), default=0.0) for s in scenes]
        total = sum(rarest)
        return np.array(rarest) / total if total else super().shares(scenes)

    def cut(self, item: Annotated, rng: np.random.Generator) -> tuple[Tensor, ...] | None:
        """Return the fields of one crop, or None where there is nothing to learn from it."""
        return cut_nested(item, self.plan, rng, vocabulary=self.vocabulary, rarity=self._rarity)
