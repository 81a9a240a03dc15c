"""Scenes that shine on a dark background: fluorescence, composites, membranes, filaments and spots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import AnyArray, FloatArray

from .bodies import (
    chromatin,
    colonies,
    crowd,
    mitochondria,
    nucleoli,
    nucleus_in,
    place,
    places,
    random_place,
    spots_inside,
    varied,
)
from .canvas import Canvas
from .optics import blurred, expose, illumination, inverted, some_camera
from .shapes import BlobForm, Patch, blob, partition, scatter, tube, wandering_curve

Painter = Callable[[Canvas, float], AnyArray]
"""Paints one scene of a given primary diameter on an empty canvas and returns the camera's image."""


def developed(canvas: Canvas, *, blur: float, dim: bool = True, invert: float = 0.03) -> AnyArray:
    """Return the image of the canvas: blurred, unevenly lit, noisy, in a camera's dtype."""
    rng = canvas.rng
    colour = canvas.light.ndim == 3
    light = blurred(canvas.light, blur)
    if rng.random() < 0.4:
        field = illumination(canvas.shape, rng, strength=rng.uniform(0.1, 0.7))
        light = light * (field[..., None] if colour else field)
    image = expose(light, rng, camera=some_camera(rng, colour=colour, dim=dim))
    return inverted(image) if rng.random() < invert else image


@dataclass(frozen=True, slots=True)
class _Stain:
    """What the nuclei of one image share: outline, spreads of brightness and size, edge softness in px."""

    form: BlobForm
    spread: float
    size_spread: float
    grain: float
    inner: str
    softness: float
    additive: bool


def _some_stain(rng: np.random.Generator, *, diameter: float) -> _Stain:
    """Return how the nuclei of one image look."""
    return _Stain(
        form=BlobForm(rng.uniform(1.05, 1.7), rng.uniform(0.015, 0.06), float(rng.choice([0, 0, 0.3]))),
        spread=rng.uniform(0.05, 0.7),
        size_spread=rng.uniform(0.08, 0.3),
        grain=rng.uniform(0.03, 0.2),
        inner=str(rng.choice(["none", "dark", "bright"], p=[0.5, 0.35, 0.15])),
        softness=rng.uniform(1.0, 1.0 + 0.1 * diameter),
        additive=bool(rng.random() < 0.5),
    )


def _nuclei(canvas: Canvas, points: NDArray[np.float64], *, diameter: float, blur: float) -> None:
    """Paint nuclei of varying brightness; a few are condensed, broken up, hollow or out of focus."""
    rng = canvas.rng
    stain = _some_stain(rng, diameter=diameter)
    odd = rng.dirichlet([9, 0.5, 0.3, 0.3, 0.6])
    for point in points:
        size = max(varied(rng, diameter, spread=stain.size_spread), 5.0)
        level = varied(rng, 0.5, spread=stain.spread)
        look = str(rng.choice(["plain", "condensed", "broken", "hollow", "unfocused"], p=odd))
        if look == "broken":
            _broken_nucleus(canvas, point, diameter=size, value=level * 1.5)
            continue
        if look == "condensed":
            size, level = max(0.65 * size, 5.0), level * 2.0
        softness = 0.5 * size if look == "unfocused" else stain.softness
        margin = 0.5 * softness + 1.5
        patch = blob(rng, place(point), diameter=size, shape=canvas.shape, form=stain.form, margin=margin)
        number = canvas.add_object(patch, level=3, kind="nucleus")
        if patch is None or number < 0:
            continue
        light = level * chromatin(canvas, patch, grain=stain.grain)
        if look == "hollow":
            light = light * (0.45 + 0.7 * np.exp(-np.maximum(patch.field, 0) / np.float32(0.12 * size)))
        softness = min(softness, 1.2 * float(patch.field.max()))
        opacity = rng.uniform(0.75, 0.95) if stain.additive else 1.0
        canvas.paint(patch, light, softness=softness, opacity=opacity)
        if stain.inner != "none" and look == "plain" and size > max(20, 14 * blur):
            nucleoli(canvas, patch, parent=number, value=level * (0.35 if stain.inner == "dark" else 1.9))


def _broken_nucleus(canvas: Canvas, centre: NDArray[np.float64], *, diameter: float, value: float) -> None:
    """Paint a dying nucleus: a handful of bright fragments that are one object."""
    rng = canvas.rng
    whole: Patch | None = None
    for _ in range(rng.integers(3, 7)):
        at = centre + rng.normal(0, 0.22 * diameter, 2)
        piece = blob(rng, place(at), diameter=max(diameter * rng.uniform(0.25, 0.5), 3), shape=canvas.shape)
        if piece is not None:
            whole = piece if whole is None else whole.united(piece)
    if whole is not None and canvas.add_object(whole, level=3, kind="nucleus") >= 0:
        canvas.paint(whole, value * (1 + 0.2 * canvas.texture(whole)))


def haze(canvas: Canvas, *, strength: float) -> None:
    """Add out-of-focus light and a little background structure."""
    canvas.light += np.float32(strength) * np.maximum(canvas.smooth_noise(60) + 1, 0)


