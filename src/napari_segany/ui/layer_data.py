"""Opened files as the layer data that napari takes from readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_segany.core.axes import channel_axis
from napari_segany.core.errors import FileFormatError
from napari_segany.io.label_layout import is_store
from napari_segany.io.object_properties import read_object_properties
from napari_segany.io.ome_zarr import read_labels
from napari_segany.io.opened import OpenedImage
from napari_segany.session.objects import ObjectTable

from .object_features import merged, objects_of_store, table_of
from .target import STORE_KEY

# napari's layer data: (array or arrays, keyword arguments of `add_<kind>`, kind)
LayerData = tuple[Any, dict[str, Any], str]


def image_layer(opened: OpenedImage, *, name: str) -> LayerData:
    """Return an Image layer with its place in the world, one per channel; colours stay together."""
    letters = opened.axes
    place = channel_axis(letters)
    spatial = [letter for letter in letters if letter not in "CS"]
    if spatial[-2:] != ["Y", "X"]:
        raise FileFormatError(f"{opened.path} has axes {letters!r}; rows and columns must be last to show it")
    is_rgb = place == len(letters) - 1 and opened.shape[-1] in (3, 4)
    how: dict[str, Any] = {"name": name, "metadata": {"path": str(opened.path)}, **_placement(opened)}
    if is_rgb:
        how["rgb"] = True
    elif place is not None:
        how["channel_axis"] = place
        how["name"] = [f"{name} {channel}" for channel in _channel_names(opened, place)]
    data: Any = list(opened.levels) if len(opened.levels) > 1 else opened.levels[0]
    how["multiscale"] = len(opened.levels) > 1
    return data, how, "image"


def labels_layer(group: Path, *, name: str) -> LayerData:
    """Return a Labels layer over the finest level itself, so that edits go to the disk; features say what is known."""
    store = is_store(group)
    opened = read_labels(group, writable=True)
    metadata = {STORE_KEY: str(group)} if store else {}
    how = {"name": name, "metadata": metadata, **_placement(opened)}
    columns = _object_columns(group)
    known = objects_of_store(group) if store else ObjectTable()
    if columns or known.rows:
        whole = table_of(columns).changed(known.rows)
        how["features"] = merged(columns, whole) if whole.rows else columns
    return opened.data, how, "labels"


def _object_columns(group: Path) -> dict[str, list[Any]]:
    """Return what the metadata of labels say about objects; nothing where they are of another version of OME-NGFF."""
    try:
        return read_object_properties(group)
    except FileFormatError:
        return {}


def stem_of(path: Path) -> str:
    """Return the file name without any of its endings."""
    return path.name.split(".ome.")[0] or path.name


def _placement(opened: OpenedImage) -> dict[str, Any]:
    """Return scale, translation, units and axis labels as napari takes them."""
    calibration = opened.calibration
    return {
        "scale": calibration.scale,
        "translate": calibration.translate,
        "units": calibration.units,
        "axis_labels": tuple(letter.lower() for letter in calibration.axes),
    }


def _channel_names(opened: OpenedImage, place: int) -> list[str]:
    count = opened.shape[place]
    return list(opened.channels) if len(opened.channels) == count else [f"channel {i}" for i in range(count)]
