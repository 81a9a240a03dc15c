"""One table of keys: it binds them, and it is the help that people read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .layers import PromptLayers

PLANES, STACKS = "planes", "stacks"
_BOTH = (PLANES, STACKS)


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
        Name of the method that it calls, of `Annotation` for planes or of `Following` for stacks.
    title
        What it does.
    leaves
        Session layers that keep their own meaning of the key.
    kinds
        Where it works: one plane after another, stacks, or both.
    """

    key: str
    shown: str
    action: str
    title: str
    leaves: tuple[str, ...] = ()
    kinds: tuple[str, ...] = _BOTH


SHORTCUTS = (
    Shortcut("Enter", "Enter", "commit", "Commit the object and go on", ("labels",), (PLANES,)),
    Shortcut("Enter", "Enter", "follow_both", "Follow the objects both ways", ("labels",), (STACKS,)),
    Shortcut(".", ".", "follow_forward", "Follow the objects forward", (), (STACKS,)),
    Shortcut(",", ",", "follow_backward", "Follow the objects backward", (), (STACKS,)),
    Shortcut("Shift-Enter", "Shift+Enter", "paint_here", "Paint the mask without following", (), (STACKS,)),
    Shortcut("Escape", "Esc", "clear", "Clear the prompts, stop what runs", ("labels",)),
    Shortcut("Control-Z", "Ctrl+Z", "undo", "Undo clicks, commits, painting"),
    Shortcut("Control-Shift-Z", "Ctrl+Shift+Z", "redo", "Redo"),
    Shortcut("T", "T", "flip_sign", "Clicks add to / cut from the object", ("shapes",)),
    Shortcut(".", ".", "show_larger", "Show the next larger mask", (), (PLANES,)),
    Shortcut(",", ",", "show_smaller", "Show the next smaller mask", (), (PLANES,)),
    Shortcut("Up", "↑", "show_coarser", "Choose the next coarser level", (), (PLANES,)),
    Shortcut("Down", "↓", "show_finer", "Choose the next finer level", (), (PLANES,)),
    Shortcut("N", "N", "next_object", "Next object, without committing"),
    Shortcut("J", "J", "next_doubt", "Go to the next doubtful frame", (), (STACKS,)),
    Shortcut("K", "K", "flip_frame_lock", "Lock or release the frame in view", (), (STACKS,)),
)

MOUSE = (
    ("Click", "Part of the object"),
    ("Right or Shift + click", "Not part of the object"),
    ("Drag a click", "Move it; the mask follows"),
    ("Shift + drag", "Box around the object"),
    ("Drag", "Move the view"),
)


def keys_of(kind: str) -> list[Shortcut]:
    """Return the part of the table that works for planes or for stacks."""
    return [shortcut for shortcut in SHORTCUTS if kind in shortcut.kinds]


def bind_shortcuts(
    viewer: Any, layers: PromptLayers, *, actions: object, kind: str = PLANES
) -> Callable[[], None]:
    """Bind the keys of one kind to the viewer and to each session layer.

    Returns
    -------
    A function that takes the bindings away again.
    """
    bound: list[tuple[Any, str]] = []
    for shortcut in keys_of(kind):
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
