"""A canvas that paints a procedural scene and keeps the exact masks of what it painted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.errors import DataError
from napari_segany.core.types import AnyArray, BoolMask, FloatArray

from .shapes import Patch

SMALLEST_AREA = 12
"""Pixels that an object must show to count."""

_TILE = 256
_LEAST_VISIBLE = 0.4
_LEAST_CONTRAST = 0.3  # difference of means in standard deviations


@dataclass(frozen=True, slots=True, eq=False)
class SceneObject:
    """One object of a scene: `mask` (h, w) bool inside its box, at least 12 pixels.

    The ladder of `level`: 1 spots, nucleoli, vesicles; 2 filaments, mitochondria, vacuoles, buds; 3 nuclei;
    4 cells, bacteria, yeast, neurons; 5 glands, organoids, cell clusters; 6 colonies and tissue.
    `part_of` is the index of the parent in `Scene.objects`, -1 without; its mask contains this one.
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
    """An outline registered as an object: the part of its mask that later ones leave visible counts.

    A group has no outline of its own: it is its members and gaps of up to twice `gap` pixels.
    """

    patch: Patch | None
    level: int
    kind: str
    parent: int
    gap: float = 0.0
    is_clear: bool = False


class Canvas:
    """Light (H, W) or (H, W, 3) that shapes are painted on, with the objects that they make.

    A later object covers earlier ones of its own and finer levels; children show only inside their parent.
    Objects of one level overlap only where the upper one is clear (a translucent cell).
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
        """Return (rows, cols) power-law noise, mean 0, deviation 1; smooth for high `beta`, `zoom`ed."""
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

    def fibrous(self, *, angle: float, stretch: float, grain: float = 1.0) -> FloatArray:
        """Return (H, W) streaky noise of deviation about 1, `stretch` times longer along `angle`."""
        tile = (
            self._tiles[1.0]
            if 1.0 in self._tiles
            else self._tiles.setdefault(1.0, power_noise(self.rng, beta=1.0))
        )
        wave = self.smooth_noise(60) * np.float32(5)
        rows = np.arange(self.shape[0], dtype=np.float32)[:, None]
        cols = np.arange(self.shape[1], dtype=np.float32)[None, :]
        along = (cols * np.float32(np.cos(angle)) + rows * np.float32(np.sin(angle))) / np.float32(
            stretch * grain
        )
        across = (rows * np.float32(np.cos(angle)) - cols * np.float32(np.sin(angle)) + wave) / np.float32(
            grain
        )
        streaks = ndimage.map_coordinates(tile, [across, along], order=1, mode="grid-wrap")
        return np.asarray(streaks, dtype=np.float32)

    def add_object(
        self, patch: Patch | None, *, level: int, kind: str, parent: int = -1, is_clear: bool = False
    ) -> int:
        """Register an object over everything so far; returns its number, -1 if it has too few pixels.

        One that `is_clear` hides nothing: what lies under it keeps its whole mask.
        """
        if patch is None or np.count_nonzero(patch.mask) < SMALLEST_AREA:
            return -1
        self._drafts.append(_Draft(patch, level, kind, parent, is_clear=is_clear))
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

    def add_group(self, *, level: int, kind: str, gap: float) -> int:
        """Register an object made of those added with it as `parent`; returns its number."""
        self._drafts.append(_Draft(None, level, kind, -1, gap=gap))
        return len(self._drafts) - 1

    def objects(self, image: AnyArray) -> tuple[SceneObject, ...]:
        """Return the objects that are visible: at least 40 % of each, 12 pixels, within its parent.

        Small parts (levels 1 and 2) that noise or blur have hidden in the final `image` are left out too.
        """
        grey = image.astype(np.float32)  # colour: each band by itself
        owners = self._owners()
        kept: dict[int, SceneObject] = {}
        for number, draft in enumerate(self._drafts):
            if draft.patch is None or not self._is_placed(draft.parent, kept):
                continue
            whole = draft.patch.mask
            seen = whole & (owners[draft.level][draft.patch.box] <= number)
            if draft.parent in kept:
                seen &= _window(kept[draft.parent], draft.patch.box)
            if np.count_nonzero(seen) < np.count_nonzero(whole):
                seen = _without_crumbs(seen)
            found = _tight(seen, at=(draft.patch.row0, draft.patch.col0))
            if found is None or (draft.level <= 2 and not _stands_out(found, grey)):
                continue
            if np.count_nonzero(seen) >= _LEAST_VISIBLE * np.count_nonzero(whole):
                kept[number] = SceneObject(*found, draft.level, draft.kind, draft.parent)
        return _numbered(self._groups(kept) | kept)

    def _is_placed(self, parent: int, kept: dict[int, SceneObject]) -> bool:
        """Tell whether an object's parent is visible, a group, or none."""
        return parent < 0 or parent in kept or self._drafts[parent].patch is None

    def _owners(self) -> dict[int, NDArray[np.int32]]:
        """Return per level the (H, W) number of the last opaque draft of it or a coarser one, or -1."""
        owners: dict[int, NDArray[np.int32]] = {}
        for number, draft in enumerate(self._drafts):
            if draft.level not in owners:
                owners[draft.level] = np.full(self.shape, -1, dtype=np.int32)
            if draft.patch is not None and not draft.is_clear:
                owners[draft.level][draft.patch.box][draft.patch.mask] = number
        for coarser, finer in pairwise(sorted(owners, reverse=True)):
            np.maximum(owners[finer], owners[coarser], out=owners[finer])
        return owners

    def _groups(self, kept: dict[int, SceneObject]) -> dict[int, SceneObject]:
        """Return the groups that have at least three visible members, each the closed union of them."""
        groups: dict[int, SceneObject] = {}
        for number, draft in enumerate(self._drafts):
            members = (
                [thing for thing in kept.values() if thing.part_of == number] if draft.patch is None else []
            )
            if len(members) >= 3:
                groups[number] = SceneObject(*_closed(members, gap=draft.gap), draft.level, draft.kind, -1)
        return groups


