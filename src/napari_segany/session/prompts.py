"""What a person has said about the object in work: prompts per plane, as values that undo can keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from psygnal import Signal

from napari_segany.core.errors import PromptError
from napari_segany.core.types import BoolMask, Box, FloatArray, ModelCard, Points, Prompt

PlaneIndex: TypeAlias = tuple[int, ...]


def no_points() -> Points:
    """Return an empty list of clicks."""
    return Points(np.empty((0, 2), dtype=np.float32), np.empty(0, dtype=bool))


@dataclass(frozen=True, slots=True, eq=False)
class Seed:
    """An earlier answer that the next one starts from.

    Attributes
    ----------
    logits : (h, w)
        Of the candidate that was shown.
    origin
        The prompts that were answered: walking `origin.seed` back gives every round, to repeat a run.
    candidate
        Which of the answers was shown.
    card
        The model that gave it: to every other model the logits mean nothing.
    has_fine
        Whether it was drawn with fine boundaries.
    """

    logits: FloatArray
    origin: ObjectPrompts
    candidate: int
    card: ModelCard
    has_fine: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPrompts:
    """Clicks, a box, a drawn (H, W) mask and the answer to refine, all for one object on one plane.

    `outlines` are the (N, 2) polygons that the mask was drawn with, to be shown again.
    """

    points: Points = field(default_factory=no_points)
    box: Box | None = None
    mask: BoolMask | None = None
    seed: Seed | None = None
    outlines: tuple[FloatArray, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to ask a model."""
        return len(self.points) == 0 and self.box is None and self.mask is None

    @property
    def is_ambiguous(self) -> bool:
        """True for a single click: it may mean a part or the whole, so every candidate is worth showing."""
        return len(self.points) == 1 and self.box is None and self.mask is None and self.seed is None

    def seed_for(self, card: ModelCard) -> Seed | None:
        """Return the answer that a model goes on from: its own, and never another model's."""
        return self.seed if self.seed is not None and self.seed.card == card else None

    def prompt(self, card: ModelCard) -> Prompt:
        """Return what a model is asked; the seed, when there is one, already holds the drawn mask."""
        if self.is_empty:
            raise PromptError("there is no prompt on this plane; click on the object or draw a box first")
        seed = self.seed_for(card)
        return Prompt(
            points=self.points if len(self.points) else None,
            box=self.box,
            mask=seed.logits if seed is not None else self.mask,
        )

    def rounds(self, card: ModelCard) -> list[ObjectPrompts]:
        """Return every prompt that led here with one model, first to last."""
        chain = [self]
        while (seed := chain[-1].seed_for(card)) is not None:
            chain.append(seed.origin)
        return chain[::-1]


def _seed_before(points: Points, *, seed: Seed | None) -> Seed | None:
    """Return the newest seed in a chain whose clicks are the first of `points`, unchanged."""
    while seed is not None:
        used = seed.origin.points
        n = len(used)
        is_same = np.array_equal(used.coords, points.coords[:n])
        if n < len(points) and is_same and np.array_equal(used.positive, points.positive[:n]):
            return seed
        seed = seed.origin.seed
    return None


_EMPTY = ObjectPrompts()


@dataclass(frozen=True, slots=True, eq=False)
class PromptEdit:
    """One change of the prompts: all planes before and after it."""

    before: Mapping[PlaneIndex, ObjectPrompts]
    after: Mapping[PlaneIndex, ObjectPrompts]


class PromptStore:
    """The prompts of the current object, per plane. Every change comes back as an edit that can be undone."""

    changed = Signal(tuple)
    """Emitted with the index of each plane whose prompts are now different."""

    def __init__(self) -> None:
        self._planes: Mapping[PlaneIndex, ObjectPrompts] = {}

    def __getitem__(self, index: PlaneIndex) -> ObjectPrompts:
        return self._planes.get(index, _EMPTY)

    def __iter__(self) -> Iterator[PlaneIndex]:
        return iter(self._planes)

    def __len__(self) -> int:
        return len(self._planes)

    def snapshot(self) -> dict[PlaneIndex, ObjectPrompts]:
        """Return the prompts of all planes, as they are now."""
        return dict(self._planes)

    def add_click(
        self, index: PlaneIndex, coord: tuple[float, float], *, positive: bool, seed: Seed | None = None
    ) -> PromptEdit:
        """Add a click at (row, col); `seed` is the answer it corrects."""
        now = self[index]
        points = now.points.with_click(*coord, positive=positive)
        return self.put(index, replace(now, points=points, seed=seed or now.seed))

    def set_points(self, index: PlaneIndex, points: Points) -> PromptEdit:
        """Replace all clicks of one plane, e.g. after one was dragged or deleted.

        What is refined falls back to the latest answer that none of the changed clicks took part in.
        """
        now = self[index]
        return self.put(index, replace(now, points=points, seed=_seed_before(points, seed=now.seed)))

    def set_box(self, index: PlaneIndex, box: Box | None) -> PromptEdit:
        """Replace the box of one plane; answers to an older box are not refined further."""
        return self.put(index, replace(self[index], box=box, seed=None))

    def set_mask(
        self, index: PlaneIndex, mask: BoolMask | None, *, outlines: tuple[FloatArray, ...] = ()
    ) -> PromptEdit:
        """Replace the drawn (H, W) mask of one plane."""
        return self.put(index, replace(self[index], mask=mask, outlines=outlines, seed=None))

    def put(self, index: PlaneIndex, prompts: ObjectPrompts) -> PromptEdit:
        """Replace everything on one plane."""
        after = self.snapshot()
        after.pop(index, None)
        if not prompts.is_empty:
            after[index] = prompts
        return self.restore(after)

    def clear(self) -> PromptEdit:
        """Forget the prompts of every plane."""
        return self.restore({})

    def restore(self, planes: Mapping[PlaneIndex, ObjectPrompts]) -> PromptEdit:
        """Make `planes` the prompts, and tell which planes differ."""
        edit = PromptEdit(self._planes, dict(planes))
        self._planes = edit.after
        for index in sorted({*edit.before, *edit.after}):
            if edit.before.get(index) is not edit.after.get(index):
                self.changed.emit(index)
        return edit
