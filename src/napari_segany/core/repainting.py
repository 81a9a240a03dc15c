"""Several objects painted anew on one plane: what they covered before is freed, what others cover is theirs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .errors import ImageError
from .masks import LabelPatch, box_of, slices_of
from .types import BoolMask, Labels


def repaint(
    labels: Labels,
    masks: BoolMask,
    *,
    object_ids: Sequence[int],
    keep_existing: bool = True,
    protected: Collection[int] = (),
) -> Labels:
    """Return a plane on which some objects cover their new masks and nothing else.

    Parameters
    ----------
    labels : (H, W)
        The plane before; not changed.
    masks : (K, H, W)
        Where the objects are now; empty for one that is absent. Where two meet, the earlier one stays.
    object_ids : (K,)
        Their labels.
    keep_existing
        Leave the pixels of all other objects as they are.
    protected
        Objects that keep their pixels in any case.
    """
    if masks.shape != (len(object_ids), *labels.shape):
        raise ImageError(
            f"{len(object_ids)} objects on a plane of {labels.shape} have masks of {masks.shape}"
        )
    after = labels.copy()
    after[np.isin(after, np.array(object_ids, dtype=np.uint32))] = 0
    others = np.array(sorted(protected), dtype=np.uint32)
    free = after == 0 if keep_existing else ~np.isin(after, others)
    for object_id, mask in zip(object_ids, masks, strict=True):
        won = mask & free
        after[won] = object_id
        free &= ~won
    return after


def patch_between(before: Labels, after: Labels, *, index: tuple[int, ...] = ()) -> LabelPatch | None:
    """Return the smallest patch that turns one (H, W) plane into another; None when they are equal."""
    changed = before != after
    if not changed.any():
        return None
    rows, cols = slices_of(box_of(changed))
    return LabelPatch(
        index=index,
        row0=rows.start,
        col0=cols.start,
        before=before[rows, cols],
        after=after[rows, cols],
    )
