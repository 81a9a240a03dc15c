"""A predictor that also finds every object by itself; imported on a worker's thread, as it loads torch."""

from __future__ import annotations

from napari_segany.core.types import FeaturesLike, Labels
from napari_segany.predict.automatic import AutomaticSegmenter
from napari_segany.predict.generic import GenericSegmenter, finds_hearts
from napari_segany.predict.image import ImagePredictor


class FindingPredictor(ImagePredictor):
    """Answers prompts, and finds objects without them where its model can (`card.finds_instances`)."""

    def find_instances(self, features: FeaturesLike) -> Labels:
        """Return the (H, W) objects of an image that was embedded, uint32, counted from 1."""
        if finds_hearts(self.model):
            return GenericSegmenter(self.model, classes=self.asked).labels_of(features)
        return AutomaticSegmenter(self.model).labels_of(features)
