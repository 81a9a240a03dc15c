"""Masks and labels: boxes, IoU, NMS, cleaning, and painting objects into labels with undoable patches."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .errors import EmptyMaskError, ImageError
from .types import BoolMask, Box, FloatArray, Labels

PlaneBox: TypeAlias = tuple[slice, slice]
"""Rows and columns of a rectangle within one plane."""

_MAX_LABEL = np.iinfo(np.uint32).max
_EIGHT = np.ones((3, 3), dtype=bool)


def box_of(mask: BoolMask) -> Box:
    """Return the tightest box around a mask.

    Parameters
    ----------
    mask : (H, W)
        True inside the object; at least one pixel must be.

    Raises
    ------
    EmptyMaskError
        If nothing is True.
    """
    if mask.ndim != 2:
        raise ImageError(f"a mask must be (H, W), got shape {mask.shape}")
    cols = np.flatnonzero(mask.any(axis=0))
    if cols.size == 0:
        raise EmptyMaskError(f"cannot box an empty mask of shape {mask.shape}")
    rows = np.flatnonzero(mask[:, cols[0] : cols[-1] + 1].any(axis=1))
    return Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)


def slices_of(box: Box) -> PlaneBox:
    """Return the rows and columns of a box whose ends are whole pixels."""
    return slice(int(box.row0), int(box.row1)), slice(int(box.col0), int(box.col1))


def mask_iou(a: BoolMask, b: BoolMask) -> float:
    """Return intersection over union of two (H, W) masks, 0 to 1; 0 when both are empty."""
    if a.shape != b.shape:
        raise ImageError(f"masks of different shapes have no IoU: {a.shape} and {b.shape}")
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0


def box_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the (N, M) IoU, 0 to 1, of boxes (N, 4) and (M, 4), both as (row0, col0, row1, col1)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=-1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=-1) - shared
    overlap = np.zeros(shared.shape, dtype=np.float32)
    np.divide(shared, union, out=overlap, where=union > 0, casting="same_kind")
    return overlap


def pairwise_iou(a: Sequence[BoolMask], b: Sequence[BoolMask] | None = None) -> FloatArray:
    """Return the (N, M) IoU, 0 to 1, of N and M masks of one shape (H, W); `b` is `a` when left out.

    Pixels are compared only where the boxes of two masks meet; an empty mask has IoU 0 with everything.
    """
    left = [_Boxed.of(mask) for mask in a]
    right = left if b is None else [_Boxed.of(mask) for mask in b]
    overlap = np.zeros((len(left), len(right)), dtype=np.float32)
    if not left or not right:
        return overlap
    lows, highs = (np.array([[one.box[i], one.box[i + 1]] for one in right]) for i in (0, 2))
    for i, one in enumerate(left):
        meets = (np.minimum(highs, one.box[2:]) > np.maximum(lows, one.box[:2])).all(axis=1)
        for j in np.flatnonzero(meets):
            overlap[i, j] = overlap[j, i] if b is None and j < i else one.iou(right[j])
    return overlap


@dataclass(frozen=True, slots=True, eq=False)
class _Boxed:
    """A mask with its box (row0, col0, row1, col1) and area, worked out once."""

    mask: BoolMask
    box: tuple[int, int, int, int]
    area: int

    @classmethod
    def of(cls, mask: BoolMask) -> _Boxed:
        """Return the mask with its box; an empty mask gets an empty box."""
        if not mask.any():
            return cls(mask, (0, 0, 0, 0), 0)
        rows, cols = slices_of(box_of(mask))
        area = int(np.count_nonzero(mask[rows, cols]))
        return cls(mask, (rows.start, cols.start, rows.stop, cols.stop), area)

    def iou(self, other: _Boxed) -> float:
        """Return the IoU with a mask whose box meets this one's."""
        low = np.maximum(self.box[:2], other.box[:2])
        high = np.minimum(self.box[2:], other.box[2:])
        part = np.s_[low[0] : high[0], low[1] : high[1]]
        shared = int(np.count_nonzero(self.mask[part] & other.mask[part]))
        return shared / (self.area + other.area - shared)


