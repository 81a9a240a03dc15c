"""Pictures of single answers: the best, the middling and the worst of an evaluation, and clicks on real images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from napari_segany.core.intensity import sample_window
from napari_segany.core.types import AnyArray, BoolMask, ImagePredictorLike, Points, Prompt
from napari_segany.predict.preprocess import to_rgb

from .clicks import deepest_point
from .dataset import Annotated
from .metrics import whole_mask
from .results import Evaluation, ObjectResult

SIDE = 224
"""Of a picture, in pixels."""
MARGIN = 0.8
"""Of an object's side, shown around it."""
TRUTH, ANSWER, CLICK = (0, 200, 120), (230, 60, 160), (255, 220, 0)
"""Colours."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One picture (SIDE, SIDE, 3) uint8 and what is to be said of it."""

    picture: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True, slots=True)
class Picked:
    """Objects of an evaluation, best first, middling, and worst first."""

    best: tuple[ObjectResult, ...]
    median: tuple[ObjectResult, ...]
    worst: tuple[ObjectResult, ...]


def pick(evaluation: Evaluation, *, each: int = 4) -> Picked:
    """Return the objects with the best, the median and the worst first click, of each image at most one in each row."""
    ranked = sorted(evaluation.objects, key=lambda o: (-o.clicks[0], o.image, o.index))
    middle = len(ranked) // 2
    around = sorted(range(len(ranked)), key=lambda place: abs(place - middle))
    return Picked(
        tuple(_of_different_images(ranked, each)),
        tuple(_of_different_images([ranked[place] for place in around], each)),
        tuple(_of_different_images(ranked[::-1], each)),
    )


def _of_different_images(ranked: Sequence[ObjectResult], count: int) -> Iterator[ObjectResult]:
    """Yield the first objects whose image did not come before."""
    seen: set[str] = set()
    for each in ranked:
        if len(seen) < count and each.image not in seen:
            seen.add(each.image)
            yield each


def draw_cases(
    predictor: ImagePredictorLike, items: Iterable[Annotated], wanted: Iterable[ObjectResult]
) -> dict[tuple[str, int], Case]:
    """Return pictures by image and index: the object green, what its first click gave magenta, the click yellow."""
    by_image: dict[str, list[ObjectResult]] = {}
    for each in wanted:
        by_image.setdefault(each.image, []).append(each)
    drawn = {}
    for item in items:
        if item.name not in by_image:
            continue
        features = predictor.embed(item.image)
        rgb = shown(item.image)
        for each in by_image[item.name]:
            truth = whole_mask(item.objects[each.index], item.labels.shape)
            click = deepest_point(truth)
            answer = predictor.predict(features, click_at(click))
            picture = draw_answer(rgb, answer.best, click, window=square_around(truth), truth=truth)
            caption = f"{item.name}, {each.area} pixels: {each.clicks[0]:.2f}"
            drawn[item.name, each.index] = Case(picture, caption)
    return drawn


def click_at(place: tuple[int, int]) -> Prompt:
    """Return one positive click at (row, col)."""
    return Prompt(points=Points(np.array([place], dtype=np.float32), np.array([True])))


def shown(image: AnyArray) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) as models see it: in its intensity window."""
    pixels = to_rgb(image, sample_window(image))[0].clamp(0, 1)
    picture: NDArray[np.uint8] = (255 * pixels).byte().permute(1, 2, 0).numpy()
    return picture


def draw_answer(
    rgb: NDArray[np.uint8],
    mask: BoolMask,
    click: tuple[int, int],
    *,
    window: tuple[slice, slice],
    truth: BoolMask | None = None,
) -> NDArray[np.uint8]:
    """Return a square picture (SIDE, SIDE, 3) of a square window of the image, with outlines and the click."""
    rows, cols = window
    scale = SIDE / (rows.stop - rows.start)
    picture = _resized(np.moveaxis(rgb[rows, cols], -1, 0)).round().astype(np.uint8)
    picture = np.ascontiguousarray(np.moveaxis(picture, 0, -1))
    for each, colour in ((truth, TRUTH), (mask, ANSWER)):
        if each is not None:
            large = _resized(each[None, rows, cols].astype(np.float32))[0] > 0.5
            picture[find_boundaries(large, mode="inner")] = colour
    row, col = (
        int((place + 0.5 - part.start) * scale) for place, part in zip(click, (rows, cols), strict=True)
    )
    for away in range(-4, 5):
        for r, c in ((row + away, col), (row, col + away)):
            if 0 <= r < SIDE and 0 <= c < SIDE:
                picture[r, c] = CLICK
    return picture


def square_around(mask: BoolMask) -> tuple[slice, slice]:
    """Return a square window around a mask that is not empty, with a margin, inside the image."""
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    largest = max(int(last - first) + 1 for first, last in ends)
    middle = (int(ends[0].mean()), int(ends[1].mean()))
    return square_at(middle, max(32, round(largest * (1 + 2 * MARGIN))), mask.shape)


def square_at(middle: tuple[int, int], side: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return a square window around (row, col), moved and made smaller so that it lies in the image."""
    side = min(side, *shape[:2])
    row, col = (int(np.clip(m - side // 2, 0, n - side)) for m, n in zip(middle, shape[:2], strict=True))
    return slice(row, row + side), slice(col, col + side)


def _resized(planes: AnyArray) -> NDArray[np.float32]:
    """Return (C, h, w) planes as (C, SIDE, SIDE)."""
    source = torch.from_numpy(np.ascontiguousarray(planes)).float()[None]
    out: NDArray[np.float32] = F.interpolate(source, size=(SIDE, SIDE), mode="bilinear")[0].numpy()
    return out
