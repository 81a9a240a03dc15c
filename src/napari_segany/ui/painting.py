"""Label edits that were made with napari's own tools, as patches that our undo understands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.masks import LabelPatch, PlaneBox
from napari_segany.core.types import Labels

Region = tuple[slice, ...]
Atom = Any  # one of napari's two records of an edit: a masked box, or (indices, old values, new values)


def patches_from_paint(atoms: Sequence[Atom], *, array: Any) -> list[LabelPatch]:  # Any: NumPy or zarr
    """Return one patch for each plane that a stroke changed.

    Parameters
    ----------
    atoms
        The value of a Labels layer's `paint` event: edits, oldest first.
    array : (..., H, W)
        The labels; napari tells of some edits just before and of others just after it makes them.
    """
    region = _joint([_region_of(atom, array.shape) for atom in atoms])
    before = np.array(array[region])
    for atom in reversed(atoms):
        _put(atom, before, region, is_new=False)
    after = before.copy()
    for atom in atoms:
        _put(atom, after, region, is_new=True)
    leads = product(*(range(part.start, part.stop) for part in region[:-2]))
    found = (_plane_patch(lead, before, after, region) for lead in leads)
    return [patch for patch in found if patch is not None]


def _plane_patch(lead: tuple[int, ...], before: Labels, after: Labels, region: Region) -> LabelPatch | None:
    """Return the patch of one plane, None where it is unchanged."""
    local = tuple(i - part.start for i, part in zip(lead, region, strict=False))
    old, new = before[local], after[local]
    if np.array_equal(old, new):
        return None
    box: PlaneBox = (region[-2], region[-1])
    return LabelPatch(
        index=lead,
        row0=box[0].start,
        col0=box[1].start,
        before=old.astype(np.uint32),
        after=new.astype(np.uint32),
    )


def _region_of(atom: Atom, shape: Sequence[int]) -> Region:
    """Return the box that an edit lies in."""
    if hasattr(atom, "slice_key"):
        return tuple(slice(*part.indices(side)[:2]) for part, side in zip(atom.slice_key, shape, strict=True))
    places = [np.atleast_1d(np.asarray(axis)) for axis in atom[0]]
    return tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in places)


def _joint(regions: Sequence[Region]) -> Region:
    """Return the box around some boxes."""
    axes = zip(*regions, strict=True)
    return tuple(slice(min(p.start for p in axis), max(p.stop for p in axis)) for axis in axes)


def _put(atom: Atom, labels: NDArray[Any], region: Region, *, is_new: bool) -> None:
    """Write the new or the old values of an edit into labels that were cut out at `region`."""
    if not hasattr(atom, "slice_key"):
        local = tuple(np.asarray(axis) - part.start for axis, part in zip(atom[0], region, strict=True))
        labels[local] = atom[2] if is_new else atom[1]
        return
    box = _region_of(atom, [part.stop for part in region])
    view = labels[tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(box, region, strict=True))]
    view[... if atom.mask is None else atom.mask] = atom.new_value if is_new else atom.old_values


def watch_paint(labels_layer: Any, told: Callable[[tuple[LabelPatch, ...]], None]) -> Callable[[], None]:
    """Tell of every hand-made edit of a Labels layer; napari's own history is emptied, ours has it.

    Returns
    -------
    A function that ends the watch.
    """

    def on_paint(event: Any) -> None:  # Any: napari's events are untyped
        patches = patches_from_paint(event.value, array=labels_layer.data)
        forget_history(labels_layer)
        told(tuple(patches))

    labels_layer.events.paint.connect(on_paint)
    return lambda: labels_layer.events.paint.disconnect(on_paint)


def forget_history(labels_layer: Any) -> None:  # Any: napari is untyped
    """Empty a Labels layer's own undo, which would bring old values back over ours."""
    for name in ("_undo_history", "_redo_history"):
        getattr(labels_layer, name, []).clear()
