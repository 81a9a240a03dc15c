"""The preview on the canvas, drawn again only where it changed: another level of the same answer is there at once."""

from __future__ import annotations

from typing import Any

from napari_segany.core.masks import PlaneBox
from napari_segany.session.answers import Preview
from napari_segany.session.prompts import PlaneIndex

from .layers import SessionLayers

_Ends = tuple[int, int, int, int]  # row0, col0, row1, col1


class PreviewDrawing:
    """Puts previews into their layer, plane by plane."""

    def __init__(self, layers: SessionLayers) -> None:
        self._layers = layers
        self._boxes: dict[PlaneIndex, _Ends] = {}

    def put(self, index: PlaneIndex, preview: Preview | None, *, in_view: PlaneIndex | None) -> None:
        """Show the mask of a plane, or none, and draw what changed.

        Parameters
        ----------
        in_view
            The plane that is seen, None where a view shows more than one, or cuts through them.
        """
        planes = self._layers.stack.planes
        planes.pop(index, None)
        before, after = self._boxes.pop(index, None), None
        if preview is not None:
            planes[index] = preview.mask
            self._boxes[index] = after = preview.ladder.boxes[preview.chosen]
        if in_view not in (None, index):
            return  # read when it comes into view
        window = _around(before, after)
        if window is None:
            return
        if in_view is None or not redraw_window(self._layers.preview, index, window=window):
            self._layers.preview.refresh(extent=False, thumbnail=False)


def redraw_window(layer: Any, index: PlaneIndex, *, window: PlaneBox) -> bool:  # Any: napari is untyped
    """Draw one window of the plane in view of a Labels layer again, from its data.

    Returns
    -------
    bool
        False if only the whole layer can be drawn: it shows contours, is not read yet, or this napari keeps its slice
        elsewhere.
    """
    try:
        image, displayed = layer._slice.image, list(layer._slice_input.displayed)
        is_plain = displayed == [layer.ndim - 2, layer.ndim - 1] and layer.contour == 0 and layer.loaded
        fits = tuple(image.raw.shape) == tuple(layer.data.shape[-2:]) == tuple(image.view.shape)
        if not is_plain or not fits:
            return False
        image.raw[window] = layer.data[(*index, *window)]
        drawn = layer._raw_to_displayed(image.raw, data_slice=window)
        image.view[window] = drawn
        layer.events.labels_update(data=drawn, offset=[part.start for part in window])
    except (AttributeError, TypeError, ValueError):  # a read-only slice, or another napari
        return False
    return True


def _around(a: _Ends | None, b: _Ends | None) -> PlaneBox | None:
    """Return the window around two boxes; None where both are empty."""
    boxes = [box for box in (a, b) if box is not None and box[2] > box[0]]
    if not boxes:
        return None
    top, left = (min(box[i] for box in boxes) for i in (0, 1))
    bottom, right = (max(box[i] for box in boxes) for i in (2, 3))
    return slice(top, bottom), slice(left, right)
