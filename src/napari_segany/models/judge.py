"""How well each mask fits, from a look at the mask itself: the bundled models' predicted IoU.

In SAM, one token that met the image says how good four masks are, before they are drawn (Kirillov et al. 2023,
appendix A). Here each drawn mask is looked at: what lies inside, on its rim and around it, how sure it is, and how much
it shares with the other answers; cf. Huang et al. 2019, "Mask Scoring R-CNN". What the token says is where it begins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Mlp

_SCALARS = 4
_AROUND = 5
"""Embedding cells across the neighbourhood in which a mask's surroundings lie."""
_TOLD_LIMIT = 1e-3


class MaskJudge(nn.Module):
    """Four drawn masks to their IoU with what is meant, 0 to 1.

    Parameters
    ----------
    width
        C, channels of tokens and embedding; the upscaled map has C / 8.
    masks
        M, how many masks answer a prompt.
    """

    def __init__(self, width: int, *, masks: int) -> None:
        super().__init__()
        seen = 3 * width + 2 * (width // 8) + _SCALARS + masks
        self.verdict = Mlp((seen, width, width, 1), activation=F.gelu)
        last = self.verdict.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # begins as the token says
        nn.init.zeros_(last.bias)

    def forward(
        self, tokens: Tensor, told: Tensor, *, embedding: Tensor, upscaled: Tensor, logits: Tensor
    ) -> Tensor:
        """Return (B, M) IoUs.

        Parameters
        ----------
        tokens : (B, M, C)
        told : (B, M)
            What the IoU token says, 0 to 1.
        embedding : (B, C, h, w)
            Of the image, once it met the prompts.
        upscaled : (B, hw, 4, C / 8)
            A quarter of the upscaled map's pixels, those of each embedding cell together.
        logits : (B, hw, 4, M)
            The masks there.
        """
        inside = logits.float().sigmoid()  # (B, hw, 4, M)
        coarse = inside.mean(2).transpose(1, 2)  # (B, M, hw)
        size = embedding.shape[2:]
        grown = F.max_pool2d(coarse.unflatten(2, size), _AROUND, stride=1, padding=_AROUND // 2)
        cells = embedding.flatten(2).transpose(1, 2)  # (B, hw, C)
        pixels, flat = (
            upscaled.flatten(1, 2),
            inside.flatten(1, 2).transpose(1, 2),
        )  # (B, 4hw, C / 8), (B, M, 4hw)
        rims = 4 * flat * (1 - flat)
        seen = (
            tokens,
            _mean(coarse, cells),
            _mean(grown.flatten(2) - coarse, cells),
            _mean(flat, pixels),
            _mean(rims, pixels),
            _described(flat, rims).to(tokens.dtype),
        )
        surer: Tensor = self.verdict(torch.cat(seen, dim=-1))[..., 0]
        return torch.sigmoid(torch.logit(told.float(), eps=_TOLD_LIMIT) + surer.float())


def _mean(weights: Tensor, values: Tensor) -> Tensor:
    """Return the (B, M, C) means of (B, N, C) values under (B, M, N) weights."""
    total = weights.sum(-1, keepdim=True)
    return (weights / total.clamp(min=1e-3)).to(values.dtype) @ values


def _described(inside: Tensor, rims: Tensor) -> Tensor:
    """Return what can be said of (B, M, N) soft masks in (B, M, `_SCALARS` + M) numbers.

    Size, length of the rim for the size, how sure the inside is, how little changes where the mask is cut higher or
    lower; then the soft IoU with each of the masks.
    """
    area = inside.sum(-1)  # (B, M)
    within = area.clamp(min=1e-3)
    both = inside @ inside.transpose(1, 2)  # (B, M, M)
    higher, lower = ((inside > cut).sum(-1).float() for cut in (0.7, 0.3))
    own = torch.diagonal(both, dim1=1, dim2=2)
    scalars = (
        (area + 1).log() / 8,
        rims.sum(-1) / (area + 1).sqrt() / 8,
        own / within,
        higher / lower.clamp(min=1),
    )
    shared = both / (area[:, :, None] + area[:, None] - both).clamp(min=1e-3)
    return torch.cat((torch.stack(scalars, dim=-1), shared), dim=-1)
