"""What of a stack's objects is seen in layers: their colours, their tracks, and labels read as prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_segany.core.errors import ImageError
from napari_segany.core.types import Labels
from napari_segany.session.prompts import PlaneIndex
from napari_segany.session.records import Colour, ObjectTrack
from napari_segany.session.volume_tracks import TrackTable

from .grid import Grid

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image
    from napari.layers import Labels as LabelsLayer

_TRACKS_OF = "segany_tracks_of"  # in the metadata of a layer: which image it was made for
_MOST_COLOURS = 10_000  # labels that get an entry each, once one of them has a colour of its own


class TracksView:
    """A Tracks layer of a viewer, made when there is something to show; one that an earlier session made goes on."""

    def __init__(self, viewer: ViewerModel, *, image: Image, grid: Grid) -> None:
        self._viewer, self._image, self._grid = viewer, image, grid
        self._layer: Any = None  # Any: napari is untyped
        self.is_wanted = False

    def update(self, table: TrackTable) -> None:
        """Show centroids and parents, if that is wanted; a layer that somebody removed is not wanted any more."""
        is_gone = self._layer is not None and self._layer not in self._viewer.layers
        self.is_wanted = self.is_wanted and not is_gone
        if not self.is_wanted or not len(table):
            self.remove()
            return
        self._layer = self._layer or self._found()
        if self._layer is None:
            self._layer = self._added(table)
        else:
            self._layer.graph = {}  # of ids that may be gone
            self._layer.data = table.data
            self._layer.features = {"score": table.scores, "area": table.areas}
            self._layer.graph = table.graph

    def remove(self) -> None:
        """Take the layer away."""
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _found(self) -> Any:
        """Return the layer that an earlier session made for the same image."""
        mine = [one for one in self._viewer.layers if one.metadata.get(_TRACKS_OF) == self._image.unique_id]
        return mine[0] if mine and type(mine[0]).__name__ == "Tracks" else None

    def _added(self, table: TrackTable) -> Any:
        """Add a layer, and leave the selection as it is."""
        active = self._viewer.layers.selection.active
        layer = self._viewer.add_tracks(
            table.data,
            name=f"{self._image.name} tracks",
            features={"score": table.scores, "area": table.areas},
            graph=table.graph,
            metadata={_TRACKS_OF: self._image.unique_id},
            **self._grid.placement,
        )
        self._viewer.layers.selection.active = active
        return layer


def read_label_plane(layer: LabelsLayer, *, index: PlaneIndex, shape: tuple[int, ...]) -> Labels:
    """Return the (H, W) labels of a layer on one plane of a (..., H, W) grid; a flat layer is on every plane.

    Raises
    ------
    ImageError
        If the layer is of another shape.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    sides = tuple(int(side) for side in data.shape)
    if sides not in (shape, shape[-2:]):
        raise ImageError(
            f"{layer.name} has shape {sides}; labels as prompts must have the shape of the stack, {shape}, "
            f"or of one frame, {shape[-2:]}"
        )
    plane = np.asarray(data[index] if len(sides) == len(shape) else data)
    if plane.size and plane.min() < 0:
        raise ImageError(f"{layer.name} has negative labels, such as {plane.min()}; 0 is the background")
    return plane.astype(np.uint32)


class ObjectColours:
    """The colours of objects in a Labels layer: of their label, or their own."""

    def __init__(self, layer: LabelsLayer) -> None:
        from napari.utils.colormaps import DirectLabelColormap

        self._layer = layer
        is_ours = isinstance(layer.colormap, DirectLabelColormap)
        self._usual: Any = (
            layer._original_random_colormap if is_ours else layer.colormap
        )  # Any: napari is untyped
        self._own: dict[int | None, Any] = {}

    def colour_of(self, object_id: int, own: Colour | None) -> str:
        """Return the colour of an object as `#rrggbb`."""
        parts = np.ravel(self._usual.map(object_id) if own is None else own)[:3].tolist()
        red, green, blue = (round(255 * part) for part in parts)
        return f"#{red:02x}{green:02x}{blue:02x}"

    def show(self, tracks: Sequence[ObjectTrack]) -> None:
        """Give objects with a colour of their own that colour; all others keep the one of their label."""
        from napari.utils.colormaps import DirectLabelColormap

        own: dict[int | None, Any] = {track.object_id: track.colour for track in tracks if track.colour}
        if own == self._own:
            return
        self._own = own
        if not own:
            self._layer.colormap = self._usual
            return
        last = min(_MOST_COLOURS, max(track.object_id for track in tracks) + 256)
        colours: dict[int | None, Any] = {i: self._usual.map(i) for i in range(1, last + 1)}
        colours.update(own)
        colours.update({None: "#a0a0a0", 0: "transparent"})
        self._layer.colormap = DirectLabelColormap(color_dict=colours)
