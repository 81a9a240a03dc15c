"""How well a predictor finds all objects that a click lies in, in scenes that training never renders.

Protocol (after Li et al. 2023, section 4.3, "1-click mIoU (All granularity)"): some objects that lie in others, or that
others lie in, are clicked on at their deepest point. Every object that holds the pixel is a true mask; each of them
counts by the best of the masks that the click gave, and a click by the mean over its true masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from napari_segany.core.errors import DataError
from napari_segany.core.masks import pairwise_iou
from napari_segany.core.types import (
    BoolMask,
    FeaturesLike,
    ImagePredictorLike,
    MaskPrediction,
    Points,
    Prompt,
    ScoredMask,
)

from .clicks import deepest_point
from .dataset import Annotated, Annotation, from_scene
from .metrics import iou_of, whole_mask
from .scenes import KINDS

NESTED_KINDS = ("composite", "phase", "em", "histology", "brightfield", "membrane", "fluorescence", "spots")
"""Kinds of scenes in which objects lie in each other."""
MOST_CLICKS = 8


@dataclass(frozen=True, slots=True)
class ClickResult:
    """What one click gave.

    Attributes
    ----------
    kind
        Of the scene.
    ious
        Of each true mask with the best answer, finest true mask first.
    levels
        Of the true masks.
    is_ordered
        Whether a coarser answer was never smaller.
    named
        Of each true mask whose best answer has an IoU of half or more: whether it was named rightly.
    """

    kind: str
    ious: tuple[float, ...]
    levels: tuple[int, ...]
    is_ordered: bool
    named: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class NestedEvaluation:
    """Results of all clicks."""

    model: str
    scenes: int
    clicks: tuple[ClickResult, ...]

    def as_dict(self) -> dict[str, object]:
        """Return means as plain values, ready for JSON.

        "nested" is over clicks with two true masks or more, "single" over the others.
        """
        kinds = sorted({click.kind for click in self.clicks})
        pairs = [pair for click in self.clicks for pair in zip(click.levels, click.ious, strict=True)]
        return {
            "model": self.model,
            "scenes": self.scenes,
            "clicks": len(self.clicks),
            "masks": len(pairs),
            **_summary(self.clicks),
            "by_level": {
                str(level): _mean(iou for at, iou in pairs if at == level)
                for level in sorted({at for at, _ in pairs})
            },
            "by_kind": {kind: _summary([c for c in self.clicks if c.kind == kind]) for kind in kinds},
        }


def _summary(clicks: Iterable[ClickResult]) -> dict[str, float]:
    """Return the means over some clicks."""
    clicks = list(clicks)
    return {
        "nested": _mean(float(np.mean(click.ious)) for click in clicks if len(click.ious) > 1),
        "single": _mean(click.ious[0] for click in clicks if len(click.ious) == 1),
        "ordered": _mean(click.is_ordered for click in clicks),
        "named": _mean(right for click in clicks for right in click.named),
    }


def _mean(values: Iterable[float]) -> float:
    """Return a rounded mean, 0 of nothing."""
    each = list(values)
    return round(float(np.mean(each)), 4) if each else 0.0


def nested_scenes(count: int, *, seed: int = 0, size: tuple[int, int] = (256, 256)) -> Iterator[Annotated]:
    """Yield scenes of nested objects, kinds in turn, that training, whose seeds start at 2**32, never sees."""
    assert set(NESTED_KINDS) <= set(KINDS)
    for index in range(count):
        yield from_scene(seed + index, size=size, kind=NESTED_KINDS[index % len(NESTED_KINDS)])


def evaluate_nested(
    predictor: ImagePredictorLike,
    items: Iterable[Annotated],
    *,
    most_clicks: int = MOST_CLICKS,
    progress: Callable[[int, str], None] | None = None,
) -> NestedEvaluation:
    """Run the protocol on annotated images whose objects are all known.

    Raises
    ------
    DataError
        If there is no object at all.
    """
    results: list[ClickResult] = []
    done = 0
    for item in items:
        results.extend(_evaluate_image(predictor, item, most_clicks=most_clicks))
        done += 1
        if progress is not None:
            progress(done, item.name)
    if not results:
        raise DataError(f"none of the {done} images holds an object to click on")
    return NestedEvaluation(predictor.card.name, done, tuple(results))


def _evaluate_image(
    predictor: ImagePredictorLike, item: Annotated, *, most_clicks: int
) -> Iterator[ClickResult]:
    """Yield the results of an image's clicks."""
    masks = [whole_mask(thing, item.labels.shape) for thing in item.objects]
    chosen = _clicked(item, masks, most=most_clicks)
    if not chosen:
        return
    features: FeaturesLike = predictor.embed(item.image)
    points = [deepest_point(masks[index]) for index in chosen]
    prompts = [Prompt(points=Points(np.array([p], dtype=np.float32), np.array([True]))) for p in points]
    for point, answer in zip(points, predictor.predict_many(features, prompts), strict=True):
        held = [i for i, mask in enumerate(masks) if mask[point]]
        held.sort(key=lambda i: int(masks[i].sum()))
        yield _result(answer, [item.objects[i] for i in held], [masks[i] for i in held], kind=item.modality)


