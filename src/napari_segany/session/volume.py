"""VolumeSession: objects of a stack or movie, prompted on any frame, followed through all, never lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.intensity import Window
from napari_segany.core.masks import LabelPatch, LabelSink
from napari_segany.core.types import BoolMask, Box, FloatArray, Labels, ModelCard, Points, VideoPredictorLike

from .prompts import ObjectPrompts, PlaneIndex
from .records import Colour, DoubtRule, ObjectTrack
from .source import PlaneSource
from .volume_signals import Direction, FramePreview, VolumeSignals
from .volume_state import VolumeState
from .volume_tracks import TrackTable
from .worker import Worker


class VolumeSession(VolumeSignals):
    """Segments objects through the frames of one stack: say what they are on some frames, follow them through all.

    Everything a person does goes through a method here and can be undone; everything that changes is told by a signal.
    The predictor runs on the worker; signals come on the thread that owns the session. Each frame of a propagation is
    in the sink, durably, before `frame_painted` tells of it.

    Parameters
    ----------
    source
        (..., H, W) planes to look at.
    predictor
        A predictor, or a function that loads one; the function runs on the worker.
    sink
        Where objects go, of the source's shape; one with a ledger (`io.LabelStore`) remembers the work: a session
        over the same store begins with what the last one had done.
    axis
        Which leading axis of the source counts the frames.
    at
        Indices on the other leading axes, in their order; all 0 if None.
    worker
        A `LatestWorker` in a window; without one, each call runs to its end.
    versions
        Of the software, for provenance.
    doubts
        Which results are pointed out as doubtful.

    Attributes
    ----------
    keep_existing
        Leave pixels of other objects as they are. Locked objects keep theirs in any case.
    """

    keep_existing: bool

    def __init__(
        self,
        source: PlaneSource,
        predictor: VideoPredictorLike | Callable[[], VideoPredictorLike],
        *,
        sink: LabelSink,
        axis: int = 0,
        at: PlaneIndex | None = None,
        worker: Worker | None = None,
        versions: Mapping[str, str] | None = None,
        doubts: DoubtRule | None = None,
    ) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------ what is

    @property
    def source(self) -> PlaneSource:
        """The stack in work."""
        raise NotImplementedError

    @property
    def axis(self) -> int:
        """Which leading axis counts the frames."""
        raise NotImplementedError

    @property
    def n_frames(self) -> int:
        """How many frames there are."""
        raise NotImplementedError

    @property
    def card(self) -> ModelCard | None:
        """Who answers, once the predictor was loaded."""
        raise NotImplementedError

    @property
    def window(self) -> Window | None:
        """The intensity window of the stack, once it was opened."""
        raise NotImplementedError

    @property
    def object_id(self) -> int:
        """The object in work: prompts without an `object_id` are about it. May be set to any label."""
        raise NotImplementedError

    @object_id.setter
    def object_id(self, value: int) -> None:
        raise NotImplementedError

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Every object that has prompts, results, or a name, in order."""
        raise NotImplementedError

    @property
    def locked_frames(self) -> frozenset[int]:
        """Frames that are never painted."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """True while objects are being followed."""
        raise NotImplementedError

    @property
    def interrupted(self) -> tuple[range, ...]:
        """Ranges of a propagation that a crash, an error or a stop cut short; `resume` goes on with them."""
        raise NotImplementedError

    @property
    def undo_title(self) -> str | None:
        """What undo would take back."""
        raise NotImplementedError

    @property
    def redo_title(self) -> str | None:
        """What redo would repeat."""
        raise NotImplementedError

    def index(self, frame: int) -> PlaneIndex:
        """Return the leading indices of a frame in source and sink."""
        raise NotImplementedError

    def frame_at(self, index: PlaneIndex) -> int | None:
        """Return the frame of a plane, None if the plane is not of this stack."""
        raise NotImplementedError

    def prompts(self, object_id: int, frame: int) -> ObjectPrompts:
        """Return what was said about an object on a frame."""
        raise NotImplementedError

    def preview(self, object_id: int, frame: int) -> FramePreview | None:
        """Return the answer that is shown for an object on a frame, None once it is painted."""
        raise NotImplementedError

    def track(self, object_id: int) -> ObjectTrack:
        """Return what is known of an object along the frames: scores, areas, prompts, doubts, locks, staleness."""
        raise NotImplementedError

    def object_tracks(self) -> list[ObjectTrack]:
        """Return the track of every object."""
        raise NotImplementedError

    def tracks(self) -> TrackTable:
        """Return centroids and parents of all objects, as napari's Tracks layer takes them."""
        raise NotImplementedError

    def features(self) -> dict[str, NDArray[np.generic]]:
        """Return a table with one row an object: index, name, frames, first, last, score, area, doubtful, prompted."""
        raise NotImplementedError

    def state(self) -> VolumeState:
        """Return what is in work, to be saved."""
        raise NotImplementedError

    # ------------------------------------------------------------------ prompts

    def click(
        self, frame: int, coord: tuple[float, float], *, positive: bool = True, object_id: int | None = None
    ) -> None:
        """Add a click at (row, col)."""
        raise NotImplementedError

    def set_points(
        self, frame: int, points: Points, *, object_id: int | None = None, is_live: bool = False
    ) -> None:
        """Replace all clicks on a frame; `is_live` while one is dragged: a drag is one undo step."""
        raise NotImplementedError

    def set_box(
        self, frame: int, box: Box | None, *, object_id: int | None = None, is_live: bool = False
    ) -> None:
        """Replace the box on a frame."""
        raise NotImplementedError

    def set_mask(
        self,
        frame: int,
        mask: BoolMask | None,
        *,
        outlines: tuple[FloatArray, ...] = (),
        object_id: int | None = None,
        is_live: bool = False,
    ) -> None:
        """Replace the drawn (H, W) mask on a frame; `outlines` are the polygons it was drawn with."""
        raise NotImplementedError

    def set_labels(self, frame: int, labels: Labels, *, keep_ids: bool = False) -> dict[int, int]:
        """Make every object of an (H, W) label image a mask prompt on a frame, as one step.

        Parameters
        ----------
        keep_ids
            Use the labels' own ids: what is there under an id is prompted anew. Otherwise new objects are made.

        Returns
        -------
        dict
            Object id by label.
        """
        raise NotImplementedError

    def clear(self, frame: int | None = None, *, object_id: int | None = None) -> None:
        """Forget the prompts of an object on a frame, or on all frames; results stay."""
        raise NotImplementedError

    def next_object(self) -> int:
        """Go on with the lowest id above all labels and objects, and return it."""
        raise NotImplementedError

    # ------------------------------------------------------------------ following

    def propagate(self, direction: Direction = Direction.BOTH, *, frames: range | None = None) -> bool:
        """Follow all objects, where there is no answer yet or a prompt outdated it, and paint frame by frame.

        Parameters
        ----------
        direction
            From the first prompted frame to the end, from the last one back to frame 0, or both in turn.
        frames
            This range instead, in its direction.

        Returns
        -------
        bool
            False when there is no prompt to start from.
        """
        raise NotImplementedError

    def commit(self) -> bool:
        """Paint the previews without following, as one step; False when none would change anything."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the propagation after the frame that is being worked on; what is painted stays."""
        raise NotImplementedError

    def resume(self) -> bool:
        """Go on with the propagation that was interrupted; False when none was."""
        raise NotImplementedError

    # ------------------------------------------------------------------ objects, frames, labels

    def lock_frames(self, frames: Iterable[int], *, is_locked: bool = True) -> None:
        """Keep frames from being painted, or release them."""
        raise NotImplementedError

    def lock_object(self, object_id: int, *, is_locked: bool = True) -> None:
        """Keep the pixels of an object as they are, or release them."""
        raise NotImplementedError

    def rename(self, object_id: int, name: str) -> None:
        """Give an object a name."""
        raise NotImplementedError

    def recolour(self, object_id: int, colour: Colour | None) -> None:
        """Give an object a colour; None for the one of its label."""
        raise NotImplementedError

    def set_parents(self, object_id: int, parents: Iterable[int]) -> None:
        """Say which objects an object came from."""
        raise NotImplementedError

    def delete(self, object_id: int) -> None:
        """Take an object out of labels, prompts and results, as one step; locked frames keep its pixels."""
        raise NotImplementedError

    def record_paint(self, patches: tuple[LabelPatch, ...]) -> None:
        """Remember label edits that were made by hand and are already in the labels."""
        raise NotImplementedError

    def undo(self) -> bool:
        """Take the last action back, a whole propagation at once; False when there is none."""
        raise NotImplementedError

    def redo(self) -> bool:
        """Repeat the action undone last; False when there is none."""
        raise NotImplementedError

    def restore(self, state: VolumeState) -> None:
        """Go on with what was saved, as one step; the labels are not touched."""
        raise NotImplementedError

    def set_predictor(self, load: Callable[[], VideoPredictorLike]) -> None:
        """Answer with another model from now on; it is fed with the results that are there."""
        raise NotImplementedError

    def close(self, *, timeout: float = 5.0) -> bool:
        """End the worker and let go of the predictor; says whether the thread ended in time."""
        raise NotImplementedError
