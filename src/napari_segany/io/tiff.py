"""TIFF of every kind that microscopes and Fiji write: OME, ImageJ, plain; lazily, with calibration."""

from __future__ import annotations

import logging
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from napari_segany.core.axes import PLAIN_UNIT, Calibration, label_axes, resolve_axes
from napari_segany.core.errors import AxesError, FileFormatError

from .opened import OpenedImage

# tifffile's pages, series and metadata have no static types: `Any` in this file stands for those.

_UNKNOWN = "QIOR"  # letters that tifffile gives to axes that the file does not name
_CENTIMETER = 3  # value of the ResolutionUnit tag; inches say how to print, not how large the object is
_DAMAGE = (  # what tifffile raises on damaged headers, besides its own TiffFileError, a ValueError
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    struct.error,
)
_LOSSES = ("invalid page offset", "corrupt", "TiffTag 270 ")  # 270: the text with axes and calibration
_Sizes = dict[str, tuple[float, str]]  # size and unit of one pixel, by axis letter


def open_tiff(path: str | os.PathLike[str]) -> OpenedImage:
    """Return the first image of a TIFF file, not yet read.

    Raises
    ------
    FileFormatError
        If the file is empty, cut off or no TIFF.
    """
    file = Path(path)
    with _complaints() as complaints:
        try:
            with tifffile.TiffFile(file) as tif:
                if not tif.series:
                    raise FileFormatError(
                        f"{file} is a TIFF without an image; it is damaged or was not finished"
                    )
                _check_complete(file, tif)
                series = tif.series[0]
                axes = _name_axes(series.axes)
                sizes, channels = _metadata(tif)
                levels = [_open_level(file, level) for level in range(len(series.levels))]
        except _DAMAGE as error:
            if isinstance(error, FileFormatError | AxesError):
                raise
            raise FileFormatError(f"cannot read {file} as TIFF: {error}") from error
    if complaints:
        raise FileFormatError(
            f"{file} is a damaged TIFF: {complaints[0]}; copy it again from where it was made"
        )
    resolve_axes(tuple(levels[0].shape), axes, where=str(file))
    return OpenedImage(file, levels, axes, _calibration(axes, sizes), channels)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile logs about damage, because it goes on with the pages that it still finds."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if any(sign in message for sign in _LOSSES):
                found.append(message.split("> ", 1)[-1])

    handler, logger = Collect(logging.WARNING), logging.getLogger("tifffile")
    level, propagates = logger.level, logger.propagate
    if not logger.isEnabledFor(logging.WARNING):  # whoever silenced it wants no lines, not half an image
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def _check_complete(file: Path, tif: tifffile.TiffFile) -> None:
    """Raise FileFormatError if pixels of the last page lie behind the end of the file."""
    size = file.stat().st_size
    series = tif.series[0]
    last: Any = series.pages[-1] or series.keyframe
    spans = zip(last.dataoffsets, last.databytecounts, strict=True)
    ends = [offset + count for offset, count in spans if offset]
    if series.dataoffset is not None:
        ends.append(series.dataoffset + series.nbytes)
    if ends and max(ends) > size:
        raise FileFormatError(
            f"{file} is cut off: {size} bytes, but its pixels end at {max(ends)}; copy it again"
        )


def _name_axes(axes: str) -> str:
    """Return tifffile's axes with letters that mean something here; an unnamed axis becomes Z, then T."""
    named = axes
    for letter in axes:
        if letter in _UNKNOWN:
            named = named.replace(letter, next((new for new in "ZT" if new not in named), letter))
    return named


def _open_level(file: Path, level: int) -> Any:
    """Return one level: mapped into memory where the file is plain, else read chunk by chunk."""
    if level == 0:
        try:
            return tifffile.memmap(file, mode="r", series=0)
        except ValueError:
            pass  # compressed or tiled
    store = tifffile.imread(file, aszarr=True, series=0, level=level)
    array = zarr.open_array(store, mode="r")
    weakref.finalize(array, store.close)
    return array


def _metadata(tif: tifffile.TiffFile) -> tuple[_Sizes, tuple[str, ...]]:
    """Return pixel sizes and channel names, as far as the file says them."""
    if tif.is_ome and tif.ome_metadata:
        return _from_ome(tif.ome_metadata)
    page: Any = tif.series[0].keyframe
    if tif.imagej_metadata is not None:
        return _from_imagej(tif.imagej_metadata, page), ()
    if page.tags.valueof("ResolutionUnit") == _CENTIMETER:
        return _resolution(page, unit="micrometer", scale=1e4), ()
    return {}, ()


def _from_ome(xml: str) -> tuple[_Sizes, tuple[str, ...]]:
    """Return what the first image of OME-XML says."""
    image = _first(tifffile.xml2dict(xml).get("OME", {}).get("Image"))
    pixels = _first(image.get("Pixels"))
    sizes: _Sizes = {}
    for letter, key, unit in (
        ("X", "PhysicalSizeX", "micrometer"),
        ("Y", "PhysicalSizeY", "micrometer"),
        ("Z", "PhysicalSizeZ", "micrometer"),
        ("T", "TimeIncrement", "second"),
    ):
        if isinstance(pixels.get(key), int | float):
            sizes[letter] = (float(pixels[key]), str(pixels.get(f"{key}Unit") or unit))
    channels = pixels.get("Channel", [])
    channels = channels if isinstance(channels, list) else [channels]
    names = tuple(str(channel.get("Name") or "") for channel in channels)
    return sizes, names if any(names) else ()


def _first(value: Any) -> dict[str, Any]:
    """Return the only or first of an XML element's children."""
    child = value[0] if isinstance(value, list) and value else value
    return child if isinstance(child, dict) else {}


def _from_imagej(metadata: dict[str, Any], page: Any) -> _Sizes:
    """Return what Fiji wrote into the description and the resolution tags."""
    unit = str(metadata.get("unit") or PLAIN_UNIT).replace("\\u00B5", "\u00b5")
    sizes = _resolution(page, unit=unit, scale=1.0)
    if isinstance(metadata.get("spacing"), int | float):
        sizes["Z"] = (abs(float(metadata["spacing"])), unit)
    if isinstance(metadata.get("finterval"), int | float):
        sizes["T"] = (float(metadata["finterval"]), str(metadata.get("tunit") or "second"))
    return sizes


def _resolution(page: Any, *, unit: str, scale: float) -> _Sizes:
    """Return the pixel size from tags that give pixels per unit."""
    sizes: _Sizes = {}
    for letter, key in (("X", "XResolution"), ("Y", "YResolution")):
        pixels, units = page.tags.valueof(key, default=(0, 1))
        if pixels and units:
            sizes[letter] = (scale * units / pixels, unit)
    return sizes


def _calibration(axes: str, sizes: _Sizes) -> Calibration:
    """Return the calibration of the labels of a file; sizes that cannot be are left at one pixel."""
    plain = (1.0, PLAIN_UNIT)
    picked = [sizes.get(letter, plain) for letter in label_axes(axes)]
    picked = [pair if np.isfinite(pair[0]) and pair[0] > 0 else plain for pair in picked]
    return Calibration(
        label_axes(axes), tuple(size for size, _ in picked), (), tuple(unit for _, unit in picked)
    )
