"""Which way a model finds objects by itself: by levels on a grid of clicks, by their hearts, or by distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import SettingsError
from napari_segany.core.intensity import Window

from .automatic import AutomaticSegmenter
from .distances import DistanceSettings
from .everything import EverythingSegmenter
from .found import Panoptic
from .generic import GenericSegmenter, finds_hearts
from .loading import Model
from .words import words_of


class Finder(Protocol):
    """Finds every object of an image."""

    def panoptic(self, image: NDArray[np.generic], *, window: Window | None = None) -> Panoptic:
        """Return the objects of an (H, W) or (H, W, C) image."""


def finder_of(
    model: Model,
    *,
    levels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    distances: DistanceSettings | None = None,
) -> Finder:
    """Return what finds objects with a model.

    Parameters
    ----------
    levels
        Steps of the ladder to look for with a grid of clicks, with a model of any family; None for the model's own way.
    classes
        Look only for what has one of these names, with models that know words.
    distances
        What counts as an object, for models with a distance decoder (micro-sam's).

    Raises
    ------
    CapabilityError
        If the model has no way of its own, or knows no words.
    SettingsError
        If settings are given to a model that has no use for them.
    """
    if levels is not None:
        return EverythingSegmenter(model, levels=levels, classes=classes)
    if finds_hearts(model):
        if distances is not None:
            raise SettingsError(
                f"{model.card.name} draws no distances; leave --centre, --boundary, --smoothing and --min-size out"
            )
        return GenericSegmenter(model, classes=classes)
    words_of(model, classes)  # says so where names are asked of a model without words
    return AutomaticSegmenter(model, settings=distances)
