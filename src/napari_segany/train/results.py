"""What clicks, boxes and masks came to: per object, and the means over objects of a kind, a size, a density."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WIDTHS = (1, 2, 4, 8)
"""Pixels of the rims that boundary IoUs are of."""
BOUNDARY = 2
"""The one of them that a single number is given for."""
GOALS = (80, 90)
"""IoU in per cent that the number of clicks until it is counted for."""
SIZES = (
    (0, 100, "under 100"),
    (100, 400, "100 to 400"),
    (400, 1600, "400 to 1600"),
    (1600, 1 << 62, "1600 and over"),
)
GAPS = ((0, 2, "touching"), (2, 10, "near"), (10, 1 << 62, "alone"))
"""Pixels to the next object."""
WORSE = 0.01
"""A further click harmed where it lost more than this."""


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """What happened on one object.

    Attributes
    ----------
    image, index
        Where it is: the image's name, its place among the image's objects.
    modality, area, gap
        Of the image; pixels; pixels to the next object.
    clicks
        IoU after one click, two, …
    box, noisy_box
        IoU with its box, and with one whose ends are a tenth of its sides off.
    coarse, refined
        IoU of a mask that a hurried hand drew, and of what came of that mask as the prompt.
    answers, scores
        IoU and predicted IoU of each mask behind the first click, best score first.
    boundary, box_boundary
        Boundary IoU after one click and with the box, for each of `WIDTHS`.
    """

    image: str
    index: int
    modality: str
    area: int
    gap: float
    clicks: tuple[float, ...]
    box: float
    noisy_box: float
    coarse: float
    refined: float
    answers: tuple[float, ...]
    scores: tuple[float, ...]
    boundary: tuple[float, ...]
    box_boundary: tuple[float, ...]

    @property
    def best_of_3(self) -> float:
        """The best of the first click's answers."""
        return max(self.answers)

    def clicks_to(self, goal: float) -> int:
        """Return how many clicks an IoU took; one more than were made, where it was not reached."""
        return next((n for n, iou in enumerate(self.clicks, start=1) if iou >= goal), len(self.clicks) + 1)


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
            **summary(self.objects),
            "by_size": self._between(SIZES, [o.area for o in self.objects]),
            "by_gap": self._between(GAPS, [o.gap for o in self.objects]),
            "by_modality": {
                modality: summary([o for o in self.objects if o.modality == modality])
                for modality in sorted({o.modality for o in self.objects})
            },
        }

    def _between(
        self, ranges: Sequence[tuple[int, int, str]], values: Sequence[float]
    ) -> dict[str, dict[str, float]]:
        """Return the means of objects whose value lies in each half-open range; ranges without any are left out."""
        groups = {
            name: [o for o, value in zip(self.objects, values, strict=True) if low <= value < high]
            for low, high, name in ranges
        }
        return {name: summary(part) for name, part in groups.items() if part}


def summary(objects: Iterable[ObjectResult]) -> dict[str, float]:
    """Return the mean of every measure over some objects.

    `clickN`, `box`, `noisy_box`, `coarse`, `refined`, `best_of_3` are IoUs; `noc80`, `noc90` the clicks until 0.8 and
    0.9 (`ObjectResult.clicks_to`); `boundary_iou`, `box_boundary_iou` of rims two pixels wide, and with the width
    behind them of others; `harmed` the share of further clicks that lost more than 0.01; `score_rank` how the predicted
    IoUs of all answers are ordered as the true ones are (Spearman), `score_error` how far the first one is off.
    """
    objects = list(objects)
    clicks = np.array([o.clicks for o in objects])
    steps = np.diff(clicks, axis=1)
    means: dict[str, float] = {"objects": len(objects)}
    means |= {f"click{n + 1}": _mean(column) for n, column in enumerate(clicks.T)}
    means |= {f"noc{goal}": _mean(o.clicks_to(goal / 100) for o in objects) for goal in GOALS}
    for name in ("box", "noisy_box", "coarse", "refined", "best_of_3"):
        means[name] = _mean(getattr(o, name) for o in objects)
    for name, rims in (
        ("boundary", [o.boundary for o in objects]),
        ("box_boundary", [o.box_boundary for o in objects]),
    ):
        for place, width in enumerate(WIDTHS):
            key = f"{name}_iou" if width == BOUNDARY else f"{name}_iou_{width}"
            means[key] = _mean(rim[place] for rim in rims)
    means["harmed"] = _mean((steps < -WORSE).ravel()) if steps.size else 0.0
    means["score_error"] = _mean(abs(o.scores[0] - o.clicks[0]) for o in objects)
    means["score_rank"] = rank_correlation(
        [s for o in objects for s in o.scores], [iou for o in objects for iou in o.answers]
    )
    return means


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's correlation of two series, 0 where one of them does not change."""
    from scipy.stats import rankdata

    ranks = np.array([rankdata(a), rankdata(b)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = float(np.sqrt((ranks**2).sum(axis=1).prod()))
    return round(float((ranks[0] * ranks[1]).sum()) / norm, 4) if norm else 0.0


def _mean(values: Iterable[float]) -> float:
    """Return a mean, rounded to four digits."""
    return round(float(np.mean(list(values))), 4)
