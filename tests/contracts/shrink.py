"""Rows at sizes for unit tests: what makes a row this row (blocks, windows, strides, version, fine head) stays."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from napari_segany.models.build import CONFIGS
from napari_segany.models.close_memory import CloseMemoryConfig
from napari_segany.models.fine import FineConfig
from napari_segany.models.hiera import HieraConfig
from napari_segany.models.image_model import ImageModelConfig
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.nano import NanoConfig
from napari_segany.models.perceiver import PerceiverConfig
from napari_segany.models.promptable import PromptableConfig
from napari_segany.models.registry import list_models
from napari_segany.models.repvit import RepVitConfig
from napari_segany.models.sam import SamConfig
from napari_segany.models.sam2 import Sam2Config
from napari_segany.models.semantic_sam import SemanticConfig
from napari_segany.models.swin import SwinConfig
from napari_segany.models.tiny_vit import TinyVitConfig
from napari_segany.models.vit import VitConfig

WIDTH = 64
SIDE = 64
HEADS = 2  # few enough for the paths that inference takes where a few tokens face an image

C = TypeVar("C", bound=ImageModelConfig)
Trunk = VitConfig | TinyVitConfig | HieraConfig | NanoConfig | RepVitConfig


def shrunken(config: C) -> C:
    """Return a row's configuration, small."""
    return _small_semantic(config) if isinstance(config, SemanticConfig) else _small_promptable(config)


def _small_semantic(config: SemanticConfig) -> SemanticConfig:
    """Return the configuration of a Semantic-SAM, small: fewer channels in as many blocks of the trunk."""
    trunk = config.trunk
    if isinstance(trunk, SwinConfig):
        trunk = replace(trunk, embed_dim=2 * trunk.heads[0])
    else:
        trunk = replace(trunk, widths=(8, 8, 16, 32), depth=2, heads=2, out_width=WIDTH)
    small = {"width": WIDTH, "layers": 2, "mlp_width": 64, "mask_width": 16}
    pixel_decoder = replace(config.pixel_decoder, **small, groups=4)
    query_decoder = replace(config.query_decoder, **small, projection=8)
    return replace(
        config, trunk=trunk, image_size=SIDE, pixel_decoder=pixel_decoder, query_decoder=query_decoder
    )


def _small_promptable(config: PromptableConfig) -> PromptableConfig:
    """Return the configuration of a SAM or a SAM 2, small."""
    assert isinstance(config, SamConfig | Sam2Config)
    trunk = _small_trunk(config.trunk)
    decoder = replace(
        config.decoder,
        heads=HEADS,
        mlp_width=64,
        iou_width=WIDTH,
        fine=_small_fine(config.decoder.fine, trunk),
    )
    small = replace(config, trunk=trunk, image_size=SIDE, width=WIDTH, decoder=decoder)
    if isinstance(small, Sam2Config) and isinstance(small.memory, CloseMemoryConfig):
        small = replace(small, memory=CloseMemoryConfig(width=16, layers=1, mlp_width=32, frames=3))
    elif isinstance(small, Sam2Config) and small.memory is not None:
        perceiver = None if small.memory.perceiver is None else PerceiverConfig(latents=4, side=2)
        memory = MemoryConfig(width=8, layers=1, mlp_width=64, frames=3, perceiver=perceiver)
        small = replace(small, memory=memory)
    return small


def _small_trunk(trunk: Trunk) -> Trunk:
    """Return an image encoder's configuration, small: fewer channels in as many blocks."""
    if isinstance(trunk, NanoConfig):
        return replace(trunk, widths=(8, 8, 16, 32), depth=2, heads=2, out_width=WIDTH)
    if isinstance(trunk, VitConfig):  # windows of 3 do not divide the grid of 4
        return replace(trunk, width=4 * trunk.heads, window=3, image_size=SIDE, out_width=WIDTH)
    if isinstance(trunk, TinyVitConfig):
        return replace(trunk, widths=(8, 16, 20, 40), image_size=SIDE, out_width=WIDTH, classes=5)
    if isinstance(trunk, RepVitConfig):
        return replace(trunk, widths=(8, 16, 24, 32))
    return replace(trunk, width=8 * trunk.heads)


def _small_fine(fine: FineConfig | None, trunk: Trunk) -> FineConfig | None:
    """Return a fine head's configuration, small, for a small image encoder."""
    if fine is not None and fine.has_outlines:
        return replace(fine, hidden=8, spread=4)
    if fine is None or fine.early_width is None:
        return fine
    assert isinstance(trunk, VitConfig | TinyVitConfig)
    return replace(fine, early_width=trunk.width if isinstance(trunk, VitConfig) else trunk.early_width)


def _alike() -> dict[str, list[str]]:
    """Return the names of all rows by the first of those that are the same when small, except for their weights."""
    groups: dict[ImageModelConfig, list[str]] = {}
    for spec in list_models():
        groups.setdefault(replace(shrunken(CONFIGS[spec.name]), name=""), []).append(spec.name)
    return {names[0]: names for names in groups.values()}


ALIKE = _alike()
"""micro-sam's rows, for example, are SAM's with other weights: one of them stands for all."""
PROMPTABLE = [name for name in ALIKE if isinstance(CONFIGS[name], PromptableConfig)]
SEMANTIC = [name for name in ALIKE if isinstance(CONFIGS[name], SemanticConfig)]
