"""Objects and parts of an image without prompts, with their names: by models that look for them (semantic-nano).

Paper: Li et al. 2023, "Semantic-SAM" (section 3.3, generic and part segmentation). The model tells where the hearts of
objects and of parts are; a query at each of them becomes a mask, a score and a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import CapabilityError, SettingsError
from napari_segany.core.intensity import Window
from napari_segany.core.masks import box_of, nms, pairwise_iou
from napari_segany.core.types import FeaturesLike, Labels, ScoredMask
from napari_segany.models.semantic_sam import FoundQueries, SemanticSam

from .features import Features
from .found import ClassMap, Panoptic, Part, class_map, panoptic_of_masks, parts_of_masks
from .image import ImagePredictor
from .loading import Model
from .masks import masks_of
from .words import words_of

LEVEL_OF_OBJECT, LEVEL_OF_PART = 4, 2
"""Steps of the ladder that stand for what was found: nobody asked for a level."""
STABILITY_OFFSET = 1.0
_DRAWN_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class GenericSettings:
    """What counts as an object.

    Attributes
    ----------
    least_heart
        Places that are less likely an object's heart, 0 to 1, are not looked at.
    most
        Places that are looked at, the likeliest first.
    least_score
        Objects with a lower score, 0 to 1, are dropped.
    overlap
        Of two objects, or two parts, with more IoU than this, the one with the better score stays.
    """

    least_heart: float = 0.25
    most: int = 300
    least_score: float = 0.2
    overlap: float = 0.6

    def __post_init__(self) -> None:
        for name in ("least_heart", "least_score", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if self.most < 1:
            raise SettingsError(f"most must be at least 1, got {self.most}")


class GenericSegmenter:
    """Finds objects and their parts, and names them, with one loaded model.

    Parameters
    ----------
    model
        Of `load_model`, one that looks for objects by itself ("semantic-nano").
    classes
        Names to tell objects and parts apart by; the model's own where None. Labels then hold everything with one of
        these names, whether object or part.
    settings
        What counts as an object.

    Raises
    ------
    CapabilityError
        If the model does not look for objects.
    """

    def __init__(
        self, model: Model, *, classes: Sequence[str] | None = None, settings: GenericSettings | None = None
    ) -> None:
        if not finds_hearts(model):
            raise CapabilityError(
                f"{model.card.name} does not look for objects by itself; use 'semantic-nano', or a grid of clicks "
                "(EverythingSegmenter)"
            )
        self._predictor = ImagePredictor(model, classes=classes)
        self._words = words_of(model, classes)
        self._is_asked = bool(classes)
        self.settings = settings or GenericSettings()

    def masks(self, image: NDArray[np.generic], *, window: Window | None = None) -> list[ScoredMask]:
        """Return objects and parts of an image, best first; for `image` and `window` see `ImagePredictor.embed`."""
        return self.masks_of(self._predictor.embed(image, window=window))

    def labels(self, image: NDArray[np.generic], *, window: Window | None = None) -> Labels:
        """Return the objects of an image as (H, W) labels, uint32, 0 is background; parts are left out, unless they
        were asked for by name.
        """
        return self.panoptic(image, window=window).labels

    def labels_of(self, features: FeaturesLike) -> Labels:
        """Return the objects, as `labels` does, of an image that this model has embedded already."""
        return self.panoptic_of(features).labels

    def panoptic(self, image: NDArray[np.generic], *, window: Window | None = None) -> Panoptic:
        """Return the object that every pixel belongs to, as `labels` does, with names and scores."""
        return self.panoptic_of(self._predictor.embed(image, window=window))

    def panoptic_of(self, features: FeaturesLike) -> Panoptic:
        """Return what `panoptic` does of an image that this model has embedded already."""
        found = self.masks_of(features)
        kept = [each for each in found if (each.name if self._is_asked else not each.is_part)]
        return panoptic_of_masks(kept, features.image_shape)

    def semantic_of(self, features: FeaturesLike) -> ClassMap:
        """Return the class of every pixel; where a named part lies in a named object, the part's."""
        classes = () if self._words is None else self._words.classes
        return class_map(self.masks_of(features), features.image_shape, classes=classes)

    def parts_of(self, features: FeaturesLike) -> tuple[list[ScoredMask], list[Part]]:
        """Return the objects, and the parts with the object that each lies in."""
        return parts_of_masks(self.masks_of(features))

    @torch.inference_mode()
    def masks_of(self, features: FeaturesLike) -> list[ScoredMask]:
        """Return objects and parts, best first, of an image that this model has embedded already."""
        own = self._predictor.own(features)
        network = self._predictor.model.network
        assert isinstance(network, SemanticSam)
        found = network.found(own.tensors, least=self.settings.least_heart, most=self.settings.most)
        if found is None:
            return []
        kept = (found.ious.clamp(0, 1) >= self.settings.least_score).nonzero()[:, 0]
        drawn = [
            self._drawn(network, own, found.rows(kept[start : start + _DRAWN_AT_ONCE]))
            for start in range(0, len(kept), _DRAWN_AT_ONCE)
        ]
        return self._without_doubles([each for part in drawn for each in part])

    def _drawn(self, network: SemanticSam, own: Features, found: FoundQueries) -> list[ScoredMask]:
        """Return some queries as masks of the image; those that show nothing are left out."""
        answers = network.drawn(own.tensors, found)
        logits = answers.logits[0]  # (N, h, w)
        target, frame = own.resize.target, own.frame_shape
        cells = (target[0] / frame[0] * logits.shape[1], target[1] / frame[1] * logits.shape[2])
        masks = masks_of(logits.float(), cells=cells, shape=own.image_shape)
        return [
            ScoredMask(mask, box_of(mask), score, firm, level, name, is_part)
            for mask, score, firm, level, name, is_part in zip(
                masks,
                found.ious.clamp(0, 1).tolist(),
                stability(logits),
                [LEVEL_OF_PART if is_part else LEVEL_OF_OBJECT for is_part in found.is_part.tolist()],
                self._named(network, answers.states[0], found.is_part),
                found.is_part.tolist(),
                strict=True,
            )
            if mask.any()
        ]

    def _named(self, network: SemanticSam, states: Tensor, is_part: Tensor) -> tuple[str, ...]:
        """Return the names of (N, C) states, objects by how they fit as objects and parts as parts."""
        if self._words is None:
            return ("",) * len(states)
        as_object, as_part = self._words.chances(network, states)
        return self._words.best(torch.where(is_part[:, None], as_part, as_object))

    def _without_doubles(self, found: list[ScoredMask]) -> list[ScoredMask]:
        """Return what no better one of its kind overlaps, best first."""
        kept: list[ScoredMask] = []
        for is_part in (False, True):
            own = [each for each in found if each.is_part == is_part]
            scores = np.array([each.score for each in own], dtype=np.float32)
            overlap = pairwise_iou([each.mask for each in own])
            kept += [own[index] for index in nms(overlap, scores, threshold=self.settings.overlap)]
        return sorted(kept, key=lambda each: -each.score)


def finds_hearts(model: Model) -> bool:
    """Return whether a model looks for objects by itself."""
    return isinstance(model.network, SemanticSam) and model.network.config.query_decoder.is_local


def stability(logits: Tensor) -> list[float]:
    """Return the IoU of (N, h, w) masks cut a little above and a little below zero, 0 where both are empty."""
    inner, outer = ((logits > cut).sum((-2, -1)).float() for cut in (STABILITY_OFFSET, -STABILITY_OFFSET))
    shares: list[float] = (inner / outer.clamp(min=1)).tolist()
    return shares
