"""Clicks and boxes drawn as maps, for the bundled models' dense path.

Positive and negative clicks are Gaussians of several widths, which together tell each place how far the click is; a
box is its inside. Each is the product of a profile down and one across the canvas, so that a convolution whose kernel
is its stride needs no canvas at all where no two clicks share a channel: its answer is a product of profiles, too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .prompt_labels import BOX_END, BOX_START, NEGATIVE, POSITIVE

CLICK_WIDTHS = (1.0, 3.0, 9.0)
DRAWN_CHANNELS = 2 * len(CLICK_WIDTHS) + 1


class Canvas(NamedTuple):
    """Where prompts are drawn: (rows, columns), frame pixels per row and column, and the thinnest Gaussian's sigma."""

    size: tuple[int, int]
    cell: float
    sigma: float

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return where its columns and its rows lie, in frame pixels: x (W,), y (H,)."""
        y, x = ((torch.arange(count, device=device) + 0.5) * self.cell - 0.5 for count in self.size)
        return x, y


def draw_prompts(xy: Tensor, labels: Tensor, canvas: Canvas) -> Tensor:
    """Draw (B, N, 2) points (x, y) in frame pixels with (B, N) labels: (B, DRAWN_CHANNELS, H, W), values 0 to 1."""
    is_click, down, across = _clicks(xy, labels, canvas)
    down = is_click[..., None, None] * down[:, None]  # (B, 2, N, widths, H)
    clicks = down.permute(0, 1, 3, 4, 2) @ across.transpose(1, 2)[:, None]  # (B, 2, widths, H, W)
    box_down, box_across = _box(xy, labels, canvas)
    box = box_down[:, :, None] * box_across[:, None, :]
    return torch.cat((clicks.clamp(max=1.0).flatten(1, 2), box[:, None]), dim=1)


def is_product(labels: Tensor) -> bool:
    """Whether what (B, N) labels draw is `profiles` alone: no prompt has two clicks of a sign."""
    clicks = torch.stack([(labels == sign).sum(dim=1) for sign in (POSITIVE, NEGATIVE)])
    return bool((clicks <= 1).all())


def profiles(xy: Tensor, labels: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Return (B, DRAWN_CHANNELS, H) and (B, DRAWN_CHANNELS, W): their products are `draw_prompts`, if `is_product`."""
    is_click, *along = _clicks(xy, labels, canvas)
    made = []
    for each, box in zip(along, _box(xy, labels, canvas), strict=True):
        clicks = (is_click @ each.flatten(2)).unflatten(2, each.shape[2:])  # (B, 2, widths, H or W)
        made.append(torch.cat((clicks.flatten(1, 2), box[:, None]), dim=1))
    return made[0], made[1]


def halved(conv: nn.Conv2d, down: Tensor, across: Tensor) -> Tensor:
    """Return what a convolution (2 x 2, stride 2) makes of products of (B, K, H) and (B, K, W) profiles, without bias.

    Its first channels, before the last K, see nothing. The answer (B, C, H / 2, W / 2) lies channels-last in memory.
    """
    weight = conv.weight[:, conv.in_channels - down.shape[1] :]  # (C, K, 2, 2)
    pairs = across.unflatten(2, (-1, 2))  # (B, K, W / 2, 2)
    rows = torch.einsum("ckae,bkje->bkajc", weight, pairs).flatten(3).flatten(1, 2)  # (B, K * 2, W / 2 * C)
    lines = down.unflatten(2, (-1, 2)).transpose(1, 2).flatten(2)  # (B, H / 2, K * 2)
    return (lines @ rows).unflatten(2, (-1, len(weight))).permute(0, 3, 1, 2)


def _clicks(xy: Tensor, labels: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """Return which points are positive and which negative clicks, (B, 2, N), and Gaussians around all of them.

    These are (B, N, widths, H) down and (B, N, widths, W) across.
    """
    is_click = torch.stack([labels == sign for sign in (POSITIVE, NEGATIVE)], dim=1).to(xy.dtype)
    twice = 2 * (canvas.sigma * xy.new_tensor(CLICK_WIDTHS)) ** 2
    across, down = (
        torch.exp(-((place - xy[..., axis, None]) ** 2)[:, :, None] / twice[:, None])
        for axis, place in enumerate(canvas.places(xy.device))
    )
    return is_click, down, across


def _box(xy: Tensor, labels: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Return (B, H) and (B, W), whose product is 1 inside each prompt's box, if any; edges are half a cell soft."""
    edge = canvas.cell / 2
    first, last = ((labels == label)[..., None].to(xy.dtype) for label in (BOX_START, BOX_END))
    start, end, has_box = (first * xy).sum(1), (last * xy).sum(1), first.sum(1)  # (B, 2), (B, 2), (B, 1)
    inside_x, inside_y = (
        torch.sigmoid((place - start[:, axis, None]) / edge)
        * torch.sigmoid((end[:, axis, None] - place) / edge)
        for axis, place in enumerate(canvas.places(xy.device))
    )
    return has_box * inside_y, inside_x
