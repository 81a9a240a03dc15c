"""Masks of several objects on several frames that are not painted yet, composed for the plane in view only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.masks import slices_of
from napari_segany.session.prompts import PlaneIndex
from napari_segany.session.volume_signals import FramePreview

IN_WORK, OTHER = 1, 2
"""The values of the object in work and of all others."""


class StackPreviews:
    """What waits to be painted."""

    def __init__(self) -> None:
        self._planes: dict[PlaneIndex, dict[int, FramePreview]] = {}

    def __contains__(self, index: PlaneIndex) -> bool:
        return index in self._planes

    def put(self, index: PlaneIndex, object_id: int, preview: FramePreview | None) -> None:
        """Keep the answer about an object on a plane, or drop it."""
        shown = self._planes.setdefault(index, {})
        shown.pop(object_id, None)
        if preview is not None:
            shown[object_id] = preview
        if not shown:
            del self._planes[index]

    def clear(self) -> None:
        """Drop everything."""
        self._planes.clear()

    def compose(self, index: PlaneIndex, *, chosen: int) -> NDArray[np.uint8] | None:
        """Return the (H, W) values of a plane, the object in work above all others; None where nothing waits."""
        shown = self._planes.get(index)
        if shown is None:
            return None
        plane = np.zeros(next(iter(shown.values())).shape, dtype=np.uint8)
        for object_id in sorted(shown, key=lambda one: one == chosen):
            preview = shown[object_id]
            if preview.box is not None and preview.crop is not None:
                plane[slices_of(preview.box)][preview.crop] = IN_WORK if object_id == chosen else OTHER
        return plane