def nms(overlap: FloatArray, scores: FloatArray, *, threshold: float = 0.7) -> NDArray[np.int_]:
    """Return which items survive non-maximum suppression, best first.

    Parameters
    ----------
    overlap : (N, N)
        IoU of every pair, from `pairwise_iou` or `box_iou`.
    scores : (N,)
        Higher is better; ties keep their order.
    threshold
        An item is dropped when its IoU with a better survivor is above this, 0 to 1.
    """
    if overlap.shape != (len(scores), len(scores)):
        raise ImageError(f"{len(scores)} scores need an IoU matrix of that side, got {overlap.shape}")
    alive = np.ones(len(scores), dtype=bool)
    kept: list[int] = []
    for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable"):
        if alive[i]:
            kept.append(int(i))
            alive &= overlap[i] <= threshold
    return np.array(kept, dtype=np.int_)


def fill_holes(mask: BoolMask, *, max_area: int | None = None) -> BoolMask:
    """Return an (H, W) mask with its holes of at most `max_area` pixels filled; `None` fills every hole.

    A hole is background (4-connected) that does not reach the border.
    """
    holes = ndimage.binary_fill_holes(mask) & ~mask
    if max_area is not None and holes.any():
        parts, _ = ndimage.label(holes)
        small = np.bincount(parts.ravel()) <= max_area
        small[0] = False
        holes = small[parts]
    filled: BoolMask = mask | holes
    return filled


def remove_islands(mask: BoolMask, *, min_area: int | None = None) -> BoolMask:
    """Return an (H, W) mask without its parts below `min_area` pixels; `None` keeps only the largest part.

    Parts are 8-connected. The largest part always stays, so that an object never vanishes.
    """
    parts, count = ndimage.label(mask, structure=_EIGHT)
    if count < 2:
        return mask.copy()
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    keep = areas >= min_area if min_area is not None else np.zeros(len(areas), dtype=bool)
    keep[areas.argmax()] = True
    keep[0] = False
    kept: BoolMask = keep[parts]
    return kept


def clean_mask(mask: BoolMask, *, hole_area: int | None = None, island_area: int | None = None) -> BoolMask:
    """Return an (H, W) mask without islands and holes; areas in pixels, as in the two functions above."""
    return fill_holes(remove_islands(mask, min_area=island_area), max_area=hole_area)


class LabelPatch:
    """One rectangle of one plane before and after a change; immutable, and kept compressed.

    Parameters
    ----------
    index
        Leading indices of the plane, () for a 2D image.
    row0, col0
        Top left pixel of the rectangle.
    before, after : (h, w)
        Labels in the rectangle.
    """

    __slots__ = ("_after", "_before", "col0", "index", "row0", "shape")

    def __init__(
        self, *, index: tuple[int, ...] = (), row0: int, col0: int, before: Labels, after: Labels
    ) -> None:
        if before.ndim != 2 or before.shape != after.shape or 0 in before.shape:
            raise ImageError(f"a patch needs two equal (h, w) arrays, got {before.shape} and {after.shape}")
        if row0 < 0 or col0 < 0:
            raise ImageError(f"a patch starts inside its plane, not at ({row0}, {col0})")
        self.index = tuple(int(i) for i in index)
        self.row0, self.col0 = int(row0), int(col0)
        self.shape: tuple[int, int] = before.shape
        self._before, self._after = (_pack(part) for part in (before, after))

    @property
    def before(self) -> Labels:
        """(h, w) labels before the change; a fresh array each time."""
        return _unpack(self._before, self.shape)

    @property
    def after(self) -> Labels:
        """(h, w) labels after the change; a fresh array each time."""
        return _unpack(self._after, self.shape)

    @property
    def box(self) -> Box:
        """The rectangle within its plane."""
        return Box(self.row0, self.col0, self.row0 + self.shape[0], self.col0 + self.shape[1])

    @property
    def slices(self) -> PlaneBox:
        """Rows and columns of the rectangle."""
        return slices_of(self.box)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return len(self._before) + len(self._after)

    def reversed(self) -> LabelPatch:
        """Return the patch that undoes this one."""
        undo = object.__new__(LabelPatch)
        undo.index, undo.row0, undo.col0, undo.shape = self.index, self.row0, self.col0, self.shape
        undo._before, undo._after = self._after, self._before
        return undo


def _pack(labels: Labels) -> bytes:
    return zlib.compress(np.ascontiguousarray(labels, dtype="<u4").tobytes(), 1)


def _unpack(packed: bytes, shape: tuple[int, int]) -> Labels:
    return np.frombuffer(zlib.decompress(packed), dtype="<u4").reshape(shape).astype(np.uint32)


class ArrayLike(Protocol):
    """What painting needs of an array: NumPy, zarr and dask arrays are such."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, then rows and columns."""

    def __getitem__(self, key: Any, /) -> Any:  # Any: the array libraries agree on no narrower type
        """Return a part."""


