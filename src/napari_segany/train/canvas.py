"""A canvas that paints a procedural scene and keeps the exact masks of what it painted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..core.errors import DataError
from ..core.types import BoolMask, FloatArray
from .shapes import Patch

SMALLEST_AREA = 12
"""Pixels that an object must show to count."""

_TILE = 256
_LEAST_VISIBLE = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class SceneObject:
    """One object of a scene: `mask` (h, w) bool inside its box, at least 12 pixels.

    The ladder of `level`: 1 spots, nucleoli, vesicles; 2 filaments, mitochondria, vacuoles, buds; 3 nuclei;
    4 cells, bacteria, yeast, neurons; 5 glands, organoids, cell clusters; 6 colonies and tissue.
    `part_of` is the index of the parent in `Scene.objects`, -1 if there is none; the parent's mask contains this one.
    """

    mask_rows: slice
    mask_cols: slice
    mask: BoolMask
    level: int
    kind: str
    part_of: int

    def __post_init__(self) -> None:
        box = (self.mask_rows.stop - self.mask_rows.start, self.mask_cols.stop - self.mask_cols.start)
        if self.mask.shape != box or self.mask.dtype != np.bool_:
            raise DataError(
                f"a mask must be bool of its box's shape {box}, got {self.mask.dtype} {self.mask.shape}"
            )
        if not 1 <= self.level <= 6:
            raise DataError(f"a level must be 1 to 6, got {self.level}")
        if np.count_nonzero(self.mask) < SMALLEST_AREA:
            raise DataError(
                f"a mask needs at least {SMALLEST_AREA} pixels, got {np.count_nonzero(self.mask)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """An outline registered as an object: the part of its `mask` that later ones leave visible counts."""

    patch: Patch
    level: int
    kind: str
    parent: int


class Canvas:
    """Light (H, W) or (H, W, 3) that shapes are painted on, with the objects that they make.

    Later objects cover earlier ones of the same level; children show only where their parent does.
    """

    def __init__(
        self, shape: tuple[int, int], rng: np.random.Generator, *, background: float | NDArray[np.float64]
    ) -> None:
        self.shape = shape
        self.rng = rng
        colour = np.asarray(background, dtype=np.float32)
        self.light: FloatArray = np.empty((*shape, *colour.shape), dtype=np.float32)
        self.light[...] = colour
        self._drafts: list[_Draft] = []
        self._tiles: dict[float, FloatArray] = {}

    def noise(self, rows: int, cols: int, *, beta: float, zoom: float = 1.0) -> FloatArray:
        """Return (rows, cols) power-law noise of mean 0 and deviation 1; a larger `beta` is smoother, `zoom` coarser."""
        tile = self._tiles.setdefault(beta, np.empty((0, 0), dtype=np.float32))
        if tile.size == 0:
            tile = self._tiles[beta] = power_noise(self.rng, beta=beta)
        first = self.rng.integers(_TILE, size=2)
        at_rows = ((np.arange(rows) / zoom).astype(int) + first[0]) % _TILE
        at_cols = ((np.arange(cols) / zoom).astype(int) + first[1]) % _TILE
        return tile[np.ix_(at_rows, at_cols)]

    def texture(self, patch: Patch, *, beta: float = 1.5) -> FloatArray:
        """Return noise of the patch's shape."""
        return self.noise(*patch.field.shape, beta=beta)

    def full_noise(self, *, beta: float = 1.5) -> FloatArray:
        """Return noise of the canvas's shape."""
        return self.noise(*self.shape, beta=beta)

    def smooth_noise(self, scale: float) -> FloatArray:
        """Return (H, W) smooth noise of deviation about 1 whose features are `scale` pixels wide."""
        rows, cols = (max(int(np.ceil(side / scale)) + 4, 5) for side in self.shape)
        coarse = self.rng.normal(size=(rows, cols)).astype(np.float32)
        at = [np.linspace(1.5, 1.5 + side / scale, side) for side in self.shape]
        by_rows = _interpolate(coarse, at[0])
        return np.ascontiguousarray(_interpolate(by_rows.T, at[1]).T, dtype=np.float32) * np.float32(1.5)

    def add_object(self, patch: Patch | None, *, level: int, kind: str, parent: int = -1) -> int:
        """Register an object over everything so far; returns its number, -1 if the patch shows too few pixels."""
        if patch is None or np.count_nonzero(patch.mask) < SMALLEST_AREA:
            return -1
        self._drafts.append(_Draft(patch, level, kind, parent))
        return len(self._drafts) - 1

    def paint(
        self,
        patch: Patch,
        value: float | NDArray[np.float64] | FloatArray,
        *,
        opacity: float = 1.0,
        softness: float = 1.0,
    ) -> None:
        """Lay a value (a number, a colour (3,), or per pixel (h, w) or (h, w, 3)) over the light."""
        cover = patch.cover(softness) * np.float32(opacity)
        paint = np.asarray(value, dtype=np.float32)
        if self.light.ndim == 3:
            cover = cover[..., None]
            paint = paint[..., None] if paint.ndim == 2 else paint
        under = self.light[patch.box]
        under += cover * (paint - under)

    def glow(
        self, patch: Patch, value: float | NDArray[np.float64] | FloatArray, *, softness: float = 1.0
    ) -> None:
        """Add light inside the patch."""
        cover = patch.cover(softness)
        paint = np.asarray(value, dtype=np.float32)
        if self.light.ndim == 3:
            cover = cover[..., None]
            paint = paint[..., None] if paint.ndim == 2 else paint
        self.light[patch.box] += cover * paint

    def objects(self) -> tuple[SceneObject, ...]:
        """Return the objects that are visible: at least 40 % of each, 12 pixels, within its parent."""
        owners: dict[int, NDArray[np.int32]] = {}
        for number, draft in enumerate(self._drafts):
            owner = owners.setdefault(draft.level, np.full(self.shape, -1, dtype=np.int32))
            owner[draft.patch.box][draft.patch.mask] = number
        kept: list[SceneObject] = []
        place: dict[int, int] = {-1: -1}
        for number, draft in enumerate(self._drafts):
            if draft.parent not in place:
                continue
            whole = draft.patch.mask
            seen = whole & (owners[draft.level][draft.patch.box] == number)
            parent = place[draft.parent]
            if parent >= 0:
                seen &= _window(kept[parent], draft.patch.box)
            if np.count_nonzero(seen) < np.count_nonzero(whole):
                seen = _without_crumbs(seen)
            found = _tight(seen, draft.patch)
            if found is None or np.count_nonzero(seen) < _LEAST_VISIBLE * np.count_nonzero(whole):
                continue
            place[number] = len(kept)
            kept.append(SceneObject(*found, draft.level, draft.kind, parent))
        return tuple(kept)


