"""Fine boundaries: the parts that HQ-SAM adds to a mask decoder, and the bundled models' own version of them.

Paper: Ke et al. 2023, "Segment Anything in High Quality" (section 3.2): one more token, whose mask is the product with
a map that sees early and late features of the image; the base model stays frozen. HQ-SAM 2 leaves image features out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LayerNorm2d, Mlp

if TYPE_CHECKING:
    from .mask_decoder import MaskOutput


LOGIT_SCALE = 4.0
"""Logits are divided by this before a network sees them."""


@dataclass(frozen=True, slots=True)
class FineConfig:
    """The fine head of one model.

    Attributes
    ----------
    early_width
        Channels of the early image feature of HQ-SAM; None without image features (HQ-SAM 2).
    channels
        Channels that the bundled models' map has for each pixel of the frame; 0 in the released models.
    hidden
        Channels inside their network of points.
    band, most_points
        Pixels whose logits are smaller than this are decided anew, of each mask about this many at most.
    """

    early_width: int | None = None
    channels: int = 0
    hidden: int = 32
    band: float = 6.0
    most_points: int = 8192

    @property
    def only_reads(self) -> bool:
        """Whether the fine token attends without being attended to, so that the base's answer stays as it is."""
        return self.channels > 0


def dot(weights: Tensor, maps: Tensor) -> Tensor:
    """Return (B, M, H, W), the products of (B, M, C) weights with every pixel of (B or 1, C, H, W) maps."""
    last = maps.permute(0, 2, 3, 1)  # the memory's own order: no copy, forward or backward
    logits = (last.flatten(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)  # (B, M, HW)
    return logits.unflatten(2, maps.shape[2:])


class FineHead(nn.Module):
    """The parts of HQ-SAM and HQ-SAM 2, under their released names."""

    def __init__(self, width: int, config: FineConfig) -> None:
        super().__init__()
        self.config = config
        self.hf_token = nn.Embedding(1, width)
        self.hf_mlp = Mlp((width, width, width, width // 8))
        if config.early_width is not None:
            self.compress_vit_feat = _upscaler(config.early_width, width, width // 8)
            self.embedding_encoder = _upscaler(width, width // 4, width // 8)
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(width // 8, width // 4, kernel_size=3, padding=1),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 8, kernel_size=3, padding=1),
        )

    def of_image(self, embedding: Tensor, early: Tensor) -> Tensor:
        """Return the (B, C / 8, 4h, 4w) map of (B, C, h, w) embeddings and (B, h, w, C') early features."""
        coarse: Tensor = self.embedding_encoder(embedding)
        return coarse + self.compress_vit_feat(early.permute(0, 3, 1, 2))

    def forward(self, token: Tensor, *, upscaled: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        """Return the (B, 1, 4h, 4w) fine mask of a (B, C) token, from (B, C / 8, 4h, 4w) and the image's map."""
        fine = self.embedding_maskfeature(upscaled)
        for of_image in maps:
            fine = fine + of_image
        return dot(self.hf_mlp(token)[:, None], fine)

    def finished(self, output: MaskOutput, *, alone: bool) -> MaskOutput:
        """Return chosen masks with the fine mask added to each, or the fine mask alone with the IoU of the first."""
        assert output.fine is not None
        if not alone:
            return replace(output, logits=output.logits + output.fine, fine=None)
        return replace(output, logits=output.fine, fine=None)


@dataclass(frozen=True, slots=True, eq=False)
class FineContext:
    """What `PointFineHead` refines B answers with, once it is known which of them are shown.

    Attributes
    ----------
    token : (B, C)
        The fine token.
    cells : (B, hw, 16, C / 8)
        What the base's masks are products of, the 4 x 4 pixels of a cell together (see `mask_decoder.nested`).
    details : (B or 1, 4 K, H / 2, W / 2)
        The image's map, of the 2 x 2 pixels K channels each.
    """

    token: Tensor
    cells: Tensor
    details: Tensor

    def row(self, index: int) -> FineContext:
        """Return the context of one answer."""
        part = slice(index, index + 1)
        shared = len(self.details) == 1
        return FineContext(self.token[part], self.cells[part], self.details if shared else self.details[part])


class PointFineHead(nn.Module):
    """The bundled models' fine head: decides anew on the pixels that the base is unsure of, at full resolution.

    After PointRend (Kirillov et al. 2020): a small network sees, at one pixel, the base's logit, the features behind it
    and a map of details that is made once an image. Which object is meant comes from the mask's token and from a fine
    token, which attends to all without being attended to. Corrections start at zero: an untrained head answers as its
    base does.
    """

    def __init__(self, width: int, config: FineConfig) -> None:
        super().__init__()
        self.config = config
        hidden, inputs = config.hidden, config.channels + width // 8 + 1
        self.hf_token = nn.Embedding(1, width)
        self.details = nn.Sequential(
            nn.Conv2d(12 + width // 8, 24, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 4 * config.channels, kernel_size=1),
        )
        self.meant = Mlp((2 * width, width, 2 * hidden + 1))
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        _silence(self.meant.layers[-1], hidden)

    def of_image(self, pixels: Tensor, finest: Tensor) -> Tensor:
        """Return the (B, 4 K, H / 2, W / 2) map of (B, 3, H, W) pixels and (B, C / 8, H / 2, W / 2) features.

        Its channels are K each of the 2 x 2 pixels.
        """
        details: Tensor = self.details(torch.cat((F.pixel_unshuffle(pixels, 2), finest), dim=1))
        return details

    def at(self, inputs: Tensor, token: Tensor, mask_tokens: Tensor) -> Tensor:
        """Return the (B, M, P) corrections of logits, from (B, M, P, K + C / 8 + 1) inputs at P pixels of each mask."""
        hidden = self.config.hidden
        meant = self.meant(_both(token, mask_tokens))[:, :, None]  # (B, M, 1, 2 * hidden + 1)
        x = F.relu(self.first(inputs) + meant[..., :hidden])
        x = F.relu(self.second(x))
        return (x * meant[..., hidden:-1]).sum(-1) + meant[..., -1]

    def finished(self, output: MaskOutput, *, alone: bool) -> MaskOutput:
        """Return chosen masks with full-resolution logits as `fine`; `logits` stay the base's, for the next round."""
        context = output.context
        assert context is not None
        wide = F.interpolate(output.logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        flat = wide.flatten(2)  # (B, M, HW)
        for b, m in torch.cartesian_prod(*(torch.arange(n) for n in wide.shape[:2])).tolist():
            places = _unsure(flat[b, m], band=self.config.band, most=self.config.most_points)
            values = flat[b, m, places]
            inputs = point_inputs(context.row(b), places[None, None], values[None, None])
            change = self.at(inputs, context.token[b : b + 1], output.tokens[b : b + 1, m : m + 1])
            flat[b, m, places] = (0.0 if alone else values) + change[0, 0]
        return replace(output, fine=flat.view_as(wide), context=None)


def _unsure(logits: Tensor, *, band: float, most: int) -> Tensor:
    """Return where (HW,) logits lie within a band around zero, made narrower until it holds about `most` of them."""
    size = logits.abs()
    places = (size < band).nonzero()[:, 0]
    if len(places) <= most:
        return places
    sample = size[places[:: max(1, len(places) // 4096)]]
    narrow = sample.kthvalue(max(1, len(sample) * most // len(places))).values
    return (size < narrow).nonzero()[:, 0]


def point_inputs(context: FineContext, places: Tensor, logits: Tensor) -> Tensor:
    """Return the (B, M, P, K + C / 8 + 1) inputs of `PointFineHead.at`, at flat (B, M, P) places in the frame."""
    batch, channels, _, half = context.details.shape
    rows, cols = places // (2 * half), places % (2 * half)
    y, x = rows // 2, cols // 2  # pixels of the coarse logits
    inner = ((y // 2 % 2) * 2 + x // 2 % 2) * 4 + (y % 2) * 2 + x % 2
    cell = ((y // 4) * (half // 4) + x // 4) * 16 + inner  # (B, M, P)
    fine = (y * half + x) * 4 + (rows % 2) * 2 + cols % 2
    details = context.details.permute(0, 2, 3, 1).reshape(batch, -1, channels // 4)  # (B, HW, K)
    return torch.cat(
        (
            _taken(details, fine, dtype=logits.dtype),
            _taken(context.cells.flatten(1, 2), cell, dtype=logits.dtype),
            logits[..., None] / LOGIT_SCALE,
        ),
        dim=3,
    )


def _taken(rows: Tensor, index: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return (B, M, P, C), the rows of (B, N, C) at (B, M, P) indices."""
    channels = rows.shape[2]
    picked = rows.gather(1, index.flatten(1)[..., None].expand(-1, -1, channels))
    return picked.unflatten(1, index.shape[1:]).to(dtype)


@torch.no_grad()
def _silence(layer: nn.Module, first: int) -> None:
    """Make all outputs of a linear layer from the `first` on zero."""
    assert isinstance(layer, nn.Linear)
    layer.weight[first:].zero_()
    layer.bias[first:].zero_()


def _both(token: Tensor, mask_tokens: Tensor) -> Tensor:
    """Return (B, M, 2C): mask tokens, and beside each the fine token."""
    return torch.cat((mask_tokens, token[:, None].expand_as(mask_tokens)), dim=-1)


def _upscaler(width: int, middle: int, out_width: int) -> nn.Sequential:
    """Return two transposed convolutions that bring (B, C, h, w) to (B, C', 4h, 4w)."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, middle, kernel_size=2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, out_width, kernel_size=2, stride=2),
    )


def fine_head(width: int, config: FineConfig) -> FineHead | PointFineHead:
    """Return the head of a configuration."""
    return PointFineHead(width, config) if config.channels else FineHead(width, config)
