"""Which window an object is looked at in before anything was seen of it.

The whole frame need not be decoded where a prompt says by itself that it is about something small: by its box, by the
earlier answer that it corrects, or by clicks where the model foretells it. What is foretold may be wrong, so what is
then found has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np

from napari_segany.core.geometry import ResizeMap
from napari_segany.core.types import Box, FloatArray, Prompt
from napari_segany.models.image_model import ImageModel
from napari_segany.models.prompt_labels import POSITIVE

from .features import Features
from .prompts import Encoded
from .zoom import Window, boxes_of_logits, choose_window, extent_of

SURELY_SMALL = 48.0
"""Frame pixels up to which a foretold side is believed; objects up to `zoom.SMALL` are looked at in windows."""
_LEAST_AROUND = 1 / 8


def window_of_prompt(prompt: Prompt, features: Features) -> Window | None:
    """Return the window of a small box, or of a small answer that is corrected; None where the frame is looked at."""
    if features.rgb is None:
        return None
    if prompt.mask is None:
        return None if prompt.box is None else choose_window(prompt, [], features.resize)
    if prompt.mask.dtype == np.bool_:
        return None
    found = boxes_of_logits(cast(FloatArray, prompt.mask), features.resize)
    return choose_window(prompt, found, features.resize) if found else None


def foreseen_windows(
    network: ImageModel, features: Features, prompts: Sequence[Prompt], encoded: Sequence[Encoded]
) -> Iterator[tuple[int, Window]]:
    """Yield the number and the window of each prompt of nothing but clicks, on what is foretold to be small."""
    if features.rgb is None:
        return
    for index, (prompt, item) in enumerate(zip(prompts, encoded, strict=True)):
        clicked = item.xy[item.labels == POSITIVE]
        if prompt.box is not None or prompt.mask is not None or not len(clicked):
            continue
        sides = network.sides(features.tensors, clicked)
        window = None if sides is None else foreseen_window(prompt, float(sides.max()), features.resize)
        if window is not None:
            yield index, window


def foreseen_window(prompt: Prompt, side: float, resize: ResizeMap) -> Window | None:
    """Return the window to look for an object in around its positive clicks, or None where it may be large.

    `side` is what is foretold of its longer side, in frame pixels.
    """
    if prompt.points is None or side > SURELY_SMALL:
        return None
    reach = side / (2 * max(resize.scale))
    clicks = prompt.points.coords[prompt.points.positive].tolist()
    return choose_window(prompt, [Box(r - reach, c - reach, r + reach, c + reach) for r, c in clicks], resize)


def window_after(prompt: Prompt, found: list[Box], foreseen: Window, features: Features) -> Window | None:
    """Return the window for what was found in a foreseen one: the same, where that shows it as well as its own would.

    None where it is large, after all.
    """
    better, extent = choose_window(prompt, found, features.resize), extent_of(prompt, found)
    if better is None or extent is None:
        return None
    return foreseen if _shows(foreseen, extent, better=better, shape=features.image_shape) else better


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