def _debris(canvas: Canvas, *, diameter: float, value: float) -> None:
    """Add a few bright specks that are nothing."""
    rng = canvas.rng
    for _ in range(rng.integers(0, 6)):
        centre = random_place(canvas)
        speck = blob(
            rng,
            centre,
            diameter=rng.uniform(1.5, 0.3 * diameter + 2),
            shape=canvas.shape,
            form=BlobForm(1.5, 0.2),
        )
        if speck is not None:
            canvas.glow(speck, value * rng.uniform(0.3, 1.2))


def _background(canvas: Canvas, *, diameter: float) -> None:
    """Lay what lies under the nuclei: nothing, haze, a sheet of faint cell bodies, or faint fibres."""
    rng = canvas.rng
    style = rng.choice(["dark", "haze", "bodies", "fibres"], p=[0.4, 0.3, 0.2, 0.1])
    if style in ("haze", "bodies"):
        haze(canvas, strength=rng.uniform(0.005, 0.04))
    if style == "bodies":
        bodies = np.maximum(canvas.smooth_noise(1.5 * diameter), 0) * (1 + 0.2 * canvas.full_noise(beta=1.2))
        canvas.light += np.float32(rng.uniform(0.01, 0.06)) * bodies
    if style == "fibres":
        streaks = canvas.fibrous(angle=rng.uniform(0, np.pi), stretch=rng.uniform(6, 15))
        canvas.light += np.float32(rng.uniform(0.005, 0.03)) * np.maximum(streaks, 0)