@runtime_checkable
class LabelSink(Protocol):
    """Where labels go: one plane-wise uint32 array that takes patches."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, then rows and columns."""

    @property
    def dtype(self) -> np.dtype[np.uint32]:
        """Always uint32."""

    def read(self, index: tuple[int, ...], box: PlaneBox) -> Labels:
        """Return a copy of the (h, w) labels of one rectangle of one plane."""

    def write(self, patch: LabelPatch, *, note: Mapping[str, object] | None = None) -> None:
        """Put the `after` of a patch in place, durably when this returns; `note` says how it came about."""

    def max_label(self) -> int:
        """Return the highest label that is there or was ever written, 0 if none: the next id is one more."""


class ArrayLabels:
    """A `LabelSink` over an array in memory, which is changed in place.

    Parameters
    ----------
    array : (..., H, W)
        uint32 labels.
    """

    def __init__(self, array: Labels) -> None:
        if array.ndim < 2 or array.dtype != np.uint32:
            raise ImageError(
                f"labels are (..., H, W) uint32, got {array.shape} {array.dtype}; use astype(np.uint32)"
            )
        self.array = array
        self._highest = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Leading axes, then rows and columns."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[np.uint32]:
        """Always uint32."""
        return self.array.dtype

    def read(self, index: tuple[int, ...], box: PlaneBox) -> Labels:
        """Return a copy of the (h, w) labels of one rectangle of one plane."""
        check_place(self.shape, index, box=box)
        return self.array[index + box].copy()

    def write(self, patch: LabelPatch, *, note: Mapping[str, object] | None = None) -> None:
        """Put the `after` of a patch in place; `note` is not kept, an array has nowhere to keep it."""
        check_place(self.shape, patch.index, box=patch.slices)
        after = patch.after
        self.array[patch.index + patch.slices] = after
        self._highest = max(self._highest, int(after.max()))

    def max_label(self) -> int:
        """Return the highest label that is there or was ever written, 0 if none."""
        return max(self._highest, int(self.array.max(initial=0)))


def check_place(shape: tuple[int, ...], index: tuple[int, ...], *, box: PlaneBox) -> None:
    """Raise ImageError unless one rectangle of one plane lies inside an array of this shape."""
    if len(index) != len(shape) - 2:
        raise ImageError(f"labels of shape {shape} need {len(shape) - 2} leading indices, got {index}")
    if any(not 0 <= i < n for i, n in zip(index, shape, strict=False)):
        raise ImageError(f"plane {index} is outside labels of shape {shape}")
    for part, side in zip(box, shape[-2:], strict=True):
        if not 0 <= part.start < part.stop <= side:
            raise ImageError(f"rectangle {box} is empty or outside a plane of {shape[-2:]}")


def paint_object(
    labels: ArrayLike | LabelSink,
    mask: BoolMask,
    *,
    label_id: int,
    index: tuple[int, ...] = (),
    keep_existing: bool = False,
) -> LabelPatch | None:
    """Return the patch that paints one object into one plane; nothing is written here.

    Only the object's box is read.

    Parameters
    ----------
    labels : (..., H, W)
        A sink, or any array that slices.
    mask : (H, W)
        The object in the plane's pixels.
    label_id
        1 to 2**32 - 1; 0 erases the mask.
    index
        Leading indices of the plane.
    keep_existing
        Leave the pixels of other objects as they are.

    Returns
    -------
    LabelPatch or None
        None when nothing would change.
    """
    if not 0 <= label_id <= _MAX_LABEL:
        raise ImageError(f"a label is 0 to {_MAX_LABEL}, got {label_id}")
    if mask.shape != tuple(labels.shape[-2:]):
        raise ImageError(f"a mask of shape {mask.shape} does not fit a plane of {tuple(labels.shape[-2:])}")
    if not mask.any():
        return None
    box = slices_of(box_of(mask))
    check_place(tuple(labels.shape), index, box=box)
    before = labels.read(index, box) if isinstance(labels, LabelSink) else np.asarray(labels[index + box])
    paint = mask[box] & (before == 0) if keep_existing and label_id else mask[box]
    after = np.where(paint, np.uint32(label_id), before).astype(np.uint32)
    changed = after != before
    if not changed.any():
        return None
    rows, cols = slices_of(box_of(changed))
    return LabelPatch(
        index=index,
        row0=box[0].start + rows.start,
        col0=box[1].start + cols.start,
        before=before[rows, cols],
        after=after[rows, cols],
    )
