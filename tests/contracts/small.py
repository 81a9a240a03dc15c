"""A shrunken row with random weights, and a question to ask it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from napari_segany.models.build import CONFIGS, build_model
from napari_segany.models.image_model import ImageFeatures, ImageModel, ImageModelConfig

from .shrink import SIDE, shrunken

# A box, a positive and a negative click and a padding point: every kind of point, in pixels of the frame.
XY = torch.tensor([[[4.0, 6.0], [60.0, 55.0], [30.0, 20.0], [10.0, 50.0], [0.0, 0.0]]])
LABELS = torch.tensor([[2, 3, 1, 0, -1]])


@dataclass(frozen=True)
class Small:
    """A shrunken row: the model, and pixels (2, 3, S, S) for it."""

    model: ImageModel
    pixels: Tensor

    @property
    def config(self) -> ImageModelConfig:
        return self.model.config

    def features(self) -> ImageFeatures:
        """Return the features of the first image."""
        return self.model.encode(self.pixels[:1])

    def mask_prompt(self) -> Tensor:
        """Return (1, 1, 4h, 4w) logits of an earlier answer."""
        side = 4 * self.config.image_size // self.config.stride
        return torch.linspace(-6, 6, side * side).reshape(1, 1, side, side)


@lru_cache(maxsize=2)
def small_row(name: str) -> Small:
    """Return a row, small, with weights that are random everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build_model(shrunken(CONFIGS[name])).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # tables start at zero, which would hide what they do
                parameter.add_(0.02 * torch.randn(parameter.shape))
        return Small(model, torch.randn(2, 3, SIDE, SIDE))
