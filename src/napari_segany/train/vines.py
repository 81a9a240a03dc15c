"""Tubes that grow through a block of planes, fork and taper; and the discs that a plane cuts out of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .shapes import Patch


@dataclass(frozen=True, slots=True, eq=False)
class Vine:
    """One branching tube: `points` (N, 3) as (plane, row, col), `radius` (N,) in pixels."""

    number: int
    points: NDArray[np.float64]
    radius: NDArray[np.float64]
    light: float


def some_vines(
    rng: np.random.Generator, *, room: tuple[int, int, int], width: float, step: float
) -> list[Vine]:
    """Return 3 to 12 branching tubes of a typical width in a block of (planes, rows, cols) `step` pixels apart."""
    size = np.array(room, dtype=np.float64)
    span = float(np.hypot(size[1], size[2]))
    contrast, steep = rng.uniform(0.05, 0.4), rng.uniform(0.3, 2.5)
    found = []
    for number in range(1, int(rng.integers(3, 13)) + 1):
        start = rng.uniform(0.15 * size, 0.85 * size) if number <= 3 else rng.uniform(0 * size, size)
        start = start * [step, 1, 1]
        heading = _direction(rng, steep=steep)
        radius = 0.5 * width * float(np.exp(rng.normal(0, 0.2)))
        parts = _branches(
            rng, start, heading, radius=radius, length=span * rng.uniform(0.4, 1.0), steep=steep
        )
        points = np.concatenate([curve for curve, _ in parts]) / [step, 1, 1]
        light = 0.5 * float(np.exp(rng.normal(0, contrast)))
        found.append(Vine(number, points, np.concatenate([radii for _, radii in parts]), light))
    return found


def _direction(rng: np.random.Generator, *, steep: float) -> NDArray[np.float64]:
    """Return a random unit vector (depth, row, col), deep in proportion to `steep`."""
    vector = rng.normal(size=3) * [steep, 1, 1]
    unit: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return unit


def _branches(
    rng: np.random.Generator,
    start: NDArray[np.float64],
    heading: NDArray[np.float64],
    *,
    radius: float,
    length: float,
    steep: float,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return curves (N, 3) in pixels with their radii: a stem that runs both ways, and forks off it."""
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    buds = [(start, heading, radius, length), (start, -heading, radius, 0.5 * length)]
    while buds and len(parts) < 5:
        at, way, thick, reach = buds.pop(0)
        gap = max(0.4 * thick, 1.0)
        count = max(int(reach / gap), 3)
        bend = ndimage.gaussian_filter1d(rng.normal(size=(count, 3)), 6.0, axis=0, mode="nearest")
        ways = way + np.cumsum(bend * [min(steep, 1.0), 1, 1], axis=0) * 0.12
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        curve = at + np.cumsum(ways * gap, axis=0)
        radii = np.linspace(thick, max(0.65 * thick, 2.0), count)
        parts.append((curve, radii))
        for _ in range(int(rng.integers(0, 2))):
            fork = int(rng.integers(count // 3, count))
            side = ways[fork] + 1.1 * _direction(rng, steep=steep)
            side /= max(float(np.linalg.norm(side)), 1e-9)
            buds.append((curve[fork], side, max(0.75 * float(radii[fork]), 2.0), 0.6 * reach))
    return parts


def cross_section(vine: Vine, *, plane: int, step: float, shape: tuple[int, int]) -> Patch | None:
    """Return what a plane cuts out of a tube, possibly in several pieces; None where it misses it."""
    away = (vine.points[:, 0] - plane) * step
    inside = vine.radius**2 - away**2
    near = inside > 0.25
    centres, radii = vine.points[near, 1:], np.sqrt(inside[near])
    reach = radii + 2.5
    seen = ((centres + reach[:, None] > 0) & (centres - reach[:, None] < np.array(shape) - 1)).all(1)
    if not seen.any():
        return None
    centres, radii, reach = centres[seen], radii[seen], reach[seen]
    low = np.maximum(np.floor((centres - reach[:, None]).min(0)), 0).astype(int)
    high = np.minimum(np.ceil((centres + reach[:, None]).max(0)) + 1, shape).astype(int)
    field = np.full(tuple(high - low), -3, dtype=np.float32)
    for (row, col), radius, size in zip(centres - low, radii, reach, strict=True):
        rows = slice(max(int(row - size), 0), max(int(row + size) + 2, 0))
        cols = slice(max(int(col - size), 0), max(int(col + size) + 2, 0))
        part = field[rows, cols]
        if part.size:
            down = np.arange(rows.start, rows.start + part.shape[0], dtype=np.float32)[:, None] - np.float32(
                row
            )
            right = np.arange(cols.start, cols.start + part.shape[1], dtype=np.float32)[None] - np.float32(
                col
            )
            np.maximum(part, np.float32(radius) - np.sqrt(down * down + right * right), out=part)
    return Patch(int(low[0]), int(low[1]), field)
