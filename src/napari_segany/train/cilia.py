"""Scenes of cells with thin processes: flagella, cilia, filopodia; and bacteria that are threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_segany.core.types import AnyArray

from .bodies import crowd, nucleus_in, place, varied
from .canvas import Canvas
from .glowing import developed, haze
from .optics import blurred, expose, halo, illumination, inverted, lamp, relief
from .shapes import BlobForm, Line, Patch, blob, framed, strokes


@dataclass(frozen=True, slots=True)
class _Creature:
    """One cell with thin processes: `body` (None for a bare thread), `threads` each with its kind."""

    body: Patch | None
    threads: tuple[Patch, ...]
    kind: str
    thread_kind: str

    def whole(self) -> Patch | None:
        """Return the outline of everything together."""
        parts = [part for part in (self.body, *self.threads) if part is not None]
        if not parts:
            return None
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.united(part)
        return whole


def _waving(
    rng: np.random.Generator,
    start: tuple[float, float],
    *,
    angle: float,
    length: float,
    width: tuple[float, float],
    swing: float = 0.0,
    waves: float = 1.0,
    bend: float = 0.0,
) -> Line:
    """Return a line from a start: bent by `bend` radians, waving by `swing`, tapering from width to width."""
    share = np.linspace(0, 1, max(int(length / 1.2), 4))
    wave = swing * np.sin(2 * np.pi * waves * share + rng.uniform(0, 2 * np.pi)) * np.minimum(4 * share, 1)
    heading = angle + bend * share + wave
    step = length / (len(share) - 1)
    moves = step * np.stack([np.sin(heading), np.cos(heading)], axis=1)
    points = np.asarray(start) + np.concatenate([np.zeros((1, 2)), np.cumsum(moves[1:], axis=0)])
    return Line(points, np.linspace(*width, len(points)))


def _rim(body: Patch, centre: tuple[float, float], *, angle: float) -> tuple[float, float]:
    """Return the outermost place (row, col) of a body on the ray from its centre, a pixel inside."""
    away = np.arange(0, sum(body.field.shape), 0.5)
    rows, cols = centre[0] + away * np.sin(angle), centre[1] + away * np.cos(angle)
    at = np.rint(np.stack([rows - body.row0, cols - body.col0])).astype(int)
    within = (at >= 0).all(0) & (at < np.array(body.field.shape)[:, None]).all(0)
    at = np.where(within, at, 0)
    hit = np.flatnonzero(within & (body.field[at[0], at[1]] > 1))
    last = int(hit[-1]) if len(hit) else 0
    return float(rows[last]), float(cols[last])


def _flagellate(canvas: Canvas, centre: tuple[float, float], diameter: float) -> _Creature:
    """Return an oval cell with one to four long waving flagella at one pole."""
    rng = canvas.rng
    size, angle = max(diameter * rng.uniform(0.22, 0.35), 5.0), rng.uniform(0, 2 * np.pi)
    form = BlobForm(rng.uniform(1.2, 2.4), 0.03)
    body = blob(rng, centre, diameter=size, shape=canvas.shape, form=form, angle=angle)
    threads = []
    for _ in range(int(rng.choice([1, 1, 2, 2, 4]))):
        way = angle + rng.normal(0, 0.25)
        start = centre if body is None else _rim(body, centre, angle=way)
        line = _waving(
            rng,
            start,
            angle=way,
            length=diameter * rng.uniform(0.6, 1.3),
            width=(float(np.clip(0.04 * diameter, 1.3, 2.4)), 1.0),
            swing=rng.uniform(0.3, 1.0),
            waves=rng.uniform(0.8, 2.5),
            bend=rng.normal(0, 0.6),
        )
        threads.append(strokes([line], shape=canvas.shape))
    return _Creature(body, tuple(t for t in threads if t is not None), "cell", "flagellum")


def _ciliate(canvas: Canvas, centre: tuple[float, float], diameter: float) -> _Creature:
    """Return a round or columnar cell with a fringe of short cilia along part of its rim or all of it."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.0, 1.8), rng.uniform(0.03, 0.08))
    body = blob(rng, centre, diameter=0.6 * diameter, shape=canvas.shape, form=form)
    if body is None:
        return _Creature(None, (), "cell", "cilia")
    middle, width = rng.uniform(0, 2 * np.pi), float(rng.choice([0.6, 1.2, np.pi]))
    count = int(np.clip(width * diameter * rng.uniform(0.12, 0.25), 6, 60))
    beat, length = rng.normal(0, 0.5), diameter * rng.uniform(0.14, 0.28)
    lines = []
    for share in np.linspace(-1, 1, count):
        angle = middle + share * width + rng.normal(0, 0.03)
        start = _rim(body, centre, angle=angle)
        long = max(length * rng.uniform(0.75, 1.2), 4.0)
        way = angle + rng.normal(0, 0.1)
        lines.append(_waving(rng, start, angle=way, length=long, width=(1.5, 1.0), bend=beat))
    fringe = strokes(lines, shape=canvas.shape)
    return _Creature(body, () if fringe is None else (fringe,), "cell", "cilia")