def power_noise(rng: np.random.Generator, *, beta: float) -> FloatArray:
    """Return a (256, 256) periodic noise tile of mean 0 and deviation 1 with amplitude ~ frequency ** -beta."""
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :])
    frequency[0, 0] = 1.0
    spectrum *= frequency**-beta
    spectrum[0, 0] = 0.0
    tile = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return (tile / tile.std()).astype(np.float32)


def _interpolate(coarse: FloatArray, at: NDArray[np.float64]) -> FloatArray:
    """Return rows of `coarse` at fractional positions, cubic (Catmull-Rom)."""
    base = np.floor(at).astype(int)
    t = (at - base)[:, None].astype(np.float32)
    p0, p1, p2, p3 = (coarse[np.clip(base + shift, 0, len(coarse) - 1)] for shift in (-1, 0, 1, 2))
    result: FloatArray = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    return result


def _window(parent: SceneObject, box: tuple[slice, slice]) -> BoolMask:
    """Return the parent's mask over `box`, False outside the parent's own box."""
    rows, cols = box
    window = np.zeros((rows.stop - rows.start, cols.stop - cols.start), dtype=bool)
    row0, row1 = max(rows.start, parent.mask_rows.start), min(rows.stop, parent.mask_rows.stop)
    col0, col1 = max(cols.start, parent.mask_cols.start), min(cols.stop, parent.mask_cols.stop)
    if row1 > row0 and col1 > col0:
        window[row0 - rows.start : row1 - rows.start, col0 - cols.start : col1 - cols.start] = parent.mask[
            row0 - parent.mask_rows.start : row1 - parent.mask_rows.start,
            col0 - parent.mask_cols.start : col1 - parent.mask_cols.start,
        ]
    return window


def _without_crumbs(mask: BoolMask) -> BoolMask:
    """Return a mask without the pieces that are smaller than an object may be."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    kept: BoolMask = (areas >= SMALLEST_AREA)[pieces]
    return kept


def _tight(mask: BoolMask, patch: Patch) -> tuple[slice, slice, BoolMask] | None:
    """Return the tight rows, columns and mask of an object in the image, or None if too little is left."""
    if np.count_nonzero(mask) < SMALLEST_AREA:
        return None
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    row0, row1, col0, col1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    box = slice(patch.row0 + row0, patch.row0 + row1), slice(patch.col0 + col0, patch.col0 + col1)
    return *box, np.ascontiguousarray(mask[row0:row1, col0:col1])
