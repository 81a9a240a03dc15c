"""Images to what a model's encoder takes: windowed, resized, normalised; and the map back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import ImageError
from napari_segany.core.geometry import ResizeMap, fit_long_side, fit_short_side, stretch
from napari_segany.core.intensity import Window
from napari_segany.models.image_model import ImageModelConfig

FRAME_MULTIPLE = 32
"""Of the sides of frames that follow an image's aspect."""
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet statistics of RGB in 0..1, the input range of every SAM model."""


def normalise(pixels: Tensor) -> Tensor:
    """Return (B, 3, H, W) pixels in 0..1 with the models' mean taken off and divided by their spread."""
    mean = pixels.new_tensor(MEAN)[:, None, None]
    std = pixels.new_tensor(STD)[:, None, None]
    return (pixels - mean) / std


def check_image(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an (H, W) or (H, W, C) image with C of 1 to 3 and at least one pixel; an alpha channel is dropped.

    Raises
    ------
    ImageError
        If shape or dtype do not fit.
    """
    image = np.asarray(image)
    if not (np.issubdtype(image.dtype, np.number) or image.dtype == np.bool_) or np.iscomplexobj(image):
        raise ImageError(f"image dtype {image.dtype} is not a real number; convert it first")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ImageError(
            f"an image must be (H, W) or (H, W, C) with at least one pixel, got shape {image.shape}"
        )
    if image.ndim == 3 and image.shape[2] > 4:
        raise ImageError(
            f"image of shape {image.shape} has {image.shape[2]} channels last; pass 1 to 4 channels, "
            "or one plane of a stack at a time"
        )
    return image[..., :3] if image.ndim == 3 and image.shape[2] == 4 else image


def to_rgb(image: NDArray[np.generic], window: Window) -> Tensor:
    """Return a checked image as (1, 3, H, W) float32 in 0..1: grey is repeated, two channels get an empty third."""
    values = torch.from_numpy(window.apply(image))
    if values.ndim == 2:
        return values.expand(1, 3, *values.shape)
    values = values.permute(2, 0, 1)[None]  # (1, C, H, W)
    if values.shape[1] == 1:
        return values.expand(1, 3, *values.shape[2:])
    return F.pad(values, (0, 0, 0, 0, 0, 3 - values.shape[1]))


def resize_of(shape: tuple[int, int], config: ImageModelConfig) -> ResizeMap:
    """Return how an (H, W) image fills a model's frame."""
    if config.resizing == "fit":
        side = min(max(*shape, config.image_size), config.largest_size)
        return fit_long_side(shape, long_side=side, multiple=FRAME_MULTIPLE)
    if config.resizing == "pad":
        return fit_long_side(shape, long_side=config.image_size)
    if config.resizing == "short":
        return fit_short_side(shape, short_side=config.image_size)
    return stretch(shape, side=config.image_size)


def frame_pixels(rgb: Tensor, resize: ResizeMap, config: ImageModelConfig) -> Tensor:
    """Return a model's normalised frame of (1, 3, H, W) pixels in 0..1."""
    if config.resizing == "short":
        height, width = (-(-side // FRAME_MULTIPLE) * FRAME_MULTIPLE for side in resize.target)
        return to_frame(rgb, resize, frame=(height, width), is_cubic=True)
    side = config.image_size
    return to_frame(rgb, resize, frame=(side, side) if config.resizing == "pad" else None)


def to_frame(
    rgb: Tensor, resize: ResizeMap, *, frame: tuple[int, int] | None = None, is_cubic: bool = False
) -> Tensor:
    """Return normalised (1, 3, h, w) pixels, resized with antialiasing to the map's target.

    With a `frame` (H, W), zeros are added at the bottom and the right up to its size, after normalisation. Resizing is
    bilinear, or bicubic where asked for (Semantic-SAM).
    """
    mode = "bicubic" if is_cubic else "bilinear"
    pixels = F.interpolate(rgb, size=resize.target, mode=mode, antialias=True, align_corners=False)
    pixels = normalise(pixels.clamp(0, 1) if is_cubic else pixels)
    if frame is None:
        return pixels
    return F.pad(pixels, (0, frame[1] - pixels.shape[3], 0, frame[0] - pixels.shape[2]))


def kept_pixels(image: NDArray[np.generic], rgb: Tensor) -> Tensor:
    """Return the pixels to keep for a closer look: half precision, one channel where all are the same."""
    return rgb[:, : 1 if image.ndim == 2 else 3].half().clone()
