"""Tracking in the order of the published predictor, quirks included: what faster ways are compared with.

Paper: Ravi et al. 2024. Every object is followed alone, all frames are kept, coordinates and masks are in the model's
frame. Known quirks: a correction on a frame that was followed already counts only with `keeps_corrections`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.models.mask_decoder import resize_logits
from napari_segany.models.promptable import ImageFeatures
from napari_segany.models.tracking import ABSENT, FrameMemory, Recollection, TrackedFrame, Tracking

from .recall import RecallRules, recall

_CLAMP = 32.0  # of earlier logits that go in as a prompt
_FILLED = 0.1  # of a filled hole
_OUTSIDE = -10.0  # of pixels that another object takes


@dataclass(frozen=True, slots=True)
class ReferenceOptions:
    """What the published predictor lets one choose.

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
    """

    recall: RecallRules = field(default_factory=RecallRules)
    keeps_corrections: bool = False
    is_exclusive: bool = False
    largest_hole: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An object on a frame: the answer, and its memory as soon as it was encoded."""

    answer: TrackedFrame
    memory: FrameMemory | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """All objects on a frame: logits (K, 1, 4h, 4w), as far as an object has any, else `ABSENT`."""

    frame: int
    object_ids: tuple[Hashable, ...]
    logits: Tensor


@dataclass(slots=True, eq=False)
class _Track:
    """One object: prompts, answers kept by frame, and where it was followed (True: backwards)."""

    points: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    masked: set[int] = field(default_factory=set)
    prompted: dict[int, Kept] = field(default_factory=dict)
    passed: dict[int, Kept] = field(default_factory=dict)
    new_prompted: dict[int, Kept] = field(default_factory=dict)
    new_passed: dict[int, Kept] = field(default_factory=dict)
    followed: dict[int, bool] = field(default_factory=dict)

    def latest(self, frame: int, fresh: dict[int, Kept]) -> Kept | None:
        """Return what is known of a frame, newest first."""
        for kept in (fresh, self.prompted, self.passed):
            if frame in kept:
                return kept[frame]
        return None


