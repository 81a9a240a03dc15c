"""Scenes of branching things: neurons and glia with their trees, blood vessels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_segany.core.types import AnyArray

from .bodies import crowd, place, random_place, varied
from .canvas import Canvas
from .glowing import developed, haze
from .optics import blurred, expose, illumination, lamp
from .shapes import BlobForm, Line, Patch, blob, framed, strokes
from .trees import Bud, Ground, Habit, grown


@dataclass(frozen=True, slots=True)
class _Nerve:
    """What the neurons of one image share: their trees, arms, widths in px, beads, spines and light."""

    habit: Habit
    arms: tuple[int, int]
    width: float
    reach: float
    beads: float
    spines: float
    soma: float
    light: float
    has_nucleus: bool


def _some_nerve(rng: np.random.Generator, *, diameter: float) -> _Nerve:
    """Return how the neurons of one image look: a few long arms, or a star of many short ones (glia)."""
    is_glia = rng.random() < 0.3
    habit = Habit(
        turn=rng.uniform(0.4, 1.6),
        fork=rng.uniform(0.2, 0.6),
        sides=rng.uniform(0.2, 1.0),
        spread=rng.uniform(0.5, 1.0),
        taper=rng.uniform(0.6, 0.85),
        shrink=(0.4, 0.85),
        crossing=float(rng.choice([0.1, 0.6, 1.0])),
        most=7 if is_glia else 12,
    )
    return _Nerve(
        habit=habit,
        arms=(4, 7) if is_glia else (2, 6),
        width=float(np.clip(diameter * rng.uniform(0.02, 0.045), 1.4, 4.0)),
        reach=diameter * (rng.uniform(0.14, 0.22) if is_glia else rng.uniform(0.25, 0.45)),
        beads=rng.uniform(0.3, 0.8) if rng.random() < 0.3 else 0.0,
        spines=rng.uniform(0.04, 0.12) if not is_glia and diameter > 70 and rng.random() < 0.35 else 0.0,
        soma=float(np.clip(diameter * rng.uniform(0.1, 0.18), 6.0, 26.0)),
        light=rng.uniform(0.25, 0.6),
        has_nucleus=bool(rng.random() < 0.3),
    )


def neurites(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint stained neurons or glia: a soma and thin branching arms; `diameter` is what a cell spans."""
    rng = canvas.rng
    diameter = float(np.clip(diameter, 30, 160))
    nerve = _some_nerve(rng, diameter=diameter)
    haze(canvas, strength=rng.choice([0.0, 0.01, 0.03]))
    ground = Ground(canvas.shape)
    points = crowd(canvas, diameter=diameter, crowding=rng.uniform(0.6, 1.5))
    most = max(12 * canvas.shape[0] * canvas.shape[1] // 65536, 12)
    inside = ((points > 2) & (points < np.array(canvas.shape) - 3)).all(1)
    centres = [place(point) for point in points[inside][:most]] or [random_place(canvas)]
    for centre in centres:
        _neuron(canvas, centre, nerve=nerve, ground=ground)
    if rng.random() < 0.5:
        canvas.light += np.float32(rng.uniform(0.05, 0.3)) * blurred(canvas.light, rng.uniform(4, 9))
    return developed(canvas, blur=rng.uniform(0.4, 0.4 + 0.15 * nerve.width), invert=0.08)


def _neuron(canvas: Canvas, centre: tuple[float, float], *, nerve: _Nerve, ground: Ground) -> None:
    """Paint one neuron, translucent over others: the whole cell, its soma, sometimes a nucleus."""
    rng = canvas.rng
    form = BlobForm(rng.uniform(1.0, 1.9), rng.uniform(0.05, 0.12))
    soma = blob(rng, centre, diameter=varied(rng, nerve.soma, spread=0.15), shape=canvas.shape, form=form)
    lines = _arms(rng, centre, nerve=nerve, ground=ground)
    arms = strokes(lines, shape=canvas.shape)
    if soma is None or arms is None:
        return
    whole = arms.united(soma)
    cell = canvas.add_object(whole, level=4, kind="neuron", is_clear=True)
    body = canvas.add_object(soma, level=3, kind="soma", parent=cell)
    light = varied(rng, nerve.light, spread=0.25)
    rows, cols = np.ogrid[whole.box]
    fade = 1 / (1 + np.hypot(rows - centre[0], cols - centre[1]) / (4 * nerve.reach))
    shade = light * fade * (1 + 0.2 * canvas.texture(whole, beta=1.2))
    glow = np.maximum(shade, 0.3 * light).astype(np.float32)
    inner = framed(soma.cover(3.0), soma, whole)
    glow += inner * np.float32(light * rng.uniform(0.1, 1.0))
    canvas.glow(whole, glow)
    if nerve.has_nucleus and body >= 0 and nerve.soma > 11:
        nucleus = soma.shrunk(0.4 * float(soma.field.max()))
        if canvas.add_object(nucleus, level=3, kind="nucleus", parent=body, is_clear=True) >= 0:
            canvas.light[nucleus.box] *= 1 - 0.6 * nucleus.cover(2.0)


def _arms(
    rng: np.random.Generator, centre: tuple[float, float], *, nerve: _Nerve, ground: Ground
) -> list[Line]:
    """Return the trees of one neuron, with beads or spines where its kind has them."""
    count = int(rng.integers(*nerve.arms)) + 1
    first = rng.uniform(0, 2 * np.pi)
    lines: list[Line] = []
    for arm in range(count):
        angle = first + 2 * np.pi * (arm + rng.uniform(-0.3, 0.3)) / count
        length = nerve.reach * rng.uniform(0.6, 1.3) + 0.5 * nerve.soma
        width = min(nerve.width * rng.uniform(0.7, 1.2), 4.0)
        lines += grown(rng, Bud(centre, angle, width, length), habit=nerve.habit, ground=ground)
    if nerve.beads:
        lines = [_beaded(rng, line, strength=nerve.beads) for line in lines]
    if nerve.spines:
        lines = [_spiny(rng, line, density=nerve.spines) for line in lines]
    return lines


def _beaded(rng: np.random.Generator, line: Line, *, strength: float) -> Line:
    """Return a line with swellings every ten pixels or so, at most 4 px wide."""
    along = 2.1 * np.arange(len(line.points))
    wave = np.maximum(np.sin(2 * np.pi * along / rng.uniform(8, 16) + rng.uniform(0, 6.3)), 0) ** 4
    return Line(line.points, np.minimum(line.width * (1 + 2 * strength * wave), 4.0))


def _spiny(rng: np.random.Generator, line: Line, *, density: float) -> Line:
    """Return a line with short twigs, `density` per pixel, straight out on either side: there and back."""
    at = np.flatnonzero(rng.random(len(line.points) - 1) < 2.1 * density)
    heading = np.diff(line.points, axis=0)[at]
    out = heading[:, ::-1] / np.hypot(heading[:, :1], heading[:, 1:]) * rng.choice([-1, 1], (len(at), 1))
    length = line.width[at] / 2 + rng.uniform(1.5, 3.5, len(at))
    base = line.points[at]
    twigs = np.stack([base, base + out * (1, -1) * length[:, None], base], axis=1).reshape(-1, 2)
    thin = np.full(len(at), 1.4)
    widths = np.stack([thin, thin, line.width[at]], axis=1).ravel()
    after = np.repeat(at + 1, 3)
    return Line(np.insert(line.points, after, twigs, axis=0), np.insert(line.width, after, widths))


def vessels(canvas: Canvas, diameter: float) -> AnyArray:
    """Paint blood vessels, trees that taper, on uneven ground: a fundus in colour, or grey, dark or bright."""
    rng = canvas.rng
    style = str(rng.choice(["fundus", "dark", "bright"], p=[0.4, 0.3, 0.3]))
    diameter = float(np.clip(diameter, 40, 200))
    width = float(np.clip(diameter * rng.uniform(0.03, 0.07), 2.5, 9.5))
    crossing = float(rng.choice([0.0, 0.1, 0.4]))
    habit = Habit(
        turn=rng.uniform(0.2, 0.9),
        fork=rng.uniform(0.5, 0.95),
        sides=rng.uniform(0.3, 1.2),
        spread=rng.uniform(0.7, 1.2),
        taper=rng.uniform(0.75, 0.95),
        shrink=(0.6, 1.0),
        crossing=crossing,
        most=30,
    )
    disc = _disc(canvas) if style == "fundus" else None
    ground = Ground(canvas.shape)
    for start, angle in _roots(canvas, disc=disc):
        root = Bud(start, angle, width * rng.uniform(0.6, 1.0), diameter * rng.uniform(0.35, 0.7))
        lines = grown(rng, root, habit=habit, ground=ground)
        if sum(len(line.points) for line in lines) > 25:  # not the stub of one that met another at once
            _vessel(canvas, strokes(lines, shape=canvas.shape))
    if style == "fundus":
        return _fundus(canvas, disc)
    if style == "dark":
        return _dark_field(canvas)
    canvas.light *= np.float32(rng.uniform(0.5, 0.9))
    haze(canvas, strength=rng.uniform(0.005, 0.03))
    canvas.light += np.float32(rng.uniform(0.05, 0.3)) * blurred(canvas.light, rng.uniform(5, 15))
    return developed(canvas, blur=rng.uniform(0.4, 1.0), invert=0.1)


def _disc(canvas: Canvas) -> Patch | None:
    """Return the outline of a fundus's optic disc, mostly towards one side; it is in the image as a whole."""
    rng = canvas.rng
    size = min(canvas.shape) * rng.uniform(0.12, 0.22)
    centre = tuple(rng.uniform(0.7 * size, side - 0.7 * size) for side in canvas.shape)
    form = BlobForm(rng.uniform(1.0, 1.2), 0.02)
    return blob(rng, (centre[0], centre[1]), diameter=size, shape=canvas.shape, form=form, margin=0.3 * size)


def _roots(canvas: Canvas, *, disc: Patch | None) -> list[tuple[tuple[float, float], float]]:
    """Return where vessels enter, (row, col) and direction: around a disc, or from the image's borders."""
    rng, found = canvas.rng, []
    if disc is not None:
        rows, cols = np.nonzero(disc.mask)
        middle = disc.row0 + rows.mean(), disc.col0 + cols.mean()
        radius, first, count = 0.25 * np.sqrt(len(rows)), rng.uniform(0, 2 * np.pi), int(rng.integers(2, 6))
        for turn in range(count):
            angle = first + 2 * np.pi * (turn + rng.uniform(-0.25, 0.25)) / count
            start = middle[0] + radius * np.sin(angle), middle[1] + radius * np.cos(angle)
            found.append(((float(start[0]), float(start[1])), float(angle)))
        return found
    last = np.array(canvas.shape) - 1.0
    for _ in range(int(rng.integers(1, 5))):
        side, axis, share = rng.integers(2), int(rng.integers(2)), rng.uniform(0.1, 0.9)
        at = np.empty(2)
        at[axis], at[1 - axis] = side * last[axis], share * last[1 - axis]
        goal = last * rng.uniform(0.3, 0.7, 2) - at
        found.append((place(at), float(np.arctan2(goal[0], goal[1]))))
    return found


def _vessel(canvas: Canvas, tree: Patch | None) -> None:
    """Add the density of one tree to the light: what it absorbs or gives, more where it is thick."""
    if tree is None or canvas.add_object(tree, level=5, kind="vessel", is_clear=True) < 0:
        return
    strength = varied(canvas.rng, 0.6, spread=0.2)
    thick = 0.65 + 0.35 * np.clip(tree.field / 3, 0, 1) + 0.06 * canvas.texture(tree, beta=1.2)
    density = np.float32(strength) * thick * tree.cover()
    np.maximum(canvas.light[tree.box], density, out=canvas.light[tree.box])


def _fundus(canvas: Canvas, disc: Patch | None) -> AnyArray:
    """Return the colour image of vessels that absorb green and blue light before an uneven orange ground."""
    rng, shape = canvas.rng, canvas.shape
    hue = np.array([0.78, 0.38, 0.17]) * rng.uniform(0.8, 1.15, 3)
    ground = 1 + 0.08 * canvas.smooth_noise(0.3 * min(shape)) + rng.uniform(0.01, 0.05) * canvas.full_noise()
    ground = ground * illumination(shape, rng, strength=rng.uniform(0.2, 0.8))
    light = np.maximum(ground, 0.1)[..., None] * hue.astype(np.float32)
    if disc is not None:
        size = 2 * float(disc.field.max())
        bright = np.array([1.0, 0.8, 0.5], dtype=np.float32)
        light[disc.box] += 0.8 * disc.cover(0.25 * size)[..., None] * (bright - light[disc.box])
    spot = blob(rng, random_place(canvas), diameter=0.3 * min(shape), shape=shape, margin=0.15 * min(shape))
    if spot is not None and rng.random() < 0.6:
        light[spot.box] *= 1 - 0.35 * spot.cover(0.25 * min(shape))[..., None]
    taken = np.array([0.55, 1.4, 1.1]) * rng.uniform(0.8, 1.2)
    light *= np.exp(-canvas.light[..., None] * taken.astype(np.float32))
    image = expose(blurred(light, rng.uniform(0.4, 1.0)), rng, camera=lamp(rng, colour=True))
    return image


def _dark_field(canvas: Canvas) -> AnyArray:
    """Return the grey image of vessels that absorb light before an uneven bright ground."""
    rng, shape = canvas.rng, canvas.shape
    ground = 0.75 * (1 + 0.07 * canvas.smooth_noise(40) + rng.uniform(0.01, 0.06) * canvas.full_noise())
    light = ground * illumination(shape, rng, strength=rng.uniform(0.2, 0.8))
    light = light * np.exp(-rng.uniform(0.7, 1.8) * canvas.light)
    return expose(blurred(light.astype(np.float32), rng.uniform(0.4, 1.1)), rng, camera=lamp(rng))
