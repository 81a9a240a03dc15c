"""Where the labels of a session go: an OME-Zarr store on disk, or an array in memory."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_segany.core.errors import ImageError, SegAnyError
from napari_segany.core.masks import ArrayLabels, LabelSink
from napari_segany.io.label_store import LabelStore

from .grid import Grid
from .settings import Settings

if TYPE_CHECKING:
    from napari.layers import Labels

STORE_KEY = "segany_store"
"""In the metadata of a Labels layer: the folder of the store that its array belongs to."""

LEVEL_KEY = "segany_level"
"""In the metadata of a Labels layer: the granularity to go on with, None for the best mask."""


@dataclass(frozen=True, eq=False)
class Target:
    """Labels to write into.

    Attributes
    ----------
    sink
        Takes the patches.
    array : (..., H, W)
        What a Labels layer shows and paints into: the sink's own array.
    path
        The store's folder; None in memory.
    is_own
        True when it was made for this session, so that it may be removed again if nothing was committed.
    """

    sink: LabelSink
    array: Any  # Any: NumPy or zarr
    path: Path | None = None
    is_own: bool = False

    def close(self) -> None:
        """Let others write to the store; an own store that stayed empty is removed."""
        if not isinstance(self.sink, LabelStore):
            return
        is_unused = self.is_own and self.sink.max_label() == 0 and not self.sink.records()
        self.sink.close()
        if is_unused and self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def new_target(grid: Grid, *, image_name: str, settings: Settings) -> Target:
    """Return empty labels on a grid, in a new store where the settings allow it."""
    if not settings.is_autosaving:
        array = np.zeros(grid.shape, dtype=np.uint32)
        return Target(ArrayLabels(array), array)
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = _free_path(folder, image_name)
    store = LabelStore.create(
        path, shape=grid.shape, calibration=grid.calibration(), source={"image": image_name}
    )
    return Target(store, store.array, path, is_own=True)


def target_of(layer: Labels, *, grid: Grid) -> Target:
    """Return the labels of an existing layer, to go on with."""
    if tuple(layer.data.shape) != grid.shape or layer.multiscale:
        raise ImageError(
            f"{layer.name} has shape {tuple(layer.data.shape)} but the image needs {grid.shape}; "
            "choose New labels"
        )
    path = layer.metadata.get(STORE_KEY)
    if path is not None:
        store = LabelStore.open(path)
        layer.data = store.array
        return Target(store, store.array, Path(path))
    if not isinstance(layer.data, np.ndarray) or layer.data.dtype != np.uint32:
        raise ImageError(
            f"{layer.name} holds {layer.data.dtype} {type(layer.data).__name__}; "
            "convert it to uint32 by a right click in the layer list, or choose New labels"
        )
    return Target(ArrayLabels(layer.data), layer.data)


def try_new_target(
    grid: Grid, *, image_name: str, settings: Settings
) -> tuple[Target, SegAnyError | OSError | None]:
    """Return new labels, in memory if the disk refuses, and then also why."""
    try:
        return new_target(grid, image_name=image_name, settings=settings), None
    except (SegAnyError, OSError) as error:
        array = np.zeros(grid.shape, dtype=np.uint32)
        return Target(ArrayLabels(array), array), error


def _free_path(folder: Path, image_name: str) -> Path:
    """Return a path that names the image and the time, and does not exist."""
    stem = re.sub(r"[^\w.-]+", "_", image_name).strip("._") or "image"
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    path, count = folder / f"{stem}-{stamp}.ome.zarr", 1
    while path.exists():
        path, count = folder / f"{stem}-{stamp}-{count}.ome.zarr", count + 1
    return path
