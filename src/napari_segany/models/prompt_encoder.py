"""The prompt encoder of SAM and SAM 2: points, box corners and earlier logits to tokens and a dense map.

Paper: Kirillov et al. 2023, appendix A ("Prompt encoder"). With `click_sigma`, the bundled models' addition, clicks and
boxes are also drawn into the dense path, where a small network finds them at once (see docs/develop/training.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import gathered, gelu_, nested
from .drawn_prompts import DRAWN_CHANNELS, Canvas, draw_prompts, halved, is_product, profiles
from .layers import LayerNorm2d
from .prompt_labels import NEGATIVE, PADDING, POSITIVE

_MOST_CODES = 8


class FourierCode(nn.Module):
    """Random Fourier features of 2D coordinates: (..., 2) as (x, y) in units of the frame to (..., 2 * F)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, xy: Tensor) -> Tensor:
        """Map (..., 2) in 0..1 to (..., 2 * features)."""
        angle = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


@dataclass(frozen=True, slots=True)
class PromptGrid:
    """Sizes that prompts share with the image features: frame side in pixels and the embedding's stride."""

    image_size: int
    stride: int = 16


class PromptEncoder(nn.Module):
    """Points (B, N) and masks to sparse (B, N', C) and dense (B or 1, C, h, w) embeddings.

    Parameters
    ----------
    width
        C, channels of the embeddings.
    grid
        Coordinates are divided by `image_size`; one embedding cell covers `stride` pixels.
    mask_channels
        Channels behind the second of three convolutions that read the mask prompt.
    click_sigma
        Standard deviation, in frame pixels, of the clicks drawn into the dense path; None as published.
    """

    def __init__(
        self, width: int, grid: PromptGrid, *, mask_channels: int = 16, click_sigma: float | None = None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.click_sigma = click_sigma
        self.pe_layer = FourierCode(width // 2)
        self._codes: dict[tuple[object, ...], Tensor] = {}
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        if click_sigma is None:
            self.no_mask_embed = nn.Embedding(1, width)  # drawn prompts say by zeros that there is no mask
        first = mask_channels // 4
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1 if click_sigma is None else 1 + DRAWN_CHANNELS, first, kernel_size=2, stride=2),
            LayerNorm2d(first),
            nn.GELU(),
            nn.Conv2d(first, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, width, kernel_size=1),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Type of the embeddings; coordinates are always worked out in float32 before."""
        return self.not_a_point_embed.weight.dtype

    def dense_code(self, size: tuple[int, int], *, origin: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        """Return the (1, C, h, w) Fourier code of the embedding's cell centres; `origin` as in `forward`.

        While no gradients are recorded, the codes of the last few sizes are kept.
        """
        if torch.is_grad_enabled():
            return self._dense_code(size, origin)
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        key = (size, origin, self.dtype, matrix.device, matrix.data_ptr())
        if key not in self._codes:
            if len(self._codes) >= _MOST_CODES:
                self._codes.clear()
            self._codes[key] = self._dense_code(size, origin)
        return self._codes[key]

    def _dense_code(self, size: tuple[int, int], origin: tuple[float, float]) -> Tensor:
        """Work the code out."""
        device = self.pe_layer.positional_encoding_gaussian_matrix.device
        x, y = (
            (start + (torch.arange(count, device=device) + 0.5) * self.grid.stride) / self.grid.image_size
            for start, count in zip(origin, reversed(size), strict=True)
        )
        xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h, w, 2)
        code: Tensor = self.pe_layer(xy)
        return code.permute(2, 0, 1)[None].to(self.dtype)

    def _load_from_state_dict(self, *arguments: Any) -> None:  # Any: as torch declares it
        self._codes.clear()
        super()._load_from_state_dict(*arguments)

    def points(self, xy: Tensor, labels: Tensor) -> Tensor:
        """Return (B, N, C) tokens of (B, N, 2) points (x, y) in frame pixels with (B, N) labels."""
        code = self.pe_layer((xy + 0.5) / self.grid.image_size).to(self.dtype)
        kinds = [self.not_a_point_embed, *self.point_embeddings]  # of labels from PADDING on
        told = torch.cat([cast(Tensor, kind.weight) for kind in kinds])[labels.long() - PADDING]
        return told + (labels != PADDING)[..., None] * code

    def forward(
        self,
        xy: Tensor,
        labels: Tensor,
        *,
        masks: Tensor | None,
        size: tuple[int, int],
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of B objects.

        Parameters
        ----------
        xy : (B, N, 2)
            (x, y) in frame pixels, pixel centres at integers; box corners are points.
        labels : (B, N)
            1 positive, 0 negative, 2 and 3 a box's first and last corner, -1 padding.
        masks : (B, 1, 4h, 4w)
            Logits of an earlier answer.
        size
            (h, w) of the image embedding.
        origin
            Where the embedding's first pixel lies in the frame, (x, y), if it is a part of one.
        """
        sparse = self.points(xy + xy.new_tensor(origin), labels)  # (B, N, C)
        if self.click_sigma is not None:
            return sparse, self._drawn(xy, labels, masks=masks, size=size)
        if masks is not None:
            return sparse, self.mask_downscaling(masks.to(self.dtype))  # (B, C, h, w)
        return sparse, self.no_mask_embed.weight[..., None, None].expand(1, -1, *size)  # one for all prompts

    def _drawn(self, xy: Tensor, labels: Tensor, *, masks: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return the (B, C, h, w) code of earlier logits with clicks and box drawn beside them."""
        canvas = Canvas((4 * size[0], 4 * size[1]), self.grid.stride / 4, self.click_sigma or 1.0)
        earlier = None if masks is None else masks.clamp(-10, 10) / 5
        if not torch.is_grad_enabled() and is_product(labels):
            return self._downscaled(xy, labels, canvas, earlier=earlier)
        drawn = draw_prompts(xy, labels, canvas)
        if earlier is None:
            earlier = torch.zeros_like(drawn[:, :1])
        return self.mask_downscaling(torch.cat((earlier, drawn), dim=1).to(self.dtype))

    def _downscaled(self, xy: Tensor, labels: Tensor, canvas: Canvas, *, earlier: Tensor | None) -> Tensor:
        """Return the same where no canvas is needed (inference only)."""
        first, norm, _, second, inner_norm, _, last = self.mask_downscaling
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and isinstance(last, nn.Conv2d)
        assert isinstance(norm, LayerNorm2d) and isinstance(inner_norm, LayerNorm2d)
        assert first.bias is not None
        down, across = (along.to(self.dtype) for along in profiles(xy, labels, canvas))
        x = halved(first, down, across)  # (B, 4hw, C''), row by row
        if earlier is not None:
            x += F.linear(
                nested(earlier.to(self.dtype), 1)[..., 0], nested(first.weight[:, :1], 1).flatten(1)
            )
        x = gelu_(norm.of_last(x.add_(first.bias)))
        size = (canvas.size[0] // 2, canvas.size[1] // 2)
        x = gathered(second, nested(x.unflatten(1, size).permute(0, 3, 1, 2), 1))  # (B, hw, C')
        coded = F.linear(gelu_(inner_norm.of_last(x)), last.weight.flatten(1), last.bias)  # (B, hw, C)
        return coded.unflatten(1, (size[0] // 2, size[1] // 2)).permute(0, 3, 1, 2)


def obeyed(logits: Tensor, xy: Tensor, labels: Tensor, *, frame: tuple[int, int]) -> Tensor:
    """Return the (N, ...) share of clicks that (N, ..., h, w) masks obey, 1 where there are none.

    Parameters
    ----------
    logits : (N, ..., h, w)
        Over the whole frame.
    xy : (N, P, 2)
        (x, y) in frame pixels.
    labels : (N, P)
        Only positive and negative clicks count.
    frame
        (height, width) in pixels.
    """
    return clicks_on(xy, labels, frame=frame, size=(logits.shape[-2], logits.shape[-1])).obeyed(logits)


@dataclass(frozen=True, slots=True, eq=False)
class ClicksOn:
    """The clicks of N prompts on grids over the whole frame.

    Attributes
    ----------
    at : (N, P)
        The flat cell that each point lies in.
    is_wanted : (N, P)
        Whether it is to be inside of the mask.
    is_click : (N, P)
        Whether it counts.
    count : (N, 1)
        How many do, at least 1.
    """

    at: Tensor
    is_wanted: Tensor
    is_click: Tensor
    count: Tensor

    def obeyed(self, logits: Tensor) -> Tensor:
        """Return the (N, ...) share of clicks that (N, ..., h, w) masks obey, 1 where there are none."""
        # As many axes as lie between prompts and places.
        between = (slice(None), *(None,) * (logits.ndim - 3))
        inside = logits.flatten(-2).gather(-1, self.at[between].expand(*logits.shape[:-2], -1)) > 0
        is_wrong = (inside != self.is_wanted[between]) & self.is_click[between]
        return 1 - is_wrong.sum(-1) / self.count[between][..., 0]


def clicks_on(xy: Tensor, labels: Tensor, *, frame: tuple[int, int], size: tuple[int, int]) -> ClicksOn:
    """Return the clicks among (N, P, 2) points (x, y) in frame pixels with (N, P) labels on grids of `size` (h, w)."""
    cols, rows = (
        ((xy[..., axis] + 0.5) * (size[1 - axis] / frame[1 - axis])).long().clamp(0, size[1 - axis] - 1)
        for axis in (0, 1)
    )
    is_wanted = labels == POSITIVE
    is_click = is_wanted | (labels == NEGATIVE)
    count = is_click.sum(dim=1, keepdim=True).clamp(min=1)
    return ClicksOn(rows * size[1] + cols, is_wanted, is_click, count)
