"""Prompt files: saved states, napari's CSV of points and shapes, GeoJSON as QuPath writes it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from napari_segany.core.errors import FileFormatError, PromptError, SegAnyError

from .ngff import replace_file
from .state import (
    SUFFIX,
    FramePrompts,
    ImageReference,
    LabelReference,
    ModelReference,
    SavedMask,
    SavedObject,
    SavedState,
    load_state,
    save_state,
)

__all__ = [
    "FramePrompts",
    "ImageReference",
    "LabelReference",
    "ModelReference",
    "SavedMask",
    "SavedObject",
    "SavedState",
    "check_inside",
    "load_prompts",
    "load_state",
    "read_csv",
    "read_geojson",
    "save_state",
    "write_csv",
]

# Parsed JSON has no static type: `Any` in this file stands for "whatever the file holds".

_SIGN_COLUMNS = ("positive", "polarity", "sign", "label")
_OBJECT_COLUMNS = ("object_id", "object", "label_id")
_SIGNS = {"1": True, "true": True, "+": True, "positive": True, "1.0": True} | {
    "0": False,
    "false": False,
    "-": False,
    "negative": False,
    "0.0": False,
    "-1": False,
    "-1.0": False,
}
_NEGATIVE_CLASSES = {"negative", "background", "ignore*", "ignore"}
_Click = tuple[int, tuple[int, ...], tuple[float, float, bool]]  # object, plane, point
_Row = Mapping[str, str]


def load_prompts(path: str | os.PathLike[str], *, axes: str = "YX") -> list[SavedObject]:
    """Return the prompts of a file: `.segany.json`, napari's `.csv` of points or shapes, or `.geojson`.

    Parameters
    ----------
    path
        The file.
    axes
        Of the labels that the prompts are for; a file that says more or less about planes is an error.

    Raises
    ------
    PromptError
        If nothing in it can be used as a prompt for such an image.
    FileFormatError
        If it is damaged or of another kind.
    """
    file = Path(path)
    if file.name.endswith(SUFFIX):
        objects = list(load_state(file).objects)
    elif file.suffix.lower() == ".csv":
        objects = read_csv(file)
    elif file.suffix.lower() in (".geojson", ".json"):
        objects = read_geojson(file, axes=axes)
    else:
        raise FileFormatError(f"{file} is no prompt file; accepted: *{SUFFIX}, napari's *.csv, *.geojson")
    leading = len(axes) - 2
    for one in objects:
        for prompts in one.prompts:
            if len(prompts.index) != leading:
                raise PromptError(
                    f"{file} names planes by {len(prompts.index)} indices, but axes {axes!r} need {leading}"
                )
    if not any(one.prompts for one in objects):
        raise PromptError(f"{file} holds no prompt")
    return objects


def check_inside(prompts: FramePrompts, number: int, *, shape: tuple[int, ...]) -> None:
    """Raise PromptError unless every click is on a pixel, the box lies in the plane and a mask is as large as it.

    `number` is that of the object; `shape` is (..., H, W).
    """
    height, width = shape[-2:]
    for row, col, _ in prompts.points:
        if not (-0.5 <= row < height - 0.5 and -0.5 <= col < width - 0.5):
            raise PromptError(
                f"object {number}: the click {row:g},{col:g} is outside the image of {height} x {width}"
            )
    if prompts.box is not None:
        row0, col0, row1, col1 = prompts.box
        if row0 < 0 or col0 < 0 or row1 > height or col1 > width:
            raise PromptError(
                f"object {number}: the box {prompts.box} is outside the image of {height} x {width}"
            )
    if prompts.mask is not None and prompts.mask.size != (height, width):
        raise PromptError(
            f"object {number}: its mask of {prompts.mask.size[0]} x {prompts.mask.size[1]} does not fit "
            f"the image of {height} x {width}"
        )


def read_csv(path: str | os.PathLike[str]) -> list[SavedObject]:
    """Return the prompts of a CSV that napari wrote from a points or a shapes layer.

    Points: `axis-0`, `axis-1` ... are plane, row and column; a column `positive`, `polarity`, `sign`
    or `label` says the sign, `object_id`, `object` or `label_id` the object. Without both, every point is an
    object of its own; with a sign only, all are one object. Shapes: every rectangle is the box of an object.

    Raises
    ------
    FileFormatError
        If it is not such a table.
    """
    file = Path(path)
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = list(csv.DictReader(text))
    except (OSError, ValueError, csv.Error) as error:
        raise FileFormatError(f"cannot read {file} as CSV: {error}") from error
    columns = list(rows[0]) if rows else []
    places = [name for name in columns if name.startswith("axis-")]
    if len(places) < 2:
        raise FileFormatError(f"{file} has the columns {columns}; napari's points have axis-0, axis-1, ...")
    try:
        if "shape-type" in columns:
            return _boxes(rows, places)
        return _points(rows, places, columns=columns)
    except SegAnyError as error:
        raise PromptError(f"{file}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileFormatError(f"{file} is damaged: {error}") from error


def _points(rows: Sequence[_Row], places: list[str], *, columns: list[str]) -> list[SavedObject]:
    """Return the objects of a table of points."""
    sign = next((name for name in _SIGN_COLUMNS if name in columns), None)
    owner = next((name for name in _OBJECT_COLUMNS if name in columns), None)
    clicks: list[_Click] = []
    for number, row in enumerate(rows, start=1):
        index, (y, x) = _split([float(row[place]) for place in places])
        if sign is not None and row[sign].strip().lower() not in _SIGNS:
            raise ValueError(f"row {number}: {sign} is {row[sign]!r}; accepted: {', '.join(_SIGNS)}")
        positive = True if sign is None else _SIGNS[row[sign].strip().lower()]
        alone = number if sign is None else 1
        clicks.append((int(float(row[owner])) if owner else alone, index, (y, x, positive)))
    return objects_of(clicks)


def _split(position: list[float]) -> tuple[tuple[int, ...], tuple[float, float]]:
    """Return the plane and the (row, col) of a position."""
    return tuple(round(value) for value in position[:-2]), (position[-2], position[-1])


def objects_of(clicks: Iterable[_Click]) -> list[SavedObject]:
    """Return clicks gathered by object and plane, objects by id, clicks in their order."""
    by_object = sorted(clicks, key=lambda click: click[:2])  # stable: the order of clicks stays
    return [
        SavedObject(
            id=number,
            prompts=tuple(
                FramePrompts(index=index, points=tuple(click[2] for click in same))
                for index, same in groupby(list(own), key=lambda click: click[1])
            ),
        )
        for number, own in groupby(by_object, key=lambda click: click[0])
    ]


def _boxes(rows: Sequence[_Row], places: list[str]) -> list[SavedObject]:
    """Return one object for each rectangle of a table of vertices."""
    found = []
    for number, (_, vertices) in enumerate(groupby(rows, key=lambda row: row["index"]), start=1):
        corners = list(vertices)
        if corners[0]["shape-type"] != "rectangle":
            raise PromptError(f"shape {number} is a {corners[0]['shape-type']}; only rectangles can be boxes")
        positions = np.array([[float(row[place]) for place in places] for row in corners])
        index, _ = _split(positions[0].tolist())
        found.append(SavedObject(id=number, prompts=(_box_prompt(positions[:, -2:] + 0.5, index),)))
    return found


def _box_prompt(edges: np.ndarray[Any, np.dtype[np.float64]], index: tuple[int, ...]) -> FramePrompts:
    """Return the box around (N, 2) vertices whose whole numbers are pixel edges."""
    (row0, col0), (row1, col1) = edges.min(axis=0).tolist(), edges.max(axis=0).tolist()
    return FramePrompts(index=index, box=(row0, col0, row1, col1))


def write_csv(path: str | os.PathLike[str], objects: Sequence[SavedObject]) -> Path:
    """Write the points of objects as a CSV that napari opens as a points layer, and return its path.

    Boxes and masks have no place in such a table; a saved state keeps them.
    """
    clicks = [
        (one.id, prompts.index, point)
        for one in objects
        for prompts in one.prompts
        for point in prompts.points
    ]
    if not clicks:
        raise PromptError("there are no points to write; boxes and masks are kept by save_state(...)")
    sides = len(clicks[0][1]) + 2
    lines = [",".join(["index", *(f"axis-{i}" for i in range(sides)), "object_id", "positive"])]
    for number, (owner, index, (row, col, positive)) in enumerate(clicks):
        lines.append(",".join(map(str, (number, *map(float, index), row, col, owner, positive))))
    file = Path(path)
    replace_file(file, ("\n".join(lines) + "\n").encode())
    return file


def read_geojson(path: str | os.PathLike[str], *, axes: str = "YX") -> list[SavedObject]:
    """Return the points and rectangles of a GeoJSON file, one object for each feature.

    QuPath's convention: x before y, and a pixel covers 0 to 1. A feature classified as negative, background
    or ignore gives negative points; a property `object_id` joins features.

    Parameters
    ----------
    path
        A feature, a collection, or a list of features.
    axes
        Of the labels that the prompts are for; `plane` of a geometry says the index on Z and T.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        features = content.get("features", [content]) if isinstance(content, dict) else list(content)
        clicks: list[_Click] = []
        boxes: list[SavedObject] = []
        for number, feature in enumerate(features, start=1):
            _read_feature(feature, number, axes=axes, clicks=clicks, boxes=boxes)
    except SegAnyError as error:
        raise PromptError(f"{file}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FileFormatError(f"cannot read {file} as GeoJSON: {error!r}") from error
    return _joined([*objects_of(clicks), *boxes])


def _read_feature(
    feature: Mapping[str, Any], number: int, *, axes: str, clicks: list[_Click], boxes: list[SavedObject]
) -> None:
    """Add the prompts of one feature to the lists."""
    geometry, properties = feature["geometry"], feature.get("properties") or {}
    owner = int(properties.get("object_id", number))
    plane = geometry.get("plane") or {}
    index = tuple(int(plane.get(letter.lower(), 0)) for letter in axes[:-2])
    positions = np.array(geometry["coordinates"], dtype=np.float64)
    if geometry["type"] in ("Point", "MultiPoint"):
        named = str((properties.get("classification") or {}).get("name", ""))
        positive = named.lower() not in _NEGATIVE_CLASSES
        for x, y in positions.reshape(-1, positions.shape[-1])[:, :2]:
            clicks.append((owner, index, (float(y) - 0.5, float(x) - 0.5, positive)))
    elif geometry["type"] == "Polygon" and _is_rectangle(positions):
        boxes.append(SavedObject(id=owner, prompts=(_box_prompt(positions[0, :, 1::-1], index),)))
    else:
        raise PromptError(
            f"feature {number}, a {geometry['type']}, is neither points nor an upright rectangle"
        )


def _is_rectangle(rings: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
    """Return whether polygon rings (1, 5, 2) are one upright rectangle."""
    if rings.shape[:2] != (1, 5):
        return False
    steps = np.diff(rings[0, :, :2], axis=0)
    return bool(((steps != 0).sum(axis=1) == 1).all())


def _joined(objects: Sequence[SavedObject]) -> list[SavedObject]:
    """Return objects with the prompts of equal ids and planes put together."""
    joined: dict[int, dict[tuple[int, ...], FramePrompts]] = {}
    for one in objects:
        planes = joined.setdefault(one.id, {})
        for new in one.prompts:
            old = planes.get(new.index, new)
            planes[new.index] = old.model_copy(
                update={"box": old.box or new.box, "points": old.points or new.points}
            )
    return [SavedObject(id=key, prompts=tuple(planes.values())) for key, planes in sorted(joined.items())]
