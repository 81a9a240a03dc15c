"""From a decoder's output for one prompt to masks of the image, best first."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.granularity import levels_of
from napari_segany.core.types import MaskPrediction
from napari_segany.models.mask_decoder import MaskOutput

from .features import Features
from .masks import masks_of
from .zoom import View, resample


def prediction_of_view(
    output: MaskOutput, features: Features, view: View, *, names: tuple[str, ...]
) -> MaskPrediction:
    """Return an answer of a view as one of the whole image."""
    order, inner = _in_order(output, cells=(1.0, 1.0), shape=view.resize.source)
    masks = np.zeros((len(inner), *features.image_shape), dtype=bool)
    masks[:, view.window[0], view.window[1]] = inner
    size = features.logits_shape
    step = (features.image_shape[0] / size[0], features.image_shape[1] / size[1])
    logits = resample(
        output.logits[0][order].cpu()[:, None],
        source=view.resize,
        origin=(-view.window[0].start, -view.window[1].start),
        size=size,
        step=step,
    )[:, 0]
    return _made(masks, output, order, logits=logits, names=names)


def prediction_of(output: MaskOutput, features: Features, *, names: tuple[str, ...]) -> MaskPrediction:
    """Return one prompt's (1, M, …) answer with masks of the image, best first."""
    frame, target = features.frame_shape, features.resize.target
    covered = (target[0] / frame[0], target[1] / frame[1])
    order, masks = _in_order(output, cells=covered, shape=features.image_shape)
    return _made(masks, output, order, logits=output.logits[0][order].cpu(), names=names)


def _in_order(
    output: MaskOutput, *, cells: tuple[float, float], shape: tuple[int, int]
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return the order of the masks, best first, and in it the (M, H, W) masks.

    `cells` is the share of the logits that the image covers, along each axis.
    """
    order = torch.argsort(-output.ious[0], stable=True)
    logits = (output.logits if output.fine is None else output.fine)[0][order].float()
    height, width = logits.shape[1:]
    return order, masks_of(logits, cells=(cells[0] * height, cells[1] * width), shape=shape)


def _made(
    masks: NDArray[np.bool_], output: MaskOutput, order: Tensor, *, logits: Tensor, names: tuple[str, ...]
) -> MaskPrediction:
    """Return a prediction of masks and logits that are in order already."""
    scores = output.ious[0][order].float().cpu().numpy()
    levels = levels_of(masks) if output.levels is None else output.levels[0][order].cpu().numpy()
    said = tuple(names[i] for i in order.tolist()) if names else ()
    return MaskPrediction(masks, scores, logits.float().numpy(), levels, said)
