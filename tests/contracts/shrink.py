"""Rows at sizes for unit tests: what makes a row this row (blocks, windows, strides, version) stays."""

from __future__ import annotations

from dataclasses import replace

from napari_segany.models.mask_decoder import DecoderConfig
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.nano import NanoConfig
from napari_segany.models.sam2 import Sam2Config

WIDTH = 32


def shrunken(config: Sam2Config) -> Sam2Config:
    """Return a row's configuration, small."""
    if isinstance(config.trunk, NanoConfig):
        trunk = replace(config.trunk, widths=(8, 8, 16, 32), depth=2, heads=2, out_width=WIDTH)
    else:
        trunk = replace(config.trunk, width=8 * config.trunk.heads)
    return replace(
        config,
        trunk=trunk,
        image_size=64,
        width=WIDTH,
        decoder=DecoderConfig(heads=config.decoder.heads, mlp_width=64, iou_width=WIDTH),
        memory=config.memory and MemoryConfig(width=8, layers=1, mlp_width=64, frames=3),
    )
