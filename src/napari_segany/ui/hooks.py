"""What napari asks a plugin for: readers, a writer, sample data. None of it loads torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari_segany.core.errors import FileFormatError
from napari_segany.io.images import open_image
from napari_segany.io.object_properties import INDEX, write_object_properties
from napari_segany.io.ome_zarr import label_names, read_labels, write_labels_ome_zarr
from napari_segany.io.state import SUFFIX, load_state

from .grid import Grid
from .layer_data import LayerData, image_layer, labels_layer, stem_of
from .saved import layers_of_state

Reader = Callable[[Any], list[LayerData]]

_SUFFIXES = (".ome.zarr", ".ome.tif", ".ome.tiff", SUFFIX)


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Return a function that reads a path, or None if it is of another kind."""
    if not isinstance(path, str):
        return None  # a list of files is a stack to be joined, which other readers do
    name = path.rstrip("/\\").lower()
    return read if name.endswith(_SUFFIXES) else None


def read(path: str) -> list[LayerData]:
    """Return the layers of an OME-Zarr folder, an OME-TIFF or a saved state."""
    file = Path(path)
    if file.name.lower().endswith(SUFFIX):
        return layers_of_state(load_state(file), folder=file.parent)
    if not file.is_dir():
        return [image_layer(open_image(file), name=stem_of(file))]
    if _is_labels(file):
        return [labels_layer(file, name=stem_of(file))]
    labels = [labels_layer(file / "labels" / name, name=name) for name in label_names(file)]
    return [image_layer(open_image(file), name=stem_of(file)), *labels]


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write a Labels layer as an OME-Zarr label image, and return its folder.

    Parameters
    ----------
    path
        A new folder.
    data : (..., H, W)
        Labels; with a list of levels, the finest is written.
    meta
        The layer's scale, translation, units, axis labels and features, among others.
    """
    finest = data[0] if meta.get("multiscale") else data
    ndim = len(finest.shape)
    placement = {
        "scale": meta.get("scale", (1.0,) * ndim),
        "translate": meta.get("translate", (0.0,) * ndim),
        "units": meta.get("units", ("pixel",) * ndim),
        "axis_labels": meta.get("axis_labels", ("",) * ndim),
    }
    calibration = Grid(tuple(finest.shape), placement).calibration()
    group = write_labels_ome_zarr(path, finest, calibration=calibration)
    features = meta.get("features")
    if features is not None and INDEX in features:
        write_object_properties(group, {str(name): list(features[name]) for name in features})
    return [str(group)]


def _is_labels(folder: Path) -> bool:
    """Return whether a folder is a label image itself."""
    try:
        read_labels(folder)
    except FileFormatError:
        return False
    return not label_names(folder)


# --------------------------------------------------------------------------------- sample data


def sample_cell() -> list[LayerData]:
    """Return a real cell, in quantitative phase contrast."""
    return [(_packaged("cell"), {"name": "cell"}, "image")]


def sample_immunohistochemistry() -> list[LayerData]:
    """Return real tissue, stained with haematoxylin and DAB."""
    return [(_packaged("immunohistochemistry"), {"name": "tissue", "rgb": True}, "image")]


def _packaged(name: str) -> Any:  # Any: scikit-image is untyped
    """Return an image that scikit-image carries in its wheel."""
    from skimage import data

    return getattr(data, name)()


def sample_nuclei() -> list[LayerData]:
    """Return fluorescent nuclei, with the truth."""
    return _scene("fluorescence", seed=3)


def sample_phase() -> list[LayerData]:
    """Return cells in phase contrast, with the truth."""
    return _scene("phase", seed=5)


def sample_membranes() -> list[LayerData]:
    """Return cells with stained membranes, with the truth."""
    return _scene("membrane", seed=7)


def sample_electron() -> list[LayerData]:
    """Return cells as an electron microscope shows them, with the truth."""
    return _scene("em", seed=11)


def _scene(kind: str, *, seed: int) -> list[LayerData]:
    """Return a procedural scene and, hidden at first, its exact labels."""
    from napari_segany.train.scenes import render_scene

    scene = render_scene(seed, kind=kind, size=(512, 512))
    image = {"name": kind, "rgb": scene.image.ndim == 3}
    truth = {"name": f"{kind} truth", "visible": False}
    return [(scene.image, image, "image"), (scene.labels, truth, "labels")]
