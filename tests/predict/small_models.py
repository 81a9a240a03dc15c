"""Predictors over shrunken rows with weights from a fixed seed, one of each way to fill the frame."""

from __future__ import annotations

import torch
from tests.contracts.shrink import shrunken

from napari_segany.core.types import ModelCard
from napari_segany.models.sam2 import SAM2, Sam2, build_sam2
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import Model, _prepare
from napari_segany.predict.precision import place

ROWS = {"fit": "sam2-nano", "stretch": "sam2.1_hiera_tiny"}


def seeded_network(name: str, *, seed: int = 1) -> Sam2:
    """Return a shrunken row whose weights are all away from where they start, so that every part has a say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_sam2(shrunken(SAM2[name])).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def predictor_of(name: str, *, seed: int = 1, precision: str = "float32") -> ImagePredictor:
    """Return a predictor over a shrunken row."""
    placement = place("cpu", precision)
    card = ModelCard(name, f"{seed:064x}")
    return ImagePredictor(Model(card, _prepare(seeded_network(name, seed=seed), placement), placement))
