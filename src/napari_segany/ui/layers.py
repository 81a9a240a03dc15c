"""The layers that show a session's prompts, preview and labels, and the way to it and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import BoolMask, Box, FloatArray, Points
from napari_segany.session.prompts import ObjectPrompts, PlaneIndex
from napari_segany.session.source import plane_index

from .grid import Grid
from .outlines import box_of_corners, corners_of_box, ellipse_outline
from .target import STORE_KEY, Target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels, Shapes
    from napari.layers import Points as PointsLayer

POSITIVE, NEGATIVE = "positive", "negative"
# told apart without seeing colour too: a disc and a cross
COLOURS = {POSITIVE: "#2bd97c", NEGATIVE: "#ff4d6d"}
SYMBOLS = {POSITIVE: "disc", NEGATIVE: "x"}
_PREVIEW_COLOUR = "#ffe45c"
_OTHER_COLOUR = "#8fd0ff"  # of previews of objects that are not the one in work
_SIGN = "prompt"
_CLICK_SIZES = (9, 14)  # smallest and largest, in pixels of the screen


class PreviewStack:
    """A (..., H, W) array that is zero but on previewed planes, and needs no memory for the rest."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.planes: dict[PlaneIndex, BoolMask | NDArray[np.uint8]] = {}

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:  # Any: whatever NumPy takes
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) < self.ndim or Ellipsis in parts:
            parts = _whole_key(parts, self.ndim)
        lead = parts[:-2]
        if all(isinstance(part, int | np.integer) for part in lead):
            plane = self.planes.get(tuple(int(part) for part in lead))
            if plane is not None:
                shown: NDArray[np.uint8] = plane[parts[-2:]].astype(np.uint8)
                return shown
            return np.zeros(self.shape[-2:], dtype=np.uint8)[parts[-2:]]
        part: NDArray[np.uint8] = np.asarray(self)[key]
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        full = np.zeros(self.shape, dtype=dtype or self.dtype)
        for index, plane in self.planes.items():
            full[index] = plane
        return full


