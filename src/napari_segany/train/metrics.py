"""How well a predictor does on labelled images: simulated clicks, boxes, drawn masks, and how well it knows.

Protocol: the first click is the deepest point of the object and the answer shown is the one with the best score; every
further click is the deepest point of the larger error, together with all earlier clicks and the logits of the last
answer, one mask asked for. Boxes are exact, and once more with ends that are off by a tenth of a side; masks are drawn
as by a hurried hand. Boundary IoU (Cheng et al. 2021) is that of the one-click masks, and of those from boxes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.errors import DataError
from napari_segany.core.masks import box_of, slices_of
from napari_segany.core.types import (
    BoolMask,
    Box,
    FeaturesLike,
    ImagePredictorLike,
    Labels,
    MaskPrediction,
    Points,
    Prompt,
)

from .clicks import coarse_mask, corrective_click, deepest_point, noisy_box
from .dataset import Annotated, Annotation, from_scene, is_validation, read_folder
from .results import BOUNDARY, WIDTHS, Evaluation, ObjectResult
from .scenes import KINDS

CLICKS = 9
SPLITS = ("all", "validation", "training")
_BATCH = 64
_FARTHEST = 32
"""Pixels around an object in which others are looked for."""


def evaluate(
    predictor: ImagePredictorLike,
    items: Iterable[Annotated],
    *,
    most_objects: int | None = None,
    clicks: int = CLICKS,
    fine: bool | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Evaluation:
    """Run the protocol on the primary objects of annotated images.

    Parameters
    ----------
    most_objects
        Per image; where an image has more, a fixed random choice of them.
    clicks
        How many are made on each object.
    fine
        Whether HQ models draw fine boundaries; None as they are made to.
    progress
        Called with (images done, name) after each image.

    Raises
    ------
    DataError
        If there is no object at all.
    """
    results: list[ObjectResult] = []
    done = 0
    for item in items:
        results.extend(_evaluate_image(predictor, item, most_objects=most_objects, clicks=clicks, fine=fine))
        done += 1
        if progress is not None:
            progress(done, item.name)
    if not results:
        raise DataError(f"none of the {done} images holds an object of at least 12 pixels")
    return Evaluation(predictor.card.name, done, tuple(results))


def evaluate_folder(
    predictor: ImagePredictorLike,
    folder: Path,
    *,
    split: str = "all",
    most_objects: int | None = None,
    fine: bool | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Evaluation:
    """Run the protocol on `folder/images` and `folder/labels`; `split` is "all", "validation" or "training"."""
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    items = read_folder(folder)
    if split != "all":
        items = (item for item in items if is_validation(item.name) == (split == "validation"))
    return evaluate(predictor, items, most_objects=most_objects, fine=fine, progress=progress)


def validation_scenes(
    count: int, *, seed: int = 0, size: tuple[int, int] = (256, 256), kinds: tuple[str, ...] = KINDS
) -> Iterator[Annotated]:
    """Yield scenes of every kind in turn that training, whose seeds start at 2**32, never sees."""
    for index in range(count):
        yield from_scene(seed + index, size=size, kind=kinds[index % len(kinds)])


def _evaluate_image(
    predictor: ImagePredictorLike,
    item: Annotated,
    *,
    most_objects: int | None,
    clicks: int,
    fine: bool | None,
) -> Iterator[ObjectResult]:
    """Yield the results of one image's objects."""
    chosen = [i for i, thing in enumerate(item.objects) if thing.is_primary]
    if most_objects is not None and len(chosen) > most_objects:
        picked = np.random.default_rng(len(chosen)).permutation(len(chosen))[:most_objects]
        chosen = [chosen[i] for i in np.sort(picked)]
    if not chosen:
        return
    features = predictor.embed(item.image)
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        truths = [whole_mask(item.objects[i], item.labels.shape) for i in part]
        first, ious = _click_rounds(predictor, features, truths, clicks=clicks, fine=fine)
        others = [_other_prompts(truth, f"{item.name}/{i}") for truth, i in zip(truths, part, strict=True)]
        asked = [prompt for each in others for prompt in each]
        answers = iter(predictor.predict_many(features, asked, multimask=False, fine=fine))
        for truth, index, answer, each, own in zip(truths, part, first, others, ious, strict=True):
            boxed, noisy, refined = (next(answers).best for _ in each)
            drawn = each[2].mask
            assert drawn is not None
            yield ObjectResult(
                image=item.name,
                index=index,
                modality=item.modality,
                area=int(truth.sum()),
                gap=_gap(item.objects[index], item.labels),
                clicks=tuple(own),
                box=iou_of(boxed, truth),
                noisy_box=iou_of(noisy, truth),
                coarse=iou_of(drawn.astype(bool), truth),
                refined=iou_of(refined, truth),
                answers=tuple(iou_of(mask, truth) for mask in answer.masks),
                scores=tuple(float(score) for score in answer.scores),
                boundary=tuple(boundary_iou(answer.best, truth, distance=width) for width in WIDTHS),
                box_boundary=tuple(boundary_iou(boxed, truth, distance=width) for width in WIDTHS),
            )


