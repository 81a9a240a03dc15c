"""Prompts as tensors: the one place where (row, col) pixel centres become the models' (x, y)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.core.types import BoolMask, FloatArray, Prompt
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, POSITIVE

from .features import Features
from .zoom import View, resample

DRAWN_LOGIT = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One prompt as tensors: (N, 2) (x, y) in frame pixels, (N,) labels, (1, h, w) logits, of an answer or drawn."""

    xy: Tensor
    labels: Tensor
    mask: Tensor | None
    has_answer: bool = False

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """What prompts of one batch have in common: points, whether a box is among them, whether there is a mask."""
        return len(self.xy), bool((self.labels == BOX_START).any()), self.mask is not None


def encode_prompt(prompt: Prompt, features: Features) -> Encoded:
    """Return a prompt as tensors in frame pixels, box corners before points.

    Raises
    ------
    PromptError
        If it asks for text, lies outside of the image, or its mask does not belong to the features.
    """
    xy, labels = _encode_points(prompt, features)
    if prompt.mask is None:
        return Encoded(xy, labels, None)
    return Encoded(xy, labels, _encode_mask(prompt.mask, features), has_answer=prompt.mask.dtype != np.bool_)


def in_view(prompt: Encoded, features: Features, view: View) -> Encoded:
    """Return a prompt of the whole frame in the coordinates of a view."""
    scale = torch.tensor(features.resize.scale[::-1], dtype=torch.float32)
    zoom = torch.tensor(view.resize.scale[::-1], dtype=torch.float32)
    start = torch.tensor([view.window[1].start, view.window[0].start], dtype=torch.float32)
    edges = (prompt.xy + 0.5) / scale - start  # image pixels from the window's edge
    mask = None
    if prompt.mask is not None:
        size = view.logits_shape
        mask = resample(
            prompt.mask[None],
            source=features.resize,
            origin=(view.window[0].start, view.window[1].start),
            size=size,
            step=(view.resize.source[0] / size[0], view.resize.source[1] / size[1]),
        )[0]
    return Encoded(edges * zoom - 0.5, prompt.labels, mask, has_answer=prompt.has_answer)


def _encode_points(prompt: Prompt, features: Features) -> tuple[Tensor, Tensor]:
    """Return a prompt's box corners and points as (N, 2) (x, y) in frame pixels, with (N,) labels."""
    if prompt.text is not None:
        raise PromptError(f"{features.model.name} reads no text; prompt with points, a box or a mask")
    coords: list[NDArray[np.float32]] = []
    labels: list[int] = []
    if prompt.box is not None:
        box = prompt.box
        corners = np.array([[box.row0, box.col0], [box.row1, box.col1]], dtype=np.float32) - 0.5
        coords.append(corners)  # a half-open end is the edge between two pixels
        labels += [BOX_START, BOX_END]
    if prompt.points is not None:
        coords.append(prompt.points.coords)
        labels += [POSITIVE if sign else NEGATIVE for sign in prompt.points.positive]
    where = np.concatenate(coords) if coords else np.zeros((0, 2), dtype=np.float32)
    _check_inside(where, features.image_shape)
    frame = features.resize.forward(where)[:, ::-1].copy()
    return torch.from_numpy(frame), torch.tensor(labels, dtype=torch.long)


def _encode_mask(mask: BoolMask | FloatArray, features: Features) -> Tensor:
    """Return a prompt's mask as (1, h, w) logits."""
    if mask.dtype == np.bool_:
        if mask.shape != features.image_shape:
            raise PromptError(f"the mask prompt has shape {mask.shape}, the image {features.image_shape}")
        return _drawn(torch.from_numpy(mask.astype(np.float32))[None, None], features)
    if mask.shape != features.logits_shape:
        raise PromptError(
            f"logits of shape {mask.shape} do not belong to these features ({features.logits_shape}); "
            "pass MaskPrediction.logits of the same image, or a bool mask of the image's size"
        )
    return torch.from_numpy(mask)[None]


def _drawn(mask: Tensor, features: Features) -> Tensor:
    """Return a drawn (1, 1, H, W) mask, 0 or 1, as (1, h, w) logits over the frame; padding is background."""
    target, frame, size = features.resize.target, features.frame_shape, features.logits_shape
    if target == frame:
        area = F.interpolate(mask, size=size, mode="bilinear", antialias=True)[0]
    else:
        filled = F.interpolate(mask, size=target, mode="bilinear", antialias=True)
        padded = F.pad(filled, (0, frame[1] - target[1], 0, frame[0] - target[0]))
        area = F.avg_pool2d(padded, features.stride // 4)[0]
    return (2 * area - 1) * DRAWN_LOGIT


def _check_inside(coords: NDArray[np.float32], shape: tuple[int, int]) -> None:
    """Refuse points more than half a pixel outside of the image."""
    low, high = coords < -0.5 - 1e-3, coords > np.asarray(shape) - 0.5 + 1e-3
    outside = (low | high).any(axis=1)
    if outside.any():
        row, col = coords[outside][0]
        raise PromptError(
            f"({row:g}, {col:g}) lies outside of the image of {shape[0]} x {shape[1]} pixels (row, col)"
        )