def _whole_key(parts: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """Return a key with one part for each axis."""
    missing = ndim - sum(part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        return (*parts, *[slice(None)] * missing)
    at = parts.index(Ellipsis)
    return (*parts[:at], *[slice(None)] * missing, *parts[at + 1 :])


@dataclass(frozen=True, eq=False)
class PromptLayers:
    """Labels, and the layers that prompts are given in; held by reference, so that they can be renamed and moved."""

    labels: Labels
    shapes: Shapes
    points: PointsLayer

    def __contains__(self, layer: object) -> bool:
        return any(layer is own for own in self.named.values())

    @property
    def named(self) -> dict[str, Any]:  # Any: napari is untyped
        """Every layer, by the name that the key table has for it."""
        return {"labels": self.labels, "points": self.points, "shapes": self.shapes}

    @property
    def prompts(self) -> tuple[Any, ...]:
        """The layers that go when the session ends."""
        return self.points, self.shapes


@dataclass(frozen=True, eq=False)
class SessionLayers(PromptLayers):
    """The layers of a session that shows what it would commit."""

    preview: Labels
    stack: PreviewStack

    @property
    def named(self) -> dict[str, Any]:
        """Every layer, by the name that the key table has for it."""
        return {**super().named, "preview": self.preview}

    @property
    def prompts(self) -> tuple[Any, ...]:
        """The layers that go when the session ends."""
        return *super().prompts, self.preview


def add_layers(
    viewer: ViewerModel, *, grid: Grid, target: Target, name: str, labels: Labels | None = None
) -> SessionLayers:
    """Add what is missing to a viewer, prompts on top, and select the prompts."""
    labels = labels or _add_labels(viewer, grid, target, name)
    stack = PreviewStack(grid.shape)
    preview = viewer.add_labels(
        stack, name="Preview", opacity=0.6, colormap=_preview_colormap(), **grid.placement
    )
    preview.editable = False
    preview.contour = 0
    shapes, points = _add_prompts(viewer, grid)
    return SessionLayers(labels, shapes, points, preview, stack)


def add_prompt_layers(
    viewer: ViewerModel, *, grid: Grid, target: Target, name: str, labels: Labels | None = None
) -> PromptLayers:
    """Add what is missing to a viewer, without a preview, and select the prompts."""
    labels = labels or _add_labels(viewer, grid, target, name)
    return PromptLayers(labels, *_add_prompts(viewer, grid))


def _add_prompts(viewer: ViewerModel, grid: Grid) -> tuple[Shapes, PointsLayer]:
    """Add the layers for prompts, ready for a click."""
    shapes = _add_shapes(viewer, grid)
    points = _add_points(viewer, grid)
    viewer.layers.selection.active = points
    points.mode = "add"
    return shapes, points


def _add_labels(viewer: ViewerModel, grid: Grid, target: Target, name: str) -> Labels:
    metadata = {} if target.path is None else {STORE_KEY: str(target.path)}
    return viewer.add_labels(target.array, name=f"{name} labels", metadata=metadata, **grid.placement)


def _add_shapes(viewer: ViewerModel, grid: Grid) -> Shapes:
    return viewer.add_shapes(
        None,
        ndim=len(grid.shape),
        name="Boxes and outlines",
        edge_color=_PREVIEW_COLOUR,
        face_color="transparent",
        edge_width=max(1.0, max(grid.shape[-2:]) / 400),
        **grid.placement,
    )


def _add_points(viewer: ViewerModel, grid: Grid) -> PointsLayer:
    layer = viewer.add_points(
        np.empty((0, len(grid.shape))),
        ndim=len(grid.shape),
        name="Clicks",
        features={_SIGN: np.array([], dtype=object)},
        feature_defaults={_SIGN: POSITIVE},
        face_color=_SIGN,
        face_color_cycle=COLOURS,
        border_color="white",
        border_width=0.12,
        size=max(4.0, max(grid.shape[-2:]) / 40),
        canvas_size_limits=_CLICK_SIZES,
        **grid.placement,
    )
    return layer


def _preview_colormap() -> Any:  # Any: napari is untyped
    from napari.utils.colormaps import DirectLabelColormap

    colours = {None: "transparent", 0: "transparent", 1: _PREVIEW_COLOUR, 2: _OTHER_COLOUR}
    return DirectLabelColormap(color_dict=colours)


# ---------------------------------------------------------------------------------------- clicks


def set_sign(layer: PointsLayer, *, positive: bool) -> None:
    """Make the points added next positive or negative."""
    sign = POSITIVE if positive else NEGATIVE
    layer.feature_defaults[_SIGN] = sign
    layer.current_symbol = SYMBOLS[sign]
    layer.current_face_color = COLOURS[sign]


def hide_placeholder(layer: PointsLayer, *, plane: PlaneIndex) -> None:
    """Let the mark vanish that napari draws at the first pixel where a plane in view has no click.

    It has no size, but for the smallest one that clicks are shown with.
    """
    shape = (*(i + 1 for i in plane), 1, 1)
    is_there = any(plane_index(position, shape) == plane for position in layer.data)
    sizes = _CLICK_SIZES if is_there else (0, _CLICK_SIZES[1])
    if tuple(layer.canvas_size_limits) != sizes:
        layer.canvas_size_limits = sizes


def read_clicks(layer: PointsLayer, *, shape: tuple[int, ...]) -> dict[PlaneIndex, Points]:
    """Return the clicks of each plane, in the order they were made."""
    signs = np.asarray(layer.features[_SIGN].to_numpy() != NEGATIVE)
    planes: dict[PlaneIndex, list[int]] = {}
    for i, position in enumerate(layer.data):
        planes.setdefault(plane_index(position, shape), []).append(i)
    return {
        index: Points(layer.data[rows][:, -2:].astype(np.float32), signs[rows])
        for index, rows in planes.items()
    }


def show_clicks(layer: PointsLayer, prompts: Mapping[PlaneIndex, ObjectPrompts]) -> None:
    """Make a Points layer show the clicks of all planes."""
    rows, signs = [], []
    for index, one in prompts.items():
        rows += [(*index, row, col) for row, col in one.points.coords]
        signs += [POSITIVE if positive else NEGATIVE for positive in one.points.positive]
    layer.selected_data = set()
    layer.data = np.array(rows, dtype=float).reshape(-1, layer.ndim)
    layer.features = {_SIGN: np.array(signs, dtype=object)}
    if signs:
        layer.symbol = [SYMBOLS[sign] for sign in signs]
        layer.face_color = [COLOURS[sign] for sign in signs]


# --------------------------------------------------------------------------------------- drawings


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What is drawn on one plane: the newest box, closed outlines, and open (N, 2) paths."""

    box: Box | None = None
    outlines: tuple[FloatArray, ...] = ()
    paths: tuple[FloatArray, ...] = ()


def read_drawings(layer: Shapes, *, shape: tuple[int, ...]) -> dict[PlaneIndex, Drawing]:
    """Return what is drawn on each plane."""
    planes: dict[PlaneIndex, Drawing] = {}
    for corners, kind in zip(layer.data, layer.shape_type, strict=True):
        index = plane_index(corners.mean(axis=0), shape)
        now = planes.get(index, Drawing())
        planes[index] = _with_shape(now, np.asarray(corners[:, -2:], dtype=np.float32), str(kind))
    return planes


def _with_shape(drawing: Drawing, corners: FloatArray, kind: str) -> Drawing:
    """Return a drawing with one more shape."""
    if kind == "rectangle":
        return Drawing(box_of_corners(corners) or drawing.box, drawing.outlines, drawing.paths)
    if kind in ("path", "line"):
        return Drawing(drawing.box, drawing.outlines, (*drawing.paths, corners))
    outline = ellipse_outline(corners) if kind == "ellipse" else corners
    return Drawing(drawing.box, (*drawing.outlines, outline), drawing.paths)


def show_drawings(layer: Shapes, prompts: Mapping[PlaneIndex, ObjectPrompts]) -> None:
    """Make a Shapes layer show the boxes and outlines of all planes."""
    shapes: list[FloatArray] = []
    kinds: list[str] = []
    for index, one in prompts.items():
        drawn = [(corners_of_box(one.box), "rectangle")] if one.box is not None else []
        for corners, kind in [*drawn, *((outline, "polygon") for outline in one.outlines)]:
            lead = np.broadcast_to(np.array(index, dtype=np.float32), (len(corners), len(index)))
            shapes.append(np.hstack([lead, corners]))
            kinds.append(kind)
    layer.selected_data = set(range(len(layer.data)))
    layer.remove_selected()
    if shapes:
        layer.add(shapes, shape_type=kinds)
        layer.selected_data = set()
