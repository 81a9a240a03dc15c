"""Scenes of stained tissue sections in colour: nuclei free in the stroma, in cells, or around glands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import AnyArray, BoolMask

from .bodies import crowd, nucleus_in, place, varied
from .canvas import Canvas
from .optics import blurred, expose, illumination, lamp
from .shapes import BlobForm, Patch, blob

_STAINS: dict[
    str, tuple[tuple[float, float, float], ...]
] = {  # ground, stroma, nucleus, as RGB of transmitted light
    "lilac": ((0.74, 0.66, 0.86), (0.68, 0.57, 0.83), (0.34, 0.16, 0.72)),
    "smear": ((0.88, 0.90, 0.88), (0.86, 0.76, 0.84), (0.45, 0.12, 0.48)),
    "pink": ((0.95, 0.92, 0.94), (0.88, 0.62, 0.76), (0.36, 0.22, 0.52)),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Dye:
    """The colours (3,) of one section, as transmitted light: empty `ground`, `stroma`, and `dark` nuclei."""

    ground: NDArray[np.float64]
    stroma: NDArray[np.float64]
    dark: NDArray[np.float64]
    paleness: float


def histology(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint a stained section: dark or pale nuclei over fibrous or empty ground, free, in cells or glands."""
    rng = canvas.rng
    stain = str(rng.choice(list(_STAINS), p=[0.4, 0.3, 0.3]))
    ground, stroma, dark = (np.clip(np.array(hue) + rng.normal(0, 0.03, 3), 0, 1) for hue in _STAINS[stain])
    dye = _Dye(ground, stroma, dark, paleness=rng.uniform(0.05, 0.6))
    canvas.light[:] = dye.ground
    _ground_tissue(canvas, dye.stroma - dye.ground, stain=stain, diameter=diameter)
    layout = str(rng.choice(["free", "cells", "glands"], p=[0.6, 0.22, 0.18]))
    if layout == "cells":
        _cells(canvas, dye, diameter=diameter)
    else:
        _free_nuclei(canvas, dye, diameter=diameter)
    if layout == "glands":
        _glands(canvas, dye, diameter=diameter)
    return _seen_in_colour(canvas)


