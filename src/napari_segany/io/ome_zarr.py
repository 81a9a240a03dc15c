"""OME-Zarr 0.4 and 0.5: images and labels in, labels out."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from yaozarrs import v04, v05

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import AxesError, FileFormatError, ImageError

from .label_store import LabelStore
from .ngff import axes_of, calibration_of, read_attributes
from .opened import OpenedImage

# Parsed JSON and zarr arrays have no useful static types: `Any` in this file stands for those.

_MAX_LABEL = np.iinfo(np.uint32).max


def is_ome_zarr(path: Path) -> bool:
    """Return whether a path is a folder that zarr could have written."""
    return path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zattrs", ".zgroup"))


def open_ome_zarr(path: str | os.PathLike[str], *, writable: bool = False) -> OpenedImage:
    """Return an OME-Zarr image or label image, not yet read.

    Parameters
    ----------
    path
        The folder of one image: an image of a plate or of a series is a folder inside.
    writable
        Whether the arrays may be changed through what is returned.

    Raises
    ------
    FileFormatError
        If it is no such folder, or its metadata are damaged.
    """
    root = Path(path)
    ome, version = _metadata(root)
    if "multiscales" not in ome:
        raise FileFormatError(f"{root} is OME-Zarr {version}, but not one image: {_advice(root, ome)}")
    model = v05.Multiscale if version == "0.5" else v04.Multiscale
    try:
        multiscale = model.model_validate(ome["multiscales"][0])
        axes, calibration = axes_of(multiscale), calibration_of(multiscale)
    except (ValidationError, AxesError, ValueError, LookupError, TypeError) as error:
        raise FileFormatError(f"the OME-Zarr metadata of {root} are damaged: {_first_line(error)}") from error
    mode: Literal["r", "r+"] = "r+" if writable else "r"
    levels = [_open_array(root / dataset.path, axes=axes, mode=mode) for dataset in multiscale.datasets]
    return OpenedImage(root, levels, axes, calibration, _channel_names(ome))


def _metadata(root: Path) -> tuple[dict[str, Any], str]:
    """Return the OME attributes of a group and their version."""
    old = root / ".zattrs"
    if not old.exists() or (root / "zarr.json").exists():
        attributes = read_attributes(root)
        if "ome" not in attributes:
            raise FileFormatError(
                f"{root} is a zarr group without OME metadata; accepted: OME-Zarr 0.4 and 0.5"
            )
        return dict(attributes["ome"]), "0.5"
    try:
        return dict(json.loads(old.read_text(encoding="utf-8"))), "0.4"
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"{old} is damaged ({error}); restore it from a copy") from error


def _advice(root: Path, ome: dict[str, Any]) -> str:
    """Return what to open instead of a group that holds no image itself."""
    if "plate" in ome:
        return f"a plate; open one field, such as {root}/A/1/0"
    if "well" in ome:
        return f"a well; open one field, such as {root}/0"
    if "bioformats2raw.layout" in ome:
        return f"a series of images; open one of them, such as {root}/0"
    if "labels" in ome:
        return f"a list of labels; open one of them, such as {root}/{next(iter(ome['labels']), 'NAME')}"
    return "it has no multiscales"


def _open_array(path: Path, *, axes: str, mode: Literal["r", "r+"]) -> Any:
    """Return one level, checked against the axes."""
    try:
        array = zarr.open_array(str(path), mode=mode)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"cannot open the level {path}: {_first_line(error)}; the image is incomplete"
        ) from error
    if array.ndim != len(axes):
        raise FileFormatError(f"{path} has {array.ndim} sides, but the metadata name the axes {axes!r}")
    return array


def _channel_names(ome: dict[str, Any]) -> tuple[str, ...]:
    """Return the names that the rendering settings give to channels."""
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not all(isinstance(channel, dict) for channel in channels):
        return ()
    return tuple(str(channel.get("label") or f"channel {i}") for i, channel in enumerate(channels))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_labels(
    path: str | os.PathLike[str], *, name: str | None = None, writable: bool = False
) -> OpenedImage:
    """Return a label image: the folder itself, or one of the labels of an OME-Zarr image.

    Parameters
    ----------
    path
        A label image, or an image with a `labels` group.
    name
        Which labels of an image; may be left out when there is one.
    writable
        Whether the array may be changed through what is returned.

    Raises
    ------
    FileFormatError
        If there are no such labels, or they are not whole numbers.
    """
    root = Path(path)
    group = _labels_group(root, name)
    opened = open_ome_zarr(group, writable=writable)
    if opened.dtype.kind not in "ui":
        raise FileFormatError(f"{group} is {opened.dtype}, but labels are whole numbers")
    return opened


def label_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the labels that an OME-Zarr image carries."""
    labels = Path(path) / "labels"
    if not is_ome_zarr(labels):
        return []
    return [str(name) for name in _metadata(labels)[0].get("labels", [])]


def _labels_group(root: Path, name: str | None) -> Path:
    """Return the folder of a label image."""
    if "image-label" in _metadata(root)[0]:
        return root
    names = label_names(root)
    if name is None and len(names) == 1:
        return root / "labels" / names[0]
    if name in names:
        return root / "labels" / str(name)
    if name is None and not names:
        raise FileFormatError(f"{root} carries no labels")
    raise FileFormatError(f"{root} carries the labels {names}; pass name=... with one of them, not {name!r}")


def write_labels_ome_zarr(
    path: str | os.PathLike[str],
    labels: NDArray[np.integer[Any]] | NDArray[np.bool_],
    *,
    calibration: Calibration,
    name: str = "labels",
    overwrite: bool = False,
) -> Path:
    """Write labels as an OME-Zarr 0.5 label image with a pyramid, and return its folder.

    Parameters
    ----------
    path
        A new folder, or an OME-Zarr 0.5 image, in which they become `labels/<name>`.
    labels : (..., H, W)
        Whole numbers from 0 to 2**32 - 1; written plane by plane, so they may be lazy.
    calibration
        One axis for each side.
    name
        Of the label image.
    overwrite
        Replace labels that this package wrote before; nothing else is ever replaced.
    """
    if np.dtype(labels.dtype).kind not in "uib":
        raise ImageError(f"labels are whole numbers, got {labels.dtype}; round them with astype(np.uint32)")
    shape = tuple(labels.shape)
    with LabelStore.create(
        path, shape=shape, calibration=calibration, name=name, overwrite=overwrite
    ) as store:
        for index in product(*map(range, shape[:-2])):
            store.array[index] = as_labels(np.asarray(labels[index]))
        store.build_pyramid()
        return store.path


def as_labels(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Return whole numbers as uint32.

    Raises
    ------
    ImageError
        If one is below 0 or above 2**32 - 1.
    """
    low, high = (int(end(values)) for end in (np.min, np.max))
    if low < 0 or high > _MAX_LABEL:
        raise ImageError(f"labels are 0 to {_MAX_LABEL}, got {low} to {high}; relabel them first")
    return values.astype(np.uint32)
