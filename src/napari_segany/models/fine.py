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


@dataclass(frozen=True, slots=True)
class FineConfig:
    """The fine head of one model.

    Attributes
    ----------
    early_width
        Channels of the early image feature of HQ-SAM; None without image features (HQ-SAM 2).
    channels
        Channels of the bundled models' map at the frame's full resolution; 0 in the released models.
    hidden
        Channels behind the first convolution of that map.
    """

    early_width: int | None = None
    channels: int = 0
    hidden: int = 32

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

    def forward(
        self, token: Tensor, *, upscaled: Tensor, maps: tuple[Tensor, ...], mask_tokens: Tensor
    ) -> Tensor:
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


class FullFineHead(nn.Module):
    """The bundled models' fine head: corrections of each mask at the frame's full resolution.

    The image's map is made once an image from pixels and the finest features, so that a click pays for one product.
    Each mask gets its own correction, from its mask token and the fine token together: nested masks stay nested.
    """

    def __init__(self, width: int, config: FineConfig) -> None:
        super().__init__()
        self.config = config
        self.hf_token = nn.Embedding(1, width)
        self.hf_mlp = Mlp((2 * width, width, config.channels + 1))
        self.details = nn.Sequential(
            nn.Conv2d(12 + width // 8, config.hidden, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.hidden, config.hidden, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.hidden, 4 * config.channels, kernel_size=1),
        )
        nn.init.zeros_(self.hf_mlp.layers[-1].weight)  # type: ignore[arg-type]  # the first answers are the base's
        nn.init.zeros_(self.hf_mlp.layers[-1].bias)  # type: ignore[arg-type]

    def of_image(self, pixels: Tensor, finest: Tensor) -> Tensor:
        """Return the (B, K, H, W) map of (B, 3, H, W) pixels and (B, C / 8, H / 2, W / 2) features."""
        details = self.details(torch.cat((F.pixel_unshuffle(pixels, 2), finest), dim=1))
        return F.pixel_shuffle(details, 2).contiguous(memory_format=torch.channels_last)

    def forward(
        self, token: Tensor, *, upscaled: Tensor, maps: tuple[Tensor, ...], mask_tokens: Tensor
    ) -> Tensor:
        """Return the (B, M, H, W) corrections of the masks behind (B, M, C) mask tokens, H and W those of the map."""
        both = torch.cat((mask_tokens, token[:, None].expand_as(mask_tokens)), dim=-1)
        weights = self.hf_mlp(both)  # (B, M, K + 1)
        return dot(weights[..., :-1], maps[0]) + weights[..., -1, None, None]

    def finished(self, output: MaskOutput, *, alone: bool) -> MaskOutput:
        """Return chosen masks with full-resolution logits as `fine`, and `logits` that say the same coarsely."""
        assert output.fine is not None
        size = output.fine.shape[2:]
        base = F.interpolate(output.logits, size=size, mode="bilinear", align_corners=False)
        fine = output.fine if alone else base + output.fine
        return replace(output, logits=F.avg_pool2d(fine, 2), fine=fine)


def _upscaler(width: int, middle: int, out_width: int) -> nn.Sequential:
    """Return two transposed convolutions that bring (B, C, h, w) to (B, C', 4h, 4w)."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, middle, kernel_size=2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, out_width, kernel_size=2, stride=2),
    )


def fine_head(width: int, config: FineConfig) -> FineHead | FullFineHead:
    """Return the head of a configuration."""
    return FullFineHead(width, config) if config.channels else FineHead(width, config)
