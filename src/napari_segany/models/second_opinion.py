"""What is followed, weighed against what the image model says in the same place.

A followed mask is drawn from the one before it, so what it loses stays lost, frame after frame. The image model knows
nothing of the object, but it draws each frame afresh: here it is asked for what lies at the middle of the mask that was
followed, and in its box. Place by place, all that was said is weighed, and whether the object is there at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DilatedSteps
from .mask_decoder import MaskOutput

VOICES = 6
"""Masks that are weighed: what is followed, four answers to a click in its middle, one to its box."""
_INNER = 24
_RECALLED = 8  # channels of what the memory adds to the embedding
_SOFT = 8.0  # logits beyond this are not surer
_TRUST = 3.0  # what is followed begins with most of the weight
_LEAST = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What the image model says of B objects: logits (B, `VOICES` - 1, 4h, 4w) and predicted IoUs (B, `VOICES` - 1)."""

    logits: Tensor
    ious: Tensor


class SecondOpinion(nn.Module):
    """Masks of one object, and the maps that they were drawn on, to the mask that is shown.

    Untrained, it hardly moves what is followed.

    Parameters
    ----------
    width
        Channels of the image embedding; the map at half of the logits' resolution has a quarter of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.recalled = nn.Conv2d(width, _RECALLED, kernel_size=1)
        self.enter = nn.Conv2d(VOICES + 2 + width // 4 + _RECALLED, _INNER, kernel_size=1)
        self.scores = nn.Linear(VOICES + 1, _INNER)
        self.steps = DilatedSteps(_INNER)
        self.whole = nn.Linear(2 * _INNER, _INNER)
        self.weights = nn.Conv2d(_INNER, VOICES + 1, kernel_size=1)
        self.verdict = nn.Linear(2 * _INNER, 2)
        first = torch.zeros(VOICES + 1)
        first[0] = _TRUST
        nn.init.zeros_(self.weights.weight)
        self.weights.bias = nn.Parameter(first)
        nn.init.zeros_(self.verdict.weight)
        nn.init.zeros_(self.verdict.bias)

    def forward(
        self, followed: MaskOutput, heard: Heard, *, fine: Tensor, earlier: Tensor, recalled: Tensor
    ) -> MaskOutput:
        """Return what is followed with its mask, score and presence decided anew.

        Parameters
        ----------
        followed
            One mask of each of B objects.
        fine : (B, C / 4, 2h, 2w)
            The image's map at half of the logits' resolution.
        earlier : (B, 1, 4h, 4w)
            Logits that were known beforehand, zeros for none.
        recalled : (B, C, h, w)
            What the memory added to the embedding.
        """
        assert followed.object_scores is not None
        said = torch.cat((followed.logits.float(), heard.logits.float()), dim=1).clamp(-_SOFT, _SOFT)
        scores = torch.cat((followed.ious, heard.ious), dim=1).float()
        presence = followed.object_scores.float().clamp(-_SOFT, _SOFT)
        seen = F.avg_pool2d(torch.cat((said, earlier.float().clamp(-_SOFT, _SOFT)), dim=1), 2) / _SOFT
        inside = F.avg_pool2d((said[:, :1] > 0).float(), 2)
        kind = self.enter.weight.dtype
        told = self.scores(torch.cat((torch.logit(scores, eps=_LEAST), presence), dim=1).to(kind))
        where = F.interpolate(
            self.recalled(recalled.to(kind)), scale_factor=2, mode="bilinear", align_corners=False
        )
        x = self.enter(torch.cat((seen.to(kind), inside.to(kind), fine.to(kind), where), dim=1))
        x = self.steps(x + told[:, :, None, None])
        x = F.gelu(x + self.whole(_means(x, inside))[:, :, None, None])
        shares = self.weights(x).float()
        shares = F.interpolate(shares, scale_factor=2, mode="bilinear", align_corners=False)
        logits = (shares[:, :VOICES].softmax(dim=1) * said).sum(1, keepdim=True) + shares[:, VOICES:]
        verdict = self.verdict(_means(x, F.avg_pool2d(torch.sigmoid(logits), 2))).float()
        ious = torch.sigmoid(torch.logit(scores[:, :1], eps=_LEAST) + verdict[:, :1])
        return replace(followed, logits=logits, ious=ious, object_scores=presence + verdict[:, 1:])


def middles(masks: Tensor) -> Tensor:
    """Return the (B, 2) places (x, y) that lie deepest in (B, h, w) masks, whose edge is an end, too; (0, 0) of none.

    Depth is counted in steps to any of the eight neighbours; of places as deep as each other, it is the one nearest to
    their mean.
    """
    left = F.pad(masks.float(), (1, 1, 1, 1))[:, None]
    depth = torch.zeros_like(left)
    while bool(left.any()):
        depth += left
        left = -F.max_pool2d(-left, kernel_size=3, stride=1, padding=1)
    depth = depth[:, 0, 1:-1, 1:-1]
    deepest = (depth == depth.amax((1, 2), keepdim=True)) & (depth > 0)
    y, x = torch.meshgrid(
        *(torch.arange(n, device=masks.device).float() for n in depth.shape[1:]), indexing="ij"
    )
    count = deepest.sum((1, 2)).clamp(min=1)
    middle_x, middle_y = ((deepest * at).sum((1, 2)) / count for at in (x, y))
    off = (x - middle_x[:, None, None]).square() + (y - middle_y[:, None, None]).square()
    nearest = torch.where(deepest, off, torch.inf).flatten(1).argmin(1)
    return torch.stack((nearest % depth.shape[2], nearest // depth.shape[2]), dim=1).float()


def ends(masks: Tensor) -> Tensor:
    """Return the (B, 2, 2) corners (x, y) of (B, h, w) masks that are not empty: their first edge and that beyond."""
    across = [masks.any(axis).int() for axis in (1, 2)]  # (B, w) and (B, h)
    first = torch.stack([line.argmax(1) for line in across], dim=1)
    beyond = torch.stack([line.shape[1] - line.flip(1).argmax(1) for line in across], dim=1)
    return torch.stack((first, beyond), dim=1).float()


def _means(x: Tensor, weights: Tensor) -> Tensor:
    """Return the (B, 2C) means of (B, C, h, w) maps: inside (B, 1, h, w) weights, and everywhere."""
    inside = (x * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1)
    return torch.cat((inside, x.mean((2, 3))), dim=1).to(x.dtype)
