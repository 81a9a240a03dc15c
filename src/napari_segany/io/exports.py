"""What leaves the package for other programs: overlay pictures and label TIFFs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import ImageError, StoreError
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import AnyArray, Labels

_SYMBOLS = {
    "angstrom": "\u00c5",
    "nanometer": "nm",
    "micrometer": "\u00b5m",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "microsecond": "\u00b5s",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "d",
}
_GOLDEN = 0.61803398875  # steps of the golden ratio keep the hues of neighbouring ids apart


def colours_of(ids: Labels) -> NDArray[np.uint8]:
    """Return one saturated (N, 3) RGB colour per id (N,), the same for an id in every picture."""
    hue = (ids.astype(np.float64) * _GOLDEN) % 1.0
    phase = (hue[:, None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    shade: NDArray[np.uint8] = (255 * (1 - 0.85 * np.clip(np.minimum(phase, 4 - phase), 0, 1))).astype(
        np.uint8
    )
    return shade


def draw_overlay(
    image: AnyArray, labels: Labels, *, window: Window | None = None, opacity: float = 0.35
) -> NDArray[np.uint8]:
    """Return a picture of labels over an image, each object tinted and outlined in its own colour.

    Parameters
    ----------
    image : (H, W) or (H, W, C)
        Three channels are shown as RGB; of any other number, their mean.
    labels : (H, W)
        0 is background.
    window
        Raw values that become black and white; sampled from the image when left out.
    opacity
        Of the tint, 0 to 1; outlines are always full.

    Returns
    -------
    (H, W, 3)
        0 to 255.
    """
    if labels.ndim != 2 or image.shape[:2] != labels.shape or image.ndim not in (2, 3):
        raise ImageError(f"an overlay needs one plane: image {image.shape}, labels {labels.shape}")
    grey = (window or sample_window(image)).apply(image)
    if grey.ndim == 2:
        grey = grey[..., None]
    rgb = grey if grey.shape[-1] == 3 else np.repeat(grey.mean(axis=-1, keepdims=True), 3, axis=-1)
    picture = rgb * np.float32(255)
    ids, places = np.unique(labels, return_inverse=True)
    tint = colours_of(ids)[places.reshape(labels.shape)].astype(np.float32)
    inside, edge = labels > 0, outlines_of(labels)
    picture[inside] += np.float32(opacity) * (tint[inside] - picture[inside])
    picture[edge] = tint[edge]
    return np.round(picture).astype(np.uint8)


def outlines_of(labels: Labels) -> NDArray[np.bool_]:
    """Return the (H, W) pixels of objects that touch another id, or background, across an edge."""
    edge = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (labels > 0)


def save_picture(path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> Path:
    """Write an (H, W, 3) picture as PNG or JPEG, by the ending of its name, and return its path."""
    from skimage.io import imsave  # slow to import, and the GUI never needs it

    return _put(Path(path), lambda draft: imsave(draft, picture, check_contrast=False))


def write_tiff_labels(path: str | os.PathLike[str], labels: Any, *, calibration: Calibration) -> Path:
    """Write labels as a compressed OME-TIFF, uint32, and return its path.

    Parameters
    ----------
    path
        Ends with .tif or .tiff.
    labels : (..., H, W)
        uint32, in memory or lazy.
    calibration
        One axis for each side.
    """
    file = Path(path)
    calibration.fits(tuple(labels.shape))
    names = {"X": "PhysicalSizeX", "Y": "PhysicalSizeY", "Z": "PhysicalSizeZ", "T": "TimeIncrement"}
    metadata: dict[str, Any] = {"axes": calibration.axes}
    for letter, size, unit in zip(calibration.axes, calibration.scale, calibration.units, strict=True):
        if letter in names and unit in _SYMBOLS:
            metadata |= {names[letter]: size, f"{names[letter]}Unit": _SYMBOLS[unit]}
    pixels = np.asarray(labels, dtype=np.uint32)
    return _put(
        file, lambda draft: tifffile.imwrite(draft, pixels, ome=True, compression="zlib", metadata=metadata)
    )


def _put(file: Path, write: Callable[[Path], object]) -> Path:
    """Let a file be written beside its place and move it there when it is complete."""
    draft = file.with_name(f".{os.getpid()}.partial.{file.name}")
    try:
        write(draft)
        draft.replace(file)
    except OSError as error:
        raise StoreError(
            f"cannot write {file}: {error}; choose a folder that exists and that you may write to"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return file