class ReferenceTracker:
    """Objects on one stack of frames.

    Parameters
    ----------
    tracking
        The steps, and the network.
    features
        Gives the raw features of a frame by its number; asked again for every object.
    n_frames
        How many frames there are.
    options
        See `ReferenceOptions`.
    """

    def __init__(
        self,
        tracking: Tracking,
        features: Callable[[int], ImageFeatures],
        *,
        n_frames: int,
        options: ReferenceOptions | None = None,
    ) -> None:
        self.tracking = tracking
        self.features = features
        self.n_frames = n_frames
        self.options = options or ReferenceOptions()
        self._tracks: dict[Hashable, _Track] = {}

    @property
    def object_ids(self) -> tuple[Hashable, ...]:
        """The objects, in the order of their first prompts."""
        return tuple(self._tracks)

    def add_points(
        self,
        frame: int,
        object_id: Hashable,
        *,
        xy: Tensor,
        labels: Tensor,
        replaces: bool = True,
    ) -> Answer:
        """Prompt an object by (1, N, 2) points, box corners first, with (1, N) labels; return all objects there.

        Without `replaces`, the points are added to those already on the frame.
        """
        track = self._tracks.setdefault(object_id, _Track())
        if not replaces and frame in track.points:
            if (labels >= 2).any():
                raise PromptError("a box replaces all earlier points of a frame; pass replaces=True")
            xy, labels = (
                torch.cat(pair, dim=1) for pair in zip(track.points[frame], (xy, labels), strict=True)
            )
        track.points[frame] = (xy, labels)
        track.masked.discard(frame)
        fresh = self._fresh(track, frame)
        known = track.latest(frame, fresh)
        earlier = None if known is None else known.answer.logits.clamp(-_CLAMP, _CLAMP)
        features = self.features(frame)
        if frame in track.followed:
            conditioned = self._reminded(track, frame, is_reverse=track.followed[frame])
        else:
            conditioned = self.tracking.unreminded(features)
        answer = self.tracking.answer(conditioned, xy, labels, masks=earlier)
        fresh[frame] = Kept(self._filled(answer))
        return self._all_on(frame, fresh is track.new_prompted)

    def add_mask(self, frame: int, object_id: Hashable, *, mask: Tensor) -> Answer:
        """Say that an object is a (H, W) mask on a frame; return all objects there."""
        track = self._tracks.setdefault(object_id, _Track())
        track.points.pop(frame, None)
        track.masked.add(frame)
        features = self.features(frame)
        size = [side * self.tracking.model.config.stride for side in features.embedding.shape[2:]]
        large = F.interpolate(mask[None, None].float(), size=size, mode="bilinear", antialias=True)
        answer = self.tracking.adopt(features, (large >= 0.5).float())
        fresh = self._fresh(track, frame)
        fresh[frame] = Kept(self._filled(answer))
        return self._all_on(frame, fresh is track.new_prompted)

    def clear(self, frame: int, object_id: Hashable) -> Answer:
        """Take an object's prompts off a frame; what was answered there stays, as if it had been followed."""
        track = self._tracks[object_id]
        track.points.pop(frame, None)
        track.masked.discard(frame)
        track.new_prompted.pop(frame, None)
        track.new_passed.pop(frame, None)
        if frame in track.prompted:
            track.passed[frame] = track.prompted.pop(frame)
            track.followed.pop(frame, None)
        return self._all_on(frame, self._is_newly_prompted(frame))

    def remove(self, object_id: Hashable) -> list[Answer]:
        """Forget an object; return the objects that stay, on each frame where it was prompted."""
        track = self._tracks.pop(object_id)
        frames = sorted(track.points.keys() | track.masked) if self._tracks else []
        return [self._all_on(frame, self._is_newly_prompted(frame)) for frame in frames]

    def propagate(
        self, *, start: int | None = None, most: int | None = None, is_reverse: bool = False
    ) -> Iterator[Answer]:
        """Follow all objects from `start` (the first prompted frame) over `most` further frames.

        Prompted frames are given as they were answered. Backwards from the very first frame there is nothing to do.
        """
        self._settle()
        if start is None:
            start = min(t for track in self._tracks.values() for t in track.prompted)
        most = self.n_frames if most is None else most
        frames = range(start, min(start + most, self.n_frames - 1) + 1)
        if is_reverse:
            frames = range(start, max(start - most, 0) - 1, -1) if start > 0 else range(0)
        for frame in frames:
            for track in self._tracks.values():
                if frame not in track.prompted:
                    track.passed[frame] = self._follow(track, frame, is_reverse=is_reverse)
                track.followed[frame] = is_reverse
            kept = [self.kept(frame, object_id).answer.logits for object_id in self._tracks]
            yield Answer(frame, self.object_ids, torch.cat(kept))

    def kept(self, frame: int, object_id: Hashable, *, is_new: bool = False) -> Kept:
        """Return what is known of an object on a frame; `is_new` looks at prompts not yet propagated first."""
        track = self._tracks[object_id]
        if is_new:
            for fresh in (track.new_prompted, track.new_passed):
                if frame in fresh:
                    return fresh[frame]
        return track.prompted[frame] if frame in track.prompted else track.passed[frame]

    def shown(self, logits: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Return (K, 1, H, W) logits at the video's size, each pixel's other objects pushed out where asked for."""
        large = resize_logits(logits, size)
        if not self.options.is_exclusive or len(large) == 1:
            return large
        wins = large.argmax(dim=0, keepdim=True) == torch.arange(len(large))[:, None, None, None]
        return torch.where(wins, large, large.clamp(max=_OUTSIDE))

    def _fresh(self, track: _Track, frame: int) -> dict[int, Kept]:
        """Return where the answer to a new prompt goes: with the prompted frames, or with those passed."""
        is_first = frame not in track.followed
        return track.new_prompted if is_first or self.options.keeps_corrections else track.new_passed

    def _is_newly_prompted(self, frame: int) -> bool:
        """Return whether any object has a prompt on a frame that counts and was not propagated yet."""
        return any(frame in track.new_prompted for track in self._tracks.values())

    def _all_on(self, frame: int, is_prompted: bool) -> Answer:
        """Return all objects on a frame that was just prompted."""
        known = [
            track.latest(frame, track.new_prompted if is_prompted else track.new_passed)
            for track in self._tracks.values()
        ]
        like = next((kept.answer.logits for kept in known if kept is not None), None)
        if like is None:
            side = 4 * self.features(frame).embedding.shape[2], 4 * self.features(frame).embedding.shape[3]
            like = torch.zeros(1, 1, *side)
        logits = [torch.full_like(like, ABSENT) if kept is None else kept.answer.logits for kept in known]
        return Answer(frame, self.object_ids, torch.cat(logits))

    def _settle(self) -> None:
        """Encode the memories of new prompts, from the low-resolution answers; prompted frames are not passed ones."""
        for object_id, track in self._tracks.items():
            for fresh, kept in ((track.new_passed, track.passed), (track.new_prompted, track.prompted)):
                for frame, one in fresh.items():
                    memory = self.tracking.remember(self.features(frame), one.answer, is_prompted=True)
                    kept[frame] = Kept(one.answer, memory)
                fresh.clear()
            if not track.prompted:
                raise PromptError(f"object {object_id!r} has no prompt; give it one, or remove it")
            for frame in track.prompted:
                track.passed.pop(frame, None)

    def _follow(self, track: _Track, frame: int, *, is_reverse: bool) -> Kept:
        """Answer a frame without a prompt and remember it; holes are filled after."""
        features = self.features(frame)
        conditioned = self._reminded(track, frame, is_reverse=is_reverse)
        nothing = features.embedding.new_zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)
        answer = self.tracking.answer(conditioned, *nothing)
        memory = self.tracking.remember(features, answer, is_prompted=False)
        return Kept(self._filled(answer), memory)

    def _reminded(self, track: _Track, frame: int, *, is_reverse: bool) -> ImageFeatures:
        """Return a frame's features in the light of an object's memories."""
        recalled = recall(
            frame,
            track.prompted,
            passed=track.passed,
            n_frames=self.n_frames,
            rules=self.options.recall,
            is_reverse=is_reverse,
        )
        memories = {t: kept.memory for t, kept in (track.prompted | track.passed).items()}
        spatial, pointers = [], []
        for t, age in recalled.memories:
            if (memory := memories[t]) is not None:
                spatial.append((age, memory.spatial))
        for t, distance in recalled.pointers:
            if (memory := memories[t]) is not None:
                pointers.append((distance, memory.pointers))
        told = Recollection(tuple(spatial), tuple(pointers), recalled.span)
        return self.tracking.reminded(self.features(frame), told)

    def _filled(self, answer: TrackedFrame) -> TrackedFrame:
        """Return an answer with small holes filled."""
        if not self.options.largest_hole:
            return answer
        return replace(answer, logits=fill_holes(answer.logits, largest=self.options.largest_hole))


def fill_holes(logits: Tensor, *, largest: int) -> Tensor:
    """Raise background parts (8-connected) of up to `largest` pixels of (K, 1, h, w) logits just above zero."""
    filled = logits.clone()
    for one in filled[:, 0]:
        parts, _ = ndimage.label((one <= 0).numpy(force=True), structure=np.ones((3, 3)))
        is_small = np.bincount(parts.ravel()) <= largest
        is_small[0] = False  # the object itself
        one[torch.from_numpy(is_small[parts]).to(one.device)] = _FILLED
    return filled
