"""Scenes that light or electrons pass through: phase and relief contrast, bright field, EM."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import AnyArray, FloatArray

from .bodies import colonies, crowd, nucleoli, nucleus_in, place, places, varied
from .canvas import Canvas
from .optics import blurred, expose, halo, illumination, inverted, lamp, relief
from .shapes import BlobForm, Patch, blob, partition, scatter, tube, wandering_curve


class _Body(Protocol):
    """Lays one cell at a centre (row, col), in a group (-1 for none)."""

    def __call__(
        self, canvas: Canvas, centre: tuple[float, float], /, *, diameter: float, group: int
    ) -> None:
        """Add its thickness to the light and its masks to the objects."""


def _profile(patch: Patch, *, flat: float) -> FloatArray:
    """Return (h, w) thickness 0 to 1: domed, with a plateau from `flat` of the depth inwards."""
    depth = max(float(patch.field.max()), 1.0)
    ramp = np.clip(patch.field / (flat * depth), 0, 1)
    return np.asarray(np.sqrt(ramp * (2 - ramp)), dtype=np.float32)


def _raise(canvas: Canvas, patch: Patch, *, height: NDArray[np.floating]) -> None:
    """Lay a body's thickness over the canvas: where it lies it replaces what is under it."""
    inside = patch.field > 0
    canvas.light[patch.box] = np.where(inside, height, canvas.light[patch.box])


def _flat_cell(canvas: Canvas, centre: tuple[float, float], *, diameter: float, group: int) -> None:
    """Lay an adherent cell with nucleus and nucleoli."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.0, 2.4), rng.uniform(0.04, 0.13))
    body = blob(rng, centre, diameter=varied(rng, diameter, spread=0.2), shape=canvas.shape, form=form)
    cell = canvas.add_object(body, level=4, kind="cell", parent=group)
    if body is None or cell < 0:
        return
    height = _profile(body, flat=rng.uniform(0.3, 1.0)) * (1 + 0.12 * canvas.texture(body, beta=1.2))
    _raise(canvas, body, height=0.6 * height)
    if diameter < 20:
        return
    inner, nucleus = nucleus_in(canvas, body, parent=cell, diameter=0.4 * diameter, off=0.03 * diameter)
    if nucleus is None or inner < 0:
        return
    canvas.light[nucleus.box] += 0.35 * _profile(nucleus, flat=0.5)
    for at in places(canvas, nucleus, depth=0.4 * float(nucleus.field.max()), count=int(rng.integers(1, 3))):
        spot = blob(rng, at, diameter=max(4.4, 0.08 * diameter), shape=canvas.shape)
        spot = None if spot is None else spot.inside(nucleus, margin=1.5)
        if spot is not None and canvas.add_object(spot, level=1, kind="nucleolus", parent=inner) >= 0:
            canvas.light[spot.box] += 0.5 * spot.cover(2.0)


def _rod(canvas: Canvas, centre: tuple[float, float], *, diameter: float, group: int) -> None:
    """Lay a bacterium, a rod that may be bent."""
    rng = canvas.rng
    length = diameter * rng.uniform(0.9, 1.9)
    width = max(0.5 * diameter, 4.0) * rng.uniform(0.8, 1.1)
    curve = wandering_curve(rng, centre, length=max(length - width, 3), turn=rng.uniform(0, 1.0))
    body = tube(curve, width=width, shape=canvas.shape)
    if body is not None and canvas.add_object(body, level=4, kind="bacterium", parent=group) >= 0:
        _raise(canvas, body, height=0.8 * _profile(body, flat=0.8))


def _yeast(canvas: Canvas, centre: tuple[float, float], *, diameter: float, group: int) -> None:
    """Lay a yeast cell with a vacuole and sometimes a bud; mother and bud together are a cluster."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.0, 1.2), 0.02)
    mother = blob(rng, centre, diameter=varied(rng, diameter, spread=0.12), shape=canvas.shape, form=form)
    bud, pair = None, group
    if rng.random() < 0.4:
        size, angle = diameter * rng.uniform(0.4, 0.75), rng.uniform(0, 2 * np.pi)
        away = 0.5 * (diameter + size) * 0.97
        at = (centre[0] + away * np.sin(angle), centre[1] + away * np.cos(angle))
        bud = blob(rng, at, diameter=size, shape=canvas.shape, form=form)
    if mother is not None and bud is not None:
        pair = canvas.add_object(mother.united(bud), level=5, kind="budding yeast", parent=group)
    for body, kind in ((bud, "bud"), (mother, "yeast")):
        cell = canvas.add_object(body, level=4, kind=kind, parent=pair)
        if body is None or cell < 0:
            continue
        _raise(canvas, body, height=0.8 * _profile(body, flat=0.6))
        hole = blob(rng, centre, diameter=diameter * rng.uniform(0.3, 0.5), shape=canvas.shape)
        hole = None if hole is None or kind == "bud" else hole.inside(body, margin=2)
        if hole is not None and canvas.add_object(hole, level=2, kind="vacuole", parent=cell) >= 0:
            canvas.light[hole.box] -= 0.45 * hole.cover(1.5)


