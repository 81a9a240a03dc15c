"""Losses on mask logits: focal and dice in the papers' proportion, and the predicted IoU against the real one.

Papers: Kirillov et al. 2023 (focal : dice 20 : 1, only the best of the masks is trained); Ravi et al. 2024 (which takes
absolute errors of the predicted IoU; here it is cross-entropy).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.fine import FineConfig

FOCAL_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 1.0
OBJECT_WEIGHT = 0.75
"""Of object pixels in the focal loss, against 1 - this for the background."""
ABSENT_WEIGHT = 4.0
"""Of a frame without the object in the presence loss, against 1: most objects are there in most frames."""
UNAMBIGUOUS_SHARE = 0.2
PICK_WEIGHT, PICK_SHARPNESS = 1.0, 20.0
"""Of `pick_loss`, and what predicted IoUs are multiplied by before their softmax there."""
PLACES = 320
"""Places of one mask that a fine head learns from in one round."""
BAND = FineConfig().band
LEAST_IOU = (0.5, 0.2)
"""Of masks that answer a single click, and any other prompt."""
_LEAST_BEST = 0.1


def focal_loss(logits: Tensor, truth: Tensor, *, alpha: float = OBJECT_WEIGHT, gamma: float = 2.0) -> Tensor:
    """Return the mean focal loss of each mask: (..., H, W) logits and soft truth 0..1 to (...).

    `alpha` is the weight of object pixels against background (1 - alpha). The papers take 0.25; a small model trained
    from nothing then stays with empty masks. One above 0.5 draws outlines outwards where pixels are in doubt.
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


def mask_loss(logits: Tensor, truth: Tensor, *, object_weight: float = OBJECT_WEIGHT) -> Tensor:
    """Return the weighted sum of both for each mask: (B, M, H, W) and (B, 1, H, W) to (B, M)."""
    truth = truth.expand_as(logits)
    focal = focal_loss(logits, truth, alpha=object_weight)
    return FOCAL_WEIGHT * focal + DICE_WEIGHT * dice_loss(logits, truth)