def _clicked(item: Annotated, masks: list[BoolMask], *, most: int) -> list[int]:
    """Return the objects to click on: at most some, a fixed random choice, levels in turn."""
    rng = np.random.default_rng(len(masks))
    order = rng.permutation(len(masks))
    by_level: dict[int, list[int]] = {}
    for index in order:
        by_level.setdefault(item.objects[index].level, []).append(int(index))
    chosen: list[int] = []
    while len(chosen) < min(most, len(masks)):
        for level in sorted(by_level):
            if by_level[level] and len(chosen) < most:
                chosen.append(by_level[level].pop())
    return chosen


def _result(
    answer: MaskPrediction, things: list[Annotation], truths: list[BoolMask], *, kind: str
) -> ClickResult:
    """Return what one answer is worth."""
    ious, named = [], []
    for thing, truth in zip(things, truths, strict=True):
        each = [iou_of(mask, truth) for mask in answer.masks]
        best = int(np.argmax(each))
        ious.append(each[best])
        if answer.names and thing.kind and each[best] >= 0.5:
            named.append(answer.names[best] == thing.kind)
    areas = answer.masks.sum((1, 2))[np.argsort(answer.levels, kind="stable")]
    return ClickResult(
        kind,
        tuple(ious),
        tuple(thing.level for thing in things),
        is_ordered=bool((np.diff(areas.astype(np.int64)) >= 0).all()),
        named=tuple(named),
    )


@dataclass(frozen=True, slots=True)
class FoundEvaluation:
    """How well objects and parts were found without prompts.

    `ap50` is the average precision at an IoU of half, over all objects of all images, whatever their names; `named` the
    share of objects that were found and rightly named.
    """

    images: int
    truths: int
    ap50: float
    ap50_objects: float
    ap50_parts: float
    named: float

    def as_dict(self) -> dict[str, float]:
        """Return plain values, ready for JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def evaluate_found(
    find: Callable[[Annotated], Sequence[ScoredMask]], items: Iterable[Annotated]
) -> FoundEvaluation:
    """Measure what `find` returns for annotated images whose objects are all known.

    A mask is right if it has an IoU of half or more with an object of its kind, object or part, that no better mask
    has taken (Everingham et al. 2010; precision interpolated at every recall).
    """
    hits: dict[bool, list[tuple[float, bool]]] = {False: [], True: []}
    truths = {False: 0, True: 0}
    named: list[bool] = []
    images = 0
    for item in items:
        images += 1
        found = find(item)
        for is_part in (False, True):
            things = [thing for thing in item.objects if thing.is_part == is_part]
            masks = [whole_mask(thing, item.labels.shape) for thing in things]
            truths[is_part] += len(things)
            own = [each for each in found if each.is_part == is_part]
            for each, taken in _taken(own, masks):
                hits[is_part].append((each.score, taken is not None))
                if taken is not None:
                    named.append(each.name == things[taken].kind)
    everything = sum(truths.values())
    return FoundEvaluation(
        images,
        everything,
        average_precision([*hits[False], *hits[True]], everything),
        average_precision(hits[False], truths[False]),
        average_precision(hits[True], truths[True]),
        _mean(named),
    )


def _taken(found: Sequence[ScoredMask], masks: Sequence[BoolMask]) -> Iterator[tuple[ScoredMask, int | None]]:
    """Yield each mask, best first, and the index of the true mask that it takes."""
    free = set(range(len(masks)))
    overlap = pairwise_iou([each.mask for each in found], masks)
    for index in np.argsort([-each.score for each in found], kind="stable"):
        best = max(free, key=lambda place: overlap[index, place], default=None)
        taken = best if best is not None and overlap[index, best] >= 0.5 else None
        free -= {taken} if taken is not None else set()
        yield found[index], taken


def average_precision(hits: Sequence[tuple[float, bool]], truths: int) -> float:
    """Return the area under the curve of precision over recall of (score, is right) pairs; 0 where nothing is true."""
    if not hits or truths == 0:
        return 0.0
    right = np.array([is_right for _, is_right in sorted(hits, key=lambda hit: -hit[0])], dtype=np.float64)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((highest * right).sum() / truths)
