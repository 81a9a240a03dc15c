"""Outlines for procedural scenes: signed fields in boxes (blobs, tubes, partitions) and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.types import BoolMask, FloatArray

_TABLE = 1024  # samples of a polar outline


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """An outline inside an image: `field` (h, w) is about the distance to the edge in pixels, > 0 inside.

    `row0`, `col0` is where the field's first pixel lies in the image.
    """

    row0: int
    col0: int
    field: FloatArray

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns that the field covers in the image."""
        height, width = self.field.shape
        return slice(self.row0, self.row0 + height), slice(self.col0, self.col0 + width)

    @property
    def mask(self) -> BoolMask:
        """(h, w), True inside."""
        inside: BoolMask = self.field > 0
        return inside

    def cover(self, softness: float = 1.0) -> FloatArray:
        """Return (h, w) coverage, 0 to 1, one half on the edge, rising over `softness` pixels."""
        return np.asarray(
            np.clip(self.field / np.float32(softness) + np.float32(0.5), 0, 1), dtype=np.float32
        )

    def shrunk(self, margin: float) -> Patch:
        """Return the outline moved inwards by `margin` pixels (outwards where negative)."""
        return Patch(self.row0, self.col0, self.field - np.float32(margin))

    def inside(self, other: Patch, *, margin: float = 0.0) -> Patch | None:
        """Return the part that lies in `other` shrunk by `margin` pixels, or None if nothing does."""
        rows, cols = self.box
        other_rows, other_cols = other.box
        row0, row1 = max(rows.start, other_rows.start), min(rows.stop, other_rows.stop)
        col0, col1 = max(cols.start, other_cols.start), min(cols.stop, other_cols.stop)
        if row1 <= row0 or col1 <= col0:
            return None
        mine = self.field[row0 - self.row0 : row1 - self.row0, col0 - self.col0 : col1 - self.col0]
        theirs = other.field[row0 - other.row0 : row1 - other.row0, col0 - other.col0 : col1 - other.col0]
        field = np.minimum(mine, theirs - np.float32(margin))
        return Patch(row0, col0, field) if field.max() > 0 else None

    def united(self, other: Patch) -> Patch:
        """Return the outline of this shape and another together."""
        rows, cols = (
            tuple(zip((mine.start, mine.stop), (theirs.start, theirs.stop), strict=True))
            for mine, theirs in zip(self.box, other.box, strict=True)
        )
        row0, col0 = min(rows[0]), min(cols[0])
        field = np.full((max(rows[1]) - row0, max(cols[1]) - col0), -3, dtype=np.float32)
        for patch in (self, other):
            part = field[patch.row0 - row0 :, patch.col0 - col0 :][
                : patch.field.shape[0], : patch.field.shape[1]
            ]
            np.maximum(part, patch.field, out=part)
        return Patch(row0, col0, field)


def framed(values: FloatArray, patch: Patch, frame: Patch) -> FloatArray:
    """Return values (h, w) of a patch in the box of a larger one, the frame, that holds it; 0 elsewhere."""
    result = np.zeros_like(frame.field)
    row, col = patch.row0 - frame.row0, patch.col0 - frame.col0
    result[row : row + values.shape[0], col : col + values.shape[1]] = values
    return result


@dataclass(frozen=True, slots=True)
class BlobForm:
    """How blobs vary: `aspect` long by short side, `roughness` as a share of the radius, `bend`, `lobes`."""

    aspect: float = 1.3
    roughness: float = 0.05
    bend: float = 0.0
    lobes: int = 5


