"""Every mask of an image at chosen levels: a grid of clicks, and what passes the filters; for every family.

Papers: Kirillov et al. 2023 (section 5, "Segment anything" and appendix B), Li et al. 2023 (Semantic-SAM). Clicks do
not see each other here, so results do not depend on how many are worked out at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import SettingsError
from napari_segany.core.granularity import LEVELS, check_level
from napari_segany.core.intensity import Window
from napari_segany.core.masks import box_iou, box_of, clean_mask, nms
from napari_segany.core.types import (
    FeaturesLike,
    FloatArray,
    Labels,
    MaskPrediction,
    Points,
    Prompt,
    ScoredMask,
)

from .found import Panoptic, panoptic_of_masks
from .image import ImagePredictor
from .loading import Model

_CLICKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class EverythingSettings:
    """What counts as an object.

    Attributes
    ----------
    points_per_side
        Clicks along each side of the image.
    least_score, least_stability
        Masks below are dropped; 0 to 1.
    stability_offset
        How far above and below zero logits are cut to see how stable a mask is.
    overlap
        Of two masks whose boxes overlap more, the one with the better score stays.
    least_area
        Holes and islands of fewer pixels are cleaned away, and masks of fewer dropped.
    """

    points_per_side: int = 32
    least_score: float = 0.88
    least_stability: float = 0.92
    stability_offset: float = 1.0
    overlap: float = 0.7
    least_area: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.points_per_side <= 256:
            raise SettingsError(f"points_per_side must be 1 to 256, got {self.points_per_side}")
        for name in ("least_score", "least_stability", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.stability_offset < 0 or self.least_area < 0:
            raise SettingsError("stability_offset and least_area must be 0 or more")


BUNDLED = EverythingSettings(least_score=0.7, least_stability=0.6)
"""For the bundled models, whose scores and logits are lower."""


class EverythingSegmenter:
    """Finds every mask of an image with one loaded model.

    Parameters
    ----------
    model
        Of `load_model`, of any family.
    levels
        Steps of the ladder to keep, 1 (finest) to 6 (coarsest); three masks stand at 2, 4 and 6.
    settings
        What counts as an object; by default what suits the model.
    classes
        Names to tell masks apart by; see `ImagePredictor`.
    """

    def __init__(
        self,
        model: Model,
        *,
        levels: Sequence[int] = LEVELS,
        settings: EverythingSettings | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._predictor = ImagePredictor(model, classes=classes)
        self._is_asked = bool(classes)
        self.levels = frozenset(check_level(level) for level in levels)
        self.settings = settings or (BUNDLED if model.config.is_local else EverythingSettings())

    def masks(self, image: NDArray[np.generic], *, window: Window | None = None) -> list[ScoredMask]:
        """Return every mask of an image, best first; for `image` and `window` see `ImagePredictor.embed`."""
        return self.masks_of(self._predictor.embed(image, window=window))

    def labels(self, image: NDArray[np.generic], *, window: Window | None = None) -> Labels:
        """Return the masks as (H, W) labels, uint32, 0 is background; of two on one pixel the better one has it."""
        return self.panoptic(image, window=window).labels

    def panoptic(self, image: NDArray[np.generic], *, window: Window | None = None) -> Panoptic:
        """Return the masks as `labels` does, with names and scores; with classes asked for, those with a name."""
        features = self._predictor.embed(image, window=window)
        kept = [each for each in self.masks_of(features) if each.name or not self._is_asked]
        return panoptic_of_masks(kept, features.image_shape)

    def masks_of(self, features: FeaturesLike) -> list[ScoredMask]:
        """Return every mask of an image that this model has embedded already, best first.

        Small objects are not looked at again, as after single clicks: that would take several times as long.
        """
        plain = replace(self._predictor.own(features), rgb=None)
        batches = _batches(plain.image_shape, self.settings)
        found = [mask for clicks in batches for mask in self._batch(plain, clicks)]
        return self._without_doubles(found)

    def _batch(self, features: FeaturesLike, clicks: FloatArray) -> Iterator[ScoredMask]:
        """Yield what passes the filters of (N, 2) clicks."""
        prompts = [Prompt(points=Points(click[None], np.array([True]))) for click in clicks]
        for answer in self._predictor.predict_many(features, prompts):
            yield from self._passing(answer)

    def _passing(self, answer: MaskPrediction) -> Iterator[ScoredMask]:
        """Yield the masks of one click that pass the filters."""
        settings = self.settings
        for index, (score, level) in enumerate(
            zip(answer.scores.tolist(), answer.levels.tolist(), strict=True)
        ):
            if level not in self.levels or score < settings.least_score:
                continue
            stability = _stability(answer.logits[index], settings.stability_offset)
            if stability < settings.least_stability:
                continue
            mask = clean_mask(
                answer.masks[index], hole_area=settings.least_area - 1, island_area=settings.least_area
            )
            if np.count_nonzero(mask) >= max(1, settings.least_area):
                name = answer.names[index] if answer.names else ""
                yield ScoredMask(mask, box_of(mask), score, stability, level, name)

    def _without_doubles(self, found: list[ScoredMask]) -> list[ScoredMask]:
        """Return the masks that no better one overlaps, best first."""
        if not found:
            return []
        boxes = np.array([(m.box.row0, m.box.col0, m.box.row1, m.box.col1) for m in found], dtype=np.float32)
        scores = np.array([m.score for m in found], dtype=np.float32)
        return [found[index] for index in nms(box_iou(boxes, boxes), scores, threshold=self.settings.overlap)]


def _batches(shape: tuple[int, int], settings: EverythingSettings) -> Iterator[FloatArray]:
    """Yield the (N, 2) clicks of a grid over an (H, W) image, some at a time."""
    axes = [
        (np.arange(settings.points_per_side) + 0.5) / settings.points_per_side * side - 0.5 for side in shape
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)
    for start in range(0, len(grid), _CLICKS_AT_ONCE):
        yield grid[start : start + _CLICKS_AT_ONCE]


def _stability(logits: FloatArray, offset: float) -> float:
    """Return the IoU of a mask cut a little above and a little below zero, 0 where both are empty."""
    outer = np.count_nonzero(logits > -offset)
    return np.count_nonzero(logits > offset) / outer if outer else 0.0