def fluorescence(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint stained nuclei on a dark background."""
    rng = canvas.rng
    blur = rng.uniform(0.4, min(0.6 + 0.03 * diameter, 2.5))
    _background(canvas, diameter=diameter)
    _nuclei(canvas, crowd(canvas, diameter=diameter), diameter=diameter, blur=blur)
    if rng.random() < 0.3:
        _debris(canvas, diameter=diameter, value=0.6)
    if rng.random() < 0.4:
        canvas.light += np.float32(rng.uniform(0.03, 0.15)) * blurred(canvas.light, 0.4 * diameter + 3)
    return developed(canvas, blur=blur)


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
    extra, has_nucleoli = rng.choice(["none", "spots", "mitochondria"]), rng.random() < 0.4
    points = crowd(canvas, diameter=diameter, crowding=rng.uniform(0.85, 1.6))
    most = int(np.clip(200 / len(points), 2, 7))
    groups = colonies(canvas, points, reach=1.1 * diameter, gap=0.2 * diameter, kind="colony")
    for point, group in zip(points, groups, strict=True):
        body = blob(
            rng, place(point), diameter=varied(rng, diameter, spread=0.18), shape=canvas.shape, form=form
        )
        cell = canvas.add_object(body, level=4, kind="cell", parent=int(group))
        if body is None or cell < 0:
            continue
        depth = np.clip(body.field / max(float(body.field.max()), 1), 0, 1)
        shade = rng.uniform(0.25, 0.6) * (0.6 + 0.4 * depth + 0.15 * canvas.texture(body))
        canvas.paint(body, shade[..., None] * cell_hue, softness=1.5)
        if extra == "mitochondria":
            mitochondria(canvas, body, parent=cell, value=extra_hue * 0.9, size=diameter, most=most)
        kernel = diameter * rng.uniform(0.35, 0.5)
        inner, nucleus = nucleus_in(canvas, body, parent=cell, diameter=kernel, off=0.04 * diameter)
        if nucleus is not None and inner >= 0:
            light = rng.uniform(0.5, 0.95) * chromatin(canvas, nucleus, grain=0.12)
            canvas.paint(nucleus, light[..., None] * nucleus_hue)
            if has_nucleoli and diameter > 50:
                nucleoli(canvas, nucleus, parent=inner, value=0.15 * nucleus_hue + 0.1 * cell_hue, most=3)
        if extra == "spots":
            spots_inside(
                canvas, body, parent=cell, value=extra_hue, size=max(4.4, 0.08 * diameter), most=most
            )
    return developed(canvas, blur=rng.uniform(0.4, 1.2), dim=False, invert=0.0)


def membrane(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint a sheet of cells with bright borders, with nuclei or without, filling the image or islands."""
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
        canvas.paint(patch, lumen * (1 + 0.3 * canvas.texture(patch)))
        edge = np.exp(-((patch.field / np.float32(wall)) ** 2)) * (patch.field > -0.5)
        canvas.light[patch.box] += edge * strength[patch.box]
        if nucleus_light and cell >= 0:
            inner, nucleus = nucleus_in(
                canvas, patch.shrunk(1.0), parent=cell, diameter=diameter * rng.uniform(0.35, 0.5)
            )
            if nucleus is not None and inner >= 0:
                canvas.paint(nucleus, nucleus_light * chromatin(canvas, nucleus, grain=0.15))
    return developed(canvas, blur=rng.uniform(0.5, 0.7 + 0.012 * diameter), invert=0.1)


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


def filaments(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint thin fibres, free or as the skeleton of faint cells; `diameter` sets how long they are."""
    rng = canvas.rng
    width = float(np.clip(diameter * rng.uniform(0.05, 0.14), 2.2, 7))
    haze(canvas, strength=rng.choice([0.0, 0.02, 0.05]))
    if rng.random() < 0.3:
        _skeletons(canvas, diameter=diameter, width=min(width, 3.5))
    else:
        _fibres(canvas, diameter=diameter, width=width)
    if rng.random() < 0.3:
        _debris(canvas, diameter=10, value=0.5)
    return developed(canvas, blur=rng.uniform(0.4, 0.4 + 0.25 * width), invert=0.1)


def _fibres(canvas: Canvas, *, diameter: float, width: float) -> None:
    """Paint fibres across the image: straight to curly, in one direction or in all."""
    rng = canvas.rng
    count = int(rng.integers(5, 20) * max(canvas.shape[0] * canvas.shape[1] / 65536, 0.3)) + 2
    lean = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else None
    turn = float(np.exp(rng.uniform(np.log(0.3), np.log(5))))
    for _ in range(count):
        angle = None if lean is None else lean + rng.normal(0, 0.25)
        length = min(diameter * rng.uniform(1.0, 4.0), 1.2 * max(canvas.shape))
        curve = wandering_curve(rng, random_place(canvas), length=length, turn=turn, angle=angle)
        line = tube(curve, width=width * rng.uniform(0.8, 1.3), shape=canvas.shape)
        if line is not None and canvas.add_object(line, level=2, kind="filament") >= 0:
            light = varied(rng, 0.5, spread=0.3) * (1 + 0.15 * canvas.texture(line))
            canvas.paint(line, light, opacity=0.9)


def _skeletons(canvas: Canvas, *, diameter: float, width: float) -> None:
    """Paint faint cells, each with a dark nucleus and fibres that keep to the cell."""
    rng = canvas.rng
    host = float(np.clip(1.5 * diameter, 50, 0.7 * min(canvas.shape)))
    turn = rng.uniform(0.3, 1.5)
    for point in crowd(canvas, diameter=host, crowding=rng.uniform(0.95, 1.4)):
        form = BlobForm(rng.uniform(1.0, 2.0), rng.uniform(0.05, 0.12))
        body = blob(rng, place(point), diameter=varied(rng, host, spread=0.15), shape=canvas.shape, form=form)
        cell = canvas.add_object(body, level=4, kind="cell")
        if body is None or cell < 0:
            continue
        canvas.paint(body, rng.uniform(0.12, 0.2) * (1 + 0.2 * canvas.texture(body)), softness=2.0)
        number, nucleus = nucleus_in(canvas, body, parent=cell, diameter=0.35 * host)
        if nucleus is not None and number >= 0:
            canvas.paint(nucleus, 0.05, softness=2.0)
        lean = rng.uniform(0, 2 * np.pi)
        for start in places(canvas, body, depth=2 * width, count=int(rng.integers(4, 12))):
            angle = lean + rng.normal(0, 0.4) + np.pi * rng.integers(2)
            curve = wandering_curve(rng, start, length=host * rng.uniform(0.3, 0.9), turn=turn, angle=angle)
            line = tube(curve, width=width, shape=canvas.shape)
            line = None if line is None else line.inside(body, margin=1.0)
            if line is not None and canvas.add_object(line, level=2, kind="filament", parent=cell) >= 0:
                canvas.paint(line, varied(rng, 0.5, spread=0.2), opacity=0.9)


def spots(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint diffraction-limited spots, free or inside faint nuclei or cells; `diameter` is that of a spot."""
    rng = canvas.rng
    size = float(np.clip(diameter, 4.5, 16))
    if rng.random() < 0.5:
        points = crowd(canvas, diameter=2 * size, crowding=rng.uniform(1.0, 2.0))
        for point in points:
            spot = blob(
                rng,
                place(point),
                diameter=varied(rng, size, spread=0.15),
                shape=canvas.shape,
                form=BlobForm(1.1, 0.02),
            )
            if spot is not None and canvas.add_object(spot, level=1, kind="spot") >= 0:
                canvas.paint(spot, varied(rng, 0.6, spread=0.4), softness=2.0)
        return developed(canvas, blur=rng.uniform(0.4, 0.3 * size))
    host = rng.uniform(6, 12) * size
    for point in crowd(canvas, diameter=host, crowding=rng.uniform(1.0, 1.6)):
        body = blob(rng, place(point), diameter=varied(rng, host, spread=0.15), shape=canvas.shape)
        nucleus = canvas.add_object(body, level=3, kind="nucleus")
        if body is not None and nucleus >= 0:
            level = rng.uniform(0.12, 0.3)
            canvas.paint(body, level * chromatin(canvas, body, grain=0.15), softness=2.0)
            spots_inside(canvas, body, parent=nucleus, value=0.5, size=size, most=8)
    return developed(canvas, blur=rng.uniform(0.4, 0.3 * size))
