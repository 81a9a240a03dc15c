"""What is done with the objects of a stack: the lower half of the dock for stacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QCheckBox, QFormLayout, QGridLayout, QLabel, QSpinBox, QVBoxLayout, QWidget

from napari_segany.core.errors import SegAnyError
from napari_segany.session.answers import Stage
from napari_segany.session.records import ObjectTrack
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_signals import Ending, FramePreview, Progress, RunEnd

from .buttons import ActionPanel, SignBox, button, show_step, side_by_side
from .choosing import LayerBox
from .following import Following
from .object_table import ObjectRow, ObjectTable
from .resume_bar import ResumeBar
from .run_bar import RunBar
from .working import BusyBar

if TYPE_CHECKING:
    from napari.components import ViewerModel

_HINT = "Click on an object on any frame, then follow it (Enter)."
_SOON_MS, _RUNNING_MS = 60, 700  # until the list is brought up to date
_ENDINGS = {
    Ending.FINISHED: "Done: {n} frames painted.",
    Ending.STOPPED: "Stopped after {n} frames.",
    Ending.FAILED: "Ended early after {n} frames; they stay.",
}


class StackWorkPanel(ActionPanel):
    """Sign of clicks, objects, following, locks, labels as prompts, and undo, for the session that runs."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.busy, self.run, self.resume = BusyBar(), RunBar(), ResumeBar()
        self.signs, self.table = SignBox(), ObjectTable()
        self.sources = LayerBox(viewer, "Labels", tip="A Labels layer whose objects become prompts")
        self.status = QLabel("")
        self.status.setWordWrap(True)
        self.first, self.last = QSpinBox(), QSpinBox()
        self.protect = _check(
            "Keep objects that are already there", "When off, a mask paints over other objects"
        )
        self.tracks = _check(
            "Tracks layer", "Centroids of all objects as napari tracks, with what divided from what"
        )
        self.watch = _check("Watch", "Show every frame as it is painted")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.show_objects)
        self._layout()
        self._connect()

    # ------------------------------------------------------------------ following what runs

    def follow(self, running: Following | None) -> None:
        """Show one running session, or none."""
        self._running = running
        self.setVisible(running is not None)
        self.busy.follow(Stage.IDLE)
        self.run.end()
        if running is None:
            self._timer.stop()
            self.resume.hide()
            return
        running.sign_changed.connect(self.signs.show_sign)
        running.told.connect(self._tell)
        running.frame_changed.connect(self._show_frame)
        running.session_changed.connect(self._on_session)
        self.signs.show_sign(True)
        self.sources.hide_where(self._is_preview)
        self._on_session()

    def _on_session(self) -> None:
        """Show the session of the stack that is in work now."""
        session = self._session
        if session is None:
            return
        for signal, shown in (
            (session.stage_changed, self._on_stage),
            (session.preview_changed, self._on_preview),
            (session.object_changed, self._on_object),
            (session.history_changed, self._on_history),
            (session.objects_changed, self._soon),
            (session.track_changed, self._on_track),
            (session.labels_changed, self._on_labels),
            (session.run_started, self._on_run_started),
            (session.progress_changed, self._on_progress),
            (session.run_ended, self._on_run_ended),
        ):
            signal.connect(shown)
        last = session.n_frames - 1
        for box, value in ((self.first, 0), (self.last, last)):
            box.setRange(0, last)
            box.setValue(value)
        self.protect.setChecked(session.keep_existing)
        self.status.setText(_HINT)
        self.resume.offer(session.interrupted, n_objects=len(session.object_ids))
        self._on_history()
        self._show_frame(0)
        self._on_stage(session.stage)
        self.show_objects()

    @property
    def _session(self) -> VolumeSession | None:
        session: VolumeSession | None = None if self._running is None else self._running.session
        return session

    def close_boxes(self) -> None:
        """Stop following the viewer."""
        self.sources.close()

    # ------------------------------------------------------------------ layout

    def _layout(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.resume, self.status):
            layout.addWidget(widget)
        form = QFormLayout()
        form.addRow("Clicks", self.signs)
        layout.addLayout(form)
        layout.addWidget(self.table, 1)
        layout.addWidget(self._object_buttons())
        layout.addWidget(self._follow_buttons())
        layout.addWidget(self._range())
        layout.addLayout(self._progress())
        layout.addWidget(self._frame_buttons())
        layout.addWidget(self._labels_row())
        layout.addWidget(self.protect)
        layout.addWidget(side_by_side(self.watch, self.tracks))
        layout.addWidget(self._history_buttons())

    def _object_buttons(self) -> QWidget:
        new = self.action_button("New object", "Go on with another object (N)", "next_object")
        self.delete = button(
            "Delete", "Take the object out of all frames; undo brings it back", clicked=self._on_delete
        )
        return side_by_side(new, self.delete)

    def _follow_buttons(self) -> QWidget:
        back = self.action_button("◂  Back", "Follow all objects to the first frame (,)", "follow_backward")
        both = self.action_button("Follow", "Follow all objects to both ends (Enter)", "follow_both")
        forth = self.action_button("Forth  ▸", "Follow all objects to the last frame (.)", "follow_forward")
        self.follows = (back, both, forth)
        return side_by_side(*self.follows)

    def _range(self) -> QWidget:
        self.range = button(
            "From – to", "Follow all objects from one frame to another", clicked=self._on_range
        )
        for box, tip in ((self.first, "Where to begin"), (self.last, "Where to end; may be the smaller one")):
            box.setToolTip(tip)
        return side_by_side(self.range, self.first, self.last)

    def _progress(self) -> QGridLayout:
        """Return one place for what takes time, so that nothing below it jumps."""
        place = QGridLayout()
        for bar in (self.busy, self.run):
            place.addWidget(bar, 0, 0)
        return place

    def _frame_buttons(self) -> QWidget:
        self.lock = self.action_button("Lock frame", "Never paint the frame in view (K)", "flip_frame_lock")
        self.lock.setCheckable(True)
        doubt = self.action_button("Next doubt", "Go to the next doubtful frame (J)", "next_doubt")
        paint = self.action_button(
            "Paint", "Paint what is shown, without following (Shift+Enter)", "paint_here"
        )
        return side_by_side(self.lock, doubt, paint)

    def _labels_row(self) -> QWidget:
        self.take = button(
            "Labels as prompts",
            "Every object of that layer on the frame in view becomes an object to be followed",
            clicked=self._on_take,
        )
        return side_by_side(self.take, self.sources.box)

    def _history_buttons(self) -> QWidget:
        self._undo = self.action_button("Undo", "Ctrl+Z", "undo")
        self._redo = self.action_button("Redo", "Ctrl+Shift+Z", "redo")
        return side_by_side(self._undo, self._redo)

    def _connect(self) -> None:
        self.busy.cancelled.connect(self._cancel)
        self.run.stopped.connect(self._cancel)
        self.resume.agreed.connect(self._on_resume)
        self.signs.chosen.connect(self._on_sign_chosen)
        self.table.chosen.connect(self._on_chosen)
        self.table.renamed.connect(self._on_renamed)
        self.table.locked.connect(self._on_locked)
        self.table.recoloured.connect(self._on_recoloured)
        self.protect.toggled.connect(self._on_protect)
        self.tracks.toggled.connect(self._on_tracks)

    # ------------------------------------------------------------------ what a person does

    def _cancel(self) -> None:
        if self._session is not None:
            self._session.stop()

    def _on_resume(self) -> None:
        if self._session is not None:
            self._session.resume()

    def _on_sign_chosen(self, is_positive: bool) -> None:
        if self._running is not None:
            self._running.set_positive(is_positive)

    def _on_chosen(self, object_id: int) -> None:
        if self._running is not None:
            self._running.choose(object_id)

    def _on_renamed(self, object_id: int, name: str) -> None:
        self._change(lambda session: session.rename(object_id, name))

    def _on_locked(self, object_id: int, is_locked: bool) -> None:
        self._change(lambda session: session.lock_object(object_id, is_locked=is_locked))

    def _on_recoloured(self, object_id: int, colour: str) -> None:
        chosen = QColor(colour)
        parts = (chosen.redF(), chosen.greenF(), chosen.blueF())
        self._change(lambda session: session.recolour(object_id, parts))

    def _on_delete(self) -> None:
        self._change(lambda session: session.delete(session.object_id))

    def _change(self, call: Callable[[VolumeSession], None]) -> None:
        if self._running is not None:
            self._running.change(call)

    def _on_range(self) -> None:
        if self._running is not None:
            self._running.follow_range(self.first.value(), self.last.value())

    def _on_take(self) -> None:
        if self._running is None or self.sources.layer is None:
            self.status.setText("There is no Labels layer to take objects from.")
            return
        try:
            self._running.take_labels(self.sources.layer)
        except SegAnyError as error:
            show_error(str(error))

    def _on_protect(self, is_on: bool) -> None:
        if self._session is not None:
            self._session.keep_existing = is_on

    def _on_tracks(self, is_on: bool) -> None:
        if self._running is not None:
            self._running.show_tracks(is_on)

    # ------------------------------------------------------------------ what the session tells

    def _tell(self, text: str) -> None:
        self.status.setText(text)

    def _on_stage(self, stage: Stage) -> None:
        session = self._session
        self.busy.follow(Stage.IDLE if session is not None and session.is_running else stage)

    def _on_preview(self, key: tuple[int, int], preview: FramePreview | None) -> None:
        self._soon()
        if preview is None:
            return
        area = f"{0 if preview.crop is None else int(preview.crop.sum()):,}".replace(",", "\u2009")
        said = (
            f"{area} pixels, confidence {max(0.0, preview.score):.0%}"
            if preview.score >= 0
            else "absent here"
        )
        self.status.setText(f"Frame {key[1]}: {said}. Enter follows.")

    def _on_object(self, object_id: int) -> None:
        self.table.select(object_id)
        self._soon()

    def _on_history(self) -> None:
        session = self._session
        show_step(self._undo, "Undo", session.undo_title if session else None)
        show_step(self._redo, "Redo", session.redo_title if session else None)

    def _on_track(self, _: int) -> None:
        self._soon()

    def _on_labels(self, _: object) -> None:
        self._soon()

    def _on_run_started(self, _: object) -> None:
        self.resume.hide()
        self.busy.follow(Stage.IDLE)
        self.run.begin()

    def _on_progress(self, progress: Progress) -> None:
        self.run.show_progress(progress.done, progress.total)
        if self.watch.isChecked() and self._running is not None:
            self._running.go_to(progress.frame)

    def _on_run_ended(self, end: RunEnd) -> None:
        self.run.end()
        self.status.setText(_ENDINGS[end.ending].format(n=len(end.frames)))
        session = self._session
        if session is not None and end.ending is not Ending.FINISHED:
            self.resume.offer(session.interrupted, n_objects=len(session.object_ids))
        self._soon()

    def _show_frame(self, _: int) -> None:
        """Show whether the frame in view is locked."""
        session, running = self._session, self._running
        if session is not None and running is not None:
            is_locked = running.frame in session.locked_frames
            self.lock.setChecked(is_locked)
            self.lock.setText("Frame locked" if is_locked else "Lock frame")

    # ------------------------------------------------------------------ the list

    def _soon(self) -> None:
        """Bring the list up to date shortly, once for all that changes until then."""
        session = self._session
        if session is not None and not self._timer.isActive():
            self._timer.start(_RUNNING_MS if session.is_running else _SOON_MS)

    def show_objects(self) -> None:
        """Bring the list, and what layers show of the objects, up to date."""
        session, running = self._session, self._running
        if session is None or running is None:
            return
        colours = running.colours
        rows = [
            _row(track, colours.colour_of(track.object_id, track.colour), running.class_of(track.object_id))
            for track in running.known.everything()
        ]
        self.table.show_rows(rows, chosen=session.object_id)
        self.delete.setEnabled(session.object_id in session.object_ids)
        self._show_frame(0)
        if not session.is_running:
            running.describe_objects()

    def _is_preview(self, layer: object) -> bool:
        return self._running is not None and layer is self._running.layers.preview


def _row(track: ObjectTrack, colour: str, class_name: str) -> ObjectRow:
    return ObjectRow(
        object_id=track.object_id,
        name=track.name,
        colour=colour,
        score=track.mean_score,
        frames=track.frame_range,
        n_doubtful=int(track.doubtful.sum()),
        is_locked=track.is_locked,
        class_name=class_name,
    )


def _check(text: str, tip: str) -> QCheckBox:
    """Return a check box that leaves the keyboard to the canvas."""
    made = QCheckBox(text)
    made.setToolTip(tip)
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return made
