"""The mask decoder of SAM, HQ-SAM and SAM 2: prompt tokens and image attend to each other, masks are dot products.

Papers: Kirillov et al. 2023, appendix A ("Lightweight mask decoder"); Ravi et al. 2024, appendix D (high-resolution
features, object score, stable single masks); Ke et al. 2023 (HQ-SAM), whose parts are in `fine`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import add_map, doubled, gelu_, laid_out, nested
from .fine import FineConfig, FineHead, dot, fine_head
from .judge import SEEN, Evidence, MaskJudge, seen_of_maps
from .layers import LayerNorm2d, Mlp
from .outline import OutlineContext, OutlineHead
from .two_way import FirstLook, TwoWayTransformer

MASK_TOKENS = 4
"""One mask for unambiguous prompts (index 0), three for ambiguous ones (1 to 3)."""

FineUse = Literal["off", "added", "outlines", "only"]
"""What becomes of the fine boundaries: left out, added to the base's masks, or shown alone.

The bundled models' are corrections of the base's masks: they are never alone. Where `outlines` alone are asked for, as
in magnified looks at small objects, they leave masks as large as they are.
"""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes of the decoder beside its width, and which model's decoder it is.

    `generation` 1 is SAM: no object score, no high-resolution maps, IoU without a sigmoid, mask 0 as the single mask.
    2 is SAM 2. `fine` adds the parts that draw fine boundaries, `judges` those that judge each mask by a look at it,
    `spread` (channels, 0 as published) those that hand on from place to place what a prompt says.
    """

    depth: int = 2
    heads: int = 8
    mlp_width: int = 2048
    iou_width: int = 256
    stability_delta: float = 0.05
    stability_threshold: float = 0.98
    generation: int = 2
    fine: FineConfig | None = None
    judges: bool = False
    spread: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class MaskOutput:
    """Raw answers of the decoder.

    Attributes
    ----------
    logits : (B, M, 4h, 4w)
    ious : (B, M)
        Predicted IoU, 0 to 1.
    object_scores : (B, 1)
        Logit of "the object is in this frame"; None from models that do not track.
    tokens : (B, M, C)
        The mask tokens behind the masks; object pointers are made of them.
    fine : (B, 1 or M, h', w')
        Logits of the fine boundaries: the released models' one mask for all before they are finished, or each mask at
        the frame's resolution after; None where not asked for.
    context
        What the bundled models finish their masks with; None where there is nothing to finish.
    """

    logits: Tensor
    ious: Tensor
    object_scores: Tensor | None
    tokens: Tensor
    fine: Tensor | None = None
    context: OutlineContext | None = None

    def row(self, index: int) -> MaskOutput:
        """Return the answers to one prompt, still as a batch of one."""
        return self.rows(slice(index, index + 1))

    def rows(self, part: Tensor | slice) -> MaskOutput:
        """Return the answers to some of the B prompts: a slice of them, or those at (K,) indices."""
        scores = None if self.object_scores is None else self.object_scores[part]
        fine = None if self.fine is None else self.fine[part]
        context = None if self.context is None else self.context.rows(part)
        return MaskOutput(self.logits[part], self.ious[part], scores, self.tokens[part], fine, context)

    @property
    def is_plain(self) -> Tensor:
        """Which of the B answers are shown as the base draws them, (B,) bool."""
        if self.context is None:
            return torch.ones(len(self.ious), dtype=torch.bool, device=self.ious.device)
        return self.context.is_plain

    def masks(self, index: Tensor | slice) -> MaskOutput:
        """Return some of the M masks: a slice of them, or those at (B, K) indices, one row a prompt."""
        rows = (
            slice(None)
            if isinstance(index, slice)
            else torch.arange(len(index), device=index.device)[:, None]
        )
        return replace(
            self,
            logits=self.logits[rows, index],
            ious=self.ious[rows, index],
            tokens=self.tokens[rows, index],
        )


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
        the released SAM 2, or narrow already.
    """

    def __init__(self, width: int, config: DecoderConfig, *, projects_fine_maps: bool = True) -> None:
        super().__init__()
        self.config = config
        self.projects_fine_maps = projects_fine_maps
        is_second = config.generation == 2
        self.transformer = TwoWayTransformer(
            width,
            depth=config.depth,
            heads=config.heads,
            mlp_width=config.mlp_width,
            spread=config.spread,
        )
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        if is_second:
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
            (width, config.iou_width, config.iou_width, MASK_TOKENS), has_sigmoid=is_second
        )
        if is_second:
            self.pred_obj_score_head = Mlp((width, width, width, 1))
        if config.fine is not None:
            self.fine = fine_head(width, config.fine, masks=MASK_TOKENS)
        if config.judges:
            self.judge = MaskJudge(width, masks=MASK_TOKENS)

    def forward(
        self,
        image: Tensor,
        fine: tuple[Tensor, ...],
        *,
        sparse: Tensor,
        dense: Tensor,
        image_code: Tensor,
        with_fine: bool = False,
        kept: slice = slice(None),
        look: FirstLook | None = None,
    ) -> MaskOutput:
        """Return the masks of each of B prompts, before any choice among them.

        Parameters
        ----------
        image : (B or 1, C, h, w)
        fine : (B or 1, C / 8, 4h, 4w), (B or 1, C / 4, 2h, 2w), ...
            SAM 2's high-resolution maps, already narrowed; then what the fine head made of the image, if anything.
        sparse : (B, N, C)
        dense : (B or 1, C, h, w)
        image_code : (1, C, h, w)
        with_fine
            Let the fine head answer too.
        kept
            Which of the four masks to draw.
        look
            What `transformer.first_look` made of this image with this `dense`, if at hand.
        """
        tokens, encoded = self._attend(
            image + dense, sparse, image_code=image_code, with_fine=with_fine, look=look
        )
        first = self.config.generation - 1  # behind the object token
        mask_tokens = tokens[:, first + 1 : first + 1 + MASK_TOKENS][:, kept]  # (B, M, C)
        heads = list(self.output_hypernetworks_mlps)[kept]
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(heads)], dim=1)  # (B, M, C / 8)
        size = (encoded.shape[2], encoded.shape[3])
        if torch.is_grad_enabled():
            upscaled = self._upscale(encoded, fine)  # (B, C / 8, 4h, 4w)
            logits = products = dot(weights, upscaled)
        else:
            upscaled = self._upscale_nested(encoded, fine)  # (B, hw, 16, C / 8)
            products = (weights @ upscaled.flatten(1, 2).transpose(1, 2)).unflatten(2, (-1, 16))
            logits = laid_out(products, 2, size=size)
        ious, evidence = self.iou_prediction_head(tokens[:, first])[:, kept], None
        if self.config.judges:
            ious, evidence = self._judged(
                mask_tokens, ious, encoded=encoded, upscaled=upscaled, products=products
            )
        output = MaskOutput(
            logits=logits,
            ious=ious,
            object_scores=self.pred_obj_score_head(tokens[:, 0]) if first else None,
            tokens=mask_tokens,
        )
        if not with_fine:
            return output
        if isinstance(self.fine, OutlineHead):
            assert evidence is not None
            cells = nested(upscaled, 2) if torch.is_grad_enabled() else upscaled
            return replace(output, context=OutlineContext(cells, fine[2], encoded, evidence.seen))
        maps = fine[2:] if first else fine
        whole = upscaled if torch.is_grad_enabled() else laid_out(upscaled.permute(0, 3, 1, 2), 2, size=size)
        answer = self.fine(tokens[:, first + 1 + MASK_TOKENS], upscaled=whole, maps=maps)
        return replace(output, fine=answer)

    def needed(self, *, multimask: bool) -> slice:
        """Return which of the four masks `select` may show: SAM's single mask is the first, whatever the others are."""
        return slice(1) if self.config.generation == 1 and not multimask else slice(None)

    def _attend(
        self,
        source: Tensor,
        sparse: Tensor,
        *,
        image_code: Tensor,
        with_fine: bool,
        look: FirstLook | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the (B, N', C) tokens but the prompts' and the (B, C, h, w) image, channels last, once they met."""
        own = [self.obj_score_token.weight] if self.config.generation == 2 else []
        own += [self.iou_token.weight, self.mask_tokens.weight]
        if with_fine and isinstance(self.fine, FineHead):
            own.append(self.fine.hf_token.weight)
        batch, count = len(sparse), sum(len(token) for token in own)
        both = torch.cat((torch.cat(own).expand(batch, -1, -1), sparse), dim=1)
        tokens, encoded = self.transformer(source, both, own=count, image_code=image_code, look=look)
        return tokens, encoded.unflatten(1, source.shape[2:]).permute(0, 3, 1, 2)

    def _judged(
        self, tokens: Tensor, told: Tensor, *, encoded: Tensor, upscaled: Tensor, products: Tensor
    ) -> tuple[Tensor, Evidence]:
        """Return the judge's (B, M) IoUs, and by what: it sees every second row and column, and bends nothing there.

        `upscaled` and `products` are maps while gradients are recorded, else `nested` twice, masks first.
        """
        if torch.is_grad_enabled():
            seen = [seen_of_maps(x).detach() for x in (upscaled, products)]
        else:
            seen = [upscaled[:, :, ::SEEN], products[..., ::SEEN].permute(0, 2, 3, 1)]
        answer: tuple[Tensor, Evidence] = self.judge(
            tokens, told, embedding=encoded.detach(), upscaled=seen[0], logits=seen[1]
        )
        return answer

    def _upscale(self, encoded: Tensor, fine: tuple[Tensor, ...]) -> Tensor:
        """Bring (B, C, h, w) to (B, C / 8, 4h, 4w), adding SAM 2's high-resolution maps on the way."""
        if self.config.generation == 1:
            upscaled: Tensor = self.output_upscaling(encoded)
            return upscaled
        first, norm, act, second, last = self.output_upscaling
        coarse = act(norm(first(encoded) + fine[1]))  # (B, C / 4, 2h, 2w)
        return last(second(coarse) + fine[0])

    def _upscale_nested(self, encoded: Tensor, fine: tuple[Tensor, ...]) -> Tensor:
        """Return `_upscale` as (B, hw, 16, C / 8), the 4 x 4 pixels of a cell beside each other, twice 2 x 2.

        A transposed convolution whose kernel is its stride is a matrix product for each cell; in this order, nothing
        needs to be moved until the few masks are drawn. What is large is changed in place: fresh memory costs more
        than the arithmetic.
        """
        first, norm, _, second, _ = self.output_upscaling
        cells = encoded.flatten(2).transpose(1, 2)  # (B, hw, C)
        x = doubled(first, cells)  # (B, hw, 4, C / 4)
        if self.config.generation == 2:
            add_map(x, fine[1], 1)
        assert isinstance(norm, LayerNorm2d)
        x = doubled(second, gelu_(norm.of_last(x))).flatten(2, 3)  # (B, hw, 16, C / 8)
        if self.config.generation == 2:
            add_map(x, fine[0], 2)
        return gelu_(x)

    def changed(self, output: MaskOutput, *, fine: FineUse) -> MaskOutput:
        """Return four masks as they are chosen from: of answers that it suits, changed as a whole and judged anew."""
        if fine == "off" or not isinstance(self.fine, OutlineHead):
            return output
        return self.fine.suited(output, extends=fine == "added")

    def select(self, output: MaskOutput, *, multimask: bool, fine: FineUse = "off") -> MaskOutput:
        """Return what is shown of four masks (inference only); of those that are judged by a look see `picking`.

        With `multimask`, masks 1 to 3; of HQ-SAM, whose fine mask is one for all, only the best. Without, mask 0; in
        SAM 2 while it is stable, else the best of 1 to 3. Then the fine boundaries are added, if asked for.
        """
        chosen = output.masks(slice(1, None)) if multimask else self._single(output)
        if fine == "off":
            return chosen
        if multimask and self.config.generation == 1:
            chosen = chosen.masks(chosen.ious.argmax(dim=1, keepdim=True))
        assert isinstance(self.fine, FineHead)
        return self.fine.finished(chosen, alone=fine == "only")

    def finish(self, output: MaskOutput, *, within: Tensor | None = None) -> MaskOutput:
        """Return chosen masks with their outlines decided anew, where that was left for when they are shown.

        `within` (B, M, h, w) says where anything may be changed.
        """
        if output.context is None:
            return output
        assert isinstance(self.fine, OutlineHead)
        return self.fine.finished(output, within=within)

    def _single(self, output: MaskOutput) -> MaskOutput:
        """Return the one mask of each prompt that is shown, (B, 1, …); in SAM 2 with the token of mask 0."""
        if self.config.generation == 1:
            return output.masks(slice(1))
        is_stable = self.stability(output.logits[:, :1]) >= self.config.stability_threshold  # (B, 1)
        best = output.ious[:, 1:].argmax(dim=1, keepdim=True) + 1  # (B, 1)
        chosen = output.masks(torch.where(is_stable, torch.zeros_like(best), best))
        return replace(chosen, tokens=output.tokens[:, :1])

    def stability(self, logits: Tensor) -> Tensor:
        """Return the IoU of (..., H, W) logits cut a little above and a little below zero; 1 where both are empty."""
        inner = (logits > self.config.stability_delta).flatten(-2).sum(-1).float()
        outer = (logits > -self.config.stability_delta).flatten(-2).sum(-1).float()
        return torch.where(outer > 0, inner / outer, torch.ones_like(outer))


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, M, h, w) logits to `size` bilinearly, pixel centres aligned, in float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