@torch.no_grad()
def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of each thresholded mask: (B, M, H, W) and (B, 1, H, W) to (B, M)."""
    guess, truth = logits > 0, truth > 0.5
    both = (guess & truth).sum((-2, -1)).float()
    either = (guess | truth).sum((-2, -1)).float()
    return both / either.clamp(min=1)


def prompt_loss(
    logits: Tensor,
    ious: Tensor,
    truth: Tensor,
    *,
    is_ambiguous: Tensor,
    is_doubtful: Tensor | None = None,
    object_weight: float = OBJECT_WEIGHT,
) -> Tensor:
    """Return the loss of one prompt round.

    Mask 0 learns; of masks 1 to 3 only the best one, fully where the prompt is ambiguous (one click) and by
    `UNAMBIGUOUS_SHARE` elsewhere, so that three answers make sense for any prompt. The predicted IoU of all masks
    learns by cross-entropy: where a prompt may mean one thing or another, it becomes the IoU to expect; and, where one
    click has several answers, by what picking by it costs. Where the prompt is doubtful, only the best of masks 1 to 3
    learns: neither mask 0 nor any score is to prefer a part to what a person would name first.

    Parameters
    ----------
    logits : (B, 4, H, W)
    ious : (B, 4)
    truth : (B, 1, H, W), 0 to 1
    is_ambiguous : (B,)
    is_doubtful : (B,)
        One click on a part of something else; nowhere, if None.
    object_weight
        Of object pixels in the focal loss, 0 to 1.
    """
    losses = mask_loss(logits, truth, object_weight=object_weight)  # (B, 4)
    best = losses[:, 1:].min(dim=1).values
    ambiguous = torch.where(is_ambiguous, 1.0, UNAMBIGUOUS_SHARE)
    sure = torch.ones_like(best) if is_doubtful is None else 1 - is_doubtful.float()
    true = true_iou(logits, truth)
    miss = F.binary_cross_entropy(ious.clamp(1e-4, 1 - 1e-4), true, reduction="none")
    scores = miss[:, 0] + ambiguous * miss[:, 1:].mean(dim=1)
    scores = scores + PICK_WEIGHT * is_ambiguous * pick_loss(ious, true)
    return (sure * (losses[:, 0] + IOU_WEIGHT * scores) + ambiguous * best).mean()


def pick_loss(ious: Tensor, true: Tensor) -> Tensor:
    """Return by how much the best of M answers is better than the one that is picked: two (B, M) to (B,).

    Picked is by a softmax of the predicted IoUs, so that it can be learnt which answer is better where all are close.
    """
    chances = torch.softmax(PICK_SHARPNESS * ious, dim=-1)
    return true.amax(dim=-1) - (chances * true).sum(dim=-1)


def unsure_places(logits: Tensor, count: int, *, rng: np.random.Generator) -> Tensor:
    """Return (..., count) flat places of (..., H, W) logits within `BAND`, and sure ones where these are too few.

    They are those nearest to one of them, the less sure ones likelier to be that: a stretch of an outline, as what
    lies beside each other is decided together.
    """
    height, width = logits.shape[-2:]
    size = logits.abs()
    drawn = torch.from_numpy(rng.random(size.shape, dtype=np.float32)).to(size) / (size + 0.5)
    middle = torch.where(size < BAND, drawn, drawn - drawn.max() - 1).flatten(-2).argmax(-1)[..., None, None]
    rows, cols = torch.arange(height).to(middle)[:, None], torch.arange(width).to(middle)
    far = torch.maximum((rows - middle // width).abs(), (cols - middle % width).abs())
    far = torch.where(size < BAND, far, far + height + width)
    return far.flatten(-2).topk(min(count, height * width), dim=-1, largest=False).indices


def extent_loss(
    logits: Tensor, truth: Tensor, *, ious: Tensor, is_ambiguous: Tensor, object_weight: float
) -> Tensor:
    """Return the mask loss of whole masks that were changed: of the best of each answer, and of others that are near.

    Parameters
    ----------
    logits : (N, M, H, W)
    truth : (N, 1, H, W), 0 to 1
    ious : (N, M)
        Of the frozen model's masks; those under `LEAST_IOU`, and a best one of next to nothing, hardly count.
    is_ambiguous : (N,)
        Whether the prompt was a single click.
    object_weight
        Of object pixels in the focal loss, 0 to 1.
    """
    losses = mask_loss(logits, truth, object_weight=object_weight)  # (N, M)
    share = torch.where(ious >= torch.where(is_ambiguous, *LEAST_IOU)[:, None], ious, 0.0)
    best = ious.amax(dim=1, keepdim=True)
    share = torch.where(ious == best, torch.where(best >= _LEAST_BEST, 1.0, 0.1), share)
    return (losses * share).sum() / share.sum()


def outline_loss(
    logits: Tensor, truth: Tensor, *, base: Tensor, ious: Tensor, is_ambiguous: Tensor
) -> Tensor:
    """Return the cross-entropy of corrected logits, which makes them honest chances: `OutlineHead` relies on that.

    Places that the base is sure of are left out. Each mask counts by the IoU that its base has, those under
    `LEAST_IOU` hardly at all: an outline cannot be refined where something else was found. Where the prompt leaves no
    doubt about the object, that is rarer.

    Parameters
    ----------
    logits, truth : (N, M, P, 4)
        Of the pixels below P places; truth is 0 or 1.
    base : (N, M, P)
        The frozen model's logits at those places.
    ious : (N, M)
        Of the frozen model's masks.
    is_ambiguous : (N,)
        Whether the prompt was a single click.
    """
    least = torch.where(is_ambiguous, *LEAST_IOU)[:, None]
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(-1)
    share = torch.where(ious >= least, ious, 0.02 * ious + 1e-3)
    weight = (base.abs() < BAND) * share[..., None]
    return (cross * weight).sum() / weight.sum().clamp(min=1e-6)


def dense_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean cross-entropy of (B, C, H, W) maps, rare positives weighted up."""
    weight = torch.tensor([2.0, 4.0], device=logits.device)[: logits.shape[1], None, None]
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
