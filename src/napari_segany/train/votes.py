"""Where the middle of every object is, as its pixels should say it: what tells touching cells apart.

Lalit et al. 2021, "EmbedSeg". There is one map for fine things, one for nuclei and one for cells and what is made of
them; in each, a pixel tells of the smallest object that it lies in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_segany.models.semantic_sam import boxes_of

from .nested import NestedBatch

LEVELS = ((1, 2), (0, 3), (4, 5))
"""Of the objects that each map tells of; what a folder does not give a level stands with the nuclei."""

STEP = 2
"""Only every second pixel is asked, along each axis: neighbours say the same."""
_LARGEST_MISS = 2.0  # half sides


def vote_loss(places: Tensor, masks: Tensor, batch: NestedBatch) -> Tensor:
    """Return the mean distance, in half sides of their objects, between what pixels say and the truth.

    `places` (B, V, 2, H, W) are shares of the frame, (x, y); `masks` (B, G, H, W).
    """
    boxes, areas = boxes_of(masks > 0.5), masks.sum((-2, -1))
    places, masks = places[..., ::STEP, ::STEP], masks[..., ::STEP, ::STEP]
    image = torch.arange(len(masks), device=masks.device)[:, None, None]
    total, count = places.new_zeros(()), places.new_zeros(())
    for index, levels in enumerate(LEVELS[: places.shape[1]]):
        told = torch.stack([batch.levels == level for level in levels]).any(0) & (areas > 0)
        size = torch.where((masks > 0.5) & told[..., None, None], areas[..., None, None], torch.inf)
        least = size.min(dim=1)
        own = boxes[image, least.indices]  # (B, H, W, 4)
        miss = (places[:, index].permute(0, 2, 3, 1) - own[..., :2]) / (own[..., 2:] / 2).clamp(min=1e-3)
        inside = torch.isfinite(least.values)
        total = total + (miss.abs().sum(-1).clamp(max=_LARGEST_MISS) * inside).sum()
        count = count + inside.sum()
    return total / count.clamp(min=1)
