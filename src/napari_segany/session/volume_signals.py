"""What the session of a stack tells: its signals, and the values that they carry."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from psygnal import Signal

from napari_segany.core.errors import SegAnyError
from napari_segany.core.types import BoolMask, ModelCard

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
    mask : (H, W)
        Empty if the object was judged absent.
    score
        Predicted IoU, 0 to 1, or negative.
    """

    object_id: int
    frame: int
    mask: BoolMask
    score: float
    prompts: ObjectPrompts
    card: ModelCard


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
