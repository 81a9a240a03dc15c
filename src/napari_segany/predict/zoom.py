"""Small objects seen again, magnified: which window to look at, and how answers travel between window and image.

A whole image fits into the model's frame, so an object of a dozen pixels may cover two cells of the embedding. After
the first answer, a small object is looked at once more in a window around it, embedded at two to four times the scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_segany.core.geometry import ResizeMap
from napari_segany.core.masks import box_of, slices_of
from napari_segany.core.types import BoolMask, Box, FloatArray, Prompt
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import MaskOutput

from .masks import interpolated

VIEW_SIDE = 256
"""Frame pixels on a window's side."""
SMALL = 56.0
"""Objects up to this many frame pixels on the longer side are looked at again."""
LARGEST_SCALE = 3.5
"""Frame pixels per image pixel beyond which seeing more of what is around helps more than seeing it larger."""
ISLAND_SHARE = 0.3
OUTSIDE_LOGIT = -10.0
_TRUSTED = 0.7

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The features of one window of an image: `resize` maps pixels of the window to the view's frame."""

    window: Window
    resize: ResizeMap
    tensors: ImageFeatures

    @property
    def logits_shape(self) -> tuple[int, int]:
        """(h, w) of the logits decoded in this view."""
        height, width = self.tensors.embedding.shape[2:]
        return 4 * height, 4 * width


def choose_window(prompt: Prompt, found: list[Box], resize: ResizeMap) -> Window | None:
    """Return the window to look at again, or None where the object is large enough as it is.

    The object is what was found of it and the prompt's points and box together. Windows lie on a coarse grid, so that
    further clicks on an object, and clicks on its neighbours, find theirs embedded.
    """
    extent = extent_of(prompt, found)
    if extent is None:
        return None
    scale = max(resize.scale)
    zoom = zoom_of_side(max(extent.height, extent.width) * scale, scale)
    if zoom is None:
        return None
    pixels = round(VIEW_SIDE / (scale * zoom))
    ends = ((extent.row0, extent.row1), (extent.col0, extent.col1))
    rows, cols = (
        _snapped((low + high) / 2, length, pixels=pixels)
        for (low, high), length in zip(ends, resize.source, strict=True)
    )
    return rows, cols


def zoom_of_side(side: float, scale: float) -> float | None:
    """Return how much an object of `side` frame pixels is magnified, or None where it is large enough as it is.

    `scale` are frame pixels per image pixel.
    """
    zoom = min(4.0 if side <= SMALL / 2 else 2.0, LARGEST_SCALE / scale)
    return None if side > SMALL or zoom < 1.3 else zoom


def boxes_of_answer(output: MaskOutput, resize: ResizeMap) -> list[Box]:
    """Return the boxes, in image pixels, of one prompt's masks whose score is near the best one's."""
    return [box for logits in near_best(output).cpu().numpy() for box in boxes_of_logits(logits, resize)]


def near_best(output: MaskOutput) -> Tensor:
    """Return the (K, h, w) logits of one prompt's masks whose score is near the best one's."""
    ious = output.ious[0]
    return output.logits[0, (ious >= _TRUSTED * ious.max()).nonzero()[:, 0]]


def boxes_in_view(output: MaskOutput, view: View) -> list[Box]:
    """Return `boxes_of_answer` of an answer in a view, in pixels of the whole image."""
    row, col = (axis.start for axis in view.window)
    return [
        Box(b.row0 + row, b.col0 + col, b.row1 + row, b.col1 + col)
        for b in boxes_of_answer(output, view.resize)
    ]


def windows_of_small(prompt: Prompt, output: MaskOutput, resize: ResizeMap) -> list[tuple[list[int], Window]]:
    """Return which of the masks of one prompt's (1, M, …) answer are looked at again, and in which windows.

    Tiny ones have a window of their own, which shows them larger than the small ones' does.
    """
    scale = max(resize.scale)
    groups: tuple[dict[int, Box], dict[int, Box]] = {}, {}
    for index, logits in enumerate(output.logits[0].float().cpu().numpy()):
        for box in boxes_of_logits(logits, resize):
            side = max(box.height, box.width) * scale
            if side <= SMALL:
                groups[int(side > SMALL / 2)][index] = box
    windows = [
        (list(group), choose_window(prompt, list(group.values()), resize)) for group in groups if group
    ]
    return [(indices, window) for indices, window in windows if window is not None]


def boxes_of_logits(logits: FloatArray, resize: ResizeMap) -> list[Box]:
    """Return the box of an earlier answer, in image pixels, from its (h, w) logits over the whole frame."""
    height, width = logits.shape
    return boxes_of_cells(logits, size=(resize.source[0] / height, resize.source[1] / width))


