"""One table of keys: it binds them, and it is the help that people read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .layers import PromptLayers


@dataclass(frozen=True, slots=True)
class Shortcut:
    """One key.

    Attributes
    ----------
    key
        As napari writes it.
    shown
        As people read it.
    action
        Name of the method of `Annotation` that it calls.
    title
        What it does.
    leaves
        Session layers that keep their own meaning of the key.
    """

    key: str
    shown: str
    action: str
    title: str
    leaves: tuple[str, ...] = ()


SHORTCUTS = (
    Shortcut("Enter", "Enter", "commit", "Commit the object and go on", ("labels",)),
    Shortcut("Escape", "Esc", "clear", "Clear the prompts, stop what runs", ("labels",)),
    Shortcut("Control-Z", "Ctrl+Z", "undo", "Undo clicks, commits, painting"),
    Shortcut("Control-Shift-Z", "Ctrl+Shift+Z", "redo", "Redo"),
    Shortcut("T", "T", "flip_sign", "Clicks add to / cut from the object", ("shapes",)),
    Shortcut(".", ".", "show_larger", "Show the next larger mask"),
    Shortcut(",", ",", "show_smaller", "Show the next smaller mask"),
    Shortcut("N", "N", "next_object", "Next object, without committing"),
)

MOUSE = (
    ("Click", "Part of the object"),
    ("Right or Shift + click", "Not part of the object"),
    ("Drag a click", "Move it; the mask follows"),
    ("Shift + drag", "Box around the object"),
    ("Drag", "Move the view"),
)


def bind_shortcuts(viewer: Any, layers: PromptLayers, *, actions: object) -> Callable[[], None]:
    """Bind every key of the table to the viewer and to each session layer.

    Returns
    -------
    A function that takes the bindings away again.
    """
    bound: list[tuple[Any, str]] = []
    for shortcut in SHORTCUTS:
        places = {**layers.named, "viewer": viewer}
        for name, place in places.items():
            if name not in shortcut.leaves:
                call = getattr(actions, shortcut.action)
                run = _unless_drawing(place, call) if name == "shapes" else _calling(call)
                place.bind_key(shortcut.key, run, overwrite=True)
                bound.append((place, shortcut.key))

    def unbind() -> None:
        for place, key in bound:
            place.bind_key(key, None)

    return unbind


def _calling(call: Callable[[], None]) -> Callable[[Any], None]:
    return lambda _: call()


def _unless_drawing(shapes: Any, call: Callable[[], None]) -> Callable[[Any], None]:
    """Return an action that, while a polygon is being drawn, ends the polygon instead."""

    def run(_: Any) -> None:
        if getattr(shapes, "_is_creating", False):
            shapes._finish_drawing()
        else:
            call()

    return run
