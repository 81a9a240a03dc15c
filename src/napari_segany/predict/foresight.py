"""Where an object is looked for before anything was seen of it.

The whole frame need not be decoded where a prompt says by itself what it is about: by its box, by the earlier answer
that it corrects, or by clicks, where the model foretells how large the object is. What is foretold may be wrong, so
what is then found has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from napari_segany.core.geometry import ResizeMap
from napari_segany.core.types import Box, FloatArray, Prompt
from napari_segany.models.image_model import ImageModel
from napari_segany.models.prompt_labels import POSITIVE

from .features import Features
from .prompts import Encoded
from .zoom import Window, boxes_of_logits, choose_window, extent_of

SURELY_SMALL = 76.0
"""Frame pixels up to which a bound of an object's side tells that it is small enough for a window (`zoom.SMALL`)."""
_USUAL = 0.7  # of such a bound is the median side
_LEAST_AROUND = 1 / 8


@dataclass(frozen=True, slots=True)
class Foresight:
    """Where an object is thought to lie.

    Attributes
    ----------
    extent
        The object with the prompt's places, in image pixels.
    window
        To look at it in, magnified, if it is small.
    is_sure
        Whether a box or an earlier answer says so; else it is foretold.
    """

    extent: Box
    window: Window | None
    is_sure: bool


def foresee(network: ImageModel, features: Features, prompt: Prompt, encoded: Encoded) -> Foresight | None:
    """Return where the object of a prompt is thought to lie, None where it may be anywhere.

    Drawn masks are looked at in the whole frame, and so is everything that is not to be looked at again.
    """
    if features.rgb is None or (prompt.mask is not None and prompt.mask.dtype == np.bool_):
        return None
    if prompt.mask is None and prompt.box is None:
        clicked = encoded.xy[encoded.labels == POSITIVE]
        sides = network.sides(features.tensors, clicked) if len(clicked) else None
        if sides is None or not torch.isfinite(sides).all():
            return None
        return foretold(prompt, float(sides.max()), features.resize)
    found: list[Box] = []
    if prompt.mask is not None:
        found = boxes_of_logits(cast(FloatArray, prompt.mask), features.resize)
        if not found:
            return None
    extent = extent_of(prompt, found)
    assert extent is not None
    return Foresight(extent, choose_window(prompt, found, features.resize), is_sure=True)


def foretold(prompt: Prompt, side: float, resize: ResizeMap) -> Foresight | None:
    """Return where an object lies around the positive clicks, if its longer side is bounded, in frame pixels."""
    extent = extent_of(prompt, _around_clicks(prompt, side / max(resize.scale)))
    if extent is None:
        return None
    window = None
    if side <= SURELY_SMALL:
        window = choose_window(prompt, _around_clicks(prompt, _USUAL * side / max(resize.scale)), resize)
    return Foresight(extent, window, is_sure=False)


def _around_clicks(prompt: Prompt, side: float) -> list[Box]:
    """Return squares with sides in image pixels around each positive click."""
    assert prompt.points is not None
    clicks = prompt.points.coords[prompt.points.positive].tolist()
    return [Box(r - side / 2, c - side / 2, r + side / 2, c + side / 2) for r, c in clicks]


def window_after(prompt: Prompt, found: list[Box], window: Window, features: Features) -> Window | None:
    """Return the window for what was found in a foretold one: the same, where that shows it as well as its own would.

    None where it is large, after all.
    """
    better, extent = choose_window(prompt, found, features.resize), extent_of(prompt, found)
    if better is None or extent is None:
        return None
    return window if _shows(window, extent, better=better, shape=features.image_shape) else better


def _shows(window: Window, extent: Box, *, better: Window, shape: tuple[int, int]) -> bool:
    """Whether a window is as large as a `better` one, with an eighth of its side around `extent`.

    Where the image of `shape` (H, W) ends, there is no need for that.
    """
    ends = ((extent.row0, extent.row1), (extent.col0, extent.col1))
    for own, new, (low, high), length in zip(window, better, ends, shape, strict=True):
        side = own.stop - own.start
        around = _LEAST_AROUND * side
        is_cut = (own.start > 0 and low < own.start + around) or (
            own.stop < length and high > own.stop - around
        )
        if is_cut or new.stop - new.start != side:
            return False
    return True
