"""Hearts: the deepest cell of every object, from which it is found without a prompt.

Zhou et al. 2019, "Objects as points" (section 3): a map says where objects are, and how large; cells beside a heart are
punished less. Objects and parts have maps of their own, so that a nucleus in the middle of its cell is found, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.query_decoder import seed_boxes

from .clicks import depth
from .nested import NestedBatch

_SPREAD = 0.12  # of the sides of a box: how far beside its heart an object may be found
_HARDNESS, _NEARNESS = 2.0, 4.0  # exponents of the focal loss


@dataclass(frozen=True, slots=True, eq=False)
class Seeds:
    """Queries without prompts: `boxes` (B, Q, 4) as shares, `is_part` (B, Q), `truth` (B, Q), -1 for no object."""

    boxes: Tensor
    is_part: Tensor
    truth: Tensor


def hearts_of(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the (B, G) flat cells of a map in which (B, G, H, W) masks are deepest; -1 of empty masks."""
    height, width = masks.shape[2:]
    hearts = np.full(masks.shape[:2], -1, dtype=np.int64)
    binary = (masks > 0.5).cpu().numpy()
    for index in np.argwhere(binary.any((2, 3))):
        mask = binary[tuple(index)]
        row, col = np.unravel_index(int(np.argmax(depth(mask))), mask.shape)
        hearts[tuple(index)] = row * size[0] // height * size[1] + col * size[1] // width
    return torch.from_numpy(hearts).to(masks.device)


def heart_loss(maps: Tensor, masks: Tensor, boxes: Tensor, batch: NestedBatch) -> Tensor:
    """Return the loss of (B, 2, 3, h, w) maps: of objects and of parts, a logit and the logarithms of two sides."""
    size = (maps.shape[3], maps.shape[4])
    hearts = hearts_of(masks, size)
    wanted = torch.stack(
        [_near(hearts, boxes, size, of=batch.classes[..., kind] >= 0) for kind in (0, 1)], dim=1
    )
    logits, chance = maps[:, :, 0], maps[:, :, 0].sigmoid()
    is_heart = wanted >= 1
    hit = is_heart * (1 - chance) ** _HARDNESS * F.logsigmoid(logits)
    miss = ~is_heart * (1 - wanted) ** _NEARNESS * chance**_HARDNESS * F.logsigmoid(-logits)
    counted = torch.stack((torch.ones_like(batch.is_complete), batch.is_complete), dim=1)[..., None, None]
    found = -((hit + miss) * counted).sum() / is_heart.sum().clamp(min=1)
    return found + 0.5 * _size_loss(maps, hearts, boxes, batch)


def _near(hearts: Tensor, boxes: Tensor, size: tuple[int, int], *, of: Tensor) -> Tensor:
    """Return the (B, h, w) maps that are 1 at hearts and fall off around them."""
    height, width = size
    rows, cols = hearts.div(width, rounding_mode="floor"), hearts % width
    y = torch.arange(height, device=hearts.device) - rows[..., None]  # (B, G, h)
    x = torch.arange(width, device=hearts.device) - cols[..., None]
    spread = boxes[..., 2:] * boxes.new_tensor((width, height)) * _SPREAD
    down = torch.exp(-(y**2) / (2 * spread[..., 1:].clamp(min=0.4) ** 2))
    across = torch.exp(-(x**2) / (2 * spread[..., :1].clamp(min=0.4) ** 2))
    counts = (of & (hearts >= 0)).float()[..., None, None]
    return (down[..., None] * across[..., None, :] * counts).amax(dim=1)


def _size_loss(maps: Tensor, hearts: Tensor, boxes: Tensor, batch: NestedBatch) -> Tensor:
    """Return the mean error of the logarithms of sides at hearts."""
    total, count = maps.new_zeros(()), maps.new_zeros(())
    wanted = sides_to_logs(boxes[..., 2:], (maps.shape[3], maps.shape[4]))
    for kind in (0, 1):
        known = (batch.classes[..., kind] >= 0) & (hearts >= 0)
        at = hearts.clamp(min=0)[:, None].expand(-1, 2, -1)
        said = maps[:, kind, 1:].flatten(2).gather(2, at).transpose(1, 2)  # (B, G, 2)
        total = total + ((said - wanted).abs().sum(-1) * known).sum()
        count = count + known.sum()
    return total / count.clamp(min=1)


def sides_to_logs(sides: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the logarithms of (..., 2) sides (w, h), shares of the frame, in cells of a map."""
    return (sides * sides.new_tensor((size[1], size[0]))).clamp(min=0.3).log()


def seeded(maps: Tensor, masks: Tensor, boxes: Tensor, batch: NestedBatch, *, extra: int) -> Seeds:
    """Return a query at the heart of each true object, and the strongest others beside them; sides are as predicted."""
    size = (maps.shape[3], maps.shape[4])
    hearts = hearts_of(masks, size)
    known = (batch.classes >= 0).any(-1) & (hearts >= 0)
    is_part = batch.classes[..., 1] >= 0
    cells = (is_part.long() * size[0] * size[1] + hearts).clamp(min=0)
    scores = maps[:, :, 0].flatten(1).clone()
    scores.scatter_(1, torch.where(known, cells, 0), -1e4)  # they are taken already
    best = scores.topk(masks.shape[1] + extra, dim=1).indices
    count = masks.shape[1]
    chosen = torch.cat((torch.where(known, cells, best[:, :count]), best[:, count:]), dim=1)
    truth = torch.full_like(chosen, -1)
    truth[:, :count] = torch.where(known, torch.arange(count, device=masks.device), -1)
    return Seeds(*seed_boxes(maps, chosen), truth)
