"""Losses on mask logits: focal and dice in the papers' proportion, and the predicted IoU against the real one.

Papers: Kirillov et al. 2023 (focal : dice 20 : 1, only the best of the masks is trained); Ravi et al. 2024 (L1 on IoU).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.fine import FineConfig

FOCAL_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 1.0
UNAMBIGUOUS_SHARE = 0.2
POINTS = 640
"""Points of one mask that a fine head learns from in one round."""
BAND = FineConfig().band


def focal_loss(logits: Tensor, truth: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Return the mean focal loss of each mask: (..., H, W) logits and soft truth 0..1 to (...).

    `alpha` is the weight of object pixels against background (1 - alpha). The papers take 0.25; a small model trained
    from nothing then stays with empty masks.
    """
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = torch.sigmoid(logits)
    miss = (probability - truth).abs()
    weight = alpha * truth + (1 - alpha) * (1 - truth)
    return (weight * miss**gamma * cross).mean((-2, -1))


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - dice of each mask: (..., H, W) logits and soft truth 0..1 to (...)."""
    probability = torch.sigmoid(logits)
    both = (probability * truth).sum((-2, -1))
    either = probability.sum((-2, -1)) + truth.sum((-2, -1))
    return 1 - (2 * both + 1) / (either + 1)


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the weighted sum of both for each mask: (B, M, H, W) and (B, 1, H, W) to (B, M)."""
    truth = truth.expand_as(logits)
    return FOCAL_WEIGHT * focal_loss(logits, truth) + DICE_WEIGHT * dice_loss(logits, truth)


@torch.no_grad()
def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of each thresholded mask: (B, M, H, W) and (B, 1, H, W) to (B, M)."""
    guess, truth = logits > 0, truth > 0.5
    both = (guess & truth).sum((-2, -1)).float()
    either = (guess | truth).sum((-2, -1)).float()
    return both / either.clamp(min=1)


def prompt_loss(logits: Tensor, ious: Tensor, truth: Tensor, *, is_ambiguous: Tensor) -> Tensor:
    """Return the loss of one prompt round.

    Mask 0 always learns; of masks 1 to 3 only the best one, fully where the prompt is ambiguous (one click) and by
    `UNAMBIGUOUS_SHARE` elsewhere, so that three answers make sense for any prompt. The IoU head learns on all masks.

    Parameters
    ----------
    logits : (B, 4, H, W)
    ious : (B, 4)
    truth : (B, 1, H, W), 0 to 1
    is_ambiguous : (B,)
    """
    losses = mask_loss(logits, truth)  # (B, 4)
    best = losses[:, 1:].min(dim=1).values
    ambiguous = torch.where(is_ambiguous, 1.0, UNAMBIGUOUS_SHARE)
    masks = losses[:, 0] + ambiguous * best
    miss = (ious - true_iou(logits, truth)).abs()
    scores = miss[:, 0] + ambiguous * miss[:, 1:].mean(dim=1)
    return (masks + IOU_WEIGHT * scores).mean()


def unsure_places(logits: Tensor, count: int, *, rng: np.random.Generator) -> Tensor:
    """Return (..., count) flat places of (..., H, W) logits near zero, others each time (PointRend, 3.1)."""
    size = logits.abs().flatten(-2)
    jitter = torch.from_numpy(rng.uniform(0.5, 1.5, size=size.shape[-1:]).astype(np.float32)).to(size.device)
    return (size * jitter).topk(min(count, size.shape[-1]), dim=-1, largest=False).indices


def point_loss(logits: Tensor, truth: Tensor, *, base: Tensor, share: Tensor) -> Tensor:
    """Return the cross-entropy of fine logits at points.

    Places that the base is sure of are left out, and each mask counts by the IoU that its base has: an outline cannot
    be refined where something else was found.

    Parameters
    ----------
    logits, truth, base : (N, M, P)
        Truth is 0 or 1, base the frozen model's logits.
    share : (N, M)
    """
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weight = (base.abs() < BAND) * share.clamp(min=0.05)[..., None]
    return (cross * weight).sum() / weight.sum().clamp(min=1e-6)


def dense_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean cross-entropy of (B, C, H, W) maps, rare positives weighted up."""
    weight = torch.tensor([2.0, 4.0], device=logits.device)[: logits.shape[1], None, None]
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
