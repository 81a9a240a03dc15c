"""From a plane and its prompts to a preview: the part of a session that runs on the worker's thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol, runtime_checkable

from napari_segany.core.errors import CapabilityError
from napari_segany.core.granularity import Ladder, nearest
from napari_segany.core.identity import FeatureKey, image_fingerprint
from napari_segany.core.intensity import Window
from napari_segany.core.types import (
    BoolMask,
    FeaturesLike,
    ImagePredictorLike,
    Labels,
    MaskPrediction,
    ModelCard,
    Namer,
)

from .features import FeatureCache, FeatureStoreLike, StoredFeatures
from .prompts import ObjectPrompts, PlaneIndex, Seed
from .source import PlaneSource
from .worker import Ticket

_logger = logging.getLogger(__name__)
_LAST_WRITES_S = 1.0


class Stage(Enum):
    """What a session is busy with, in words for a progress bar."""

    IDLE = ""
    WAITING = "Waiting for the last step to end"
    LOADING = "Loading the model"
    READING = "Reading the image"
    EMBEDDING = "Looking at the image"
    PREDICTING = "Finding the mask"
    FINDING = "Finding every object"
    RECALLING = "Taking in what is there"
    FOLLOWING = "Following the objects"


@runtime_checkable
class InstanceFinder(Protocol):
    """A predictor that also finds objects without prompts (`card.finds_instances`)."""

    def find_instances(self, features: FeaturesLike) -> Labels:
        """Return the (H, W) objects of an image, uint32, counted from 1; 0 is background."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Every object of one plane: `labels` (H, W) uint32, in what `window`, by which model."""

    labels: Labels
    window: Window
    card: ModelCard


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
    card
        The model that answered.
    ladder
        What there is to choose, worked out once, where the answer was.
    has_fine
        Whether it drew fine boundaries.
    """

    prediction: MaskPrediction
    chosen: int
    prompts: ObjectPrompts
    window: Window
    card: ModelCard
    ladder: Ladder
    has_fine: bool = False

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

    @property
    def area(self) -> int:
        """Its size, in pixels."""
        return self.ladder.areas[self.chosen]

    @property
    def name(self) -> str:
        """What it shows, "" where nothing was named or no class fits."""
        names = self.prediction.names
        return names[self.chosen] if names else ""

    def with_level(self, level: int | None) -> Preview:
        """Return the same answers with the candidate nearest to a level shown; None shows the best one."""
        chosen = 0 if level is None else nearest(self.prediction.levels, level)
        return self if chosen == self.chosen else replace(self, chosen=chosen)

    def with_next(self, step: int = 1) -> Preview:
        """Return the same answers with the next candidate shown, in order of size."""
        areas = self.ladder.areas
        order = sorted(range(len(areas)), key=lambda i: areas[i])
        return replace(self, chosen=order[(order.index(self.chosen) + step) % len(order)])

    def seed(self) -> Seed:
        """Return what a further click refines."""
        logits = self.prediction.logits[self.chosen]
        return Seed(logits, self.prompts, self.chosen, self.card, self.has_fine)


StageReport = Callable[[Stage, PlaneIndex], None]


class PlaneModel:
    """Loads the model once, embeds planes once, and answers prompts; asked on one thread at a time.

    Features are looked for in memory, then in the store, and only then made. `has`, `switch`, `keep`, `is_switching`
    and `predictor` may be used on another thread meanwhile.

    Parameters
    ----------
    load
        Returns the predictor; called on the worker's thread, when first needed.
    source
        Planes to look at.
    cache
        In memory; features of every model that was switched to share its limit.
    store
        Where features outlive the session; used with predictors that can pack them.

    Attributes
    ----------
    classes
        What masks are told apart by, where the model knows words; none for the model's own list.
    loaded, switched
        How many models were put in place so far, and how many of them by a switch.
    refusal
        Why the last switch did not come about.
    """

    def __init__(
        self,
        load: Callable[[], ImagePredictorLike],
        *,
        source: PlaneSource,
        cache: FeatureCache,
        store: FeatureStoreLike | None = None,
    ) -> None:
        self._lazy = _LazyPredictor(load)
        self._next: _LazyPredictor | None = None
        self._lock = threading.Lock()
        self.classes: tuple[str, ...] = ()
        self._named: _Named | None = None
        self.loaded = self.switched = 0
        self.refusal: Exception | None = None
        self._source = source
        self._stored = StoredFeatures(store) if store is not None else None
        self._seen: dict[PlaneIndex, tuple[str, Window]] = {}
        self.cache = cache

    @property
    def predictor(self) -> ImagePredictorLike | None:
        """The model, once it was loaded."""
        return self._lazy.predictor

    def has(self, index: PlaneIndex) -> bool:
        """Say whether the present model's features of a plane are in memory; reads and loads nothing."""
        predictor, seen = self._lazy.predictor, self._seen.get(index)
        return predictor is not None and seen is not None and _key(index, seen, predictor.card) in self.cache

    @property
    def is_switching(self) -> bool:
        """True until the model that `switch` asked for is loaded, or could not be."""
        return self._next is not None

    def switch(self, load: Callable[[], ImagePredictorLike]) -> None:
        """Answer with another model as soon as it is loaded, which happens when something is asked next.

        The present one stays until then, and for good if the other cannot be loaded. Features stay in memory.
        """
        with self._lock:
            self._next, self.refusal = _LazyPredictor(load), None

    def keep(self) -> None:
        """Call a switch off."""
        with self._lock:
            self._next, self.refusal = None, None

    def load(self, index: PlaneIndex, *, ticket: Ticket, report: StageReport) -> None:
        """Load the model that is to answer, with nothing else to do."""
        self._loaded(index, ticket=ticket, report=report)

    def features(self, index: PlaneIndex, *, ticket: Ticket, report: StageReport) -> FeaturesLike:
        """Return the features of one plane, embedding it if they are kept nowhere."""
        predictor = self._loaded(index, ticket=ticket, report=report)
        return self._features(index, predictor, ticket=ticket, report=report)

    def answer(
        self,
        index: PlaneIndex,
        prompts: ObjectPrompts,
        *,
        fine: bool | None,
        ticket: Ticket,
        report: StageReport,
    ) -> Preview:
        """Return the preview for the prompts of one plane; `fine` as `ImagePredictor.predict` takes it."""
        predictor = self._loaded(index, ticket=ticket, report=report)
        features = self._features(index, predictor, ticket=ticket, report=report)
        ticket.check()
        ticket.tell(lambda: report(Stage.PREDICTING, index))
        card = predictor.card
        multimask = prompts.is_ambiguous or card.has_ladder
        prediction = self._naming(predictor).predict(
            features, prompts.prompt(card), multimask=multimask, fine=fine
        )
        has_fine = card.has_fine and fine is not False
        return Preview(
            prediction, 0, prompts, features.window, card, Ladder.of(prediction), has_fine=has_fine
        )

    def find(self, index: PlaneIndex, *, ticket: Ticket, report: StageReport) -> Found:
        """Return every object of one plane, by a model that finds them without prompts."""
        predictor = self._loaded(index, ticket=ticket, report=report)
        if not isinstance(predictor, InstanceFinder) or not predictor.card.finds_instances:
            raise CapabilityError(
                f"{predictor.card.name} finds no objects by itself; choose semantic-nano or a micro-sam model, or "
                "click on them"
            )
        features = self._features(index, predictor, ticket=ticket, report=report)
        ticket.check()
        ticket.tell(lambda: report(Stage.FINDING, index))
        return Found(predictor.find_instances(features), features.window, predictor.card)

    def forget(self) -> None:
        """Let go of the model and all features in memory, when those on their way to the store are there."""
        if self._stored is not None and not self._stored.wait(timeout=_LAST_WRITES_S):
            _logger.info("some features are still being written")
        self._lazy, self._next, self._named = _LazyPredictor(self._lazy.load), None, None
        self._seen.clear()
        self.cache.clear()

    def _features(
        self, index: PlaneIndex, predictor: ImagePredictorLike, *, ticket: Ticket, report: StageReport
    ) -> FeaturesLike:
        card, seen = predictor.card, self._seen.get(index)
        kept = self.cache.get(_key(index, seen, card)) if seen is not None else None
        if kept is not None:
            return kept
        ticket.check()
        ticket.tell(lambda: report(Stage.READING, index))
        image, window = self._source.read(index), self._source.window()
        self._seen[index] = seen = (image_fingerprint(image), window)
        key = _key(index, seen, card)
        features = self._stored.read(key, predictor) if self._stored is not None else None
        if features is None:
            ticket.check()
            ticket.tell(lambda: report(Stage.EMBEDDING, index))
            features = predictor.embed(image, window=window)
            if self._stored is not None:
                self._stored.write(key, features, predictor=predictor)
        self.cache.put(key, features)  # kept even when cancelled by now: the next click needs them
        return features

    def _naming(self, predictor: ImagePredictorLike) -> ImagePredictorLike:
        """Return a predictor that names by the classes that are wanted; made once for each list of them.

        A list that the model refuses is given up for the one before, so that the next answer comes.
        """
        classes, kept = self.classes, self._named
        if not classes or not predictor.card.has_words or not isinstance(predictor, Namer):
            return predictor
        if kept is None or kept.source is not predictor or kept.classes != classes:
            try:
                kept = _Named(predictor, classes, predictor.naming(classes))
            except Exception:
                known = self._named
                self.classes = known.classes if known is not None and known.source is predictor else ()
                raise
            self._named = kept
        return kept.predictor

    def _loaded(self, index: PlaneIndex, *, ticket: Ticket, report: StageReport) -> ImagePredictorLike:
        """Return the model that is to answer, the newest that was asked for and could be loaded."""
        while (wanted := self._next) is not None or self._lazy.predictor is None:
            ticket.check()
            ticket.tell(lambda: report(Stage.LOADING, index))
            if wanted is not None:
                self._adopt(wanted)
            else:
                self._lazy.predictor = self._lazy.load()
                self.loaded += 1
        return self._lazy.predictor

    def _adopt(self, wanted: _LazyPredictor) -> None:
        """Load a model and put it in place, unless another was asked for meanwhile."""
        try:
            wanted.predictor = wanted.load()
        except Exception as error:
            with self._lock:
                if self._next is wanted:
                    self._next, self.refusal = None, error
            raise
        with self._lock:
            if self._next is wanted:
                self._lazy, self._next = wanted, None
                self.loaded, self.switched = self.loaded + 1, self.switched + 1


@dataclass(slots=True)
class _LazyPredictor:
    """A predictor and the way to get it: replaced together, so that a switch never mixes two models."""

    load: Callable[[], ImagePredictorLike]
    predictor: ImagePredictorLike | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """A predictor that names by some classes, and the one it was made from."""

    source: ImagePredictorLike
    classes: tuple[str, ...]
    predictor: ImagePredictorLike


def _key(index: PlaneIndex, seen: tuple[str, Window], card: ModelCard) -> FeatureKey:
    """Return what features of a plane are kept under."""
    image, window = seen
    model = f"{card.name}, {card.number_format}" if card.number_format else card.name
    return FeatureKey(image, index, (window.low, window.high), model, card.weights_sha256)
