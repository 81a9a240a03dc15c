"""Frames of a propagation painted one by one, noted, and taken back as one step; what a stop or a full disk leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from napari_segany.core.errors import StoreError
from napari_segany.core.masks import LabelPatch, LabelSink
from napari_segany.core.repainting import patch_between, repaint
from napari_segany.core.types import FrameMasks, Labels, VideoPredictorLike

from .history import Entry, Journal
from .prompts import PlaneIndex
from .records import FrameResult, Records, RecordsEdit, measure
from .stack_frames import StackFrames
from .volume_asking import AskingSession
from .volume_ledger import Notebook
from .volume_model import Run
from .volume_signals import Ending, Progress
from .volume_state import VolumeState
from .worker import Worker

_logger = logging.getLogger(__name__)


class FollowingSession(AskingSession):
    """The side of a volume session that faces labels, ledger and history.

    Parameters
    ----------
    frames, load, sink, worker
        As `AskingSession` takes them.
    versions
        Of the software, for provenance.
    """

    def __init__(
        self,
        frames: StackFrames,
        load: Callable[[], VideoPredictorLike],
        *,
        sink: LabelSink,
        worker: Worker,
        versions: Mapping[str, str],
    ) -> None:
        super().__init__(frames, load, sink=sink, worker=worker)
        self._versions = dict(versions)
        self._journal = Journal(prompts=self._prompts, sink=sink, noted=self._note_of_step)
        self._notebook = Notebook(sink, VolumeState(frames.axis, frames.at))
        self._interrupted: tuple[range, ...] = ()
        self._last_run: Run | None = None
        self._step_of_run: Entry | None = None
        self._before_run = self._records
        self._object_id = 1
        self.keep_existing = True

    @property
    def interrupted(self) -> tuple[range, ...]:
        """Ranges of a propagation that a crash, an error or a stop cut short; `resume` goes on with them."""
        return () if self.is_running else self._interrupted

    def state(self) -> VolumeState:
        """Return what is in work, to be saved."""
        return VolumeState(
            self._frames.axis,
            self._frames.at,
            object_id=self._object_id,
            prompts=self._prompts.snapshot(),
            records=self._records,
            interrupted=self._interrupted,
        )

    # ------------------------------------------------------------------ a propagation

    def _start(self, ranges: tuple[range, ...]) -> None:
        """Follow all objects through some ranges, one after another."""
        run = Run(ranges, self._wanted())
        self._follow(run)

    def _on_ready(self, run: Run, stale: Mapping[int, frozenset[int]]) -> None:
        """Note what is about to be done, and paint the answers that following would not give again."""
        if self._run is not run:
            return
        self._begin_step(run)
        self._interrupted = run.ranges
        try:
            self._notebook.write(self.state())
        except (OSError, ValueError) as error:
            self._cannot_write(run, error)
            return
        asked: set[PlaneIndex] = {
            (object_id, frame)
            for object_id, frame in self._previews
            if frame in run.span and frame not in stale.get(object_id, frozenset())
        }
        shown = self._shown_on(asked)
        run.total += len({masks.frame for masks in shown} - frozenset().union(*stale.values()))
        for masks in shown:
            self._paint(run, masks)

    def _on_frame(self, run: Run, masks: FrameMasks) -> None:
        """Paint one frame of a propagation; also one that was on its way when the run was stopped."""
        run.room.release()
        self._paint(run, masks)

    def _on_end(self, ending: Ending) -> None:
        """Remember what is left to be done."""
        self._interrupted = () if ending is Ending.FINISHED else self._interrupted
        self._note(is_vital=ending is Ending.FINISHED)

    def _shown_on(self, keys: set[PlaneIndex]) -> list[FrameMasks]:
        """Return previews as frames, in order."""
        found = []
        for frame in sorted({key[1] for key in keys}):
            shown = [self._previews[key] for key in sorted(keys) if key[1] == frame]
            ids = np.array([one.object_id for one in shown], dtype=np.int_)
            scores = np.array([one.score for one in shown], dtype=np.float32)
            found.append(FrameMasks(frame, ids, np.stack([one.mask for one in shown]), scores))
        return found

    # ------------------------------------------------------------------ painting

    def _paint(self, run: Run, masks: FrameMasks) -> None:
        """Put what may be painted of a frame into the labels, and tell of it."""
        kept = self._allowed(run, masks)
        if len(kept.object_ids) == 0:
            return
        try:
            patch = self._write(kept)
        except (OSError, ValueError) as error:
            self._cannot_write(run, error)
            return
        self._extend_step(run, patch)
        run.painted.append(kept.frame)
        ids = tuple(int(i) for i in kept.object_ids)
        self._drop_previews((object_id, kept.frame) for object_id in ids)
        if patch is not None:
            self.labels_changed.emit((patch,))
        for object_id in ids:
            self.track_changed.emit(object_id)
        self.frame_painted.emit(kept.frame, ids)
        if self._run is run:
            done = len(run.painted)
            self.progress_changed.emit(Progress(done, max(run.total, done), frame=kept.frame))

    def _allowed(self, run: Run, masks: FrameMasks) -> FrameMasks:
        """Return what of a frame may be painted: nothing locked, and nothing that was taken back meanwhile."""
        ids = [int(i) for i in masks.object_ids]
        epochs = run.wanted.epochs
        is_current = [self._epochs.get(i, 0) == epochs.get(i, 0) and i in self._records for i in ids]
        locked = self._records.locked_ids
        if masks.frame in self._records.locked_frames:
            locked = locked.union(ids)
        keep = np.array([now and i not in locked for now, i in zip(is_current, ids, strict=True)], dtype=bool)
        return FrameMasks(masks.frame, masks.object_ids[keep], masks.masks[keep], masks.scores[keep])

    def _write(self, masks: FrameMasks) -> LabelPatch | None:
        """Write one frame and its results, durably, and return what changed in the labels."""
        frame, ids = masks.frame, [int(i) for i in masks.object_ids]
        before = self._labels_on(frame)
        after = repaint(
            before,
            masks.masks,
            object_ids=ids,
            keep_existing=self.keep_existing,
            protected=self._records.locked_ids,
        )
        records = self._records
        for object_id, score in zip(ids, masks.scores, strict=True):
            result = measure(after, object_id, score=float(score))
            records = records.put(object_id, records[object_id].with_results({frame: result}))
        patch = patch_between(before, after, index=self._frames.index(frame))
        if patch is not None:
            records = remeasured(records, after, frame=frame, among=np.unique(patch.before), but=ids)
        note = self._provenance(masks) | self._notebook.frame_note(frame, records)
        self._notebook.commit(patch, note, frame=frame, records=records)
        self._records = records
        return patch

    def _provenance(self, masks: FrameMasks) -> dict[str, object]:
        """Return how the objects of a frame came about, as plain JSON values."""
        card, window = self.card, self.window
        return {
            "image": self._frames.source.name,
            "model": card.name if card is not None else "",
            "weights_sha256": card.weights_sha256 if card is not None else "",
            "window": None if window is None else [window.low, window.high],
            "frame": masks.frame,
            "objects": [int(i) for i in masks.object_ids],
            "scores": [round(float(score), 4) for score in masks.scores],
            "versions": self._versions,
        }

    def _cannot_write(self, run: Run, error: Exception) -> None:
        """End a propagation whose frames cannot be kept; those before it are."""
        self._last_run = None
        self._renew(self._records.objects)
        run.halt.set()
        if self._run is run:
            self._worker.cancel()
            self._end(Ending.FAILED)
            self._idle()
        self.failed.emit(as_store_error(error))

    # ------------------------------------------------------------------ history

    def _begin_step(self, run: Run) -> None:
        """Let all that a run paints from now on be one step."""
        self._last_run, self._step_of_run, self._before_run = run, None, self._records

    def _leave_run(self) -> None:
        """End a propagation, and drop the frames of it that are still on their way."""
        self._halt()
        if self._last_run is not None:
            self._renew(self._records.objects)
        self._last_run = None

    def _put_records(self, records: Records) -> None:
        """Put other records in place; the predictor is brought to them before it is asked again."""
        was = self._records
        ids = {*was.objects, *records.objects}
        if was.locked_frames == records.locked_frames:
            ids = {i for i in ids if was.objects.get(i) is not records.objects.get(i)}
        self._renew(ids)
        self._records = records

    def _extend_step(self, run: Run, patch: LabelPatch | None) -> None:
        """Make a painted frame part of the one step that its propagation is."""
        step = self._step_of_run
        patches = () if patch is None else (patch,)
        edit = RecordsEdit(self._before_run, self._records)
        if step is not None:
            longer = replace(step, patches=step.patches + patches, records=edit)
            self._step_of_run = longer if self._journal.amend(step, longer) else None
            return
        self._step_of_run = Entry(run.title, patches, records=edit)
        self._record(self._step_of_run)

    def _record(self, entry: Entry) -> None:
        self._journal.record(entry)
        self.history_changed.emit()

    def _note_of_step(self, entry: Entry, patch: LabelPatch) -> dict[str, object] | None:
        """Return what the ledger should know of a region that undo or redo writes."""
        frame = self._frames.frame_at(patch.index)
        if frame is None or entry.records is None:
            return None
        return {"step": entry.title, **self._notebook.frame_note(frame, entry.records.after)}

    def _note(self, *, is_vital: bool = True) -> None:
        """Bring the ledger to what is now; if it cannot be written, the next time does it."""
        try:
            self._notebook.write(self.state())
        except (OSError, ValueError) as error:
            _logger.warning("the ledger could not be written: %s", error)
            if is_vital:
                self.failed.emit(as_store_error(error))


def remeasured(
    records: Records,
    labels: Labels,
    *,
    frame: int,
    among: Labels,
    but: list[int] | None = None,
) -> Records:
    """Return records with the areas and centres of some objects as the (H, W) labels of a frame have them now."""
    for object_id in {int(i) for i in among} - set(but or ()):
        record = records.objects.get(object_id)
        was: FrameResult | None = None if record is None else record.results.get(frame)
        if record is not None and was is not None:
            now = replace(measure(labels, object_id, score=was.score), is_stale=was.is_stale)
            records = records.put(object_id, record.with_results({frame: now}))
    return records


def as_store_error(error: Exception) -> StoreError:
    """Return an error that says what a full disk or a read-only sink means for the work."""
    if isinstance(error, StoreError):
        return error
    problem = StoreError(
        f"the labels cannot be written ({type(error).__name__}: {error}); everything before is kept: "
        "free space or make them writable, then go on"
    )
    problem.__cause__ = error
    return problem
