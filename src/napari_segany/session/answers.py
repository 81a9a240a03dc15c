"""From a plane and its prompts to a preview: the part of a session that runs on the worker's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from napari_segany.core.intensity import Window
from napari_segany.core.types import BoolMask, FeaturesLike, ImagePredictorLike, MaskPrediction

from .features import FeatureCache
from .prompts import ObjectPrompts, PlaneIndex, Seed
from .source import PlaneSource
from .worker import Ticket


class Stage(Enum):
    """What a session is busy with, in words for a progress bar."""

    IDLE = ""
    WAITING = "Waiting for the last step to end"
    LOADING = "Loading the model"
    READING = "Reading the image"
    EMBEDDING = "Looking at the image"
    PREDICTING = "Finding the mask"


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The answers for one plane, and the one that is shown.

    Attributes
    ----------
    prediction
        Every candidate, best first.
    chosen
        Index of the candidate that is shown and would be committed.
    prompts
        What was asked.
    window
        The intensity window of the image that was embedded.
    """

    prediction: MaskPrediction
    chosen: int
    prompts: ObjectPrompts
    window: Window

    @property
    def mask(self) -> BoolMask:
        """The (H, W) mask that is shown."""
        mask: BoolMask = self.prediction.masks[self.chosen]
        return mask

    @property
    def score(self) -> float:
        """Its predicted IoU, 0 to 1."""
        return float(self.prediction.scores[self.chosen])

    @property
    def level(self) -> int:
        """Its granularity, 1 (finest) to 6 (coarsest)."""
        return int(self.prediction.levels[self.chosen])

    def with_level(self, level: int | None) -> Preview:
        """Return the same answers with the candidate nearest to a level shown; None shows the best one."""
        if level is None:
            return replace(self, chosen=0)
        return replace(self, chosen=int(np.argmin(np.abs(self.prediction.levels - level))))

    def with_next(self, step: int = 1) -> Preview:
        """Return the same answers with the next candidate shown, in order of size."""
        areas = self.prediction.masks.reshape(len(self.prediction), -1).sum(axis=1)
        order = [int(i) for i in np.argsort(areas, kind="stable")]
        return replace(self, chosen=order[(order.index(self.chosen) + step) % len(order)])

    def seed(self) -> Seed:
        """Return what a further click refines."""
        return Seed(self.prediction.logits[self.chosen], self.prompts, self.chosen)


StageReport = Callable[[Stage, PlaneIndex], None]


class PlaneModel:
    """Loads the model once, embeds planes once, and answers prompts; used on one thread at a time."""

    def __init__(
        self, load: Callable[[], ImagePredictorLike], *, source: PlaneSource, cache: FeatureCache
    ) -> None:
        self._load = load
        self._source = source
        self._predictor: ImagePredictorLike | None = None
        self.cache = cache

    @property
    def predictor(self) -> ImagePredictorLike | None:
        """The model, once it was loaded."""
        return self._predictor

    def features(self, index: PlaneIndex, *, ticket: Ticket, report: StageReport) -> FeaturesLike:
        """Return the features of one plane, embedding it if they are not in the cache."""
        cached = self.cache.get(index)
        if cached is not None:
            return cached
        predictor = self._loaded(index, ticket=ticket, report=report)
        ticket.tell(lambda: report(Stage.READING, index))
        image, window = self._source.read(index), self._source.window()
        ticket.check()
        ticket.tell(lambda: report(Stage.EMBEDDING, index))
        features = predictor.embed(image, window=window)
        self.cache.put(index, features)  # kept even when cancelled by now: the next click needs them
        return features

    def answer(
        self, index: PlaneIndex, prompts: ObjectPrompts, *, ticket: Ticket, report: StageReport
    ) -> Preview:
        """Return the preview for the prompts of one plane."""
        features = self.features(index, ticket=ticket, report=report)
        ticket.check()
        ticket.tell(lambda: report(Stage.PREDICTING, index))
        predictor = self._loaded(index, ticket=ticket, report=report)
        prediction = predictor.predict(features, prompts.prompt(), multimask=prompts.is_ambiguous)
        return Preview(prediction, 0, prompts, features.window)

    def forget(self) -> None:
        """Let go of the model and all features."""
        self._predictor = None
        self.cache.clear()

    def _loaded(self, index: PlaneIndex, *, ticket: Ticket, report: StageReport) -> ImagePredictorLike:
        if self._predictor is None:
            ticket.check()
            ticket.tell(lambda: report(Stage.LOADING, index))
            self._predictor = self._load()
        return self._predictor
