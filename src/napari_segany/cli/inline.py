"""Prompts written on the command line: `"120,80 95,110,-; 200,310"`."""

from __future__ import annotations

import math

import numpy as np

from napari_segany.core.errors import AxesError, PromptError, SettingsError
from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, Points

_SIGNS = {"+": True, "-": False}


def parse_points(text: str) -> list[Points]:
    """Return the clicks of each object: objects part at `;`, clicks at spaces, each `row,col` or `row,col,-`.

    Raises
    ------
    PromptError
        If a click is not two numbers and, at most, a sign.
    """
    objects = [part.split() for part in text.split(";") if part.strip()]
    if not objects:
        raise PromptError(f"no click in {text!r}; write row,col for each, as in '120,80 95,110,-; 200,310'")
    found = []
    for clicks in objects:
        read = [_click(click) for click in clicks]
        coords = np.array([[row, col] for row, col, _ in read], dtype=np.float32)
        found.append(Points(coords, np.array([sign for _, _, sign in read], dtype=bool)))
    return found


def parse_boxes(text: str) -> list[Box]:
    """Return one box per object: boxes part at `;` or spaces, each `row0,col0,row1,col1`, half-open.

    Raises
    ------
    PromptError
        If a box is not four numbers, or is empty.
    """
    words = text.replace(";", " ").split()
    if not words:
        raise PromptError(
            f"no box in {text!r}; write row0,col0,row1,col1 for each, as in '10,20,60,90; 5,5,40,40'"
        )
    return [_box(word) for word in words]


def _click(word: str) -> tuple[float, float, bool]:
    parts = word.split(",")
    sign = _SIGNS.get(parts[2]) if len(parts) == 3 else True if len(parts) == 2 else None
    numbers = _numbers(parts[:2])
    if sign is None or numbers is None:
        raise PromptError(f"a click is row,col or row,col,+ or row,col,- in pixels, got {word!r}")
    return numbers[0], numbers[1], sign


def _box(word: str) -> Box:
    numbers = _numbers(word.split(","))
    if numbers is None or len(numbers) != 4:
        raise PromptError(f"a box is row0,col0,row1,col1 in pixels, got {word!r}")
    return Box(*numbers)


def _numbers(parts: list[str]) -> list[float] | None:
    """Return finite numbers, or None if one of the words is not one."""
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def parse_window(text: str) -> Window:
    """Return the intensity window written as `low,high`, in raw values."""
    numbers = _numbers(text.split(","))
    if numbers is None or len(numbers) != 2:
        raise PromptError(f"a window is low,high in raw values, as in 100,4000, got {text!r}")
    return Window(*numbers)


def parse_plane(text: str) -> dict[str, int]:
    """Return the index on each axis written as `T=0,Z=12`.

    Raises
    ------
    AxesError
        If a part is not a letter and a whole number.
    """
    plane: dict[str, int] = {}
    for part in text.split(","):
        letter, _, number = part.strip().partition("=")
        if len(letter) != 1 or not letter.isalpha() or not number.strip().isdigit():
            raise AxesError(f"a plane is written as T=0,Z=12, counted from 0, got {text!r}")
        plane[letter.upper()] = int(number)
    return plane


def parse_range(text: str) -> slice:
    """Return the frames written as `first:end`, the end left out, as in Python; either may be missing.

    Raises
    ------
    AxesError
        If it is not two whole numbers, counted from 0, of which the second is larger.
    """
    words = [word.strip() for word in text.split(":")]
    if len(words) == 2 and all(not word or word.isdecimal() for word in words):
        first, end = (int(word) if word else None for word in words)
        if end is None or (first or 0) < end:
            return slice(first, end)
    raise AxesError(f"a range is first:end, counted from 0, as in 10:40, 10: or :40, got {text!r}")


def parse_levels(text: str) -> tuple[int, ...]:
    """Return the steps of the ladder written as `3,4`.

    Raises
    ------
    SettingsError
        If a part is no whole number; whether it is a step is checked later.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise SettingsError(f"levels are written as 3,4, each 1 (finest) to 6 (coarsest), got {text!r}")
    return tuple(int(part) for part in parts)
