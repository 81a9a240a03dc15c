"""Following objects from frame to frame as published: the steps that every order of doing it shares.

Paper: Ravi et al. 2024. All frames are kept, coordinates and masks are in the model's frame.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import resize_logits
from napari_segany.models.prompt_labels import BOX_START
from napari_segany.models.tracking import FrameMemory, Recollection, TrackedFrame, Tracking, exclusive

from .recall import RecallRules, recall

_CLAMP = 32.0  # of earlier logits that go in as a prompt
_FILLED = 0.1  # of a filled hole

Clicks = tuple[Tensor, Tensor]
"""(1, N, 2) points as (x, y) in frame pixels, box corners first, and their (1, N) labels."""


@dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """What the published predictors let one choose.

    Attributes
    ----------
    recall
        Which frames are remembered.
    keeps_corrections
        Whether a prompt on a frame that was followed already counts like a first prompt.
    is_exclusive
        Whether a pixel belongs to one object only, that with the highest logit.
    largest_hole
        Holes of up to this many pixels of the low-resolution mask are filled; 0 fills none.
    forgets_nearby
        Whether a prompt makes the memories of followed frames around it forgotten (one object alone, in batches).
    """

    recall: RecallRules = field(default_factory=RecallRules)
    keeps_corrections: bool = False
    is_exclusive: bool = False
    largest_hole: int = 0
    forgets_nearby: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """B objects on a frame: the answer, and its memory as soon as it was encoded."""

    answer: TrackedFrame
    memory: FrameMemory | None = None

    def row(self, index: int) -> Kept:
        """Return what is kept of one object, still as a batch of one."""
        memory = self.memory
        return Kept(self.answer.row(index), None if memory is None else memory.row(index))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """All objects on a frame: logits (K, 1, 4h, 4w), those of objects that are not known there very low."""

    frame: int
    object_ids: tuple[Hashable, ...]
    logits: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames of one stack, and what can be done on them.

    Attributes
    ----------
    tracking
        The steps at the level of the model.
    features
        Gives the raw features of a frame by its number; asked again for every object.
    n_frames
        How many frames there are.
    options
        See `ReferenceOptions`.
    """

    tracking: Tracking
    features: Callable[[int], ImageFeatures]
    n_frames: int
    options: ReferenceOptions = field(default_factory=ReferenceOptions)

    def range(self, start: int, *, most: int | None, is_reverse: bool) -> range:
        """Return `start` and up to `most` further frames; backwards from the very first there are none at all."""
        most = self.n_frames if most is None else most
        if not is_reverse:
            return range(start, min(start + most, self.n_frames - 1) + 1)
        return range(start, max(start - most, 0) - 1, -1) if start > 0 else range(0)

    def reminded(
        self, frame: int, *, prompted: Mapping[int, Kept], passed: Mapping[int, Kept], is_reverse: bool
    ) -> ImageFeatures:
        """Return a frame's features in the light of what is kept of the same B objects on other frames."""
        rules = self.options.recall
        recalled = recall(
            frame, prompted, passed=passed, n_frames=self.n_frames, rules=rules, is_reverse=is_reverse
        )
        memories = {t: kept.memory for t, kept in (*prompted.items(), *passed.items())}
        spatial = [(age, m.spatial) for t, age in recalled.memories if (m := memories[t]) is not None]
        pointers = [(far, m.pointers) for t, far in recalled.pointers if (m := memories[t]) is not None]
        told = Recollection(tuple(spatial), tuple(pointers), recalled.span)
        return self.tracking.reminded(self.features(frame), told)

    def click(self, frame: int, clicks: Clicks, *, seen: ImageFeatures | None, known: Kept | None) -> Kept:
        """Answer clicks on one object.

        Parameters
        ----------
        frame
            Where.
        clicks
            All of this frame.
        seen
            Features from `reminded`, on a frame that was followed before.
        known
            The latest answer for this object there; its logits are a prompt too.
        """
        seen = self.tracking.unreminded(self.features(frame)) if seen is None else seen
        earlier = None if known is None else known.answer.logits.clamp(-_CLAMP, _CLAMP)
        return Kept(self.filled(self.tracking.answer(seen, *clicks, masks=earlier)))

    def adopt(self, frame: int, mask: Tensor) -> Kept:
        """Take an (H, W) mask as the answer for one object."""
        features = self.features(frame)
        size = [side * self.tracking.model.config.stride for side in features.embedding.shape[2:]]
        large = F.interpolate(mask[None, None].float(), size=size, mode="bilinear", antialias=True)
        return Kept(self.filled(self.tracking.adopt(features, (large >= 0.5).float())))

    def remember(self, frame: int, answer: TrackedFrame) -> Kept:
        """Encode the memory of a prompted frame, from the low-resolution answer that was kept."""
        return Kept(answer, self.tracking.remember(self.features(frame), answer, is_prompted=True))

    def follow(self, frame: int, seen: ImageFeatures) -> Kept:
        """Answer a frame without a prompt, on features from `reminded`, and remember it; holes are filled after."""
        xy = seen.embedding.new_zeros(len(seen.embedding), 0, 2)
        nothing = xy, torch.zeros(xy.shape[:2], dtype=torch.long, device=xy.device)
        answer = self.tracking.answer(seen, *nothing)
        memory = self.tracking.remember(self.features(frame), answer, is_prompted=False)
        return Kept(self.filled(answer), memory)

    def filled(self, answer: TrackedFrame) -> TrackedFrame:
        """Return an answer with small holes filled."""
        if not self.options.largest_hole:
            return answer
        return replace(answer, logits=fill_holes(answer.logits, largest=self.options.largest_hole))

    def shown(self, logits: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Return (K, 1, H, W) logits at the video's size, each pixel's other objects pushed out where asked for."""
        large = resize_logits(logits, size)
        return exclusive(large) if self.options.is_exclusive else large

    def blank(self, frame: int) -> Tensor:
        """Return (1, 1, 4h, 4w) zeros, in the low resolution of a frame."""
        embedding = self.features(frame).embedding
        return embedding.new_zeros(1, 1, 4 * embedding.shape[2], 4 * embedding.shape[3])


def joined(earlier: Clicks | None, later: Clicks) -> Clicks:
    """Return earlier clicks of a frame and later ones together.

    Raises
    ------
    PromptError
        If a box comes later, which replaces what there is.
    """
    if earlier is None:
        return later
    if (later[1] >= BOX_START).any():
        raise PromptError("a box replaces all earlier points of a frame; pass replaces=True")
    return torch.cat((earlier[0], later[0]), dim=1), torch.cat((earlier[1], later[1]), dim=1)


def fill_holes(logits: Tensor, *, largest: int) -> Tensor:
    """Raise background parts (8-connected) of up to `largest` pixels of (K, 1, h, w) logits just above zero."""
    filled = logits.clone()
    for one in filled[:, 0]:
        parts, _ = ndimage.label((one <= 0).numpy(force=True), structure=np.ones((3, 3)))
        is_small = np.bincount(parts.ravel()) <= largest
        is_small[0] = False  # the object itself
        one[torch.from_numpy(is_small[parts]).to(one.device)] = _FILLED
    return filled
