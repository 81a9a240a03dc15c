"""Tracking in the order of the first published predictor, which HQ-SAM 2 and EdgeTAM kept: all objects as one batch.

Paper: Ravi et al. 2024. On a prompted frame every object gets a memory; those without a prompt there count as absent.
No object comes after the first propagation. Corrections on followed frames stay.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.models.tracking import ABSENT, TrackedFrame

from .following import Answer, Clicks, Kept, Stack, joined

_TAKEN_AS_PRESENT = 10.0  # object score of what has no answer


@dataclass(slots=True, eq=False)
class _Prompts:
    """One object's clicks, and its answers to prompts that were not propagated yet, by frame."""

    clicks: dict[int, Clicks] = field(default_factory=dict)
    prompted: dict[int, Kept] = field(default_factory=dict)
    passed: dict[int, Kept] = field(default_factory=dict)


class BatchedReferenceTracker:
    """Objects on one stack of frames, followed together."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._new: dict[Hashable, _Prompts] = {}
        self._prompted: dict[int, Kept] = {}
        self._passed: dict[int, Kept] = {}
        self._corrected: set[int] = set()
        self._followed: dict[int, bool] = {}
        self._has_started = False

    @property
    def object_ids(self) -> tuple[Hashable, ...]:
        """The objects, in the order of their first prompts."""
        return tuple(self._new)

    def add_points(self, frame: int, object_id: Hashable, *, clicks: Clicks, replaces: bool = True) -> Answer:
        """Click on an object; return all objects there. See `ReferenceTracker.add_points`."""
        prompts = self._prompts_of(object_id)
        clicks = joined(None if replaces else prompts.clicks.get(frame), clicks)
        prompts.clicks[frame] = clicks
        fresh = self._fresh(prompts, frame)
        row = self.object_ids.index(object_id)
        seen = None
        if frame in self._followed:
            seen = self.stack.reminded(
                frame,
                prompted={t: kept.row(row) for t, kept in self._prompted.items()},
                passed={t: kept.row(row) for t, kept in self._passed.items()},
                is_reverse=self._followed[frame],
            )
        known = self._latest(frame, object_id, fresh)
        fresh[frame] = self.stack.click(frame, clicks, seen=seen, known=known)
        return self._all_on(frame, is_prompted=fresh is prompts.prompted)

    def add_mask(self, frame: int, object_id: Hashable, *, mask: Tensor) -> Answer:
        """Say that an object is a (H, W) mask on a frame; return all objects there."""
        prompts = self._prompts_of(object_id)
        prompts.clicks.pop(frame, None)
        fresh = self._fresh(prompts, frame)
        fresh[frame] = self.stack.adopt(frame, mask)
        return self._all_on(frame, is_prompted=fresh is prompts.prompted)

    def propagate(
        self, *, start: int | None = None, most: int | None = None, is_reverse: bool = False
    ) -> Iterator[Answer]:
        """Follow all objects; see `ReferenceTracker.propagate`."""
        self._settle()
        for frame in self.stack.range(
            min(self._prompted) if start is None else start, most=most, is_reverse=is_reverse
        ):
            if frame in self._prompted:
                self._forget_around(frame)
            elif frame not in self._corrected:
                seen = self.stack.reminded(
                    frame, prompted=self._prompted, passed=self._passed, is_reverse=is_reverse
                )
                self._passed[frame] = self.stack.follow(frame, seen)
            self._followed[frame] = is_reverse
            yield Answer(frame, self.object_ids, self.kept(frame).answer.logits)

    def kept(self, frame: int) -> Kept:
        """Return what was answered and remembered of all objects on a frame."""
        return self._prompted[frame] if frame in self._prompted else self._passed[frame]

    def _prompts_of(self, object_id: Hashable) -> _Prompts:
        """Return an object's prompts; a new object starts with none."""
        if object_id not in self._new and self._has_started:
            raise PromptError(
                f"object {object_id!r} is new, but tracking has started with {self.object_ids}; "
                "start again with all objects prompted"
            )
        return self._new.setdefault(object_id, _Prompts())

    def _fresh(self, prompts: _Prompts, frame: int) -> dict[int, Kept]:
        """Return where the answer to a new prompt goes: with the prompted frames, or with those passed."""
        is_first = frame not in self._followed
        return prompts.prompted if is_first or self.stack.options.keeps_corrections else prompts.passed

    def _latest(self, frame: int, object_id: Hashable, fresh: dict[int, Kept]) -> Kept | None:
        """Return what is known of an object on a frame, newest first."""
        if frame in fresh:
            return fresh[frame]
        for kept in (self._prompted, self._passed):
            if frame in kept:
                return kept[frame].row(self.object_ids.index(object_id))
        return None

    def _known(self, frame: int, *, is_prompted: bool) -> list[Kept | None]:
        """Return what is known of each object on a frame with a new prompt on any of them."""
        return [
            self._latest(frame, one, prompts.prompted if is_prompted else prompts.passed)
            for one, prompts in self._new.items()
        ]

    def _all_on(self, frame: int, *, is_prompted: bool) -> Answer:
        """Return all objects on a frame that was just prompted."""
        absent = torch.full_like(self.stack.blank(frame), ABSENT)
        known = self._known(frame, is_prompted=is_prompted)
        logits = [absent if kept is None else kept.answer.logits for kept in known]
        return Answer(frame, self.object_ids, torch.cat(logits))

    def _settle(self) -> None:
        """Join the objects of newly prompted frames and encode their memories; prompted frames are not passed ones."""
        self._has_started = True
        for is_prompted, kept in ((False, self._passed), (True, self._prompted)):
            new = [one.prompted if is_prompted else one.passed for one in self._new.values()]
            for frame in sorted({frame for one in new for frame in one}):
                kept[frame] = self.stack.remember(frame, self._together(frame, is_prompted=is_prompted))
                if not is_prompted:
                    self._corrected.add(frame)
                self._forget_around(frame)
            for one in new:
                one.clear()
        if not self._prompted:
            raise PromptError("no object has a prompt; give one before propagating")
        for frame in self._prompted:
            self._passed.pop(frame, None)
            self._corrected.discard(frame)

    def _together(self, frame: int, *, is_prompted: bool) -> TrackedFrame:
        """Return one answer for all objects on a frame; those without any count as absent, though scored as present."""
        known = self._known(frame, is_prompted=is_prompted)
        answers = [self._nothing(frame) if kept is None else kept.answer for kept in known]
        return TrackedFrame(
            *(
                torch.cat([getattr(one, name) for one in answers])
                for name in ("logits", "ious", "object_scores", "pointers")
            )
        )

    def _nothing(self, frame: int) -> TrackedFrame:
        """Return the answer for an object that nothing was said of: no mask, and the pointer of an empty one."""
        blank = self.stack.blank(frame)
        empty = self.stack.adopt(frame, blank[0, 0]).answer
        return TrackedFrame(
            logits=torch.full_like(blank, ABSENT),
            ious=empty.ious,
            object_scores=torch.full_like(empty.object_scores, _TAKEN_AS_PRESENT),
            pointers=empty.pointers,
        )

    def _forget_around(self, frame: int) -> None:
        """Drop what followed frames around a prompted one remember, if that was asked for and there is one object."""
        if not self.stack.options.forgets_nearby or len(self._new) > 1:
            return
        reach = self.stack.options.recall.frames * self.stack.options.recall.stride
        for near in range(frame - reach, frame + reach + 1):
            if near not in self._corrected:
                self._passed.pop(near, None)
