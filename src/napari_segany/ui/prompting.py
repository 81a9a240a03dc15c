"""Prompts given on a canvas become calls of a session, and the session's prompts are shown there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from psygnal import Signal

from napari_segany.core.types import BoolMask, Box, FloatArray, Points
from napari_segany.session.prompts import ObjectPrompts, PlaneIndex
from napari_segany.session.state import SessionState

from .grid import Grid, is_inside, locate
from .layers import (
    Drawing,
    PromptLayers,
    hide_placeholder,
    read_clicks,
    read_drawings,
    set_sign,
    show_clicks,
    show_drawings,
)
from .mouse import Gestures, Place
from .outlines import fill_outlines, join_points, scribble_clicks
from .target import Target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

Event = Any  # napari's events are untyped


class Promptable(Protocol):
    """The side of a session that takes prompts for the object in work, plane by plane."""

    def state(self) -> SessionState:
        """Return, among others, the prompts in work on all planes."""

    def prompts(self, index: PlaneIndex) -> ObjectPrompts:
        """Return the prompts in work on one plane."""

    def click(self, index: PlaneIndex, coord: tuple[float, float], *, positive: bool = True) -> None:
        """Add a click at (row, col)."""

    def set_points(self, index: PlaneIndex, points: Points, *, is_live: bool = False) -> None:
        """Replace all clicks of one plane; `is_live` while one is dragged."""

    def set_box(self, index: PlaneIndex, box: Box | None, *, is_live: bool = False) -> None:
        """Replace the box of one plane."""

    def set_mask(
        self,
        index: PlaneIndex,
        mask: BoolMask | None,
        *,
        outlines: tuple[FloatArray, ...] = (),
        is_live: bool = False,
    ) -> None:
        """Replace the drawn (H, W) mask of one plane; `outlines` are the polygons it was drawn with."""


class Prompting:
    """Connects prompt layers and the mouse to a session until `stop`.

    Parameters
    ----------
    viewer
        Where it happens; nothing is kept outside of it.
    image
        The layer that is segmented.
    prompts
        Takes what a person says.
    layers
        Show it.
    grid
        Where prompts and labels lie.
    target
        Where labels go.
    later
        Runs a call once the present event is over.
    """

    sign_changed = Signal(bool)
    stopped = Signal(str)
    session: Any  # Any: an ImageSession or a VolumeSession

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        *,
        prompts: Promptable,
        layers: PromptLayers,
        grid: Grid,
        target: Target,
        later: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self._later, self._prompts, self._prompt_layers = later, prompts, layers
        self.viewer, self.image = viewer, image
        self.grid, self.target = grid, target
        self.is_positive = True
        self._is_reading = self._is_showing = False
        self._gestures = Gestures(self)
        self._leave: list[Callable[[], None]] = []
        self._follow_prompts()

    @property
    def layers(self) -> PromptLayers:
        """Where prompts are given and shown."""
        return self._prompt_layers

    # ------------------------------------------------------------------ what is

    @property
    def plane(self) -> PlaneIndex:
        """The plane that the viewer shows."""
        return locate(self.layers.points, self.viewer.dims.point, shape=self.grid.shape)[0]

    @property
    def shows_planes(self) -> bool:
        """True while the viewer shows rows and columns, flat."""
        dims = self.viewer.dims
        return dims.ndisplay == 2 and tuple(dims.displayed) == (dims.ndim - 2, dims.ndim - 1)

    def accepts(self, layer: object) -> bool:
        """Say whether clicks on the canvas are prompts while a layer is selected."""
        return layer is self.image or layer in self.layers

    def place(self, event: Event) -> Place | None:
        """Return plane and (row, col) under the mouse, None off the image or in a view without planes."""
        if not self.shows_planes:
            return None
        index, coord = locate(self.layers.points, event.position, shape=self.grid.shape)
        return (index, coord) if is_inside(coord, self.grid.shape) else None

    # ------------------------------------------------------------------ the sign of clicks

    def flip_sign(self) -> None:
        """Switch plain clicks between adding to and cutting from the object."""
        self.set_positive(not self.is_positive)

    def set_positive(self, positive: bool) -> None:
        """Make plain clicks add to or cut from the object."""
        self.is_positive = positive
        set_sign(self.layers.points, positive=positive)
        self.sign_changed.emit(positive)

    # ------------------------------------------------------------------ gestures

    def click(self, place: Place, *, positive: bool) -> None:
        """Add a click."""
        self._prompts.click(place[0], place[1], positive=positive)

    def move_click(self, row: int, place: Place, *, is_live: bool) -> None:
        """Move the click in one row of the Points layer, within its plane."""
        layer = self.layers.points
        index, _ = locate(layer, layer.data_to_world(layer.data[row]), shape=self.grid.shape)
        moved = np.array(layer.data)
        moved[row, -2:] = place[1]
        with self._showing():
            layer.data = moved
        points = read_clicks(layer, shape=self.grid.shape)[index]
        self._reading(lambda: self._prompts.set_points(index, points, is_live=is_live))

    def draw_box(self, index: PlaneIndex, box: Box | None, *, is_live: bool) -> None:
        """Draw a box."""
        self._prompts.set_box(index, box, is_live=is_live)

    def read_shapes(self, *, is_live: bool) -> None:
        """Take over what is drawn in the Shapes layer."""
        drawn = read_drawings(self.layers.shapes, shape=self.grid.shape)
        scribbled = not is_live and any(drawing.paths for drawing in drawn.values())
        for index in sorted({*drawn, *self._drawn_planes()}):
            self._reading(partial(self._draw, index, drawn.get(index, Drawing()), is_live))
        if scribbled:
            self._take_scribbles(drawn)

    # ------------------------------------------------------------------ the end

    def stop(self, reason: str = "", *, timeout: float = 0.0) -> None:
        """Disconnect, take the prompt layers away, and let the model and its thread go; the labels stay."""
        leave, self._leave = self._leave, []
        if not leave:
            return
        for undo in reversed(leave):
            undo()
        self._end(timeout)
        for layer in self.layers.prompts:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self.target.close()
        self.stopped.emit(reason)

    def _end(self, timeout: float) -> None:
        """Let the model and its thread go."""

    # ------------------------------------------------------------------ inside: connections

    def _follow_prompts(self) -> None:
        viewer = self.viewer
        viewer.mouse_drag_callbacks.append(self._gestures)
        self._leave.append(lambda: viewer.mouse_drag_callbacks.remove(self._gestures))
        self._listen(self.layers.points.events.data, self._on_points)
        self._listen(self.layers.shapes.events.data, self._on_shapes)
        self._listen(viewer.layers.events.removed, self._on_removed)
        self._listen(viewer.dims.events.current_step, self._hide_placeholder)
        self._hide_placeholder()

    def _listen(self, emitter: Any, callback: Callable[..., None]) -> None:  # Any: napari's or psygnal's
        """Follow a signal until the end."""
        emitter.connect(callback)
        self._leave.append(partial(emitter.disconnect, callback))

    def _reading(self, call: Callable[[], None]) -> None:
        """Call the session while the layer that is the cause is left as it is."""
        self._is_reading = True
        try:
            call()
        finally:
            self._is_reading = False

    def _showing(self) -> _Flag:
        """Change a prompt layer without taking that for a person's edit."""
        return _Flag(self)

    # ------------------------------------------------------------------ inside: napari's events

    def _on_removed(self, event: Event) -> None:
        if event.value is self.image or event.value in self.layers:
            self.stop(f"The layer “{event.value.name}” was removed. Press Start to go on.")

    def _hide_placeholder(self, event: Event = None) -> None:
        hide_placeholder(self.layers.points, plane=self.plane)

    def _on_points(self, event: Event) -> None:
        """Take over clicks that were added, moved or deleted with napari's own tools."""
        self._hide_placeholder()
        if self._is_showing or _name(event.action) not in _DONE:
            return
        now = read_clicks(self.layers.points, shape=self.grid.shape)
        for index in sorted({*now, *self._prompts.state().prompts}):
            before, after = self._prompts.prompts(index).points, now.get(index)
            self._take_points(index, before, after if after is not None else _no_points(before))
        set_sign(self.layers.points, positive=self.is_positive)
        if _name(event.action) == "added":
            self._later(self._deselect)  # napari selects what it added, which hides its colour

    def _deselect(self) -> None:
        self.layers.points.selected_data = set()

    def _take_points(self, index: PlaneIndex, before: Points, after: Points) -> None:
        """Bring one plane of the session up to date; one more click at the end refines what is shown."""
        n = len(before)
        if _starts_with(after, before):
            if len(after) == n + 1:
                row, col = after.coords[n]
                self._prompts.click(index, (float(row), float(col)), positive=bool(after.positive[n]))
            elif len(after) > n:
                self._prompts.set_points(index, after)
            return
        self._prompts.set_points(index, after)

    def _on_shapes(self, event: Event) -> None:
        if not self._is_showing and _name(event.action) in _DONE:
            self.read_shapes(is_live=False)
            self._later(self._show_drawings)  # napari's tool is still at work on the shape it tells of

    # ------------------------------------------------------------------ inside: the session's prompts

    def _on_prompts(self, index: PlaneIndex) -> None:
        if not self._is_reading:
            self._show_prompts()

    def _show_prompts(self) -> None:
        with self._showing():
            show_clicks(self.layers.points, self._prompts.state().prompts)
        self._show_drawings()

    def _show_drawings(self) -> None:
        if getattr(self.layers.shapes, "_is_creating", False):
            return  # shown as soon as the shape in work is finished
        with self._showing():
            show_drawings(self.layers.shapes, self._prompts.state().prompts)

    # ------------------------------------------------------------------ inside: drawings

    def _drawn_planes(self) -> list[PlaneIndex]:
        prompts = self._prompts.state().prompts
        return [index for index, one in prompts.items() if one.box is not None or one.mask is not None]

    def _draw(self, index: PlaneIndex, drawing: Drawing, is_live: bool) -> None:
        """Bring box and drawn mask of one plane up to date, where they differ."""
        now = self._prompts.prompts(index)
        if drawing.box != now.box:
            self._prompts.set_box(index, drawing.box, is_live=is_live)
        if not _same_outlines(drawing, now):
            shape = (self.grid.shape[-2], self.grid.shape[-1])
            mask = fill_outlines(drawing.outlines, shape=shape) if drawing.outlines else None
            if mask is not None and not mask.any():
                return
            self._prompts.set_mask(index, mask, outlines=drawing.outlines, is_live=is_live)

    def _take_scribbles(self, drawn: dict[PlaneIndex, Drawing]) -> None:
        """Turn open paths into clicks along them."""
        for index, drawing in drawn.items():
            if drawing.paths:
                clicks = [scribble_clicks(path, positive=self.is_positive) for path in drawing.paths]
                self._prompts.set_points(index, join_points([self._prompts.prompts(index).points, *clicks]))


class _Flag:
    """Marks that a prompt layer is being changed by its session."""

    def __init__(self, owner: Prompting) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._owner._is_showing = True

    def __exit__(self, *_: object) -> None:
        self._owner._is_showing = False


_DONE = ("added", "removed", "changed")


def _name(action: object) -> str:
    """Return what a data event reports, which napari gives as an enum or as a word."""
    return str(getattr(action, "value", action))


def _no_points(like: Points) -> Points:
    return Points(like.coords[:0], like.positive[:0])


def _starts_with(points: Points, first: Points) -> bool:
    n = len(first)
    return (
        len(points) >= n
        and np.allclose(points.coords[:n], first.coords)
        and np.array_equal(points.positive[:n], first.positive)
    )


def _same_outlines(drawing: Drawing, now: ObjectPrompts) -> bool:
    if len(drawing.outlines) != len(now.outlines):
        return False
    return all(np.array_equal(a, b) for a, b in zip(drawing.outlines, now.outlines, strict=True))
