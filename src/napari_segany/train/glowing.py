"""Scenes that shine on a dark background: fluorescence, composites, membranes, filaments and spots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..core.types import AnyArray, FloatArray
from .canvas import Canvas
from .optics import blurred, expose, illumination, inverted, some_camera
from .shapes import BlobForm, Patch, blob, partition, scatter, tube, wandering_curve

Painter = Callable[[Canvas, float], AnyArray]
"""Paints one scene of a given primary diameter on an empty canvas and returns the camera's image."""


def _developed(canvas: Canvas, *, blur: float, dim: bool = True, invert: float = 0.03) -> AnyArray:
    """Return the image of the canvas: blurred, unevenly lit, noisy, in a camera's dtype."""
    rng = canvas.rng
    colour = canvas.light.ndim == 3
    light = blurred(canvas.light, blur)
    if rng.random() < 0.4:
        field = illumination(canvas.shape, rng, strength=rng.uniform(0.1, 0.7))
        light = light * (field[..., None] if colour else field)
    image = expose(light, rng, camera=some_camera(rng, colour=colour, dim=dim))
    return inverted(image) if rng.random() < invert else image


def crowd(canvas: Canvas, *, diameter: float, crowding: float | None = None) -> NDArray[np.float64]:
    """Return (N, 2) centres for objects of a diameter: even, clustered or sparse; at most about 100 per 256 x 256."""
    rng, shape = canvas.rng, canvas.shape
    most = max(int(90 * shape[0] * shape[1] / 65536), 12)
    spacing = diameter * (rng.uniform(1.0, 2.2) if crowding is None else crowding)
    spacing = max(spacing, np.sqrt(shape[0] * shape[1] / (most * 1.6)))
    points = scatter(rng, shape=shape, spacing=spacing, jitter=rng.uniform(0.1, 0.35))
    if rng.random() < 0.6:
        lumps = canvas.smooth_noise(max(4 * diameter, 24))
        at = np.clip(points.astype(int), 0, np.array(shape) - 1)
        keep = lumps[at[:, 0], at[:, 1]] > rng.uniform(-1.2, 0.6)
        points = points[keep] if keep.any() else points[:3]
    return points[:most]


def _chromatin(canvas: Canvas, patch: Patch, *, grain: float) -> FloatArray:
    """Return (h, w) brightness of a nucleus about 1: granular, a little darker towards the rim."""
    rng = canvas.rng
    texture = canvas.texture(patch, beta=float(rng.choice([1.2, 1.8])))
    rim = np.clip(patch.field / max(float(patch.field.max()), 1.0), 0, 1)
    return np.maximum(1 + grain * texture - 0.25 * (1 - rim) ** 2, 0.2).astype(np.float32)


