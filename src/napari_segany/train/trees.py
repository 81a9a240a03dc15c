"""Trees that grow over an image as neurites and vessels do: branches that fork, taper and give way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import BoolMask

from .bodies import place
from .shapes import Line, wandering_curve

_PLOT = 5  # pixels, the cells of the map of ground that is taken
THINNEST = 1.0


@dataclass(frozen=True, slots=True)
class Habit:
    """How trees branch.

    `turn` radians along a branch; `fork` the chance that its end splits; `sides` branches along it on average;
    `spread` their angle; `taper` end width by start width; `shrink` the range of a branch's length by that of
    the one that it comes from; `crossing` the chance that one passes over another instead of ending there.
    """

    turn: float
    fork: float
    sides: float
    spread: float
    taper: float
    shrink: tuple[float, float]
    crossing: float
    most: int


@dataclass(frozen=True, slots=True)
class Bud:
    """Where a branch starts (row, col), in which direction, how wide and how long in pixels."""

    start: tuple[float, float]
    angle: float
    width: float
    length: float


class Ground:
    """Which parts of an image branches have taken, on a grid of `_PLOT` pixels."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._taken: BoolMask = np.zeros((shape[0] // _PLOT + 1, shape[1] // _PLOT + 1), dtype=bool)

    def free(self, points: NDArray[np.float64], *, skip: float, crossing: bool) -> NDArray[np.float64]:
        """Return the (N, 2) points of a curve up to where it leaves the image or, if not `crossing`, free ground.

        Its first `skip` pixels are free. The first point out of the image is kept, so that the curve leaves it.
        """
        out = ~((points >= 0) & (points <= np.array(self.shape) - 1)).all(1)
        if out.any():
            points = points[: int(np.argmax(out)) + 1]
        if crossing:
            return points
        plots = self._plots(points)
        hits = self._taken[plots[:, 0], plots[:, 1]] & (np.hypot(*(points - points[0]).T) > skip)
        return points[: max(int(np.argmax(hits)) - 1, 0)] if hits.any() else points

    def take(self, points: NDArray[np.float64]) -> None:
        """Mark what a branch along (N, 2) points takes."""
        plots = self._plots(points)
        self._taken[plots[:, 0], plots[:, 1]] = True

    def _plots(self, points: NDArray[np.float64]) -> NDArray[np.int_]:
        """Return the (N, 2) cells of the map that points lie in, the nearest of those outside."""
        return np.clip(points / _PLOT, 0, np.array(self._taken.shape) - 1).astype(int)


def grown(rng: np.random.Generator, root: Bud, *, habit: Habit, ground: Ground) -> list[Line]:
    """Return the branches that grow from a root, each connected to the one that it comes from."""
    lines: list[Line] = []
    buds = deque([root])
    while buds and len(lines) < habit.most:
        bud = buds.popleft()
        curve = wandering_curve(rng, bud.start, length=bud.length, turn=habit.turn, angle=bud.angle)[2::3]
        curve = np.concatenate([[bud.start], curve])
        free = ground.free(curve, skip=2 * _PLOT + bud.width, crossing=rng.random() < habit.crossing)
        if len(free) < 4:
            continue
        is_inside = ((free[-1] >= 0) & (free[-1] <= np.array(ground.shape) - 1)).all()
        if is_inside and len(free) < len(curve):  # it gives way to another
            width = np.linspace(bud.width, THINNEST, len(free))
        else:
            last = max(bud.width * habit.taper, THINNEST)
            width = np.linspace(bud.width, last, len(curve))[: len(free)]
        line = Line(free, width)
        lines.append(line)
        ground.take(free)
        buds.extend(_forks(rng, line, length=bud.length, habit=habit, is_whole=len(free) == len(curve)))
    return lines


def _forks(rng: np.random.Generator, line: Line, *, length: float, habit: Habit, is_whole: bool) -> list[Bud]:
    """Return where the next branches start: two at the end of a whole branch, some along it."""
    buds = []
    heading = np.diff(line.points, axis=0)
    side = float(rng.choice([-1, 1]))
    for _ in range(rng.poisson(habit.sides)):
        at, side = int(rng.integers(len(line.points) // 5, len(line.points))), -side
        turn = side * habit.spread * rng.uniform(0.9, 1.8)
        buds.append((at, turn, max(line.width[at] * rng.uniform(0.45, 0.75), THINNEST)))
    if is_whole and line.width[-1] > 1.1:
        share = rng.uniform(0.3, 0.7)  # of the flow: widths by Murray's law
        split = rng.random() < habit.fork
        turns = (habit.spread * (1 - share), -habit.spread * share) if split else (rng.normal(0, 0.2),)
        for turn, part in zip(turns, (share, 1 - share), strict=False):
            width = line.width[-1] * (part ** (1 / 3) if split else 1.0)
            buds.append((len(line.points) - 1, turn * rng.uniform(0.7, 1.3), max(width, THINNEST)))
    found = []
    for at, turn, width in buds:
        longer = length * rng.uniform(*habit.shrink)
        if longer > 8:
            found.append(
                Bud(
                    place(line.points[at]),
                    float(np.arctan2(*heading[min(at, len(heading) - 1)])) + turn,
                    float(width),
                    longer,
                )
            )
    return found
