"""The objects of a stack as a person sees them: chosen, named, locked, deleted; tracks, tables, undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import PromptError
from napari_segany.core.masks import LabelPatch, LabelSink
from napari_segany.core.repainting import patch_between, repaint
from napari_segany.core.types import VideoPredictorLike

from .history import Entry
from .prompts import ObjectPrompts, PlaneIndex, PromptEdit
from .records import Colour, DoubtRule, ObjectTrack, Records, RecordsEdit, marked_on, track_of
from .source import PlaneSource
from .stack_frames import StackFrames
from .volume_following import FollowingSession, as_store_error, remeasured
from .volume_model import Run
from .volume_tracks import TrackTable, features_of, tracks_of
from .worker import Worker

_MOST_LABELS = (1 << 32) - 1


def check_label(object_id: int) -> None:
    """Raise PromptError unless a number can be a label."""
    if not 1 <= object_id <= _MOST_LABELS:
        raise PromptError(f"object id {object_id} is not a label; use 1 to {_MOST_LABELS}")


class ObjectsSession(FollowingSession):
    """The side of a volume session that is about objects and frames.

    Parameters
    ----------
    frames, load, sink, worker, versions
        As `FollowingSession` takes them.
    doubts
        Which results are pointed out as doubtful.
    """

    def __init__(
        self,
        frames: StackFrames,
        load: Callable[[], VideoPredictorLike],
        *,
        sink: LabelSink,
        worker: Worker,
        versions: Mapping[str, str],
        doubts: DoubtRule | None = None,
    ) -> None:
        super().__init__(frames, load, sink=sink, worker=worker, versions=versions)
        self._doubts = doubts or DoubtRule()

    # ------------------------------------------------------------------ what is

    @property
    def source(self) -> PlaneSource:
        """The stack in work."""
        return self._frames.source

    @property
    def axis(self) -> int:
        """Which leading axis counts the frames."""
        return self._frames.axis

    @property
    def n_frames(self) -> int:
        """How many frames there are."""
        return len(self._frames)

    @property
    def object_id(self) -> int:
        """The object in work: prompts without an `object_id` are about it. May be set to any label."""
        return self._object_id

    @object_id.setter
    def object_id(self, value: int) -> None:
        check_label(value)
        if value != self._object_id:
            self._object_id = int(value)
            self.object_changed.emit(self._object_id)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Every object that was prompted or followed, in order."""
        return tuple(sorted(self._records.objects))

    @property
    def locked_frames(self) -> frozenset[int]:
        """Frames that are never painted."""
        return self._records.locked_frames

    @property
    def doubts(self) -> DoubtRule:
        """Which results are pointed out as doubtful."""
        return self._doubts

    @doubts.setter
    def doubts(self, rule: DoubtRule) -> None:
        self._doubts = rule
        for object_id in self.object_ids:
            self.track_changed.emit(object_id)

    @property
    def undo_title(self) -> str | None:
        """What undo would take back."""
        return self._journal.undo_title

    @property
    def redo_title(self) -> str | None:
        """What redo would repeat."""
        return self._journal.redo_title

    def index(self, frame: int) -> PlaneIndex:
        """Return the leading indices of a frame in source and sink."""
        return self._frames.index(self._frames.check(frame))

    def frame_at(self, index: PlaneIndex) -> int | None:
        """Return the frame of a plane, None if the plane is not of this stack."""
        return self._frames.frame_at(index)

    def prompts(self, object_id: int, frame: int) -> ObjectPrompts:
        """Return what was said about an object on a frame."""
        return self._prompts[object_id, frame]

    def prompted(self, object_id: int) -> frozenset[int]:
        """Return the frames on which something was said about an object."""
        return frozenset(frame for i, frame in self._prompts if i == object_id)

    def track(self, object_id: int) -> ObjectTrack:
        """Return what is known of an object along the frames: scores, areas, prompts, doubts, locks, staleness."""
        return track_of(
            self._records,
            object_id,
            n_frames=self.n_frames,
            prompted=self.prompted(object_id),
            rule=self._doubts,
        )

    def object_tracks(self) -> list[ObjectTrack]:
        """Return the track of every object."""
        return [self.track(object_id) for object_id in self.object_ids]

    def tracks(self) -> TrackTable:
        """Return centroids and parents of all objects, as napari's Tracks layer takes them."""
        return tracks_of(self._records, index=self._frames.index)

    def features(self) -> dict[str, NDArray[np.generic]]:
        """Return a table with one row an object: index, name, frames, first, last, score, area, doubtful, prompted."""
        return features_of(self.object_tracks())

    # ------------------------------------------------------------------ objects, frames, labels

    def lock_frames(self, frames: Iterable[int], *, is_locked: bool = True) -> None:
        """Keep frames from being painted, as what is there is right; or release them."""
        asked = frozenset(self._frames.check(frame) for frame in frames)
        now = self._records.locked_frames
        locked = now | asked if is_locked else now - asked
        if locked == now:
            return
        if not is_locked:
            self._owed.update(self.object_ids)
        records = replace(self._records, locked_frames=locked)
        if is_locked:
            records = marked_on(records, asked, is_stale=False)
        self._alter("lock frames" if is_locked else "release frames", records)

    def lock_object(self, object_id: int, *, is_locked: bool = True) -> None:
        """Keep the pixels of an object as they are, or release them."""
        record = self._records[object_id]
        if record.is_locked == is_locked:
            return
        if not is_locked:
            self._owed.add(object_id)
        title = "lock object" if is_locked else "release object"
        self._alter(title, self._records.put(object_id, replace(record, is_locked=is_locked)))

    def rename(self, object_id: int, name: str) -> None:
        """Give an object a name."""
        record = self._records[object_id]
        if record.name != name:
            self._alter("rename", self._records.put(object_id, replace(record, name=name)))

    def recolour(self, object_id: int, colour: Colour | None) -> None:
        """Give an object a colour; None for the one of its label."""
        record = self._records[object_id]
        if record.colour != colour:
            self._alter("recolour", self._records.put(object_id, replace(record, colour=colour)))

    def set_parents(self, object_id: int, parents: Iterable[int]) -> None:
        """Say which objects an object came from."""
        wanted = tuple(int(i) for i in parents)
        for parent in wanted:
            if parent == object_id or parent not in self._records:
                raise PromptError(
                    f"object {object_id} cannot come from {parent}; there are {self.object_ids}"
                )
        record = self._records[object_id]
        if record.parents != wanted:
            self._alter("parents", self._records.put(object_id, replace(record, parents=wanted)))

    def delete(self, object_id: int) -> None:
        """Take an object out of labels, prompts and results, as one step; locked frames keep its pixels."""
        if self._records[object_id].is_locked:
            raise PromptError(f"object {object_id} is locked; release it before you delete it")
        self._settle()
        self._leave_run()
        records, prompts = self._records, self._prompts.snapshot()
        patches, error = self._erase(object_id)
        if error is None:
            self._put_records(self._records.drop(object_id))
            self._prompts.restore({key: one for key, one in prompts.items() if key[0] != object_id})
        edit = PromptEdit(prompts, self._prompts.snapshot())
        title = f"delete object {object_id}"
        self._record(Entry(title, tuple(patches), prompts=edit, records=RecordsEdit(records, self._records)))
        self._tell_all(tuple(patches))
        if error is not None:
            self.failed.emit(error)
        self._note()
        self._ask()

    def commit(self) -> bool:
        """Paint the previews without following, as one step; False when none could be painted."""
        self._settle()
        self._leave_run()
        keys = {key for key in self._previews if self._is_shown(key)}
        if not keys:
            return False
        run = Run((), self._wanted(), title="paint answers")
        self._begin_step(run)
        for masks in self._shown_on(keys):
            self._paint(run, masks)
        self._last_run = None
        self._note()
        return bool(run.painted)

    def record_paint(self, patches: tuple[LabelPatch, ...]) -> None:
        """Remember label edits that were made by hand and are already in the labels."""
        if not patches:
            return
        before = self._records
        for patch in patches:
            frame = self._frames.frame_at(patch.index)
            if frame is not None:
                among = np.union1d(patch.before, patch.after)
                self._records = remeasured(self._records, self._labels_on(frame), frame=frame, among=among)
        self._record(Entry("paint", patches, records=RecordsEdit(before, self._records)))
        self._note()
        for object_id in self.object_ids:
            if before.objects.get(object_id) is not self._records[object_id]:
                self.track_changed.emit(object_id)

    # ------------------------------------------------------------------ inside

    def _settle(self) -> None:
        """Make a drag that goes on a step of its own."""

    def _free_id(self) -> int:
        """Return the lowest id above all labels and objects."""
        return max(self._sink.max_label(), *self.object_ids, 0) + 1

    def _alter(self, title: str, records: Records) -> None:
        """Make new records a step of their own; what runs goes on."""
        self._settle()
        edit = RecordsEdit(self._records, records)
        self._records = records
        self._record(Entry(title, records=edit))
        self._drop_painted()
        self._note()
        self._tell_all(())

    def _erase(self, object_id: int) -> tuple[list[LabelPatch], Exception | None]:
        """Take an object out of the labels, but for locked frames; return what was written, and what went wrong."""
        patches = []
        nothing = np.zeros((1, *self._frames.frame_shape), dtype=bool)
        try:
            for frame, result in sorted(self._records[object_id].results.items()):
                if result.area == 0 or frame in self._records.locked_frames:
                    continue
                before = self._labels_on(frame)
                after = repaint(before, nothing, object_ids=[object_id])
                patch = patch_between(before, after, index=self._frames.index(frame))
                records = self._records.put(object_id, self._records[object_id].without_result(frame))
                note = self._notebook.frame_note(frame, records)
                self._notebook.commit(patch, note, frame=frame, records=records)
                self._records = records
                patches += [] if patch is None else [patch]
        except (OSError, ValueError) as error:
            self._renew([object_id])
            return patches, as_store_error(error)
        return patches, None

    def _step(self, move: Callable[[], Entry | None], line: Callable[[], tuple[Entry, ...]]) -> bool:
        """Undo or redo one step of a line and bring everything that depends on it along."""
        self._leave_run()
        try:
            entry = move()
        except (OSError, ValueError) as error:
            self._doubt(line()[-1].patches)
            self.failed.emit(as_store_error(error))
            self._ask()
            return False
        if entry is None:
            return False
        if entry.records is not None:
            self._put_records(entry.records.after)
        if entry.patches:
            self._interrupted = ()
        self._drop_painted()
        self._note()
        self._tell_all(entry.patches)
        self.history_changed.emit()
        self._ask()
        return True

    def _doubt(self, patches: tuple[LabelPatch, ...]) -> None:
        """Take no result for granted on frames that may be half undone."""
        frames = frozenset(
            f for f in (self._frames.frame_at(patch.index) for patch in patches) if f is not None
        )
        self._put_records(marked_on(self._records, frames, is_stale=True))

    def _tell_all(self, patches: tuple[LabelPatch, ...]) -> None:
        """Tell that labels, objects and tracks may have changed."""
        if patches:
            self.labels_changed.emit(patches)
        self.objects_changed.emit()
        for object_id in self.object_ids:
            self.track_changed.emit(object_id)