def _nuclei(canvas: Canvas, points: NDArray[np.float64], *, diameter: float) -> None:
    """Paint nuclei with their nucleoli or spots, brightness varying from one to the next."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.05, 1.6), rng.uniform(0.015, 0.07), rng.choice([0, 0, 0.3]))
    spread, grain, size_spread = rng.uniform(0.05, 0.7), rng.uniform(0.03, 0.22), rng.uniform(0.08, 0.3)
    inner = rng.choice(["none", "dark", "bright"], p=[0.5, 0.3, 0.2])
    softness = rng.uniform(1.0, 1.0 + 0.1 * diameter)
    additive = rng.random() < 0.5
    for point in points:
        size = max(diameter * np.exp(rng.normal(0, size_spread)), 5.0)
        patch = blob(rng, point, diameter=size, shape=canvas.shape, form=form)
        nucleus = canvas.add_object(patch, level=3, kind="nucleus")
        if patch is None or nucleus < 0:
            continue
        level = 0.55 * np.exp(rng.normal(0, spread))
        light = np.float32(level) * _chromatin(canvas, patch, grain=grain)
        canvas.paint(patch, light, softness=softness, opacity=rng.uniform(0.75, 0.95) if additive else 1.0)
        if inner != "none" and size > 20:
            _nucleoli(canvas, patch, parent=nucleus, value=level * (0.35 if inner == "dark" else 1.9))


def _nucleoli(canvas: Canvas, nucleus: Patch, *, parent: int, value: float | NDArray[np.float64]) -> None:
    """Paint one to four small round bodies well inside a nucleus."""
    rng = canvas.rng
    depth = float(nucleus.field.max())
    rows, cols = np.nonzero(nucleus.field > 0.35 * depth)
    for _ in range(rng.integers(1, 5)):
        pick = rng.integers(len(rows))
        centre = (nucleus.row0 + rows[pick], nucleus.col0 + cols[pick])
        body = blob(
            rng,
            centre,
            diameter=max(depth * rng.uniform(0.3, 0.6), 4.2),
            shape=canvas.shape,
            form=BlobForm(1.15, 0.04),
        )
        body = None if body is None else body.inside(nucleus, margin=1.5)
        if body is not None and canvas.add_object(body, level=1, kind="nucleolus", parent=parent) >= 0:
            canvas.paint(body, value)


def _haze(canvas: Canvas, *, strength: float) -> None:
    """Add out-of-focus light and a little background structure."""
    canvas.light += np.float32(strength) * np.maximum(canvas.smooth_noise(60) + 1, 0)


def _debris(canvas: Canvas, *, diameter: float, value: float) -> None:
    """Add a few bright specks that are nothing."""
    rng = canvas.rng
    for _ in range(rng.integers(0, 6)):
        centre = tuple(rng.uniform(0, 1, 2) * canvas.shape)
        speck = blob(
            rng,
            centre,
            diameter=rng.uniform(1.5, 0.3 * diameter + 2),
            shape=canvas.shape,
            form=BlobForm(1.5, 0.2),
        )
        if speck is not None:
            canvas.glow(speck, value * rng.uniform(0.3, 1.2))


def fluorescence(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint stained nuclei on a dark background."""
    rng = canvas.rng
    _haze(canvas, strength=rng.choice([0.0, 0.01, 0.03]))
    _nuclei(canvas, crowd(canvas, diameter=diameter), diameter=diameter)
    if rng.random() < 0.3:
        _debris(canvas, diameter=diameter, value=0.6)
    return _developed(canvas, blur=rng.uniform(0.4, 0.6 + 0.03 * diameter))


def _hue(rng: np.random.Generator, channel: int) -> NDArray[np.float64]:
    """Return a colour (3,) dominated by one channel."""
    colour = rng.uniform(0, 0.25, 3)
    colour[channel] = rng.uniform(0.7, 1.0)
    return colour


