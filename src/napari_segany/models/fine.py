"""Fine boundaries: the parts that HQ-SAM adds to a mask decoder.

Paper: Ke et al. 2023, "Segment Anything in High Quality" (section 3.2): one more token, whose mask is the product with
a map that sees early and late features of the image; the base model stays frozen. HQ-SAM 2 leaves image features out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .layers import LayerNorm2d, Mlp
from .outline import OutlineHead

if TYPE_CHECKING:
    from .mask_decoder import MaskOutput


@dataclass(frozen=True, slots=True)
class FineConfig:
    """The fine head of one model.

    Attributes
    ----------
    early_width
        Channels of the early image feature of HQ-SAM; None without image features (HQ-SAM 2).
    hidden
        Channels inside the bundled models' own head (`outline`); 0 in the released models.
    spread, judge
        Channels inside of what changes whole masks before their outlines are decided anew, and of what judges them
        then.
    band, most
        Of each mask, that head decides anew where logits are smaller than this, at about so many places at most.
    """

    early_width: int | None = None
    hidden: int = 0
    spread: int = 0
    judge: int = 0
    band: float = 6.0
    most: int = 1024

    @property
    def has_outlines(self) -> bool:
        """Whether the head is the bundled models' own."""
        return self.hidden > 0


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


def _upscaler(width: int, middle: int, out_width: int) -> nn.Sequential:
    """Return two transposed convolutions that bring (B, C, h, w) to (B, C', 4h, 4w)."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, middle, kernel_size=2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, out_width, kernel_size=2, stride=2),
    )


def fine_head(width: int, config: FineConfig, *, masks: int) -> FineHead | OutlineHead:
    """Return the head of a configuration; so many `masks` answer a prompt."""
    return OutlineHead(width, config, masks=masks) if config.has_outlines else FineHead(width, config)
