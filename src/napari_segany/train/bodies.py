"""What the scenes share: where objects stand, which of them form colonies, and what is inside a cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from napari_segany.core.types import FloatArray

from .canvas import Canvas
from .shapes import BlobForm, Patch, blob, scatter, tube, wandering_curve

Light = float | NDArray[np.float64] | FloatArray
"""A brightness, a colour (3,), or either per pixel."""


def crowd(canvas: Canvas, *, diameter: float, crowding: float | None = None) -> NDArray[np.float64]:
    """Return (N, 2) centres for objects of a diameter: even, clustered or sparse; 90 per 256 x 256 at most.

    `crowding` is the spacing in diameters; below 1 the objects overlap.
    """
    rng, shape = canvas.rng, canvas.shape
    most = max(int(90 * shape[0] * shape[1] / 65536), 12)
    spacing = diameter * (rng.uniform(1.0, 2.2) if crowding is None else crowding)
    spacing = max(spacing, np.sqrt(shape[0] * shape[1] / (most * 1.6)))
    points = scatter(rng, shape=shape, spacing=spacing, jitter=rng.uniform(0.1, 0.35))
    if rng.random() < 0.55 and len(points) > 8:
        lumps = canvas.smooth_noise(max(4 * diameter, 24))
        at = np.clip(points.astype(int), 0, np.array(shape) - 1)
        height = lumps[at[:, 0], at[:, 1]]
        keep = height >= np.quantile(height, rng.uniform(0.1, 0.8))
        points = points[keep]
    return points[:most]


def colonies(
    canvas: Canvas, points: NDArray[np.float64], *, reach: float, gap: float, kind: str
) -> NDArray[np.int_]:
    """Group (N, 2) centres that are nearer than `reach` to each other.

    Returns (N,) group numbers on the canvas, -1 for centres that are not in a group of four or more.
    """
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    _, member = connected_components(links, directed=False)
    numbers = np.full(len(points), -1)
    for group in np.flatnonzero(np.bincount(member) >= 4):
        numbers[member == group] = canvas.add_group(level=6, kind=kind, gap=gap)
    return numbers


def chromatin(canvas: Canvas, patch: Patch, *, grain: float) -> FloatArray:
    """Return (h, w) brightness of a nucleus about 1: granular, a few dense specks, a darker rim."""
    rng = canvas.rng
    texture = canvas.texture(patch, beta=float(rng.choice([1.2, 1.8])))
    specks = np.maximum(canvas.texture(patch, beta=1.2) - 1.4, 0) * rng.uniform(0, 4)
    rim = np.clip(patch.field / max(float(patch.field.max()), 1.0), 0, 1)
    light = 1 + grain * (texture + specks) - 0.25 * (1 - rim) ** 2
    grainy: FloatArray = np.maximum(light, 0.2).astype(np.float32)
    return grainy


def middle(patch: Patch) -> tuple[float, float]:
    """Return the deepest place (row, col) of an outline."""
    row, col = np.unravel_index(int(np.argmax(patch.field)), patch.field.shape)
    return patch.row0 + float(row), patch.col0 + float(col)


def place(point: NDArray[np.float64]) -> tuple[float, float]:
    """Return one (2,) centre as (row, col)."""
    return float(point[0]), float(point[1])


def varied(rng: np.random.Generator, size: float, *, spread: float) -> float:
    """Return a size drawn log-normally around `size` with a relative deviation of `spread`."""
    return float(size * np.exp(rng.normal(0, spread)))


def random_place(canvas: Canvas) -> tuple[float, float]:
    """Return a place (row, col) anywhere in the image."""
    return float(canvas.rng.uniform(0, canvas.shape[0])), float(canvas.rng.uniform(0, canvas.shape[1]))


def places(canvas: Canvas, body: Patch, *, depth: float, count: int) -> list[tuple[float, float]]:
    """Return up to `count` random places (row, col) at least `depth` pixels inside a body."""
    rows, cols = np.nonzero(body.field > depth)
    if not len(rows):
        return []
    picks = canvas.rng.integers(len(rows), size=count)
    return [(float(body.row0 + rows[pick]), float(body.col0 + cols[pick])) for pick in picks]


def nucleus_in(
    canvas: Canvas, cell: Patch, *, parent: int, diameter: float, off: float = 0.0
) -> tuple[int, Patch | None]:
    """Register a nucleus inside a cell, `off` pixels from its deepest place; returns its number and shape."""
    rng = canvas.rng
    row, col = middle(cell)
    centre = (row + rng.normal(0, off), col + rng.normal(0, off)) if off else (row, col)
    form = BlobForm(rng.uniform(1.0, 1.4), 0.03)
    nucleus = blob(rng, centre, diameter=diameter, shape=canvas.shape, form=form)
    nucleus = None if nucleus is None else nucleus.inside(cell, margin=1.5)
    return canvas.add_object(nucleus, level=3, kind="nucleus", parent=parent), nucleus


def nucleoli(canvas: Canvas, nucleus: Patch, *, parent: int, value: Light, most: int = 4) -> None:
    """Paint one to four small round bodies well inside a nucleus."""
    rng = canvas.rng
    depth = float(nucleus.field.max())
    for centre in places(canvas, nucleus, depth=0.35 * depth, count=int(rng.integers(1, most + 1))):
        size = max(depth * rng.uniform(0.3, 0.6), 4.4)
        body = blob(rng, centre, diameter=size, shape=canvas.shape, form=BlobForm(1.15, 0.05))
        body = None if body is None else body.inside(nucleus, margin=1.5)
        if body is not None and canvas.add_object(body, level=1, kind="nucleolus", parent=parent) >= 0:
            canvas.paint(body, value)


def spots_inside(
    canvas: Canvas, body: Patch, *, parent: int, value: Light, size: float, most: int = 6
) -> None:
    """Paint bright spots of about `size` pixels inside a body."""
    rng = canvas.rng
    for centre in places(canvas, body, depth=size / 2 + 1, count=int(rng.integers(1, most + 1))):
        spot = blob(
            rng, centre, diameter=size * rng.uniform(0.9, 1.4), shape=canvas.shape, form=BlobForm(1.1, 0.02)
        )
        spot = None if spot is None else spot.inside(body)
        if spot is not None and canvas.add_object(spot, level=1, kind="spot", parent=parent) >= 0:
            canvas.glow(spot, np.asarray(value) * rng.uniform(0.6, 1.2), softness=2.0)


def mitochondria(
    canvas: Canvas, body: Patch, *, parent: int, value: Light, size: float, most: int = 7
) -> None:
    """Paint short bent tubes inside a body of diameter `size`."""
    rng = canvas.rng
    width = max(2.8, 0.05 * size)
    for start in places(canvas, body, depth=1.5 * width, count=int(rng.integers(2, most + 1))):
        curve = wandering_curve(rng, start, length=rng.uniform(0.12, 0.4) * size, turn=2.5)
        line = tube(curve, width=width, shape=canvas.shape)
        line = None if line is None else line.inside(body, margin=1.0)
        if line is not None and canvas.add_object(line, level=2, kind="mitochondrion", parent=parent) >= 0:
            canvas.paint(line, value)