def _filopodial(canvas: Canvas, centre: tuple[float, float], diameter: float) -> _Creature:
    """Return a spread, ragged cell with thin straight protrusions all around."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.0, 1.8), rng.uniform(0.1, 0.2), lobes=7)
    body = blob(rng, centre, diameter=0.55 * diameter, shape=canvas.shape, form=form)
    if body is None:
        return _Creature(None, (), "cell", "filopodium")
    threads = []
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(6, 18))):
        length = max(diameter * rng.uniform(0.12, 0.4), 4.0)
        width = (float(np.clip(0.035 * diameter, 1.6, 3.0)), 1.0)
        way, bend = angle + rng.normal(0, 0.2), rng.normal(0, 0.3)
        start = _rim(body, centre, angle=angle)
        line = _waving(rng, start, angle=way, length=length, width=width, bend=bend)
        threads.append(strokes([line], shape=canvas.shape))
    return _Creature(body, tuple(t for t in threads if t is not None), "cell", "filopodium")


def _thread(canvas: Canvas, centre: tuple[float, float], diameter: float) -> _Creature:
    """Return a long thin bacterium, helical, wavy or straight."""
    rng = canvas.rng
    thick = float(np.clip(diameter * rng.uniform(0.025, 0.06), 1.6, 4.0))
    line = _waving(
        rng,
        centre,
        angle=rng.uniform(0, 2 * np.pi),
        length=diameter * rng.uniform(0.7, 1.6),
        width=(thick, thick),
        swing=float(rng.choice([0.0, 0.5, 1.0])) * rng.uniform(0.7, 1.2),
        waves=rng.uniform(1.5, 6),
        bend=rng.normal(0, 0.8),
    )
    body = strokes([line], shape=canvas.shape)
    return _Creature(None, () if body is None else (body,), "bacterium", "")


_CREATURES = {"flagellate": _flagellate, "ciliate": _ciliate, "filopodia": _filopodial, "thread": _thread}


def cilia(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint cells with flagella, cilia or filopodia, or thread-like bacteria, shining or in relief or phase."""
    rng = canvas.rng
    diameter = float(np.clip(diameter, 18, 140))
    name = str(rng.choice(list(_CREATURES), p=[0.3, 0.22, 0.26, 0.22]))
    view = str(rng.choice(["glow", "relief", "phase"], p=[0.45, 0.3, 0.25]))
    for point in crowd(canvas, diameter=diameter, crowding=rng.uniform(0.9, 1.7))[:40]:
        creature = _CREATURES[name](canvas, place(point), varied(rng, diameter, spread=0.12))
        _lay(canvas, creature, is_clear=view == "glow")
    if view == "glow":
        haze(canvas, strength=rng.choice([0.0, 0.01, 0.03]))
        return developed(canvas, blur=rng.uniform(0.4, 0.8), invert=0.06)
    thickness = canvas.light + 0.01 * canvas.full_noise(beta=1.4)
    if view == "phase":
        ring = halo(thickness, near=0.4, far=float(np.clip(0.1 * diameter, 3, 8)))
        light = 0.5 + rng.uniform(0.5, 0.8) * ring - rng.uniform(0.05, 0.25) * blurred(thickness, 0.5)
    else:
        slope = relief(thickness, angle=rng.uniform(0, 2 * np.pi), sigma=rng.uniform(0.5, 0.8))
        light = 0.45 + rng.uniform(0.6, 1.0) * slope - rng.uniform(0.05, 0.2) * blurred(thickness, 0.5)
    light = light * illumination(canvas.shape, rng, strength=rng.uniform(0, 0.4))
    image = expose(light.astype(np.float32), rng, camera=lamp(rng))
    return inverted(image) if rng.random() < 0.05 else image


def _lay(canvas: Canvas, creature: _Creature, *, is_clear: bool) -> None:
    """Register a cell and its parts and add its light; one that is not clear replaces what is under it."""
    rng, whole, body = canvas.rng, creature.whole(), creature.body
    cell = canvas.add_object(whole, level=4, kind=creature.kind, is_clear=is_clear)
    if whole is None or cell < 0:
        return
    light = varied(rng, 0.5, spread=0.2)
    field = np.where(whole.field > -1, light * (1 + 0.1 * canvas.texture(whole, beta=1.2)), 0)
    if body is not None:
        depth = np.clip(body.field / (0.5 * max(float(body.field.max()), 1.0)), 0, 1)
        inner = framed(np.sqrt(depth).astype(np.float32), body, whole)
        field = field * (1 + rng.uniform(-0.5, 0.6) * inner)
    if is_clear:
        canvas.glow(whole, field.astype(np.float32))
    else:
        canvas.paint(whole, field.astype(np.float32))
    for thread in creature.threads if body is not None else ():
        part = Patch(thread.row0, thread.col0, thread.field)
        canvas.add_object(part, level=2, kind=creature.thread_kind, parent=cell)
    if body is not None and body.field.max() > 7 and rng.random() < 0.7:
        inner_number, nucleus = nucleus_in(canvas, body, parent=cell, diameter=0.7 * float(body.field.max()))
        if nucleus is not None and inner_number >= 0:
            canvas.light[nucleus.box] *= 1 + rng.choice([-0.5, 0.5]) * nucleus.cover(2.0)
