"""Every object of an image without a prompt, by models that carry a decoder of distances (micro-sam's)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import CapabilityError, PromptError
from napari_segany.core.geometry import ResizeMap
from napari_segany.core.intensity import Window
from napari_segany.core.types import FeaturesLike, FloatArray, Labels
from napari_segany.models.registry import list_models
from napari_segany.models.unetr import UnetrDecoder

from .distances import DistanceSettings, labels_of_distances, settings_of
from .features import Features
from .found import Panoptic
from .image import ImagePredictor
from .loading import Model
from .memory_limits import is_out_of_memory, on_cpu, refusal


class AutomaticSegmenter:
    """Finds every object of an image with one loaded model.

    Parameters
    ----------
    model
        Of `load_model`, one that carries a distance decoder.
    settings
        What counts as an object; by default what its authors set for this model.

    Raises
    ------
    CapabilityError
        If the model has no such decoder.
    """

    def __init__(self, model: Model, *, settings: DistanceSettings | None = None) -> None:
        if model.decoder is None:
            raise without_decoder(model.card.name)
        self._predictor = ImagePredictor(model)
        self._decoder: UnetrDecoder = model.decoder
        self.settings = settings or settings_of(model.card.name)

    def labels(self, image: NDArray[np.generic], *, window: Window | None = None) -> Labels:
        """Return the (H, W) objects of an image, uint32, 0 is background; for `image` and `window` see `distances`."""
        return labels_of_distances(self.distances(image, window=window), settings=self.settings)

    def panoptic(self, image: NDArray[np.generic], *, window: Window | None = None) -> Panoptic:
        """Return the objects of an image, as `labels` does, as those that tell more give them."""
        return Panoptic(self.labels(image, window=window))

    def labels_of(self, features: FeaturesLike) -> Labels:
        """Return the (H, W) objects, uint32, of an image that this model has embedded already."""
        return labels_of_distances(self.distances_of(features), settings=self.settings)

    def distances(self, image: NDArray[np.generic], *, window: Window | None = None) -> FloatArray:
        """Return foreground, centre distance and boundary distance of an image, before they become objects.

        Parameters
        ----------
        image : (H, W) or (H, W, C)
            Any real dtype; one to four channels (a fourth, alpha, is ignored).
        window
            Raw values that become black and white; sampled from this image where None.

        Returns
        -------
        distances : (3, H, W)
            float32, 0 to 1.

        Raises
        ------
        ImageError
            If shape or dtype do not fit.
        OutOfMemoryError
            If the image does not fit into memory, not even on the CPU.
        """
        return self.distances_of(self._predictor.embed(image, window=window))

    @torch.inference_mode()
    def distances_of(self, features: FeaturesLike) -> FloatArray:
        """Return the (3, H, W) distances, as `distances` does, of an image that this model has embedded already."""
        if not isinstance(features, Features):
            raise PromptError(f"features must come from ImagePredictor.embed, got {type(features).__name__}")
        if features.model != self._predictor.card:
            raise PromptError(
                f"these features were made by {features.model.name}, not by {self._predictor.card.name}; "
                "embed the image again"
            )
        maps = self._decode(features.tensors.embedding, what=f"an image of {features.image_shape}")
        return np.asarray(to_image(maps, features.resize)[0].cpu().numpy())

    def _decode(self, embedding: Tensor, *, what: str) -> Tensor:
        """Return the (1, 3, S, S) maps of an embedding, on the CPU where the device's memory is too small."""
        device = self._decoder.out_conv.weight.device
        try:
            maps: Tensor = self._decoder(embedding.to(device))
            return maps
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if device.type == "cpu":
                raise refusal(self._predictor.card.name, what) from error
        self._predictor.model = on_cpu(self._predictor.model, what=what)
        placement = self._predictor.model.placement
        self._decoder.to(placement.device, placement.encoder_dtype)
        return self._decode(embedding, what=what)


def without_decoder(name: str) -> CapabilityError:
    """Return the error for a model that has no distance decoder; it says which have one."""
    names = ", ".join(spec.name for spec in list_models() if spec.finds_instances)
    return CapabilityError(
        f"{name} finds no objects by itself: it has no distance decoder; use one of {names}, prompt it with points "
        "and boxes, or with a grid of clicks (EverythingSegmenter; --levels on the command line)"
    )


def to_image(maps: Tensor, resize: ResizeMap) -> Tensor:
    """Return (B, C, H, W) maps of the image from (B, C, S, S) maps of the frame that it lies at the top left of."""
    height, width = resize.target
    inside = maps[:, :, :height, :width]
    return F.interpolate(inside, size=resize.source, mode="bilinear", align_corners=False)
