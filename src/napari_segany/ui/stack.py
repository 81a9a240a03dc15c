"""The dock widget to segment stacks and movies: prompts on any frame, objects followed through all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_segany.core.types import VideoPredictorLike
from napari_segany.session.records import ObjectTrack
from napari_segany.session.volume import VolumeSession

from .course import Course
from .dock import SessionDock
from .following import Following
from .loading import Loader, load_video_predictor
from .saved import save_stack
from .settings import read_settings
from .shortcuts import STACKS
from .stack_choosing import StackChoicePanel
from .stack_start import start_stack
from .stack_working import StackWorkPanel
from .timeline import DARK, LIGHT, Timeline

if TYPE_CHECKING:
    from napari.components import ViewerModel

_REDRAW_MS = 120  # between two drawings of the timeline while frames arrive
_REST_MS = 250  # that a slider stays where it is before the stack there is opened


class StackWidget(SessionDock):
    """Choose a stack and what counts its frames, press Start, click, follow.

    Parameters
    ----------
    napari_viewer
        The widget belongs to this viewer alone.
    load
        Turns a model's name into a predictor, on the worker's thread, and tells of downloads.
    """

    is_scrolled = True

    def __init__(
        self, napari_viewer: ViewerModel, *, load: Loader[VideoPredictorLike] = load_video_predictor
    ) -> None:
        self.choices = StackChoicePanel(napari_viewer, model=read_settings().model)
        self.work = StackWorkPanel(napari_viewer)
        super().__init__(napari_viewer, load=load, choices=self.choices, work=self.work, kind=STACKS)
        self.timeline: Timeline | None = None
        self._redraw, self._rest = QTimer(self), QTimer(self)
        for timer, called in ((self._redraw, self.show_course), (self._rest, self._follow_slider)):
            timer.setSingleShot(True)
            timer.timeout.connect(called)
        self.saved_text = "Every frame is saved in {path}"
        self.choices.labels.hide_where(self._is_preview)
        self._show_running()

    def _make(self, viewer: ViewerModel) -> tuple[Following, Exception | None]:
        choice = self.choices.choice()
        assert choice is not None, "only what is chosen is started"
        running, problem = start_stack(
            viewer, choice, settings=read_settings(), post=self._post, loading=self._loading
        )
        axis = self.choices.axis
        self.work.tracks.setChecked(axis is not None and axis.letter == "T")
        running.frame_changed.connect(self._on_frame)
        running.session_changed.connect(self._on_session)
        self._add_timeline(viewer, running)
        return running, problem

    def _listen(self, running: Following) -> None:
        super()._listen(running)
        session = running.session
        for signal in (session.track_changed, session.object_changed, session.frame_painted):
            signal.connect(self._redraw_soon)
        for signal in (session.objects_changed, session.history_changed, session.run_ended):
            signal.connect(self._redraw_soon)
        if self.work.tracks.isChecked():
            running.show_tracks(True)
        self.show_course()

    def _on_session(self) -> None:
        if self.running is not None:
            self._listen(self.running)

    def release(self, *, timeout: float = 2.0) -> None:
        """Let the model, its thread and the viewer go."""
        super().release(timeout=timeout)
        self.work.close_boxes()

    # ------------------------------------------------------------------ the timeline

    def _add_timeline(
        self, viewer: Any, running: Following
    ) -> None:  # Any: a viewer with a window, or without
        """Dock a timeline under the canvas."""
        self.timeline = Timeline(running.session.n_frames, colours=_colours_of(viewer))
        self.timeline.show_frame(running.frame)
        self.timeline.frame_chosen.connect(running.go_to)
        self.timeline.destroyed.connect(self._on_timeline_gone)
        viewer.events.theme.connect(self._on_theme)
        window = getattr(viewer, "window", None)
        if window is not None:
            window.add_dock_widget(self.timeline, name="Timeline", area="bottom")

    def _remove_timeline(self) -> None:
        timeline, self.timeline = self.timeline, None
        viewer: Any = self._viewer  # Any: a viewer with a window, or without
        if viewer is None:
            return
        viewer.events.theme.disconnect(self._on_theme)
        if timeline is None:
            return
        timeline.destroyed.disconnect(self._on_timeline_gone)
        window = getattr(viewer, "window", None)
        if window is not None:
            window.remove_dock_widget(timeline)
        timeline.deleteLater()

    def _on_timeline_gone(self) -> None:
        """Go on without a timeline that somebody closed."""
        self.timeline = None

    def show_course(self) -> None:
        """Show what is known of the object in work along the frames."""
        running, timeline = self.running, self.timeline
        if running is None or timeline is None:
            return
        session: VolumeSession = running.session
        object_id = session.object_id
        if object_id not in session.object_ids:
            timeline.show_course(Course.unknown(session.n_frames), name=f"Object {object_id}: not said yet")
            return
        track = running.known[object_id]
        tint = running.colours.colour_of(object_id, track.colour)
        timeline.show_course(course_of_track(track), name=track.name or f"Object {object_id}", tint=tint)

    def _redraw_soon(self, *_: object) -> None:
        """Bring the timeline up to date shortly, once for all that changes until then."""
        if not self._redraw.isActive():
            self._redraw.start(_REDRAW_MS)

    def _on_frame(self, frame: int) -> None:
        if self.timeline is not None:
            self.timeline.show_frame(frame)
        if self.running is not None and self.running.is_elsewhere:
            self._rest.start(_REST_MS)

    def _follow_slider(self) -> None:
        if self.running is not None:
            self.running.follow_slider()

    def _on_theme(self, event: object) -> None:
        if self.timeline is not None and self._viewer is not None:
            self.timeline.show_colours(_colours_of(self._viewer))

    # ------------------------------------------------------------------ the end

    def _on_stopped(self, reason: str) -> None:
        for timer in (self._redraw, self._rest):
            timer.stop()
        self._remove_timeline()
        super()._on_stopped(reason)

    def _on_failure(self, error: Exception) -> None:
        """Tell of it; the model that answered goes on, if another one was asked for."""
        super()._on_failure(error)
        if self._wanted != self._answering:
            self._wanted = self._answering
            self._show_answering()

    def _write_state(self, path: Path) -> Path:
        return save_stack(self.running, path)

    def _is_preview(self, layer: object) -> bool:
        return self.running is not None and layer is self.running.layers.preview


def course_of_track(track: ObjectTrack) -> Course:
    """Return what a timeline shows of an object."""
    return Course(track.scores, track.prompted, track.doubtful, track.locked, track.stale)


def _colours_of(viewer: Any) -> Any:  # Any: napari is untyped
    from napari.utils.theme import get_theme

    return LIGHT if get_theme(viewer.theme).type == "light" else DARK