def power_noise(rng: np.random.Generator, *, beta: float) -> FloatArray:
    """Return a (256, 256) periodic noise tile, mean 0, deviation 1, amplitude ~ frequency ** -beta."""
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :])
    frequency[0, 0] = 1.0
    spectrum *= frequency**-beta
    spectrum[0, 0] = 0.0
    tile = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return np.asarray(tile / tile.std(), dtype=np.float32)


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


def _closed(members: list[SceneObject], *, gap: float) -> tuple[slice, slice, BoolMask]:
    """Return the tight box and mask of some objects and the gaps between them, closed by a `gap` px disk."""
    row0, col0 = (
        min(thing.mask_rows.start for thing in members),
        min(thing.mask_cols.start for thing in members),
    )
    row1, col1 = (
        max(thing.mask_rows.stop for thing in members),
        max(thing.mask_cols.stop for thing in members),
    )
    pad = int(gap) + 2
    union = np.zeros((row1 - row0 + 2 * pad, col1 - col0 + 2 * pad), dtype=bool)
    for thing in members:
        rows, cols = thing.mask_rows.start - row0 + pad, thing.mask_cols.start - col0 + pad
        union[rows : rows + thing.mask.shape[0], cols : cols + thing.mask.shape[1]] |= thing.mask
    grown = ndimage.distance_transform_edt(~union) <= gap
    closed = union | (ndimage.distance_transform_edt(grown) > gap)
    found = _tight(closed[pad:-pad, pad:-pad], at=(row0, col0))
    assert found is not None, "a union of objects cannot be empty"
    return found


def _stands_out(found: tuple[slice, slice, BoolMask], image: FloatArray) -> bool:
    """Tell whether a small object's mean differs visibly from what is around it in (H, W) or (H, W, 3)."""
    rows, cols, mask = found
    margin = 3
    first = max(rows.start - margin, 0), max(cols.start - margin, 0)
    window = image[first[0] : rows.stop + margin, first[1] : cols.stop + margin]
    inside = np.zeros(window.shape[:2], dtype=bool)
    inside[rows.start - first[0] : rows.stop - first[0], cols.start - first[1] : cols.stop - first[1]] = mask
    if inside.all():
        return True
    own, other = window[inside], window[~inside]
    contrast = np.abs(own.mean(0) - other.mean(0)) / (0.5 * (own.std(0) + other.std(0)) + 1e-6)
    return bool(contrast.max() > _LEAST_CONTRAST)


def _numbered(found: dict[int, SceneObject]) -> tuple[SceneObject, ...]:
    """Return objects in draft order, `part_of` turned from draft numbers into places in the result."""
    order = sorted(found)
    place = {number: index for index, number in enumerate(order)}
    return tuple(replace(found[number], part_of=place.get(found[number].part_of, -1)) for number in order)


def _tight(mask: BoolMask, *, at: tuple[int, int]) -> tuple[slice, slice, BoolMask] | None:
    """Return tight rows, columns and mask of an object whose array starts `at` a pixel; None if too small."""
    if np.count_nonzero(mask) < SMALLEST_AREA:
        return None
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    row0, row1, col0, col1 = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    box = slice(at[0] + row0, at[0] + row1), slice(at[1] + col0, at[1] + col1)
    return *box, np.ascontiguousarray(mask[row0:row1, col0:col1])
