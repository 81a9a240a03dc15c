"""From a decoder's output for one prompt to masks of the image, best first."""

from __future__ import annotations

from collections.abc import Iterator

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


def prediction_of(output: MaskOutput, features: Features, *, names: tuple[str, ...]) -> MaskPrediction:
    """Return one prompt's (1, M, …) answer with masks of the image, best first."""
    order = torch.argsort(-output.ious[0], stable=True)
    return _made(_drawn(output, order, features), output.ious[0][order], _in_order(names, order))


def prediction_of_view(
    output: MaskOutput, features: Features, view: View, *, names: tuple[str, ...]
) -> MaskPrediction:
    """Return an answer of a view as one of the whole image."""
    order = torch.argsort(-output.ious[0], stable=True)
    return _made(_drawn_in(view, output, order, features), output.ious[0][order], _in_order(names, order))


def prediction_of_both(
    whole: MaskOutput,
    close: MaskOutput,
    features: Features,
    view: View,
    *,
    is_close: Tensor,
    names: tuple[tuple[str, ...], tuple[str, ...]],
) -> MaskPrediction:
    """Return an answer whose (M,) small masks are those of a view, and the others those of the whole frame.

    `names` are those of both answers.
    """
    scores = torch.where(is_close, close.ious[0], whole.ious[0])
    order = torch.argsort(-scores, stable=True)
    kinds = is_close[order].tolist()
    far = iter(_rows(_drawn(whole, order[~is_close[order]], features)))
    near = iter(_rows(_drawn_in(view, close, order[is_close[order]], features)))
    rows = [next(near if is_near else far) for is_near in kinds]
    drawn = np.stack([mask for mask, _ in rows]), torch.stack([logits for _, logits in rows])
    said = tuple(
        names[is_near][index] for is_near, index in zip(kinds, order.tolist(), strict=True) if names[0]
    )
    return _made(drawn, scores[order], said)


_Drawn = tuple[NDArray[np.bool_], Tensor]  # (M, H, W) masks of the image, and (M, h, w) logits over the frame


def _drawn(output: MaskOutput, index: Tensor, features: Features) -> _Drawn:
    """Return some masks of an answer on the whole frame."""
    frame, target = features.frame_shape, features.resize.target
    covered = (target[0] / frame[0], target[1] / frame[1])
    masks = _masks(output, index, covered=covered, shape=features.image_shape)
    return masks, output.logits[0][index].cpu()


def _drawn_in(view: View, output: MaskOutput, index: Tensor, features: Features) -> _Drawn:
    """Return some masks of an answer in a view."""
    inner = _masks(output, index, covered=(1.0, 1.0), shape=view.resize.source)
    masks = np.zeros((len(inner), *features.image_shape), dtype=bool)
    masks[:, view.window[0], view.window[1]] = inner
    size = features.logits_shape
    step = (features.image_shape[0] / size[0], features.image_shape[1] / size[1])
    logits = resample(
        output.logits[0][index].cpu()[:, None],
        source=view.resize,
        origin=(-view.window[0].start, -view.window[1].start),
        size=size,
        step=step,
    )[:, 0]
    return masks, logits


def _masks(
    output: MaskOutput, index: Tensor, *, covered: tuple[float, float], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return some (M, H, W) masks; `covered` is the share of the logits that the image covers, along each axis."""
    logits = (output.logits if output.fine is None else output.fine)[0][index].float()
    height, width = logits.shape[1:]
    return masks_of(logits, cells=(covered[0] * height, covered[1] * width), shape=shape)


def _rows(drawn: _Drawn) -> Iterator[tuple[NDArray[np.bool_], Tensor]]:
    """Yield mask and logits of each answer."""
    yield from zip(*drawn, strict=True)


def _in_order(names: tuple[str, ...], order: Tensor) -> tuple[str, ...]:
    """Return names in an order, nothing of nothing."""
    return tuple(names[index] for index in order.tolist()) if names else ()


def _made(drawn: _Drawn, scores: Tensor, names: tuple[str, ...]) -> MaskPrediction:
    """Return a prediction of what is in order already."""
    masks, logits = drawn
    return MaskPrediction(
        masks, scores.float().cpu().numpy(), logits.float().numpy(), levels_of(masks), names
    )
