"""How well a predictor does on labelled images: simulated clicks, boxes, and the best of its three answers.

Protocol: the first click is the deepest point of the object and the answer shown is the one with the best score; every
further click is the deepest point of the larger error, together with all earlier clicks and the logits of the last
answer, one mask asked for. Boxes are exact. Boundary IoU (Cheng et al. 2021) is that of the one-click masks,
and of those from boxes, over the pixels within `BOUNDARY` of each outline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.errors import DataError
from napari_segany.core.masks import box_of
from napari_segany.core.types import (
    BoolMask,
    FeaturesLike,
    ImagePredictorLike,
    MaskPrediction,
    Points,
    Prompt,
)

from .clicks import corrective_click, deepest_point
from .dataset import Annotated, Annotation, from_scene, is_validation, read_folder
from .scenes import KINDS

CLICKS = 5
BOUNDARY = 2
SIZES = (
    (0, 100, "under 100"),
    (100, 400, "100 to 400"),
    (400, 1600, "400 to 1600"),
    (1600, 1 << 62, "1600 and over"),
)
SPLITS = ("all", "validation", "training")
_BATCH = 64


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """What happened on one object: IoU after each number of clicks, with a box, and with the best of three masks."""

    modality: str
    area: int
    clicks: tuple[float, ...]
    box: float
    best_of_3: float
    boundary: float
    box_boundary: float
    predicted: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results over all objects of a data set."""

    model: str
    images: int
    objects: tuple[ObjectResult, ...]

    def as_dict(self) -> dict[str, object]:
        """Return means over objects as plain values, ready for JSON."""
        return {
            "model": self.model,
            "images": self.images,
            **_summary(self.objects),
            "by_size": {
                name: _summary(part)
                for low, high, name in SIZES
                if (part := [o for o in self.objects if low <= o.area < high])
            },
            "by_modality": {
                modality: _summary([o for o in self.objects if o.modality == modality])
                for modality in sorted({o.modality for o in self.objects})
            },
        }


def _summary(objects: Iterable[ObjectResult]) -> dict[str, float]:
    """Return the mean of every measure over some objects."""
    objects = list(objects)
    clicks = np.array([o.clicks for o in objects])

    def mean(values: Iterable[float]) -> float:
        return round(float(np.mean(list(values))), 4)

    return {
        "objects": len(objects),
        **{f"click{n}": mean(clicks[:, n - 1]) for n in range(1, CLICKS + 1)},
        "box": mean(o.box for o in objects),
        "best_of_3": mean(o.best_of_3 for o in objects),
        "boundary_iou": mean(o.boundary for o in objects),
        "box_boundary_iou": mean(o.box_boundary for o in objects),
        "score_error": mean(abs(o.predicted - o.clicks[0]) for o in objects),
    }


def evaluate(
    predictor: ImagePredictorLike,
    items: Iterable[Annotated],
    *,
    most_objects: int | None = None,
    fine: bool | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Evaluation:
    """Run the protocol on the primary objects of annotated images.

    Parameters
    ----------
    most_objects
        Per image; where an image has more, a fixed random choice of them.
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
        results.extend(_evaluate_image(predictor, item, most_objects=most_objects, fine=fine))
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
    predictor: ImagePredictorLike, item: Annotated, *, most_objects: int | None, fine: bool | None
) -> Iterator[ObjectResult]:
    """Yield the results of one image's objects."""
    objects = [o for o in item.objects if o.is_primary]
    if most_objects is not None and len(objects) > most_objects:
        picked = np.random.default_rng(len(objects)).permutation(len(objects))[:most_objects]
        objects = [objects[i] for i in np.sort(picked)]
    if not objects:
        return
    features = predictor.embed(item.image)
    for start in range(0, len(objects), _BATCH):
        part = objects[start : start + _BATCH]
        truths = [whole_mask(o, item.labels.shape) for o in part]
        boxes = [Prompt(box=box_of(t)) for t in truths]
        boxed = predictor.predict_many(features, boxes, multimask=False, fine=fine)
        first, ious = _click_rounds(predictor, features, truths, fine=fine)
        for index, truth in enumerate(truths):
            yield ObjectResult(
                modality=item.modality,
                area=int(truth.sum()),
                clicks=tuple(ious[index]),
                box=iou_of(boxed[index].best, truth),
                best_of_3=max(iou_of(m, truth) for m in first[index].masks),
                boundary=boundary_iou(first[index].best, truth),
                box_boundary=boundary_iou(boxed[index].best, truth),
                predicted=float(first[index].scores[0]),
            )


def _click_rounds(
    predictor: ImagePredictorLike, features: FeaturesLike, truths: list[BoolMask], *, fine: bool | None
) -> tuple[list[MaskPrediction], NDArray[np.float64]]:
    """Return the answers to the first clicks, and the (N, CLICKS) IoUs after each click."""
    points = [Points(np.array([deepest_point(t)], dtype=np.float32), np.array([True])) for t in truths]
    clicks = [Prompt(points=p) for p in points]
    first = answers = predictor.predict_many(features, clicks, fine=fine)
    ious = np.zeros((len(truths), CLICKS))
    ious[:, 0] = [iou_of(a.best, t) for a, t in zip(answers, truths, strict=True)]
    for turn in range(1, CLICKS):
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
    """Return the IoU of the inner rims of two (H, W) masks, `distance` pixels wide."""
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), distance)
    rims = [m & ~ndimage.binary_erosion(m, ball) for m in (guess, truth)]
    return iou_of(rims[0], rims[1])