def _clipped_box(
    low: NDArray[np.float64], high: NDArray[np.float64], *, shape: tuple[int, int]
) -> tuple[int, ...] | None:
    """Return (row0, row1, col0, col1) clipped to the image, or None outside it."""
    first = np.maximum(np.floor(low).astype(int), 0)
    last = np.minimum(np.ceil(high).astype(int) + 1, shape)
    if (last - first).min() < 1:
        return None
    return int(first[0]), int(last[0]), int(first[1]), int(last[1])


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    *,
    diameter: float,
    shape: tuple[int, int],
    form: BlobForm = BlobForm(),
    angle: float | None = None,
    margin: float = 2.5,
) -> Patch | None:
    """Return a round, bent or lobed outline around `centre` (row, col), clipped to the image `shape`.

    The field reaches `margin` pixels beyond the edge: at least half the softness that it is painted with.
    """
    angle = rng.uniform(0, np.pi) if angle is None else angle
    order = np.arange(2, 2 + form.lobes)
    size = form.roughness * rng.normal(size=form.lobes) / (order - 1.0) ** 1.2
    phase = rng.uniform(0, 2 * np.pi, form.lobes)
    waves = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    waves[order] = size * np.exp(1j * phase) * (_TABLE / 2)
    table = np.maximum(1 + np.fft.irfft(waves, _TABLE), 0.35).astype(np.float32)
    long, short = diameter / 2 * np.sqrt(form.aspect), diameter / 2 / np.sqrt(form.aspect)
    reach = long * (float(table.max()) + abs(form.bend)) + margin
    middle = np.asarray(centre)
    box = _clipped_box(middle - reach, middle + reach, shape=shape)
    if box is None:
        return None
    rows = np.arange(box[0], box[1], dtype=np.float32)[:, None] - np.float32(centre[0])
    cols = np.arange(box[2], box[3], dtype=np.float32)[None, :] - np.float32(centre[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = cols * cosine + rows * sine, rows * cosine - cols * sine
    if form.bend:
        across = across - np.float32(form.bend * short) * ((along / np.float32(long)) ** 2 - np.float32(0.5))
    u, v = along / np.float32(long), across / np.float32(short)
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    index = (np.arctan2(v, u) * np.float32(_TABLE / (2 * np.pi))).astype(np.int32) % _TABLE
    slope = np.maximum(np.hypot(u / np.float32(long), v / np.float32(short)) / rho, np.float32(1 / long))
    return Patch(box[0], box[2], ((table[index] - rho) / slope).astype(np.float32))


def tube(
    points: NDArray[np.float64], *, width: float | NDArray[np.float64], shape: tuple[int, int]
) -> Patch | None:
    """Return the outline of a line of `width` pixels along a curve `points` (N, 2) as (row, col).

    `width` may be one number or (N,); neighbours on the curve should lie less than a pixel apart.
    """
    half = np.broadcast_to(np.asarray(width, dtype=np.float32) / 2, (len(points),))
    reach = float(half.max()) + 2.5
    box = _clipped_box(points.min(0) - reach, points.max(0) + reach, shape=shape)
    if box is None:
        return None
    pad = int(reach) + 1
    origin = np.array([box[0] - pad, box[2] - pad])
    height, width_px = box[1] - box[0] + 2 * pad, box[3] - box[2] + 2 * pad
    at = np.rint(points - origin).astype(int)
    ok = (at >= 0).all(1) & (at < (height, width_px)).all(1)
    if not ok.any():
        return None
    at, local, half = at[ok], (points - origin)[ok].astype(np.float32), half[ok]
    which = np.full((height, width_px), -1, dtype=np.int32)
    which[at[:, 0], at[:, 1]] = np.arange(len(at))
    nearest = ndimage.distance_transform_edt(which < 0, return_distances=False, return_indices=True)
    sample = which[nearest[0], nearest[1]][pad:-pad, pad:-pad]
    rows = np.arange(pad, height - pad, dtype=np.float32)[:, None] - local[sample, 0]
    cols = np.arange(pad, width_px - pad, dtype=np.float32)[None, :] - local[sample, 1]
    return Patch(box[0], box[2], (half[sample] - np.hypot(rows, cols)).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A curve `points` (N, 2) as (row, col) of `width` (N,) pixels."""

    points: NDArray[np.float64]
    width: NDArray[np.float64]


def strokes(lines: Sequence[Line], *, shape: tuple[int, int]) -> Patch | None:
    """Return the outline of lines together, exact down to one pixel of width and where wide meets thin.

    The field ends 2 pixels beyond the edge.
    """
    first = np.concatenate([line.points[:-1] for line in lines] or [np.zeros((0, 2))])
    step = np.concatenate([np.diff(line.points, axis=0) for line in lines] or [np.zeros((0, 2))])
    half = np.concatenate([line.width[:-1] for line in lines] or [np.zeros(0)]) / 2
    reach = np.ceil(half + 2 + np.hypot(step[:, 0], step[:, 1]) / 2).astype(int)
    near = ((first > -reach[:, None] - 1) & (first < np.array(shape) + reach[:, None] + 1)).all(1)
    first, step, half, reach = first[near], step[near], half[near], reach[near]
    if not len(first):
        return None
    box = _clipped_box((first - reach[:, None]).min(0), (first + reach[:, None]).max(0), shape=shape)
    if box is None:
        return None
    field = np.full((box[1] - box[0], box[3] - box[2]), -2, dtype=np.float32)
    first = first - (box[0], box[2])
    for size in np.unique(reach):
        some = reach == size
        _stamp(field, first[some], step[some], half=half[some], reach=int(size))
    return Patch(box[0], box[2], field)


def _stamp(
    field: FloatArray,
    first: NDArray[np.float64],
    step: NDArray[np.float64],
    *,
    half: NDArray[np.float64],
    reach: int,
) -> None:
    """Raise a field (h, w) to the distance inside straight pieces from `first` (N, 2), each `step` (N, 2) long."""
    nearest = np.rint(first + step / 2).astype(np.int64)
    ok = ((nearest > -reach - 1) & (nearest < np.array(field.shape) + reach)).all(1)
    nearest, first, step, half = nearest[ok], first[ok] - nearest[ok], step[ok], half[ok]
    square = np.arange(-reach, reach + 1)
    rows, cols = (axis.ravel() for axis in np.meshgrid(square, square, indexing="ij"))
    away_rows = rows.astype(np.float32) - first[:, :1].astype(np.float32)  # (N, S)
    away_cols = cols.astype(np.float32) - first[:, 1:].astype(np.float32)
    unit = (step / np.maximum((step**2).sum(1, keepdims=True), 1e-12)).astype(np.float32)
    share = np.clip(away_rows * unit[:, :1] + away_cols * unit[:, 1:], 0, 1)
    away_rows -= share * step[:, :1].astype(np.float32)
    away_cols -= share * step[:, 1:].astype(np.float32)
    inside = half[:, None].astype(np.float32) - np.sqrt(away_rows**2 + away_cols**2)
    pad = 2 * reach  # pieces may lie outside
    padded = np.full((field.shape[0] + 2 * pad, field.shape[1] + 2 * pad), -2, dtype=np.float32)
    start = (nearest[:, 0] + pad) * padded.shape[1] + nearest[:, 1] + pad
    at = start[:, None] + (rows * padded.shape[1] + cols)
    np.maximum.at(padded.reshape(-1), at.ravel(), inside.ravel())
    np.maximum(field, padded[pad:-pad, pad:-pad], out=field)


def wandering_curve(
    rng: np.random.Generator,
    start: tuple[float, float],
    *,
    length: float,
    turn: float,
    angle: float | None = None,
) -> NDArray[np.float64]:
    """Return (N, 2) points every 0.7 px of a smooth curve that changes direction by about `turn` radians."""
    count = max(int(length / 0.7), 3)
    steps = np.cumsum(rng.normal(size=count))
    wander = ndimage.gaussian_filter1d(steps, max(count / 12, 1.0), mode="nearest") / np.sqrt(count)
    angle = rng.uniform(0, 2 * np.pi) if angle is None else angle
    direction = angle + turn * (wander - wander[0])
    moves = 0.7 * np.stack([np.sin(direction), np.cos(direction)], axis=1)
    curve: NDArray[np.float64] = np.asarray(start) + np.cumsum(moves, axis=0)
    return curve


def scatter(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int],
    spacing: float,
    jitter: float = 0.35,
    most: int | None = None,
) -> NDArray[np.float64]:
    """Return (N, 2) centres on a jittered hexagonal lattice in random order, some just outside the image."""
    height, width = shape
    step = spacing * np.sqrt(3) / 2
    rows = np.arange(-1, int(height / step) + 2)
    cols = np.arange(-1, int(width / spacing) + 2)
    grid_row, grid_col = np.meshgrid(rows * step, cols * spacing, indexing="ij")
    grid_col = grid_col + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    points = np.stack([grid_row.ravel(), grid_col.ravel()], axis=1)
    points += rng.uniform(-0.5, 0.5, 2) * spacing + rng.normal(0, jitter * spacing, points.shape)
    near = ((points > -0.3 * spacing) & (points < np.array(shape) + 0.3 * spacing)).all(1)
    points = points[near] if near.any() else np.array([[height / 2, width / 2]])
    points = points[rng.permutation(len(points))]
    return points if most is None else points[:most]


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """A plane cut into cells: `owner` (H, W) index of the cell, `edge` (H, W) px to its border."""

    owner: NDArray[np.int32]
    edge: FloatArray

    def patches(self) -> list[tuple[int, Patch]]:
        """Return (cell index, outline) of each cell in the image; its edge is the cell's border."""
        found = []
        for index, box in enumerate(ndimage.find_objects(self.owner + 1)):
            if box is not None:
                field = np.where(self.owner[box] == index, self.edge[box], -self.edge[box])
                found.append((index, Patch(box[0].start, box[1].start, field.astype(np.float32))))
        return found


def partition(
    points: NDArray[np.float64],
    *,
    shape: tuple[int, int],
    spacing: float,
    warp: FloatArray,
    weights: NDArray[np.float64],
) -> Partition:
    """Cut an image into cells around `points` (N, 2).

    `warp` (2, H, W) px bends the borders; cells with higher `weights` (N,) px are larger.
    """
    first = np.full(shape, 1e9, dtype=np.float32)
    second = np.full(shape, 1e9, dtype=np.float32)
    owner = np.zeros(shape, dtype=np.int32)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + warp[0]
    cols = np.arange(shape[1], dtype=np.float32)[None, :] + warp[1]
    reach = 2.6 * spacing + float(np.abs(warp).max())
    for index, (point, weight) in enumerate(zip(points, weights, strict=True)):
        box = _clipped_box(point - reach, point + reach, shape=shape)
        if box is None:
            continue
        at = slice(box[0], box[1]), slice(box[2], box[3])
        gap = np.hypot(rows[at] - np.float32(point[0]), cols[at] - np.float32(point[1])) - np.float32(weight)
        nearer = gap < first[at]
        second[at] = np.where(nearer, first[at], np.minimum(second[at], gap))
        first[at] = np.where(nearer, gap, first[at])
        owner[at] = np.where(nearer, np.int32(index), owner[at])
    return Partition(owner, np.minimum((second - first) / 2, np.float32(4 * spacing)))
