"""One way in for every image file: `open_image`."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np

from napari_segany.core.axes import Calibration, label_axes, resolve_axes
from napari_segany.core.errors import FileFormatError

from .ome_zarr import is_ome_zarr, open_ome_zarr
from .opened import OpenedImage
from .tiff import open_tiff

TIFF = (".tif", ".tiff")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF")
_ACCEPTED = f"OME-Zarr folders, TIFF ({', '.join(TIFF)}) and pictures ({', '.join(PICTURES)})"


def open_image(path: str | os.PathLike[str], *, axes: str | None = None) -> OpenedImage:
    """Return an image of any accepted format, lazily where the format allows it.

    Parameters
    ----------
    path
        OME-Zarr 0.4 or 0.5, OME-TIFF, ImageJ or plain TIFF, PNG, JPEG.
    axes
        Letters for the sides, such as "TYX", where the file names them wrongly or not at all.

    Raises
    ------
    FileFormatError
        If there is no such file, or its content is not what its name promises.
    AxesError
        If `axes` do not fit.
    """
    file = Path(path)
    if not file.exists():
        raise FileFormatError(f"there is no file {file}")
    if file.is_dir():
        if not is_ome_zarr(file):
            raise FileFormatError(f"{file} is a folder, but not OME-Zarr; accepted: {_ACCEPTED}")
        opened = open_ome_zarr(file)
    elif file.suffix.lower() in TIFF:
        opened = open_tiff(file)
    elif file.suffix.lower() in PICTURES:
        opened = _open_picture(file)
    else:
        raise FileFormatError(f"{file} is of a kind that is not read; accepted: {_ACCEPTED}")
    return opened if axes is None else _rename(opened, axes)


def _open_picture(file: Path) -> OpenedImage:
    """Return a picture, read whole; an alpha channel is dropped."""
    from skimage.io import imread  # slow to import, and the GUI never needs it

    try:
        content = file.read_bytes()
        if not content.startswith(_SIGNATURES):
            raise ValueError(f"it begins with {content[:8]!r}")
        with warnings.catch_warnings():  # of the other decoders that are tried when the first one fails
            warnings.simplefilter("ignore")
            pixels = np.asarray(imread(io.BytesIO(content)))
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:  # what Pillow's decoders raise
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(f"cannot read {file} as a picture: {what}; accepted: {_ACCEPTED}") from error
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3):
        raise FileFormatError(
            f"{file} is animated or of an unknown kind: its pixels have shape {pixels.shape}"
        )
    return OpenedImage(file, [pixels], "YX" if pixels.ndim == 2 else "YXC", Calibration("YX"))


def _rename(opened: OpenedImage, axes: str) -> OpenedImage:
    """Return an opened image with other letters; sizes stay with the letters that both have."""
    letters = resolve_axes(opened.shape, axes, where=str(opened.path))
    old = opened.calibration
    known = [old.axes.find(letter) for letter in label_axes(letters)]
    calibration = Calibration(
        label_axes(letters),
        tuple(old.scale[i] if i >= 0 else 1.0 for i in known),
        tuple(old.translate[i] if i >= 0 else 0.0 for i in known),
        tuple(old.units[i] if i >= 0 else "" for i in known),
    )
    return OpenedImage(opened.path, opened.levels, letters, calibration, opened.channels)
