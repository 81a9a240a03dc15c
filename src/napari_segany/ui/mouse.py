"""Clicks, drags and boxes on the canvas, whichever layer of the session is selected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from napari_segany.core.types import Box
from napari_segany.session.prompts import PlaneIndex

from .layers import PromptLayers, set_sign

_CLICK_PIXELS = 5  # on the screen: what moves further is a drag
_LEFT, _RIGHT = 1, 2

Event = Any  # napari's mouse event
Place = tuple[PlaneIndex, tuple[float, float]]


class Clickable(Protocol):
    """What gestures act on."""

    is_positive: bool

    @property
    def layers(self) -> PromptLayers:
        """Where prompts are given and shown."""

    def place(self, event: Event) -> Place | None:
        """Return plane and (row, col) under the mouse, None off the image or in a view without planes."""

    def click(self, place: Place, *, positive: bool) -> None:
        """Add a click."""

    def move_click(self, row: int, place: Place, *, is_live: bool) -> None:
        """Move the click in one row of the Points layer."""

    def draw_box(self, index: PlaneIndex, box: Box | None, *, is_live: bool) -> None:
        """Draw a box."""

    def read_shapes(self, *, is_live: bool) -> None:
        """Take over what is drawn in the Shapes layer."""

    def accepts(self, layer: object) -> bool:
        """Say whether clicks count while a layer is selected."""


class Gestures:
    """A drag callback for a viewer."""

    def __init__(self, owner: Clickable) -> None:
        self._owner = owner

    def __call__(self, viewer: Any, event: Event) -> Iterator[None]:
        """Start the gesture that begins with this press."""
        active = viewer.layers.selection.active
        layers = self._owner.layers
        if active is layers.shapes and str(active.mode) != "pan_zoom":
            return self._follow_shapes(event)
        is_adding = active is layers.points and str(active.mode) == "add"
        is_panning = active is not None and str(active.mode) == "pan_zoom" and self._owner.accepts(active)
        start = self._owner.place(event)
        if start is None or not (is_adding or is_panning):
            return iter(())
        return self._prompt(event, start, is_adding)

    def _prompt(self, event: Event, start: Place, is_adding: bool) -> Iterator[None]:
        """Choose between moving a click, drawing a box, and clicking."""
        is_other = event.button == _RIGHT or "Shift" in event.modifiers or "Alt" in event.modifiers
        positive = self._owner.is_positive != is_other
        if is_adding:
            set_sign(self._owner.layers.points, positive=positive)  # napari's own tool adds the point
        row = self._under(event)
        if event.button == _LEFT and row is not None and not event.modifiers:
            return self._move(event, row)
        if event.button == _LEFT and "Shift" in event.modifiers:
            return self._box(event, start, positive, is_adding)
        if event.button in (_LEFT, _RIGHT):
            return self._click(event, start, positive, is_adding)
        return iter(())

    def _under(self, event: Event) -> int | None:
        """Return the row of the click under the mouse."""
        value = self._owner.layers.points.get_value(
            event.position,
            view_direction=event.view_direction,
            dims_displayed=event.dims_displayed,
            world=True,
        )
        return None if value is None else int(value)

    def _click(self, event: Event, start: Place, positive: bool, is_adding: bool) -> Iterator[None]:
        """Add a click where the button is released, unless the view was dragged."""
        origin = np.array(event.pos)
        yield
        while event.type == "mouse_move":
            if not _is_drag(origin, event):
                event.handled = True  # a trembling hand does not move the view
            yield
        if not is_adding and not _is_drag(origin, event):
            self._owner.click(start, positive=positive)

    def _move(self, event: Event, row: int) -> Iterator[None]:
        """Drag a click, with the preview following."""
        origin, has_moved, last = np.array(event.pos), False, None
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            place = self._owner.place(event)
            has_moved = has_moved or _is_drag(origin, event)
            if has_moved and place is not None:
                last = place
                self._owner.move_click(row, place, is_live=True)
            yield
        if last is not None:
            self._owner.move_click(row, last, is_live=False)

    def _box(self, event: Event, start: Place, positive: bool, is_adding: bool) -> Iterator[None]:
        """Drag a box open, with the preview following; a press without a drag is a click."""
        origin, box = np.array(event.pos), None
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            end = self._owner.place(event)
            if end is not None and _is_drag(origin, event):
                box = _box_between(start[1], end[1]) or box
                self._owner.draw_box(start[0], box, is_live=True)
            yield
        if box is not None:
            self._owner.draw_box(start[0], box, is_live=False)
        elif not is_adding and not _is_drag(origin, event):
            self._owner.click(start, positive=positive)

    def _follow_shapes(self, event: Event) -> Iterator[None]:
        """Show the mask while a shape is drawn or dragged with napari's own tools."""
        yield
        while event.type == "mouse_move":
            yield
            self._owner.read_shapes(is_live=True)


def _is_drag(origin: Any, event: Event) -> bool:
    return bool(np.linalg.norm(origin - np.array(event.pos)) >= _CLICK_PIXELS)


def _box_between(a: tuple[float, float], b: tuple[float, float]) -> Box | None:
    """Return the box between two corners; None when it is thinner than a pixel."""
    (row0, row1), (col0, col1) = (sorted(ends) for ends in zip(a, b, strict=True))
    if row1 - row0 < 1 or col1 - col0 < 1:
        return None
    return Box(row0 + 0.5, col0 + 0.5, row1 + 0.5, col1 + 0.5)