def _neuron(canvas: Canvas, centre: tuple[float, float], *, diameter: float, group: int) -> None:
    """Lay a neuron: a soma with a few long thin arms, all one cell, the soma with a nucleus."""
    rng = canvas.rng
    soma = blob(rng, centre, diameter=0.5 * diameter, shape=canvas.shape, form=BlobForm(1.3, 0.1))
    if soma is None:
        return
    whole = soma
    for _ in range(rng.integers(2, 5)):
        curve = wandering_curve(rng, centre, length=diameter * rng.uniform(0.7, 1.6), turn=1.5)
        width = np.linspace(max(0.16 * diameter, 3.0), 2.2, len(curve))
        arm = tube(curve, width=width, shape=canvas.shape)
        whole = whole if arm is None else whole.united(arm)
    cell = canvas.add_object(whole, level=4, kind="neuron", parent=group)
    if cell >= 0:
        _raise(canvas, whole, height=0.7 * _profile(whole, flat=0.5))
        nucleus = blob(rng, centre, diameter=0.27 * diameter, shape=canvas.shape)
        nucleus = None if nucleus is None else nucleus.inside(soma, margin=1.5)
        if nucleus is not None and canvas.add_object(nucleus, level=3, kind="nucleus", parent=cell) >= 0:
            canvas.light[nucleus.box] -= 0.35 * nucleus.cover(2.0)


_BODIES: dict[str, _Body] = {"cell": _flat_cell, "rod": _rod, "yeast": _yeast, "neuron": _neuron}


