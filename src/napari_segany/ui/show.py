"""A napari window on a picture and its labels, ready to go on: `python -m napari_segany.ui.show IMAGE LABELS`."""

from __future__ import annotations

import sys
from typing import Any

import napari

PLUGIN = "napari-segany"
WIDGET = "Segment by clicks"


def show(image: str, labels: str) -> Any:  # Any: napari is untyped
    """Return a viewer with a picture, the OME-Zarr labels over it, and the dock to go on segmenting."""
    viewer = napari.Viewer()
    viewer.open(image, plugin="napari")
    viewer.open(labels, plugin=PLUGIN)
    viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    return viewer


if __name__ == "__main__":
    show(*sys.argv[1:3])
    napari.run()
