"""Masks of several objects on several frames that are not painted yet, composed for the plane in view only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import BoolMask
from napari_segany.session.prompts import PlaneIndex

IN_WORK, OTHER = 1, 2
"""The values of the object in work and of all others."""


class StackPreviews:
    """What waits to be painted."""

    def __init__(self) -> None:
        self._planes: dict[PlaneIndex, dict[int, BoolMask]] = {}

    def __contains__(self, index: PlaneIndex) -> bool:
        return index in self._planes

    def put(self, index: PlaneIndex, object_id: int, mask: BoolMask | None) -> None:
        """Keep the (H, W) mask of an object on a plane, or drop it."""
        masks = self._planes.setdefault(index, {})
        masks.pop(object_id, None)
        if mask is not None:
            masks[object_id] = mask
        if not masks:
            del self._planes[index]

    def clear(self) -> None:
        """Drop everything."""
        self._planes.clear()

    def compose(self, index: PlaneIndex, *, chosen: int) -> NDArray[np.uint8] | None:
        """Return the (H, W) values of a plane, the object in work above all others; None where nothing waits."""
        masks = self._planes.get(index)
        if masks is None:
            return None
        plane = np.zeros(next(iter(masks.values())).shape, dtype=np.uint8)
        for object_id, mask in masks.items():
            if object_id != chosen:
                plane[mask] = OTHER
        if chosen in masks:
            plane[masks[chosen]] = IN_WORK
        return plane