def phase(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint living cells by thickness and look at them in phase contrast (halos) or relief (shadows)."""
    rng = canvas.rng
    name = str(rng.choice(list(_BODIES), p=[0.4, 0.22, 0.2, 0.18]))
    points = crowd(
        canvas, diameter=diameter, crowding=rng.uniform(1.0, 1.9) * (1.5 if name == "neuron" else 1.0)
    )
    groups = np.full(len(points), -1)
    if name in ("rod", "yeast"):
        groups = colonies(canvas, points, reach=1.15 * diameter, gap=0.3 * diameter, kind="colony")
    for point, group in zip(points, groups, strict=True):
        _BODIES[name](canvas, place(point), diameter=diameter, group=int(group))
    thickness = canvas.light + 0.02 * canvas.full_noise(beta=1.4)
    body = float(np.clip(0.04 * diameter, 0.6, 2.5))
    if rng.random() < 0.55:
        ring = halo(thickness, near=0.4 * body, far=float(np.clip(0.3 * diameter, 3, 14)))
        light = 0.5 + rng.uniform(0.35, 0.7) * ring - rng.uniform(0.05, 0.3) * blurred(thickness, 0.5)
    else:
        slope = relief(thickness, angle=rng.uniform(0, 2 * np.pi), sigma=body)
        light = (
            0.45 + rng.uniform(0.5, 0.9) * slope * np.sqrt(body * 4) + rng.uniform(-0.12, 0.12) * thickness
        )
    light = light * illumination(canvas.shape, rng, strength=rng.uniform(0, 0.4))
    image = expose(light.astype(np.float32), rng, camera=lamp(rng))
    return inverted(image) if rng.random() < 0.05 else image


def brightfield(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint smears of flat grey cells with dark nuclei, or organoid shells, or yeast with dark rims."""
    rng = canvas.rng
    canvas.light[:] = 0.9
    if rng.random() < 0.6:
        _smear(canvas, diameter=diameter)
    else:
        rounds = _organoid if rng.random() < 0.6 else _refracting
        for point in crowd(canvas, diameter=diameter, crowding=rng.uniform(1.05, 1.8)):
            rounds(canvas, place(point), diameter=diameter)
    _specks(canvas)
    light = blurred(canvas.light + 0.012 * canvas.full_noise(beta=1.5), rng.uniform(0.4, 1.1))
    light = light * illumination(canvas.shape, rng, strength=rng.uniform(0, 0.25))
    return expose(light.astype(np.float32), rng, camera=lamp(rng))


def _smear(canvas: Canvas, *, diameter: float) -> None:
    """Paint translucent angular, creased cells, each with one dark nucleus of the given diameter."""
    rng = canvas.rng
    host = min(diameter * rng.uniform(3.5, 6.0), 0.75 * max(canvas.shape))
    creases = canvas.fibrous(angle=rng.uniform(0, np.pi), stretch=3.0, grain=rng.uniform(2, 5))
    tone, crease = rng.uniform(0.65, 0.85), rng.uniform(0, 0.15)
    for point in crowd(canvas, diameter=host, crowding=rng.uniform(0.8, 1.4)):
        form = BlobForm(rng.uniform(1.0, 1.5), rng.uniform(0.06, 0.13), lobes=9)
        body = blob(rng, place(point), diameter=varied(rng, host, spread=0.2), shape=canvas.shape, form=form)
        cell = canvas.add_object(body, level=4, kind="cell", is_clear=True)
        if body is None or cell < 0:
            continue
        folds = np.exp(-((creases[body.box] / np.float32(0.06)) ** 2)) * np.float32(crease)
        rim = np.exp(-np.maximum(body.field, 0) / 2)
        shade = (
            tone * rng.uniform(0.88, 1.12) * (1 + 0.06 * canvas.texture(body, beta=1.1) - 0.12 * rim - folds)
        )
        canvas.paint(body, canvas.light[body.box] * np.minimum(shade, 0.95))
        number, nucleus = nucleus_in(
            canvas, body, parent=cell, diameter=varied(rng, diameter, spread=0.15), off=0.06 * host
        )
        if nucleus is not None and number >= 0:
            canvas.paint(nucleus, rng.uniform(0.15, 0.4) * (1 + 0.2 * canvas.texture(nucleus)), softness=1.5)


def _specks(canvas: Canvas) -> None:
    """Paint a few dark grains of dirt that are nothing."""
    rng = canvas.rng
    for _ in range(rng.integers(0, 8)):
        centre = tuple(rng.uniform(0, 1, 2) * canvas.shape)
        grain = blob(rng, centre, diameter=rng.uniform(1.5, 4), shape=canvas.shape, form=BlobForm(1.6, 0.2))
        if grain is not None:
            canvas.paint(grain, rng.uniform(0.3, 0.7))


def _organoid(canvas: Canvas, centre: tuple[float, float], *, diameter: float) -> None:
    """Paint an organoid: a dark textured shell around a lighter lumen."""
    rng = canvas.rng
    body = blob(
        rng,
        centre,
        diameter=varied(rng, diameter, spread=0.2),
        shape=canvas.shape,
        form=BlobForm(1.15, 0.06),
    )
    whole = canvas.add_object(body, level=5, kind="organoid")
    if body is None or whole < 0:
        return
    shell = rng.uniform(0.25, 0.5) * max(float(body.field.max()), 3)
    canvas.paint(body, rng.uniform(0.35, 0.6) * (1 + 0.15 * canvas.texture(body, beta=1.0)))
    lumen = body.shrunk(shell)
    if canvas.add_object(lumen, level=2, kind="lumen", parent=whole) >= 0:
        canvas.paint(lumen, rng.uniform(0.68, 0.82) * (1 + 0.05 * canvas.texture(lumen)), softness=2.5)


def _refracting(canvas: Canvas, centre: tuple[float, float], *, diameter: float) -> None:
    """Paint a yeast-like cell with a dark rim and a bright middle."""
    rng = canvas.rng
    body = blob(
        rng,
        centre,
        diameter=varied(rng, diameter, spread=0.12),
        shape=canvas.shape,
        form=BlobForm(1.15, 0.02),
    )
    if body is None or canvas.add_object(body, level=4, kind="yeast") < 0:
        return
    wall = max(0.08 * diameter, 1.2)
    rim = np.exp(-(((body.field - wall) / wall) ** 2))
    canvas.paint(body, 0.78 + 0.12 * _profile(body, flat=1.0) - 0.5 * rim, softness=1.5)


def em(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint a stained section of packed cells with dark membranes, nuclei, mitochondria and vesicles."""
    rng = canvas.rng
    diameter = max(diameter, 24.0)
    points = scatter(rng, shape=canvas.shape, spacing=diameter, jitter=0.3)
    warp = np.stack([canvas.smooth_noise(0.5 * diameter) for _ in range(2)]) * np.float32(0.12 * diameter)
    weights = rng.normal(0, 0.15 * diameter, len(points))
    cut = partition(points, shape=canvas.shape, spacing=diameter, warp=warp, weights=weights)
    wall, has_nuclei = rng.uniform(1.0, 1.6), rng.random() < 0.4
    canvas.light[:] = rng.uniform(0.22, 0.4)
    grain, spread = rng.uniform(0.03, 0.07), rng.uniform(0.02, 0.1)
    for _, border in cut.patches():
        patch = border.shrunk(wall)
        cell = canvas.add_object(patch, level=4, kind="cell")
        canvas.paint(patch, 0.65 + rng.normal(0, spread) + grain * canvas.texture(patch, beta=0.5))
        if cell < 0:
            continue
        depth = float(patch.field.max())
        if has_nuclei and depth > 16 and rng.random() < 0.6:
            _em_nucleus(canvas, patch, parent=cell, diameter=1.1 * depth)
        else:
            _organelles(canvas, patch, parent=cell)
    light = canvas.light + 0.035 * canvas.full_noise(beta=0.5) + 0.03 * canvas.smooth_noise(50)
    image = expose(blurred(light, rng.uniform(0.3, 0.9)), rng, camera=lamp(rng))
    return inverted(image) if rng.random() < 0.15 else image


def _em_nucleus(canvas: Canvas, cell: Patch, *, parent: int, diameter: float) -> None:
    """Paint a nucleus with a dark envelope, clumped chromatin and a dense nucleolus."""
    rng = canvas.rng
    number, nucleus = nucleus_in(canvas, cell, parent=parent, diameter=diameter)
    if nucleus is None or number < 0:
        return
    clumps = np.tanh(2 * canvas.texture(nucleus, beta=1.4)) * np.float32(0.07)
    canvas.paint(nucleus, rng.uniform(0.5, 0.58) - clumps)
    nucleoli(canvas, nucleus, parent=number, value=0.3, most=1)
    canvas.light[nucleus.box] -= 0.25 * np.exp(-((nucleus.field / np.float32(1.2)) ** 2))


def _organelles(canvas: Canvas, cell: Patch, *, parent: int) -> None:
    """Paint dark mitochondria with cristae and clear vesicles into a cell profile."""
    rng = canvas.rng
    depth = float(cell.field.max())
    rows, cols = np.nonzero(cell.field > 0.4 * depth)
    for _ in range(rng.integers(0, 4)):
        pick = rng.integers(len(rows))
        centre = (float(cell.row0 + rows[pick]), float(cell.col0 + cols[pick]))
        is_vesicle = rng.random() < 0.4
        size = depth * (rng.uniform(0.15, 0.3) if is_vesicle else rng.uniform(0.45, 0.8))
        form = BlobForm(1.1 if is_vesicle else rng.uniform(1.2, 2.2), 0.04)
        body = blob(rng, centre, diameter=max(size, 4.5), shape=canvas.shape, form=form)
        body = None if body is None else body.inside(cell, margin=1.5)
        level, kind = (1, "vesicle") if is_vesicle else (2, "mitochondrion")
        if body is None or canvas.add_object(body, level=level, kind=kind, parent=parent) < 0:
            continue
        stripes = np.sin(canvas.texture(body, beta=2.0) * 9) * np.float32(0.08)
        inner = 0.85 if is_vesicle else 0.42 + stripes
        canvas.paint(body, inner)
        canvas.light[body.box] -= 0.3 * np.exp(-((body.field / np.float32(1.1)) ** 2))