def composite(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint multi-channel cells: nucleus, cytoplasm, sometimes spots or mitochondria, each in its colour."""
    rng = canvas.rng
    channels = rng.permutation(3) if rng.random() < 0.4 else np.array([2, 1, 0])
    nucleus_hue, cell_hue, extra_hue = (_hue(rng, int(channel)) for channel in channels)
    form = BlobForm(rng.uniform(1.0, 1.8), rng.uniform(0.05, 0.14), 0.0)
    extra = rng.choice(["none", "spots", "mitochondria"])
    for point in crowd(canvas, diameter=diameter, crowding=rng.uniform(0.85, 1.6)):
        body = blob(
            rng, point, diameter=diameter * np.exp(rng.normal(0, 0.18)), shape=canvas.shape, form=form
        )
        cell = canvas.add_object(body, level=4, kind="cell")
        if body is None or cell < 0:
            continue
        level = np.float32(rng.uniform(0.2, 0.6))
        depth = np.clip(body.field / max(float(body.field.max()), 1), 0, 1)
        shade = level * (0.5 + 0.5 * depth + 0.15 * canvas.texture(body))
        canvas.paint(body, shade[..., None] * cell_hue, softness=1.5)
        if extra == "mitochondria":
            mitochondria(canvas, body, parent=cell, value=extra_hue * 0.9, size=diameter)
        centre = np.asarray(point) + rng.normal(0, 0.05 * diameter, 2)
        nucleus = blob(rng, tuple(centre), diameter=diameter * rng.uniform(0.35, 0.5), shape=canvas.shape)
        nucleus = None if nucleus is None else nucleus.inside(body, margin=1.5)
        inner = canvas.add_object(nucleus, level=3, kind="nucleus", parent=cell)
        if nucleus is not None and inner >= 0:
            canvas.paint(nucleus, (0.8 * _chromatin(canvas, nucleus, grain=0.12))[..., None] * nucleus_hue)
        if extra == "spots":
            spots_inside(canvas, body, parent=cell, value=extra_hue, size=max(4.2, 0.08 * diameter))
    return _developed(canvas, blur=rng.uniform(0.4, 1.2), dim=False, invert=0.0)


def spots_inside(
    canvas: Canvas,
    body: Patch,
    *,
    parent: int,
    value: float | NDArray[np.float64],
    size: float,
    most: int = 6,
) -> None:
    """Paint bright spots of about `size` pixels inside a body."""
    rng = canvas.rng
    rows, cols = np.nonzero(body.field > size / 2 + 1)
    for _ in range(int(rng.integers(1, most + 1)) if len(rows) else 0):
        pick = rng.integers(len(rows))
        centre = (body.row0 + rows[pick], body.col0 + cols[pick])
        spot = blob(
            rng, centre, diameter=size * rng.uniform(0.9, 1.4), shape=canvas.shape, form=BlobForm(1.1, 0.02)
        )
        if (
            spot is not None
            and canvas.add_object(spot.inside(body), level=1, kind="spot", parent=parent) >= 0
        ):
            canvas.glow(spot, np.asarray(value) * rng.uniform(0.6, 1.2), softness=2.0)


def mitochondria(
    canvas: Canvas,
    body: Patch,
    *,
    parent: int,
    value: float | NDArray[np.float64],
    size: float,
    most: int = 7,
) -> None:
    """Paint short bent tubes inside a body of diameter `size`."""
    rng = canvas.rng
    width = max(2.6, 0.045 * size)
    rows, cols = np.nonzero(body.field > 1.5 * width)
    for _ in range(int(rng.integers(2, most + 1)) if len(rows) else 0):
        pick = rng.integers(len(rows))
        start = (float(body.row0 + rows[pick]), float(body.col0 + cols[pick]))
        curve = wandering_curve(rng, start, length=rng.uniform(0.12, 0.4) * size, turn=2.5)
        line = tube(curve, width=width, shape=canvas.shape)
        line = None if line is None else line.inside(body, margin=1.0)
        if line is not None and canvas.add_object(line, level=2, kind="mitochondrion", parent=parent) >= 0:
            canvas.paint(line, value)


def membrane(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint a sheet of cells with bright borders, sometimes with nuclei, sometimes an island on a dark ground."""
    rng = canvas.rng
    diameter = max(diameter, 14.0)
    points = scatter(rng, shape=canvas.shape, spacing=diameter, jitter=rng.uniform(0.08, 0.25))
    warp = np.stack([canvas.smooth_noise(diameter * 0.6) for _ in range(2)]) * np.float32(0.06 * diameter)
    weights = rng.normal(0, 0.08 * diameter, len(points))
    cut = partition(points, shape=canvas.shape, spacing=diameter, warp=warp, weights=weights)
    island = (
        canvas.smooth_noise(max(2.2 * diameter, 60)) + rng.uniform(0.2, 1.2) if rng.random() < 0.4 else None
    )
    cells = [patch for index, patch in cut.patches() if island is None or _at(island, points[index]) > 0]
    if len(cells) < 2:
        island, cells = None, [patch for _, patch in cut.patches()]
    tissue = _tissue(canvas, cells) if island is not None else -1
    wall = rng.uniform(1.2, 2.0 + 0.03 * diameter)
    lumen, nucleus_light = rng.uniform(0.02, 0.2), rng.uniform(0.15, 0.5) if rng.random() < 0.4 else 0.0
    strength = 0.6 + 0.12 * canvas.full_noise(beta=1.8)
    for patch in cells:
        cell = canvas.add_object(patch.shrunk(0.5), level=4, kind="cell", parent=tissue)
        halo = Patch(patch.row0, patch.col0, patch.field)
        canvas.paint(halo, lumen * (1 + 0.3 * canvas.texture(patch)))
        edge = np.exp(-((patch.field / np.float32(wall)) ** 2)) * (patch.field > -0.5)
        canvas.light[patch.box] += edge * strength[patch.box]
        if nucleus_light and cell >= 0:
            _nucleus_in(canvas, patch, parent=cell, value=nucleus_light, diameter=diameter)
    return _developed(canvas, blur=rng.uniform(0.5, 0.7 + 0.012 * diameter), invert=0.1)


def _at(field: FloatArray, point: NDArray[np.float64]) -> float:
    """Return the field's value at a point, or at the nearest pixel in the image."""
    row, col = np.clip(point.astype(int), 0, np.array(field.shape) - 1)
    return float(field[row, col])


def _tissue(canvas: Canvas, cells: list[Patch]) -> int:
    """Register the union of cells as one object."""
    field = np.full(canvas.shape, -1, dtype=np.float32)
    for patch in cells:
        np.maximum(field[patch.box], patch.field, out=field[patch.box])
    return canvas.add_object(Patch(0, 0, field), level=6, kind="tissue")


def _nucleus_in(canvas: Canvas, cell: Patch, *, parent: int, value: float, diameter: float) -> None:
    """Paint a nucleus at the deepest place of a cell."""
    rng = canvas.rng
    row, col = np.unravel_index(int(np.argmax(cell.field)), cell.field.shape)
    centre = (cell.row0 + float(row), cell.col0 + float(col))
    nucleus = blob(rng, centre, diameter=diameter * rng.uniform(0.35, 0.5), shape=canvas.shape)
    nucleus = None if nucleus is None else nucleus.inside(cell, margin=2.0)
    if nucleus is not None and canvas.add_object(nucleus, level=3, kind="nucleus", parent=parent) >= 0:
        canvas.paint(nucleus, value * _chromatin(canvas, nucleus, grain=0.15))


def filaments(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint thin fibres, long or short, alone or in cells; `diameter` sets how long they are."""
    rng = canvas.rng
    width = float(np.clip(diameter * rng.uniform(0.06, 0.16), 2.2, 8))
    _haze(canvas, strength=rng.choice([0.0, 0.02, 0.05]))
    count = int(rng.integers(4, 16) * max(canvas.shape[0] * canvas.shape[1] / 65536, 0.3)) + 2
    lean = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else None
    turn = rng.uniform(0.5, 6)
    for _ in range(count):
        start = tuple(rng.uniform(0.02, 0.98, 2) * canvas.shape)
        angle = None if lean is None else lean + rng.normal(0, 0.25)
        length = min(diameter * rng.uniform(1.0, 4.0), 1.2 * max(canvas.shape))
        curve = wandering_curve(rng, start, length=length, turn=turn, angle=angle)
        line = tube(curve, width=width * rng.uniform(0.8, 1.3), shape=canvas.shape)
        if line is not None and canvas.add_object(line, level=2, kind="filament") >= 0:
            canvas.paint(
                line, 0.5 * np.exp(rng.normal(0, 0.3)) * (1 + 0.15 * canvas.texture(line)), opacity=0.9
            )
    if rng.random() < 0.3:
        _debris(canvas, diameter=10, value=0.5)
    return _developed(canvas, blur=rng.uniform(0.4, 0.4 + 0.25 * width), invert=0.1)


def spots(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint diffraction-limited spots, free or inside faint nuclei or cells; `diameter` is that of a spot."""
    rng = canvas.rng
    size = float(np.clip(diameter, 4.5, 16))
    if rng.random() < 0.5:
        points = crowd(canvas, diameter=2 * size, crowding=rng.uniform(1.0, 2.0))
        for point in points:
            spot = blob(
                rng,
                point,
                diameter=size * np.exp(rng.normal(0, 0.15)),
                shape=canvas.shape,
                form=BlobForm(1.1, 0.02),
            )
            if spot is not None and canvas.add_object(spot, level=1, kind="spot") >= 0:
                canvas.paint(spot, 0.6 * np.exp(rng.normal(0, 0.4)), softness=2.0)
        return _developed(canvas, blur=rng.uniform(0.4, 0.3 * size))
    host = rng.uniform(6, 12) * size
    for point in crowd(canvas, diameter=host, crowding=rng.uniform(1.0, 1.6)):
        body = blob(rng, point, diameter=host * np.exp(rng.normal(0, 0.15)), shape=canvas.shape)
        nucleus = canvas.add_object(body, level=3, kind="nucleus")
        if body is not None and nucleus >= 0:
            level = rng.uniform(0.12, 0.3)
            canvas.paint(body, level * _chromatin(canvas, body, grain=0.15), softness=2.0)
            spots_inside(canvas, body, parent=nucleus, value=0.5, size=size, most=8)
    return _developed(canvas, blur=rng.uniform(0.4, 0.3 * size))