def _free_nuclei(canvas: Canvas, dye: _Dye, *, diameter: float) -> None:
    """Paint nuclei whose cells one cannot tell, more or less aligned, some crowded to a mass."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.1, 2.2), rng.uniform(0.02, 0.08), float(rng.choice([0, 0.3])))
    lean, spread = rng.uniform(0, np.pi), rng.uniform(0.1, 0.35)
    for point in crowd(canvas, diameter=diameter, crowding=rng.uniform(0.85, 2.2)):
        size, angle = varied(rng, diameter, spread=spread), lean + rng.normal(0, 0.5)
        ghost = rng.random() < 0.06  # above or below the focus: seen, but nobody would outline it
        margin = 0.25 * size + 2 if ghost else 2.5
        patch = blob(
            rng, place(point), diameter=size, shape=canvas.shape, form=form, angle=angle, margin=margin
        )
        if patch is not None and ghost:
            canvas.paint(patch, 0.5 * (dye.dark + dye.stroma), opacity=0.4, softness=0.5 * size)
        elif patch is not None and canvas.add_object(patch, level=3, kind="nucleus") >= 0:
            _stained_nucleus(canvas, patch, dye=dye)


def _cells(canvas: Canvas, dye: _Dye, *, diameter: float) -> None:
    """Paint cells with visible bodies around nuclei of the given diameter."""
    rng = canvas.rng
    share, off = rng.uniform(0.45, 0.75), rng.uniform(0, 0.15) * diameter
    host = diameter / share
    for point in crowd(canvas, diameter=host, crowding=rng.uniform(0.95, 2.0)):
        size = varied(rng, host, spread=0.12)
        body = blob(rng, place(point), diameter=size, shape=canvas.shape, form=BlobForm(1.25, 0.05))
        cell = canvas.add_object(body, level=4, kind="cell")
        if body is None or cell < 0:
            continue
        rim = np.exp(-np.maximum(body.field, 0) / np.float32(1.5))
        shade = rng.uniform(0.85, 0.97) - 0.15 * rim + 0.04 * canvas.texture(body)
        canvas.paint(body, shade[..., None] * dye.stroma)
        number, nucleus = nucleus_in(
            canvas, body, parent=cell, diameter=varied(rng, diameter, spread=0.1), off=off
        )
        if nucleus is not None and number >= 0:
            _stained_nucleus(canvas, nucleus, dye=dye)


def _glands(canvas: Canvas, dye: _Dye, *, diameter: float) -> None:
    """Paint glands over the rest: a ring of nuclei in a band of cytoplasm around an empty lumen."""
    rng = canvas.rng
    host = float(np.clip(rng.uniform(5, 8) * diameter, 30, 0.7 * min(canvas.shape)))
    for point in crowd(canvas, diameter=host, crowding=rng.uniform(1.1, 1.8))[:6]:
        form = BlobForm(rng.uniform(1.0, 1.5), 0.06)
        body = blob(rng, place(point), diameter=varied(rng, host, spread=0.15), shape=canvas.shape, form=form)
        gland = canvas.add_object(body, level=5, kind="gland")
        if body is None or gland < 0:
            continue
        rim = np.exp(-np.maximum(body.field, 0) / np.float32(2.0))
        shade = 0.92 - 0.12 * rim + 0.04 * canvas.texture(body)
        canvas.paint(body, shade[..., None] * dye.stroma)
        lumen = body.shrunk(2.2 * diameter)
        if canvas.add_object(lumen, level=2, kind="lumen", parent=gland) >= 0:
            canvas.paint(lumen, np.minimum(dye.ground * 1.06, 1.0), softness=2.0)
        band = (body.field > 0.5 * diameter) & (body.field < 1.1 * diameter)
        _ring_of_nuclei(canvas, body, dye=dye, band=band, parent=gland, diameter=diameter)


def _ring_of_nuclei(
    canvas: Canvas, body: Patch, *, dye: _Dye, band: BoolMask, parent: int, diameter: float
) -> None:
    """Paint nuclei in a band (h, w) of a gland, hardly overlapping each other."""
    rng = canvas.rng
    rows, cols = np.nonzero(band)
    taken: list[tuple[float, float]] = []
    for pick in rng.integers(max(len(rows), 1), size=60 if len(rows) else 0):
        centre = (body.row0 + float(rows[pick]), body.col0 + float(cols[pick]))
        if any(np.hypot(centre[0] - row, centre[1] - col) < 0.95 * diameter for row, col in taken):
            continue
        taken.append(centre)
        patch = blob(
            rng,
            centre,
            diameter=varied(rng, diameter, spread=0.1),
            shape=canvas.shape,
            form=BlobForm(1.3, 0.04),
        )
        patch = None if patch is None else patch.inside(body, margin=1.0)
        if patch is not None and canvas.add_object(patch, level=3, kind="nucleus", parent=parent) >= 0:
            _stained_nucleus(canvas, patch, dye=dye)


def _seen_in_colour(canvas: Canvas) -> AnyArray:
    """Return what a colour camera sees of a section: blur that differs between colours, nearly even light."""
    rng = canvas.rng
    blurs = rng.uniform(0.4, 1.1) * rng.uniform(0.8, 1.3, 3)
    light = np.stack([blurred(canvas.light[..., band], blurs[band]) for band in range(3)], axis=-1)
    if rng.random() < 0.3:  # lateral chromatic aberration
        light[..., 2] = np.roll(light[..., 2], int(rng.choice([-1, 1])), axis=int(rng.integers(2)))
    field = illumination(canvas.shape, rng, strength=rng.uniform(0, 0.15))
    return expose(light * field[..., None], rng, camera=lamp(rng, colour=True))


def _ground_tissue(canvas: Canvas, hue: NDArray[np.float64], *, stain: str, diameter: float) -> None:
    """Add `hue` (3,) where there is stroma: clouds, grains and fibres; in smears next to none."""
    rng = canvas.rng
    cloud = 0.4 + 0.5 * canvas.smooth_noise(rng.uniform(2, 6) * diameter) + 0.2 * canvas.full_noise(beta=1.1)
    share = np.clip(cloud, 0, 1.3) * np.float32(
        rng.uniform(0.05, 0.3) if stain == "smear" else rng.uniform(0.4, 1.0)
    )
    if rng.random() < 0.7:
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(4, 14)
        streaks = canvas.fibrous(angle=angle, stretch=stretch, grain=rng.uniform(0.7, 1.8))
        share = share + np.float32(rng.uniform(0.05, 0.35)) * streaks
        if rng.random() < 0.4:  # fibres refract: light and dark flanks
            canvas.light += (0.05 * np.gradient(streaks, axis=0))[..., None]
    canvas.light += share[..., None] * hue.astype(np.float32)


def _stained_nucleus(canvas: Canvas, patch: Patch, *, dye: _Dye) -> None:
    """Paint a nucleus between pale (vesicular, with clumps and a dark rim) and solid dark."""
    pale = dye.paleness * canvas.rng.random()
    rim = np.exp(-np.maximum(patch.field, 0) / np.float32(2.0))
    clumps = canvas.texture(patch, beta=1.0)
    share = np.clip(1 - pale + (0.12 + 0.25 * pale) * clumps + pale * 0.7 * rim, 0.2, 1.2)[..., None]
    canvas.paint(patch, dye.stroma + share * (dye.dark - dye.stroma), softness=1.5)
