"""Tracking in the order of the published predictor, quirks included: what faster ways are compared with.

Paper: Ravi et al. 2024. Every object is followed alone, and may come at any time. A known quirk: a correction on a
frame that was followed already counts only with `keeps_corrections`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.models.tracking import ABSENT

from .following import Answer, Clicks, Kept, Stack, joined


@dataclass(slots=True, eq=False)
class _Track:
    """One object: prompts, answers kept by frame, and where it was followed (True: backwards)."""

    clicks: dict[int, Clicks] = field(default_factory=dict)
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
    """Objects on one stack of frames, each followed alone."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._tracks: dict[Hashable, _Track] = {}

    @property
    def object_ids(self) -> tuple[Hashable, ...]:
        """The objects, in the order of their first prompts."""
        return tuple(self._tracks)

    def add_points(self, frame: int, object_id: Hashable, *, clicks: Clicks, replaces: bool = True) -> Answer:
        """Click on an object; return all objects there.

        Without `replaces`, the points are added to those already on the frame.
        """
        track = self._tracks.setdefault(object_id, _Track())
        clicks = joined(None if replaces else track.clicks.get(frame), clicks)
        track.clicks[frame] = clicks
        track.masked.discard(frame)
        fresh = self._fresh(track, frame)
        seen = None
        if frame in track.followed:
            seen = self.stack.reminded(
                frame, prompted=track.prompted, passed=track.passed, is_reverse=track.followed[frame]
            )
        fresh[frame] = self.stack.click(frame, clicks, seen=seen, known=track.latest(frame, fresh))
        return self._all_on(frame, fresh is track.new_prompted)

    def add_mask(self, frame: int, object_id: Hashable, *, mask: Tensor) -> Answer:
        """Say that an object is a (H, W) mask on a frame; return all objects there."""
        track = self._tracks.setdefault(object_id, _Track())
        track.clicks.pop(frame, None)
        track.masked.add(frame)
        fresh = self._fresh(track, frame)
        fresh[frame] = self.stack.adopt(frame, mask)
        return self._all_on(frame, fresh is track.new_prompted)

    def clear(self, frame: int, object_id: Hashable) -> Answer:
        """Take an object's prompts off a frame; what was answered there stays, as if it had been followed."""
        track = self._tracks[object_id]
        track.clicks.pop(frame, None)
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
        frames = sorted(track.clicks.keys() | track.masked) if self._tracks else []
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
        for frame in self.stack.range(start, most=most, is_reverse=is_reverse):
            for track in self._tracks.values():
                if frame not in track.prompted:
                    seen = self.stack.reminded(
                        frame, prompted=track.prompted, passed=track.passed, is_reverse=is_reverse
                    )
                    track.passed[frame] = self.stack.follow(frame, seen)
                track.followed[frame] = is_reverse
            kept = [self.kept(frame, object_id).answer.logits for object_id in self._tracks]
            yield Answer(frame, self.object_ids, torch.cat(kept))

    def kept(self, frame: int, object_id: Hashable) -> Kept:
        """Return what is known of an object on a frame, prompts not yet propagated first."""
        track = self._tracks[object_id]
        known = track.latest(frame, track.new_prompted | track.new_passed)
        if known is None:
            raise PromptError(f"nothing is known of object {object_id!r} on frame {frame}")
        return known

    def _fresh(self, track: _Track, frame: int) -> dict[int, Kept]:
        """Return where the answer to a new prompt goes: with the prompted frames, or with those passed."""
        is_first = frame not in track.followed
        return track.new_prompted if is_first or self.stack.options.keeps_corrections else track.new_passed

    def _is_newly_prompted(self, frame: int) -> bool:
        """Return whether any object has a prompt on a frame that counts and was not propagated yet."""
        return any(frame in track.new_prompted for track in self._tracks.values())

    def _all_on(self, frame: int, is_prompted: bool) -> Answer:
        """Return all objects on a frame that was just prompted."""
        known = [
            track.latest(frame, track.new_prompted if is_prompted else track.new_passed)
            for track in self._tracks.values()
        ]
        absent = torch.full_like(self.stack.blank(frame), ABSENT)
        logits = [absent if kept is None else kept.answer.logits for kept in known]
        return Answer(frame, self.object_ids, torch.cat(logits))

    def _settle(self) -> None:
        """Encode the memories of new prompts; prompted frames are not passed ones."""
        for object_id, track in self._tracks.items():
            for fresh, kept in ((track.new_passed, track.passed), (track.new_prompted, track.prompted)):
                kept |= {frame: self.stack.remember(frame, one.answer) for frame, one in fresh.items()}
                fresh.clear()
            if not track.prompted:
                raise PromptError(f"object {object_id!r} has no prompt; give it one, or remove it")
            for frame in track.prompted:
                track.passed.pop(frame, None)
