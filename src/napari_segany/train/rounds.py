"""The loss of one batch: a first prompt on every object, then corrective clicks on some, round by round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.outline import outline_inputs, pixels_below, places_beside
from napari_segany.predict.preprocess import normalise

from .crops import CropPlan
from .losses import (
    BAND,
    PLACES,
    dense_loss,
    extent_loss,
    outline_loss,
    prompt_loss,
    true_iou,
    unsure_places,
)
from .simulate import CELL, PromptMix, corrected, first_prompts
from .stages import Stage
from .trainable import LowPrecision


def batch_loss(
    low: LowPrecision, batch: list[Tensor], stage: Stage, *, rng: np.random.Generator, is_fine: bool = False
) -> Tensor:
    """Return the mean loss of a batch over all prompt rounds.

    Parameters
    ----------
    batch
        pixels (B, 3, S, S) in 0..1; masks (B, K, S, S) bool; dense (B, 2, S, S); is_primary (B, K).
    is_fine
        Whether the fine parts are trained on a frozen base.
    """
    pixels, masks, dense, is_primary = batch
    count = masks.shape[1]
    pixels = normalise(pixels).to(low.dtype, memory_format=torch.channels_last)
    with torch.set_grad_enabled(not is_fine and stage.learns_images):
        features: ImageFeatures = low("encode", pixels)  # type: ignore[assignment]  # tasks share one signature
    full = masks.float().flatten(0, 1)[:, None]  # (N, 1, S, S)
    parts = ~is_primary.flatten()
    total = _rounds(low, _repeat(features, count), full, stage, is_part=parts, rng=rng, is_fine=is_fine)
    if stage.dense_weight > 0:
        maps: Tensor = low("dense", features.fine[0])  # type: ignore[assignment]  # as above
        total = total + stage.dense_weight * dense_loss(maps.float(), F.avg_pool2d(dense, CELL))
    return total


def _rounds(
    low: LowPrecision,
    features: ImageFeatures,
    full: Tensor,
    stage: Stage,
    *,
    is_part: Tensor,
    rng: np.random.Generator,
    is_fine: bool,
) -> Tensor:
    """Return the loss of the first prompt on all objects and of the corrective clicks on some of them.

    `is_part` (N,) says which objects are parts of others: one click there means the others as well.
    """
    truth = F.avg_pool2d(full, CELL)  # (N, 1, S/2, S/2)
    binary = (truth[:, 0] > 0.5).cpu().numpy()
    binary[~binary.any((1, 2)), 0, 0] = True  # thinner than a cell: any prompt will do
    prompts = first_prompts(binary, rng, mix=PromptMix()).to(truth.device)
    rounds = int(rng.integers(min(2, stage.rounds), stage.rounds + 1))
    features = replace(features, origin=_origin(stage, full.shape[-1], rng))
    total, weight, whole = truth.new_zeros(()), 0.0, len(truth)
    for index in range(rounds):
        with torch.set_grad_enabled(not is_fine):
            output: MaskOutput = low("decode", features, prompts.xy, prompts.labels, prompts.masks)  # type: ignore[assignment]  # as above
        share = len(truth) / whole
        if is_fine:
            output, loss = _fine_round(
                low,
                output,
                full,
                is_ambiguous=prompts.is_ambiguous,
                object_weight=stage.object_weight,
                rng=rng,
            )
        logits, ious = output.logits.float(), output.ious.float()
        if not is_fine:
            loss = prompt_loss(
                logits,
                ious,
                truth,
                is_ambiguous=prompts.is_ambiguous,
                is_doubtful=prompts.is_ambiguous & is_part,
                object_weight=stage.object_weight,
            )
        total = total + share * loss
        weight += share
        if index + 1 == rounds:
            break
        if index == 0:
            kept = np.sort(rng.permutation(whole)[: max(1, round(stage.late_share * whole))])
            binary, on = binary[kept], torch.from_numpy(kept).to(truth.device)
            prompts, features, truth, full = prompts.rows(on), features.of(on), truth[on], full[on]
            logits, ious, is_part = logits[on], ious[on], is_part[on]
        prompts = corrected(prompts, binary, logits=_shown(logits, ious, prompts.is_ambiguous), rng=rng)
    return total / weight


def _fine_round(
    low: LowPrecision,
    output: MaskOutput,
    full: Tensor,
    *,
    is_ambiguous: Tensor,
    object_weight: float,
    rng: np.random.Generator,
) -> tuple[MaskOutput, Tensor]:
    """Return a round's four masks changed as a whole, and the loss of that and of their outlines."""
    coarse_truth = F.avg_pool2d(full, CELL)
    ious = true_iou(output.logits, coarse_truth)  # (N, 4)
    output = low("extend", output)  # type: ignore[assignment]  # as above
    loss = extent_loss(
        output.logits, coarse_truth, ious=ious, is_ambiguous=is_ambiguous, object_weight=object_weight
    )
    output = replace(output, logits=output.logits.detach())
    return output, loss + _outlines(low, output, full, is_ambiguous=is_ambiguous, rng=rng)


def _outlines(
    low: LowPrecision,
    output: MaskOutput,
    full: Tensor,
    *,
    is_ambiguous: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """Return the loss of the outlines of a round's masks, all four of each answer."""
    base, context = output.logits, output.context
    assert context is not None
    ious = true_iou(base, F.avg_pool2d(full, CELL))  # (N, 4)
    places = unsure_places(base, PLACES, rng=rng)  # (N, 4, P), those of one mask together
    first = torch.arange(ious.numel(), device=places.device).view_as(ious) * base[0, 0].numel()
    places = places + first[..., None]  # in all masks
    inputs = outline_inputs(context, base, places)
    coarse = base.flatten()[places]
    heard = F.pad(coarse.abs().flatten() < BAND, (0, 1))  # sure places are not asked when it counts
    beside = places_beside(places, base.shape)
    beside = torch.where(heard[beside], beside, places.numel())
    change: Tensor = low("outline", inputs.to(low.dtype), output.tokens[:, :, None], beside)  # type: ignore[assignment]  # as above
    wide = F.interpolate(base, size=full.shape[2:], mode="bilinear").flatten()
    truth = full.expand(-1, base.shape[1], -1, -1).reshape(-1)
    below = pixels_below(places, base.shape)
    logits = wide[below] + change.float()
    return outline_loss(logits, truth[below], base=coarse, ious=ious, is_ambiguous=is_ambiguous)


def _origin(stage: Stage, side: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return where a crop `side` wide lies in a whole frame, (x, y): position codes must be known everywhere in it."""
    assert isinstance(stage.plan, CropPlan)
    room = max(stage.plan.frames[1] - side, 0)
    x, y = rng.uniform(0, room, size=2)
    return float(x), float(y)


def _shown(logits: Tensor, ious: Tensor, is_ambiguous: Tensor) -> Tensor:
    """Return the (N, 1, h, w) logits that a person would be shown: the best by score, or the single mask."""
    best = ious.argmax(dim=1)
    chosen = torch.where(is_ambiguous, best, torch.zeros_like(best))
    return logits[torch.arange(len(logits), device=logits.device), chosen][:, None].detach()


def _repeat(features: ImageFeatures, count: int) -> ImageFeatures:
    """Return the features with each image's row repeated `count` times, without a gather."""

    def spread(x: Tensor) -> Tensor:
        return x[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)

    return ImageFeatures(spread(features.embedding), tuple(spread(level) for level in features.fine))
