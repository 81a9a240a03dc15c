"""One running session over a stack in one viewer: prompts on any frame, frames painted as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_segany.core.errors import ImageError, SegAnyError
from napari_segany.core.masks import LabelPatch
from napari_segany.session.prompts import PlaneIndex
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_signals import Direction, FramePreview, RunEnd
from napari_segany.session.volume_state import VolumeState
from napari_segany.session.volume_tracks import features_of

from .frame_prompts import FramePrompts
from .grid import Grid
from .known_tracks import KnownTracks
from .layers import SessionLayers
from .mouse import Place
from .object_features import known_of
from .painting import forget_history, watch_paint
from .prompting import Prompting
from .shortcuts import STACKS, bind_shortcuts
from .stack_layers import ObjectColours, TracksView, read_label_plane
from .stack_previews import StackPreviews
from .target import Target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

Event = Any  # napari's events are untyped
OpenSession = Callable[[PlaneIndex], VolumeSession]
"""Opens the session of one stack of an image: at these indices on the axes that count no frames."""

_REST_S = 0.5  # between two drawings of a view that cuts through the frames, which reads all of them


class Following(Prompting):
    """Connects the session of a stack to a viewer until `stop`.

    Where the image has both T and Z, the axis that counts no frames may follow the slider: each of its positions is a
    stack with a session of its own, over the same labels; the one in view is open.

    Parameters
    ----------
    viewer, image, layers, grid, target, later
        As of `Prompting`.
    session
        Of the stack to begin with.
    open_session
        Opens the session of another one.
    follows_slider
        Whether another position on the other axes opens the stack there.
    """

    session_changed = Signal()
    frame_changed = Signal(int)
    told = Signal(str)
    session: VolumeSession

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        *,
        session: VolumeSession,
        open_session: OpenSession,
        layers: SessionLayers,
        grid: Grid,
        target: Target,
        follows_slider: bool = False,
        later: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self.session = session
        self._open, self._at, self._follows = open_session, session.state().at, follows_slider
        self._states: dict[PlaneIndex, VolumeState] = {}
        self._leave_session: list[Callable[[], object]] = []
        self._layers, self._previews = layers, StackPreviews()
        self._classes = known_of(layers.labels)
        self._is_composing, self._drawn_at = False, 0.0
        self._by_frame = FramePrompts(self.session, refused=self._refuse)
        super().__init__(
            viewer, image, prompts=self._by_frame, layers=layers, grid=grid, target=target, later=later
        )
        self.tracks, self.colours = TracksView(viewer, image=image, grid=grid), ObjectColours(layers.labels)
        self._leave.append(bind_shortcuts(viewer, layers, actions=self, kind=STACKS))
        self._leave.append(watch_paint(layers.labels, self._on_paint))
        self._listen(viewer.dims.events.current_step, self._on_dims)
        self._follow_session()

    # ------------------------------------------------------------------ what is

    @property
    def layers(self) -> SessionLayers:
        """Where prompts are given, and previews and labels shown."""
        return self._layers

    @property
    def frame(self) -> int:
        """The frame in view, counted along the frame axis."""
        return self.plane[self.session.axis]

    @property
    def is_elsewhere(self) -> bool:
        """True while the plane in view is of another stack than the one in work."""
        return self.session.frame_at(self.plane) is None

    def place(self, event: Event) -> Place | None:
        """Return plane and (row, col) under the mouse, on the stack in view; None off the image."""
        self.follow_slider()
        return super().place(event)

    def go_to(self, frame: int) -> None:
        """Show a frame of the stack in work."""
        session, dims = self.session, self.viewer.dims
        layer = self.layers.labels
        world = np.asarray(layer.data_to_world((*session.index(frame), 0, 0)))[-len(self.grid.shape) :]
        first = dims.ndim - len(self.grid.shape)
        leading = range(len(world) - 2)
        dims.set_point([first + i for i in leading], [float(world[i]) for i in leading])

    # ------------------------------------------------------------------ actions, as named in the key table

    def follow_both(self) -> None:
        """Follow the objects to both ends."""
        self._propagate(Direction.BOTH)

    def follow_forward(self) -> None:
        """Follow the objects to the last frame."""
        self._propagate(Direction.FORWARD)

    def follow_backward(self) -> None:
        """Follow the objects to the first frame."""
        self._propagate(Direction.BACKWARD)

    def follow_range(self, first: int, last: int) -> None:
        """Follow the objects from one frame to another, backwards where the second is the smaller one."""
        step = 1 if last >= first else -1
        self._propagate(Direction.BOTH, frames=range(first, last + step, step))

    def paint_here(self) -> None:
        """Paint what is shown, without following."""
        if not self.session.commit():
            self.told.emit("There is no new mask to paint. Click on an object first.")

    def clear(self) -> None:
        """Stop what runs; else forget the prompts of the object in work on the frame in view."""
        if self.session.is_running:
            self.session.stop()
        elif not self.is_elsewhere:
            self.session.clear(self.frame)

    def undo(self) -> None:
        """Take the last action back."""
        self.session.undo()

    def redo(self) -> None:
        """Repeat what was undone."""
        self.session.redo()

    def next_object(self) -> None:
        """Go on with another object."""
        self.session.next_object()

    def next_doubt(self) -> None:
        """Go to the next doubtful frame, of the object in work first, then of the others."""
        chosen = self.session.object_id
        tracks = sorted(self.known.everything(), key=lambda track: track.object_id != chosen)
        for track in tracks:
            frames = np.flatnonzero(track.doubtful)
            if frames.size:
                ahead = frames[frames > self.frame] if track.object_id == chosen else frames
                self.choose(track.object_id)
                self.go_to(int(ahead[0] if ahead.size else frames[0]))
                return
        self.told.emit("No frame is doubtful.")

    def flip_frame_lock(self) -> None:
        """Lock the frame in view, or release it."""
        self.session.lock_frames([self.frame], is_locked=self.frame not in self.session.locked_frames)

    # ------------------------------------------------------------------ actions with a subject

    def choose(self, object_id: int) -> None:
        """Go on with an object."""
        self.session.object_id = object_id

    def take_labels(self, layer: Labels) -> int:
        """Make every object of a Labels layer on the frame in view a prompt, and return how many there are."""
        self.follow_slider()
        plane = read_label_plane(layer, index=self.plane, shape=self.grid.shape)
        if not plane.any():
            raise ImageError(f"{layer.name} has no object on frame {self.frame}; go to a frame that has some")
        found = self.session.set_labels(self.frame, plane, keep_ids=layer is self.layers.labels)
        self.viewer.layers.selection.active = self.layers.points
        self.told.emit(f"{len(found)} objects of {layer.name} are prompts on frame {self.frame}.")
        return len(found)

    def change(self, call: Callable[[VolumeSession], None]) -> None:
        """Change something about objects, or tell why it cannot be."""
        try:
            call(self.session)
        except SegAnyError as error:
            self.told.emit(str(error))

    def class_of(self, object_id: int) -> str:
        """Return the class that an object had when it was committed plane by plane, "" where none is known."""
        row = self._classes.rows.get(object_id)
        return "" if row is None else row.name

    def show_tracks(self, is_on: bool) -> None:
        """Show a Tracks layer, or take it away."""
        self.tracks.is_wanted = is_on
        self.tracks.update(self.session.tracks())

    def describe_objects(self) -> None:
        """Bring features and colours of the Labels layer, and the tracks, up to date."""
        tracks = self.known.everything()
        classes = np.array([self.class_of(track.object_id) for track in tracks], dtype=np.str_)
        self.layers.labels.features = {**features_of(tracks), "class": classes}
        self.colours.show(tracks)
        if self.tracks.is_wanted:
            self.tracks.update(self.session.tracks())

    # ------------------------------------------------------------------ another stack

    def follow_slider(self) -> None:
        """Open the stack in view, where the slider is to be followed and nothing runs."""
        session, plane = self.session, self.plane
        at = tuple(i for axis, i in enumerate(plane) if axis != session.axis)
        if not self._follows or at == self._at or session.is_running:
            return
        self._states[self._at] = session.state()
        self._forsake_session()
        session.close(timeout=0.0)
        self.session = self._by_frame.session = self._open(at)
        self._at = at
        if at in self._states and not self.session.object_ids:
            self.session.restore(self._states[at])
        self._previews.clear()
        self._follow_session()
        self._show_prompts()
        self._compose()
        self.session_changed.emit()

    def _follow_session(self) -> None:
        """Listen to the session that is open."""
        session = self.session
        self.known = KnownTracks(session)
        self.layers.labels.selected_label = session.object_id
        for emitter, callback in (
            (session.prompts_changed, self._on_frame_prompts),
            (session.preview_changed, self._on_preview),
            (session.labels_changed, self._on_labels),
            (session.frame_painted, self._on_painted),
            (session.object_changed, self._on_object),
            (session.run_ended, self._on_run_ended),
        ):
            emitter.connect(callback)
            self._leave_session.append(_disconnecting(emitter, callback))

    def _forsake_session(self) -> None:
        leave, self._leave_session = self._leave_session, []
        for undo in reversed(leave):
            undo()

    def _end(self, timeout: float) -> None:
        self._forsake_session()
        self.session.close(timeout=timeout)

    # ------------------------------------------------------------------ inside: napari's events

    def _on_dims(self, event: Event) -> None:
        if self.layers.stack.planes or self.plane in self._previews:
            self._compose()
        self.frame_changed.emit(self.frame)

    def _on_paint(self, patches: tuple[LabelPatch, ...]) -> None:
        self.session.record_paint(patches)

    def _refuse(self, reason: str) -> None:
        """Tell why a prompt was not taken, and take it off its layer again."""
        self.told.emit(reason)
        self._later(self._show_prompts)

    def _propagate(self, direction: Direction, *, frames: range | None = None) -> None:
        if not self.session.propagate(direction, frames=frames):
            self.told.emit("Click on an object first: there is nothing to follow yet.")

    # ------------------------------------------------------------------ inside: the session's signals

    def _on_frame_prompts(self, key: tuple[int, int]) -> None:
        object_id, frame = key
        if object_id == self.session.object_id:
            self._on_prompts(self.session.index(frame))

    def _on_preview(self, key: tuple[int, int], preview: FramePreview | None) -> None:
        object_id, frame = key
        index = self.session.index(frame)
        self._previews.put(index, object_id, preview)
        if index == self.plane and not self._is_composing:
            self._is_composing = True  # once for all objects that are answered together
            self._later(self._compose)

    def _compose(self) -> None:
        """Show what waits on the plane in view."""
        self._is_composing = False
        index = self.plane
        plane = self._previews.compose(index, chosen=self.session.object_id)
        self.layers.stack.planes.clear()
        if plane is not None:
            self.layers.stack.planes[index] = plane
        self.layers.preview.refresh(extent=False, thumbnail=False)

    def _on_painted(self, frame: int, object_ids: tuple[int, ...]) -> None:
        self._redraw([self.session.index(frame)])

    def _on_labels(self, patches: tuple[LabelPatch, ...]) -> None:
        self._redraw([patch.index for patch in patches])

    def _draw_now(self) -> None:
        self._drawn_at = time.monotonic()
        self.layers.labels.refresh(extent=False, thumbnail=False)

    def _redraw(self, changed: Iterable[PlaneIndex]) -> None:
        """Draw labels again where what changed is in view; a plane that is not is read when it comes into view."""
        forget_history(self.layers.labels)
        if self.shows_planes:
            if self.plane in changed:
                self._draw_now()
        elif not self.session.is_running or time.monotonic() - self._drawn_at > _REST_S:
            self._draw_now()

    def _on_run_ended(self, end: RunEnd) -> None:
        if not self.shows_planes:
            self._draw_now()

    def _on_object(self, object_id: int) -> None:
        self.layers.labels.selected_label = object_id
        self._show_prompts()
        self._compose()


def _disconnecting(emitter: Any, callback: Callable[..., None]) -> Callable[[], object]:  # Any: psygnal's
    return lambda: emitter.disconnect(callback)
