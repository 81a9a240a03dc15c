"""A small semantic-nano with random weights, ready to predict."""

from __future__ import annotations

from functools import lru_cache

import torch

from napari_segany.core.types import ModelCard
from napari_segany.models.semantic_sam import SEMANTIC, build_semantic
from napari_segany.predict.loading import Model
from napari_segany.predict.loading import _prepare as prepared
from napari_segany.predict.precision import place


@lru_cache(maxsize=2)
def semantic_model(name: str = "semantic-nano") -> Model:
    """Return a row of the family at sizes for tests, with random weights."""
    from dataclasses import replace

    config = SEMANTIC[name]
    small = {"width": 32, "layers": 2, "mlp_width": 32, "mask_width": 8}
    trunk = config.trunk
    if name == "semantic-nano":
        trunk = replace(trunk, widths=(8, 8, 16, 32), depth=1, heads=2)
    else:
        trunk = replace(trunk, embed_dim=2 * trunk.heads[0])
    config = replace(
        config,
        trunk=trunk,
        image_size=128,
        pixel_decoder=replace(config.pixel_decoder, **small, groups=4),
        query_decoder=replace(config.query_decoder, **small, projection=16),
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build_semantic(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
            if config.query_decoder.is_local:  # or random masks would be empty
                network.query_decoder.place_embed.layers[-1].bias[0] += 8.0
    placement = place("cpu", "float32")
    card = ModelCard(name, "0" * 64, has_words=config.has_words)
    return Model(card, prepared(network, placement), placement)
