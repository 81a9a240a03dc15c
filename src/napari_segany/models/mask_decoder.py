"""The mask decoder of SAM 2: a two-way transformer between prompt tokens and image, then masks by dot products.

Papers: Kirillov et al. 2023, appendix A ("Lightweight mask decoder"); Ravi et al. 2024, appendix D (high-resolution
features, object score, stable single masks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, LayerNorm2d, Mlp

MASK_TOKENS = 4
"""One mask for unambiguous prompts (index 0), three for ambiguous ones (1 to 3)."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of the decoder beside its width."""

    depth: int = 2
    heads: int = 8
    mlp_width: int = 2048
    iou_width: int = 256
    stability_delta: float = 0.05
    stability_threshold: float = 0.98


@dataclass(frozen=True, slots=True, eq=False)
class MaskOutput:
    """Raw answers of the decoder.

    Attributes
    ----------
    logits : (B, M, 4h, 4w)
    ious : (B, M)
        Predicted IoU, 0 to 1.
    object_scores : (B, 1)
        Logit of "the object is in this frame".
    tokens : (B, M, C)
        The mask tokens behind the masks; object pointers are made of them.
    """

    logits: Tensor
    ious: Tensor
    object_scores: Tensor
    tokens: Tensor

    def row(self, index: int) -> MaskOutput:
        """Return the answers to one prompt, still as a batch of one."""
        part = slice(index, index + 1)
        return MaskOutput(self.logits[part], self.ious[part], self.object_scores[part], self.tokens[part])


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves, then to the image; then the image attends to the tokens. Post-norm."""

    def __init__(self, width: int, config: DecoderConfig, *, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(width, config.heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, config.heads, downsample=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp((width, config.mlp_width, width))
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, config.heads, downsample=2)

    def forward(
        self, tokens: Tensor, image: Tensor, *, token_code: Tensor, image_code: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update (B, N, C) tokens and (B, hw, C) image; codes are added to queries and keys, never to values."""
        if self.is_first:  # the tokens are their own code here: no code, no residual
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            coded = tokens + token_code
            tokens = tokens + self.self_attn(coded, coded, tokens)
        tokens = self.norm1(tokens)
        coded_image = image + image_code
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_code, coded_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(coded_image, tokens + token_code, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """A stack of two-way blocks and one last look of the tokens at the image."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, config, is_first=i == 0) for i in range(config.depth))
        self.final_attn_token_to_image = Attention(width, config.heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, image: Tensor, tokens: Tensor, *, image_code: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (B, C, h, w) image, (B, N, C) tokens into (B, N, C) tokens, (B, hw, C) image."""
        image = image.flatten(2).transpose(1, 2)  # (B, hw, C)
        image_code = image_code.flatten(2).transpose(1, 2)  # (1, hw, C)
        token_code = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_code=token_code, image_code=image_code)
        look = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        return self.norm_final_attn(tokens + look), image


class MaskDecoder(nn.Module):
    """(B, C, h, w) image features and prompt embeddings to masks at four times their resolution.

    Parameters
    ----------
    width
        C.
    config
        Depths and widths inside.
    projects_fine_maps
        Whether the high-resolution maps arrive with C channels and are narrowed here (`conv_s0`, `conv_s1`), as in
        the released models, or narrow already.
    """

    def __init__(self, width: int, config: DecoderConfig, *, projects_fine_maps: bool = True) -> None:
        super().__init__()
        self.config = config
        self.projects_fine_maps = projects_fine_maps
        self.transformer = TwoWayTransformer(width, config)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        self.obj_score_token = nn.Embedding(1, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        if projects_fine_maps:
            self.conv_s0 = nn.Conv2d(width, width // 8, kernel_size=1)
            self.conv_s1 = nn.Conv2d(width, width // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            Mlp((width, width, width, width // 8)) for _ in range(MASK_TOKENS)
        )
        self.iou_prediction_head = Mlp(
            (width, config.iou_width, config.iou_width, MASK_TOKENS), has_sigmoid=True
        )
        self.pred_obj_score_head = Mlp((width, width, width, 1))

    def forward(
        self, image: Tensor, fine: tuple[Tensor, Tensor], *, sparse: Tensor, dense: Tensor, image_code: Tensor
    ) -> MaskOutput:
        """Return all four masks of each of B prompts.

        Parameters
        ----------
        image : (B or 1, C, h, w)
        fine : (B or 1, C / 8, 4h, 4w), (B or 1, C / 4, 2h, 2w)
            High-resolution maps, already narrowed.
        sparse : (B, N, C)
        dense : (B, C, h, w)
        image_code : (1, C, h, w)
        """
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(len(sparse), -1, -1), sparse), dim=1)  # (B, 2 + M + N, C)
        source = image + dense
        tokens, encoded = self.transformer(source, tokens, image_code=image_code)
        encoded = encoded.unflatten(1, source.shape[2:]).permute(0, 3, 1, 2)  # (B, C, h, w), channels last
        mask_tokens = tokens[:, 2 : 2 + MASK_TOKENS]  # (B, M, C)
        upscaled = self._upscale(encoded, fine)  # (B, C / 8, 4h, 4w)
        weights = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # (B, M, C / 8)
        last = upscaled.permute(0, 2, 3, 1)  # the memory's own order: no copy, forward or backward
        logits = (last.flatten(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)  # (B, M, 16hw)
        logits = logits.unflatten(2, upscaled.shape[2:])  # (B, M, 4h, 4w)
        return MaskOutput(
            logits=logits,
            ious=self.iou_prediction_head(tokens[:, 1]),
            object_scores=self.pred_obj_score_head(tokens[:, 0]),
            tokens=mask_tokens,
        )

    def _upscale(self, encoded: Tensor, fine: tuple[Tensor, Tensor]) -> Tensor:
        """Bring (B, C, h, w) to (B, C / 8, 4h, 4w), adding the high-resolution maps on the way."""
        first, norm, act, second, last = self.output_upscaling
        coarse = act(norm(first(encoded) + fine[1]))  # (B, C / 4, 2h, 2w)
        return last(second(coarse) + fine[0])

    def select(self, output: MaskOutput, *, multimask: bool) -> MaskOutput:
        """Return masks 1 to 3, or one mask: mask 0 while it is stable, else the best of 1 to 3 (inference only)."""
        ambiguous = MaskOutput(
            output.logits[:, 1:], output.ious[:, 1:], output.object_scores, output.tokens[:, 1:]
        )
        if multimask:
            return ambiguous
        single = output.logits[:, :1]
        is_stable = self.stability(single) >= self.config.stability_threshold  # (B, 1)
        best = ambiguous.ious.argmax(dim=1, keepdim=True)  # (B, 1)
        rows = torch.arange(len(best), device=best.device)[:, None]
        return MaskOutput(
            logits=torch.where(is_stable[..., None, None], single, ambiguous.logits[rows, best]),
            ious=torch.where(is_stable, output.ious[:, :1], ambiguous.ious[rows, best]),
            object_scores=output.object_scores,
            tokens=output.tokens[:, :1],
        )

    def stability(self, logits: Tensor) -> Tensor:
        """Return the IoU of (..., H, W) logits cut a little above and a little below zero; 1 where both are empty."""
        inner = (logits > self.config.stability_delta).flatten(-2).sum(-1).float()
        outer = (logits > -self.config.stability_delta).flatten(-2).sum(-1).float()
        return torch.where(outer > 0, inner / outer, torch.ones_like(outer))


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, M, h, w) logits to `size` bilinearly, pixel centres aligned, in float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