def boxes_of_cells(
    logits: FloatArray, *, size: tuple[float, float], first: tuple[int, int] = (0, 0)
) -> list[Box]:
    """Return the box, in image pixels, of what lies inside of (h, w) logits, if anything does.

    A cell is `size` (rows, columns) image pixels large; the first one lies `first` cells down and across.
    """
    inside = logits > 0
    if not inside.any():
        return []
    box, (rows, cols), (down, across) = box_of(inside), size, first
    return [
        Box(
            (box.row0 + down) * rows,
            (box.col0 + across) * cols,
            (box.row1 + down) * rows,
            (box.col1 + across) * cols,
        )
    ]


def _snapped(centre: float, length: int, *, pixels: int) -> slice:
    """Return `pixels` (or all) of an axis around a centre, beginning on a grid of a quarter of that."""
    pixels = min(pixels, length)
    grid = max(1, pixels // 4)
    start = round((centre - pixels / 2) / grid) * grid
    start = min(max(start, 0), length - pixels)
    return slice(start, start + pixels)


def extent_of(prompt: Prompt, found: list[Box]) -> Box | None:
    """Return the box of what was found and of points and box of the prompt."""
    boxes = list(found)
    if prompt.box is not None:
        boxes.append(prompt.box)
    if prompt.points is not None:
        boxes += [Box(r - 0.5, c - 0.5, r + 0.5, c + 0.5) for r, c in prompt.points.coords.tolist()]
    if not boxes:
        return None
    return Box(
        min(b.row0 for b in boxes),
        min(b.col0 for b in boxes),
        max(b.row1 for b in boxes),
        max(b.col1 for b in boxes),
    )


def resample(
    logits: Tensor,
    *,
    source: ResizeMap,
    origin: tuple[float, float],
    size: tuple[int, int],
    step: tuple[float, float],
) -> Tensor:
    """Sample logits on another grid of the same image.

    Parameters
    ----------
    logits : (B, 1, h, w)
        Covering `source.source` pixels of the image entirely.
    source
        The map of the pixels that the logits cover; only their number matters.
    origin
        (row, col) of the new grid's corner, in those pixels, edges at integers.
    size
        (h', w') of the new grid.
    step
        Pixels per cell of the new grid.

    Returns
    -------
    Tensor
        (B, 1, h', w'); `OUTSIDE_LOGIT` where the new grid leaves the old one.
    """
    sampled = logits.new_full((*logits.shape[:2], *size), OUTSIDE_LOGIT)
    (rows, down), (cols, across) = (
        _places_inside(origin[axis], source.source[axis], count=size[axis], step=step[axis])
        for axis in (0, 1)
    )
    if len(down) and len(across):
        height, width = logits.shape[2:]
        sampled[:, :, rows, cols] = interpolated(logits, down * height - 0.5, across * width - 0.5)
    return sampled


def _places_inside(
    origin: float, length: int, *, count: int, step: float
) -> tuple[slice, NDArray[np.float64]]:
    """Return which of `count` cells of an axis lie inside of `length`, and which share of it lies before each."""
    places = (origin + (np.arange(count) + 0.5) * step) / length
    inside = np.flatnonzero((places >= 0) & (places <= 1))
    which = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
    return which, places[which]


def without_islands(logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return (B, M, h, w) logits without small islands, and bool of their shape, False where these were, if any."""
    kept = kept_parts(logits)
    return (logits if kept is None else torch.where(kept, logits, logits.clamp(max=-1.0))), kept


def _is_one_run_a_row(mask: BoolMask) -> bool:
    """Whether a mask that fills its box has one run of pixels in each row, and each touches the next row's.

    Then it is in one piece, as most are; labelling parts takes three times as long as to see that.
    """
    begins = np.count_nonzero(mask[:, 1:] > mask[:, :-1], axis=1) + mask[:, 0]
    return bool((begins == 1).all() and (mask[1:] & mask[:-1]).any(axis=1).all())


def kept_parts(logits: Tensor) -> Tensor | None:
    """Return (B, M, h, w) bool, False on small islands: parts under 0.3 of the largest part of a mask.

    None where there are none.
    """
    masks = (logits > 0).cpu().numpy()
    kept = None
    for index in np.ndindex(masks.shape[:2]):
        if not masks[index].any():
            continue
        around = slices_of(box_of(masks[index]))
        mask = masks[index][around]
        if _is_one_run_a_row(mask):
            continue
        parts, count = ndimage.label(mask)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = sizes[1:].max()  # what lies outside stays as it is
            if sizes.min() < ISLAND_SHARE * sizes[0]:
                kept = np.ones(masks.shape, dtype=bool) if kept is None else kept
                kept[index][around] = (sizes >= ISLAND_SHARE * sizes[0])[parts]
    return None if kept is None else torch.from_numpy(kept).to(logits.device)
