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

    def places(self, device: torch.device) -> Tensor:
        """Return where its rows, then its columns lie, in frame pixels: (H + W,)."""
        lines = [torch.arange(count, device=device) for count in self.size]
        return torch.cat(lines) * self.cell + (self.cell - 1) / 2

    def repeated(self, xy: Tensor) -> Tensor:
        """Return (..., H + W) the y of (..., 2) points for each row, then their x for each column."""
        y, x = (
            xy[..., axis, None].expand(*xy.shape[:-1], count)
            for axis, count in zip((1, 0), self.size, strict=True)
        )
        return torch.cat((y, x), dim=-1)

    def parted(self, lines: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (..., H) and the (..., W) part of (..., H + W) rows and columns."""
        down, across = lines.split(self.size, dim=-1)
        return down, across


def draw_prompts(xy: Tensor, labels: Tensor, canvas: Canvas) -> Tensor:
    """Draw (B, N, 2) points (x, y) in frame pixels with (B, N) labels: (B, DRAWN_CHANNELS, H, W), values 0 to 1."""
    is_click, lines = _clicks(xy, labels, canvas)
    down, across = canvas.parted(lines)
    down = is_click[..., None, None] * down[:, None]  # (B, 2, N, widths, H)
    clicks = down.permute(0, 1, 3, 4, 2) @ across.transpose(1, 2)[:, None]  # (B, 2, widths, H, W)
    box_down, box_across = canvas.parted(_box(xy, labels, canvas))
    box = box_down[:, :, None] * box_across[:, None, :]
    return torch.cat((clicks.clamp(max=1.0).flatten(1, 2), box[:, None]), dim=1)


def is_product(labels: Tensor) -> bool:
    """Whether what (B, N) labels draw is `profiles` alone: no prompt has two clicks of a sign."""
    return all(kinds.count(sign) <= 1 for kinds in labels.tolist() for sign in (POSITIVE, NEGATIVE))


def profiles(xy: Tensor, labels: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Return (B, DRAWN_CHANNELS, H) and (B, DRAWN_CHANNELS, W): their products are `draw_prompts`, if `is_product`."""
    is_click, lines = _clicks(xy, labels, canvas)
    clicks = (is_click @ lines.flatten(2)).unflatten(2, lines.shape[2:])  # (B, 2, widths, H + W)
    made = torch.cat((clicks.flatten(1, 2), _box(xy, labels, canvas)[:, None]), dim=1)
    return canvas.parted(made)


def halved(conv: nn.Conv2d, down: Tensor, across: Tensor) -> Tensor:
    """Return what a convolution (2 x 2, stride 2) makes of products of (B, K, H) and (B, K, W) profiles, without bias.

    Its first channels, before the last K, see nothing. The answer is (B, H / 2 * W / 2, C).
    """
    weight = conv.weight[:, conv.in_channels - down.shape[1] :]  # (C, K, 2, 2)
    pairs = across.unflatten(2, (-1, 2))  # (B, K, W / 2, 2)
    rows = torch.einsum("ckae,bkje->bkajc", weight, pairs).flatten(3).flatten(1, 2)  # (B, K * 2, W / 2 * C)
    lines = down.unflatten(2, (-1, 2)).transpose(1, 2).flatten(2)  # (B, H / 2, K * 2)
    return (lines @ rows).view(len(down), -1, len(weight))


def _clicks(xy: Tensor, labels: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Return which points are positive and which negative clicks, (B, 2, N), and Gaussians around all of them.

    These are profiles down and across, (B, N, widths, H + W).
    """
    is_click = torch.stack([labels == sign for sign in (POSITIVE, NEGATIVE)], dim=1).to(xy.dtype)
    steep = xy.new_tensor([-0.5 / (canvas.sigma * width) ** 2 for width in CLICK_WIDTHS])
    away = (canvas.places(xy.device) - canvas.repeated(xy)).square()  # (B, N, H + W)
    return is_click, torch.exp(away[:, :, None] * steep[:, None])


def _box(xy: Tensor, labels: Tensor, canvas: Canvas) -> Tensor:
    """Return (B, H + W) profiles, whose product is 1 inside each prompt's box, if any; edges are half a cell soft."""
    first, last = ((labels == label)[..., None].to(xy.dtype) for label in (BOX_START, BOX_END))
    has_box = first.sum(1)  # (B, 1)
    if not has_box.any():
        return has_box.expand(-1, sum(canvas.size))
    start, end = (canvas.repeated((corner * xy).sum(1)) for corner in (first, last))  # (B, H + W)
    place, edge = canvas.places(xy.device), canvas.cell / 2
    return has_box * torch.sigmoid((place - start) / edge) * torch.sigmoid((end - place) / edge)
