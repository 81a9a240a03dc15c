"""What following needs of a model, whatever its memory is like: prompts, steps without a prompt, masks fed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.masks import PlaneBox
from napari_segany.core.types import AnyArray, BoolMask, Box, FloatArray, Prompt

from .followed import Memory
from .prompts import DRAWN_LOGIT

ABSENT_SCORE = -0.5
"""The score of an object that is judged absent, where nothing tells how surely."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Logits of one object at the pixels of a part of the image; elsewhere it is not. `score` as in `FrameMasks`."""

    region: PlaneBox
    logits: FloatArray
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One object on one frame: where it is, and what the follower needs to remember it."""

    drawn: Drawn
    seen: object


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """What a step without a prompt is reminded of.

    Attributes
    ----------
    memories
        With their ages: 0 for a prompted frame, else the place in the queue, 1 the newest.
    pointers
        With how many frames they lie back.
    mask : (H, W)
        What was found on the frame just passed; empty where the object was absent.
    extent
        Where it was seen last; None if it never was.
    is_repeated
        Whether frames just passed are left out, as the object was not found there: `mask` is from one before.
    """

    memories: tuple[tuple[int, Memory], ...]
    pointers: tuple[tuple[int, Memory], ...]
    mask: BoolMask
    extent: Box | None
    is_repeated: bool = False


Reminder: TypeAlias = Callable[[], Ask | None]
"""Tells what a prompt's answer may be reminded of. Only who uses it asks: memories may have to be made for it."""


def nothing() -> None:
    """Be reminded of nothing."""


class Follower(Protocol):
    """The steps of one kind of model. What `look` returns is the follower's own business."""

    @property
    def queue(self) -> int:
        """How many passed frames are remembered."""

    @property
    def pointers(self) -> int:
        """From how many passed frames pointers are taken, beside prompted ones."""

    @property
    def looks_again(self) -> bool:
        """Whether what is gone can be looked for as it was seen last, or is remembered as gone."""

    def look(self, image: AnyArray) -> object:
        """Return what all objects of one frame need of it."""

    def nbytes(self, look: object) -> int:
        """Return the memory that a look holds, in bytes."""

    def prompt(
        self, look: object, prompt: Prompt, *, earlier: BoolMask | None, reminded: Reminder = nothing
    ) -> Found:
        """Answer a prompt; `earlier` is the mask that it corrects, `reminded` tells what is known from other frames."""

    def adopt(self, look: object, mask: BoolMask, *, extent: Box | None = None) -> Memory:
        """Remember an (H, W) mask as if it had been found: by a prompt, or from where it was seen in `extent`."""

    def follow(self, look: object, asks: Sequence[Ask]) -> list[Found]:
        """Answer for objects without a prompt."""

    def remember(self, found: Sequence[Found], masks: NDArray[np.bool_]) -> list[Memory]:
        """Return what is remembered of what `prompt` or `follow` found, given the (K, H, W) masks left of it."""


def at_pixels(
    logits: Tensor, region: PlaneBox, *, corner: tuple[float, float], step: tuple[float, float]
) -> FloatArray:
    """Return (h, w) logits at the pixels of a region of the image.

    Parameters
    ----------
    corner
        (row, col) of the logits' outer corner in image pixels, edges at integers.
    step
        Image pixels a logit is wide, (row, col).
    """
    rows, cols = (
        ((torch.arange(part.start, part.stop, dtype=torch.float32) + 0.5 - start) / width) / count * 2 - 1
        for part, start, width, count in zip(region, corner, step, logits.shape, strict=True)
    )
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    sampled = F.grid_sample(
        logits[None, None].float().cpu(),
        torch.stack((x, y), dim=-1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    values: FloatArray = sampled[0, 0].numpy()
    return values


def whole(mask: BoolMask, *, score: float) -> Drawn:
    """Return a mask that is given as an answer."""
    region = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    logits = np.where(mask, np.float32(DRAWN_LOGIT), np.float32(-DRAWN_LOGIT))
    return Drawn(region, logits, score if mask.any() else min(score, ABSENT_SCORE))


def emptied(drawn: Drawn) -> Drawn:
    """Return an answer that shows nothing in place of another."""
    return Drawn(drawn.region, np.minimum(drawn.logits, -DRAWN_LOGIT), min(drawn.score, ABSENT_SCORE))


def resolved(drawn: Sequence[Drawn], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the (K, H, W) masks of objects of which each pixel belongs to the one with the highest logit."""
    masks = np.zeros((len(drawn), *shape), dtype=bool)
    if len(drawn) == 1:
        masks[0][drawn[0].region] = drawn[0].logits > 0
        return masks
    best = np.zeros(shape, dtype=np.float32)
    owner = np.full(shape, -1, dtype=np.int32)
    for index, one in enumerate(drawn):
        wins = one.logits > best[one.region]
        best[one.region][wins] = one.logits[wins]
        owner[one.region][wins] = index
    for index, one in enumerate(drawn):
        masks[index][one.region] = owner[one.region] == index
    return masks


def score_of(iou: float, object_score: float, *, is_empty: bool) -> float:
    """Return the score that is shown: the predicted IoU, or how sure it is that the object is absent, negative."""
    if object_score > 0 and not is_empty:
        return max(iou, 1e-3)
    absent = float(torch.sigmoid(torch.tensor(-object_score)))
    return min(-absent, -1e-3) if object_score <= 0 else ABSENT_SCORE
