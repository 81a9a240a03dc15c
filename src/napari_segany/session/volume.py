"""VolumeSession: objects of a stack or movie, prompted on any frame, followed through all, never lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from napari_segany.core.errors import PromptError
from napari_segany.core.masks import LabelSink
from napari_segany.core.types import BoolMask, Box, FloatArray, Labels, Points, VideoPredictorLike

from .history import Entry
from .prompts import ObjectPrompts, PlaneIndex, PromptEdit
from .records import DoubtRule, ObjectRecord, Records, RecordsEdit
from .source import PlaneSource
from .stack_frames import StackFrames
from .volume_objects import ObjectsSession, check_label
from .volume_signals import Direction, Ending
from .volume_state import VolumeState
from .worker import InlineWorker, Worker


class VolumeSession(ObjectsSession):
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
    over_time
        Whether frames are times and not planes: what is gone from a movie may come back.
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

    def __init__(
        self,
        source: PlaneSource,
        predictor: VideoPredictorLike | Callable[[], VideoPredictorLike],
        *,
        sink: LabelSink,
        axis: int = 0,
        at: PlaneIndex | None = None,
        over_time: bool = False,
        worker: Worker | None = None,
        versions: Mapping[str, str] | None = None,
        doubts: DoubtRule | None = None,
    ) -> None:
        if tuple(source.shape) != tuple(sink.shape):
            raise PromptError(f"{source.name} has planes of {source.shape} but the labels have {sink.shape}")
        others = (0,) * (len(source.shape) - 3) if at is None else tuple(int(i) for i in at)
        frames = StackFrames(source, axis, others, over_time)
        load = (lambda: predictor) if isinstance(predictor, VideoPredictorLike) else predictor
        super().__init__(
            frames, load, sink=sink, worker=worker or InlineWorker(), versions=versions or {}, doubts=doubts
        )
        self._live: tuple[Mapping[PlaneIndex, ObjectPrompts], Records] | None = None
        self._object_id = sink.max_label() + 1
        left = self._notebook.read()
        if left is not None:
            self._adopt(left)
        self._prompts.changed.connect(self._on_prompts)

    # ------------------------------------------------------------------ prompts

    def click(
        self, frame: int, coord: tuple[float, float], *, positive: bool = True, object_id: int | None = None
    ) -> None:
        """Add a click at (row, col)."""
        key = self._key(frame, object_id)
        before = self._before()
        self._prompts.add_click(key, coord, positive=positive)
        self._changed("click" if positive else "negative click", before)

    def set_points(
        self, frame: int, points: Points, *, object_id: int | None = None, is_live: bool = False
    ) -> None:
        """Replace all clicks on a frame; `is_live` while one is dragged: a drag is one undo step."""
        key = self._key(frame, object_id)
        before = self._before()
        self._prompts.set_points(key, points)
        self._changed("move or delete clicks", before, is_live=is_live)

    def set_box(
        self, frame: int, box: Box | None, *, object_id: int | None = None, is_live: bool = False
    ) -> None:
        """Replace the box on a frame."""
        key = self._key(frame, object_id)
        before = self._before()
        self._prompts.set_box(key, box)
        self._changed("box", before, is_live=is_live)

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
        if mask is not None and mask.shape != self._frames.frame_shape:
            raise PromptError(f"the drawn mask is {mask.shape} but a frame is {self._frames.frame_shape}")
        key = self._key(frame, object_id)
        before = self._before()
        self._prompts.set_mask(key, mask, outlines=outlines)
        self._changed("drawn mask", before, is_live=is_live)

    def set_prompts(self, prompts: Mapping[PlaneIndex, ObjectPrompts], *, title: str = "prompts") -> None:
        """Replace all that was said under some keys `(object_id, frame)`, as one step; others stay."""
        keys = {self._key(frame, object_id): (object_id, frame) for object_id, frame in prompts}
        before = self._before()
        after = self._prompts.snapshot()
        for key, given in keys.items():
            after.pop(key, None)
            if not prompts[given].is_empty:
                after[key] = prompts[given]
        self._prompts.restore(after)
        self._changed(title, before)

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
        if labels.shape != self._frames.frame_shape:
            raise PromptError(f"the labels are {labels.shape} but a frame is {self._frames.frame_shape}")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
            raise PromptError(f"labels are integers from 0, got {labels.dtype} from {labels.min(initial=0)}")
        found = [int(i) for i in np.unique(labels) if i]
        if not found:
            raise PromptError(f"the labels for frame {frame} hold no object; every pixel is 0")
        first = self._free_id()
        ids = {label: label if keep_ids else first + i for i, label in enumerate(found)}
        masks: dict[PlaneIndex, ObjectPrompts] = {
            (ids[label], frame): ObjectPrompts(mask=labels == label) for label in found
        }
        self.set_prompts(masks, title=f"{len(found)} objects from labels")
        return ids

    def clear(self, frame: int | None = None, *, object_id: int | None = None) -> None:
        """Forget the prompts of an object on a frame, or on all frames; results stay."""
        about = self._object_id if object_id is None else int(object_id)
        keys = [key for key in self._prompts if key[0] == about and frame in (None, key[1])]
        if not keys:
            return
        before = self._before()
        gone = {key: value for key, value in self._prompts.snapshot().items() if key not in keys}
        self._prompts.restore(gone)
        self._changed("clear", before)

    def next_object(self) -> int:
        """Go on with the lowest id above all labels and objects, and return it."""
        self.object_id = self._free_id()
        return self.object_id

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
        prompted = [frame for _, frame in self._prompts]
        if frames is not None and frames:
            for end in (frames[0], frames[-1]):
                self._frames.check(end)
            if abs(frames.step) != 1:
                raise PromptError(
                    f"frames are followed one by one, not in steps of {frames.step}: use 1 or -1"
                )
        if not prompted or (frames is not None and not frames):
            return False
        onward, back = range(min(prompted), self.n_frames), range(max(prompted), -1, -1)
        ways = {
            Direction.FORWARD: (onward,),
            Direction.BACKWARD: (back,),
            Direction.BOTH: (onward, back),
        }
        self._settle()
        self._start((frames,) if frames is not None else ways[direction])
        return True

    def resume(self) -> bool:
        """Go on with the propagation that was interrupted; False when none was."""
        if self.is_running or not self._interrupted or not len(self._prompts):
            return False
        self._start(self._interrupted)
        return True

    # ------------------------------------------------------------------ history

    def undo(self) -> bool:
        """Take the last action back, a whole propagation at once; False when there is none."""
        self._settle()
        return self._step(self._journal.undo, lambda: self._journal.done)

    def redo(self) -> bool:
        """Repeat the action undone last; False when there is none."""
        self._settle()
        return self._step(self._journal.redo, lambda: self._journal.undone)

    def restore(self, state: VolumeState) -> None:
        """Go on with what was saved, as one step; the labels are not touched."""
        if (state.axis, state.at) != (self._frames.axis, self._frames.at):
            raise PromptError(
                f"this work was saved along axis {state.axis} at {state.at}, but this session is along "
                f"axis {self._frames.axis} at {self._frames.at}"
            )
        for frame in {key[1] for key in state.prompts}:
            self._frames.check(frame)
        self._settle()
        before = self._before()
        self._interrupted = state.interrupted
        self._put_records(state.records)
        self._prompts.restore(state.prompts)
        self.object_id = state.object_id
        self._changed("load prompts", before)
        self.objects_changed.emit()

    def close(self, *, timeout: float = 5.0) -> bool:
        """End the worker and let go of the predictor; says whether the thread ended in time."""
        if self._run is not None:
            self._run.halt.set()
            self._end(Ending.STOPPED)
        self._renew(self._records.objects)  # frames that are on their way come too late
        ended = self._worker.close(timeout=timeout)
        self._model.forget()
        self._previews.clear()
        return ended

    # ------------------------------------------------------------------ inside

    def _key(self, frame: int, object_id: int | None) -> PlaneIndex:
        """Return what prompts are kept under; PromptError where nothing may be said."""
        about = self._object_id if object_id is None else int(object_id)
        check_label(about)
        self._frames.check(frame)
        if frame in self._records.locked_frames:
            raise PromptError(f"frame {frame} is locked; release it before you prompt on it")
        if about in self._records and self._records[about].is_locked:
            raise PromptError(f"object {about} is locked; release it before you prompt it")
        return about, int(frame)

    def _before(self) -> tuple[Mapping[PlaneIndex, ObjectPrompts], Records]:
        """Return what a step starts from."""
        return self._prompts.snapshot(), self._records

    def _changed(
        self,
        title: str,
        before: tuple[Mapping[PlaneIndex, ObjectPrompts], Records],
        *,
        is_live: bool = False,
    ) -> None:
        """Record a change of the prompts, a whole drag as one, and ask for new answers."""
        new = {key[0] for key in self._prompts if key[0] not in self._records}
        for object_id in sorted(new):
            self._records = self._records.put(object_id, ObjectRecord())
        prompts, records = self._live or before
        self._live = (prompts, records) if is_live else None
        if not is_live:
            edit = PromptEdit(prompts, self._prompts.snapshot())
            self._record(Entry(title, prompts=edit, records=RecordsEdit(records, self._records)))
            self._note()
        if new:
            self.objects_changed.emit()
        self._ask()

    def _settle(self) -> None:
        """Make a drag that goes on a step of its own."""
        if self._live is not None:
            (prompts, records), self._live = self._live, None
            edit = PromptEdit(prompts, self._prompts.snapshot())
            self._record(Entry("drag", prompts=edit, records=RecordsEdit(records, self._records)))

    def _on_prompts(self, key: PlaneIndex) -> None:
        shown = self._previews.get(key)
        if shown is not None and self._prompts[key].is_empty:
            self._drop_previews([key])
        self.prompts_changed.emit(key)

    def _adopt(self, left: VolumeState) -> None:
        """Begin with what the ledger says."""
        self._prompts.restore(left.prompts)
        self._records, self._interrupted = left.records, left.interrupted
        self._object_id = max(left.object_id, 1)