def _other_prompts(truth: BoolMask, name: str) -> tuple[Prompt, Prompt, Prompt]:
    """Return an object's box, its box by a hurried hand, and a mask by one: the same whenever it is measured."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    loose, (height, width) = noisy_box(truth, rng), truth.shape
    inside = Box(max(0, loose.row0), max(0, loose.col0), min(height, loose.row1), min(width, loose.col1))
    return Prompt(box=box_of(truth)), Prompt(box=inside), Prompt(mask=coarse_mask(truth, rng))


def _gap(thing: Annotation, labels: Labels) -> float:
    """Return the distance in pixels to the next object in flat labels, at most `_FARTHEST` + 1; 1 where they touch."""
    around = tuple(slice(max(0, s.start - _FARTHEST), s.stop + _FARTHEST) for s in thing.box)
    own = np.zeros(labels.shape, dtype=bool)
    own[thing.box] = thing.mask
    own = own[around]
    there = labels[around]
    others = (there > 0) & ~np.isin(there, np.unique(there[own]))
    if not others.any():
        return _FARTHEST + 1.0
    return min(float(ndimage.distance_transform_edt(~others)[own].min()), _FARTHEST + 1.0)


def _click_rounds(
    predictor: ImagePredictorLike,
    features: FeaturesLike,
    truths: list[BoolMask],
    *,
    clicks: int,
    fine: bool | None,
) -> tuple[list[MaskPrediction], NDArray[np.float64]]:
    """Return the answers to the first clicks, and the (N, clicks) IoUs after each click."""
    points = [Points(np.array([deepest_point(t)], dtype=np.float32), np.array([True])) for t in truths]
    first = answers = predictor.predict_many(features, [Prompt(points=p) for p in points], fine=fine)
    ious = np.zeros((len(truths), clicks))
    ious[:, 0] = [iou_of(a.best, t) for a, t in zip(answers, truths, strict=True)]
    for turn in range(1, clicks):
        ious[:, turn] = ious[:, turn - 1]
        wrong = []
        for index, truth in enumerate(truths):
            click = corrective_click(truth, answers[index].best)
            if click is not None:  # a perfect mask needs no further click
                points[index] = points[index].with_click(click.row, click.col, positive=click.is_positive)
                wrong.append(index)
        prompts = [Prompt(points=points[i], mask=answers[i].logits[0]) for i in wrong]
        fixed = predictor.predict_many(features, prompts, multimask=False, fine=fine)
        answers = list(answers)
        for index, answer in zip(wrong, fixed, strict=True):
            answers[index] = answer
            ious[index, turn] = iou_of(answer.best, truths[index])
    return first, ious


def whole_mask(item: Annotation, shape: tuple[int, ...]) -> BoolMask:
    """Return an object's mask at the image's size."""
    mask = np.zeros(shape, dtype=bool)
    mask[item.box] = item.mask
    return mask


def iou_of(a: BoolMask, b: BoolMask) -> float:
    """Return the IoU of two masks; 0 where both are empty."""
    either = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / either if either else 0.0


def boundary_iou(guess: BoolMask, truth: BoolMask, *, distance: int = BOUNDARY) -> float:
    """Return the IoU of the inner rims of two (H, W) masks, `distance` pixels wide; the image's edge is an outline."""
    either = guess | truth
    if not either.any():
        return 0.0
    inside = slices_of(box_of(either))
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), distance)
    rims = [m & ~ndimage.binary_erosion(m, ball) for m in (guess[inside], truth[inside])]
    return iou_of(rims[0], rims[1])
