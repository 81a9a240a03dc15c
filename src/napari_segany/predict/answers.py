"""From a decoder's output for one prompt to masks of the image, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One answer to a prompt, with the names of its masks: of the whole frame, or of a magnified view."""

    output: MaskOutput
    names: tuple[str, ...]
    view: View | None = None


def prediction_of_looks(looks: Sequence[Look], features: Features, *, source: Tensor) -> MaskPrediction:
    """Return an answer whose masks come from several looks; `source` (M,) says which look each is of."""
    tokens = torch.arange(len(source), device=source.device)
    scores = torch.stack([look.output.ious[0] for look in looks])[source, tokens]
    order = torch.argsort(-scores, stable=True)
    masks: dict[int, NDArray[np.bool_]] = {}
    logits: dict[int, Tensor] = {}
    for number, look in enumerate(looks):
        own = order[source[order] == number]
        if look.view is None:
            drawn = _drawn(look.output, own, features)
        else:
            drawn = _drawn_in(look.view, look.output, own, features)
        masks.update(zip(own.tolist(), drawn[0], strict=True))
        logits.update(zip(own.tolist(), drawn[1], strict=True))
    tokens_in_order = order.tolist()
    together = (
        np.stack([masks[token] for token in tokens_in_order]),
        torch.stack([logits[token] for token in tokens_in_order]),
    )
    pairs = zip(tokens_in_order, source[order].tolist(), strict=True)
    names = tuple(looks[number].names[token] for token, number in pairs if looks[number].names)
    return _made(together, scores[order], names)


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


def _in_order(names: tuple[str, ...], order: Tensor) -> tuple[str, ...]:
    """Return names in an order, nothing of nothing."""
    return tuple(names[index] for index in order.tolist()) if names else ()


def _made(drawn: _Drawn, scores: Tensor, names: tuple[str, ...]) -> MaskPrediction:
    """Return a prediction of what is in order already."""
    masks, logits = drawn
    return MaskPrediction(
        masks, scores.float().cpu().numpy(), logits.float().numpy(), levels_of(masks), names
    )
