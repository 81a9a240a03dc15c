"""What the session of a stack tells: its signals, and the values that they carry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from psygnal import Signal

from napari_segany.core.errors import SegAnyError
from napari_segany.core.masks import box_of, slices_of
from napari_segany.core.types import BoolMask, Box, FrameMasks, ModelCard

from .prompts import ObjectPrompts
from .signals import SessionSignals


class FollowingError(SegAnyError, RuntimeError):
    """Something went wrong while objects were followed; what was painted before stays."""


class Direction(Enum):
    """Where objects are followed to from the frames with prompts."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "both"


class Ending(Enum):
    """How a propagation ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class FramePreview:
    """The answer to the prompts of one object on one frame, shown until it is painted.

    Attributes
    ----------
    shape
        (H, W) of the frame.
    box, crop
        The rectangle around the mask and (h, w) what is in it; None if the object was judged absent.
    score
        Predicted IoU, 0 to 1, or negative.
    """

    object_id: int
    frame: int
    shape: tuple[int, int]
    box: Box | None
    crop: BoolMask | None
    score: float
    prompts: ObjectPrompts
    card: ModelCard

    @property
    def mask(self) -> BoolMask:
        """The (H, W) mask, made anew each time: with many objects, whole masks would fill the memory."""
        mask = np.zeros(self.shape, dtype=bool)
        if self.box is not None and self.crop is not None:
            mask[slices_of(self.box)] = self.crop
        return mask

    @classmethod
    def of(cls, answer: FrameMasks, *, prompts: ObjectPrompts, card: ModelCard) -> FramePreview:
        """Return the preview of an answer about one object."""
        mask = answer.masks[0]
        box = box_of(mask) if mask.any() else None
        crop = None if box is None else mask[slices_of(box)].copy()
        number, size = int(answer.object_ids[0]), (mask.shape[0], mask.shape[1])
        return cls(
            number,
            answer.frame,
            size,
            box=box,
            crop=crop,
            score=float(answer.scores[0]),
            prompts=prompts,
            card=card,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a propagation is: `done` of `total` frames; the total is the most there may be."""

    done: int
    total: int
    frame: int


@dataclass(frozen=True, slots=True)
class RunEnd:
    """What came of a propagation: how it ended, and the frames that were painted, in their order."""

    ending: Ending
    frames: tuple[int, ...]


class VolumeSignals(SessionSignals):
    """The signals of a volume session, emitted on the thread that owns it.

    Those of `SessionSignals` keep their meaning; `prompts_changed` and `preview_changed` carry `(object_id, frame)`,
    the latter with a `FramePreview` or None; `labels_changed` the patches that were written.

    - `frame_painted(frame, object_ids)`: one frame of a propagation is in the labels, durably.
    - `progress_changed(Progress)`, `run_started(tuple of ranges)`, `run_ended(RunEnd)`: of a propagation.
    - `objects_changed()`: objects came or went, or their names, colours, locks or parents changed.
    - `track_changed(object_id)`: results, prompts, doubts or staleness of one object changed.
    """

    frame_painted = Signal(int, tuple)
    progress_changed = Signal(Progress)
    run_started = Signal(tuple)
    run_ended = Signal(RunEnd)
    objects_changed = Signal()
    track_changed = Signal(int)
