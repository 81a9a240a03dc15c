"""How well each mask fits, from a look at the mask itself: the bundled models' predicted IoU.

In SAM, one token that met the image says how good four masks are, before they are drawn (Kirillov et al. 2023,
appendix A). Here each drawn mask is looked at: what lies inside, on its rim and around it, how sure it is, and how much
it shares with the other answers; cf. Huang et al. 2019, "Mask Scoring R-CNN". What the token says is where it begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cells import nested
from .layers import Mlp

SEEN = 4
"""Of the 4 x 4 pixels of an embedding cell, `nested` twice, a judge sees every fourth: as `seen_of_maps`."""
_SCALARS, _COMPARED = 4, 5
_AROUND = 5
"""Embedding cells across the neighbourhood in which a mask's surroundings lie."""
_TOLD_LIMIT = 1e-3
SHARPNESS = 6.0
"""Of the chances that each of the masks is the one that is meant: a softmax of the IoUs times this."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a judge decides by.

    Attributes
    ----------
    seen : (B, M, S)
        Of each mask: its token, means of what lies inside, around it and on its rim, and what can be said of its shape.
    told : (B, M)
        What the IoU token says, 0 to 1.
    shared : (B, M, M)
        Soft IoUs of the masks with each other.
    area : (B, M)
        Soft, in cells of what was looked at.
    """

    seen: Tensor
    told: Tensor
    shared: Tensor
    area: Tensor


def seen_of_maps(maps: Tensor) -> Tensor:
    """Return what a judge sees of (B, C, 4h, 4w) maps, each second row and column: (B, hw, 4, C)."""
    return nested(maps[:, :, ::2, ::2], 1)


def seen_of_mask(width: int, *, masks: int) -> int:
    """Return S, how much a judge sees of each of so many masks, where tokens have `width` channels."""
    return 3 * width + 2 * (width // 8) + _SCALARS + masks


class MaskJudge(nn.Module):
    """Four drawn masks to their IoU with what is meant, 0 to 1.

    Parameters
    ----------
    width
        C, channels of tokens and embedding; the upscaled map has C / 8.
    masks
        M, how many masks answer a prompt.
    inner
        Channels inside; C where None.
    """

    def __init__(self, width: int, *, masks: int, inner: int | None = None) -> None:
        super().__init__()
        seen = seen_of_mask(width, masks=masks)
        inner = inner or width
        self.verdict = Mlp((seen, inner, inner, 1), activation=F.gelu)
        self.comparison = Mlp((_COMPARED, 2 * _COMPARED, 1), activation=F.gelu)
        for part in (self.verdict, self.comparison):
            last = part.layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)  # begins as the token says
            nn.init.zeros_(last.bias)

    def forward(
        self, tokens: Tensor, told: Tensor, *, embedding: Tensor, upscaled: Tensor, logits: Tensor
    ) -> tuple[Tensor, Evidence]:
        """Return (B, M) IoUs and what they were decided by.

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
        evidence = self.look(tokens, told, embedding=embedding, upscaled=upscaled, logits=logits)
        return self.decide(evidence), evidence

    @staticmethod
    def look(
        tokens: Tensor, told: Tensor, *, embedding: Tensor, upscaled: Tensor, logits: Tensor
    ) -> Evidence:
        """Return what there is to see of four masks; for the parameters see `forward`."""
        inside = logits.float().flatten(1, 2).transpose(1, 2).contiguous().sigmoid()  # (B, M, 4hw)
        coarse = inside.unflatten(2, (-1, 4)).mean(-1)  # (B, M, hw)
        around = _grown(coarse.unflatten(2, embedding.shape[2:])).flatten(2) - coarse
        rims = 4 * inside * (1 - inside)
        scalars, shared = _described(inside, rims)
        seen = (
            tokens,
            *_means((coarse, around), embedding.flatten(2).transpose(1, 2)),
            *_means((inside, rims), upscaled.flatten(1, 2)),
            scalars.to(tokens.dtype),
            shared.to(tokens.dtype),
        )
        return Evidence(torch.cat(seen, dim=-1), told, shared, inside.sum(-1))

    def decide(self, evidence: Evidence) -> Tensor:
        """Return the (B, M) IoUs that the evidence speaks for."""
        dtype = evidence.seen.dtype
        verdict = torch.logit(evidence.told.float(), eps=_TOLD_LIMIT)
        verdict = verdict + self.verdict(evidence.seen)[..., 0].float()
        compared = _compared(verdict, evidence.shared, area=evidence.area).to(dtype)
        return torch.sigmoid(verdict + self.comparison(compared)[..., 0].float())


def _grown(coarse: Tensor) -> Tensor:
    """Return the largest value in the neighbourhood of each cell of (B, M, h, w) masks, 0 to 1.

    Largest of a few shifted copies, down and then across: a fifth of the time that pooling takes on a CPU.
    """
    reach = _AROUND // 2
    grown = F.pad(coarse, (reach,) * 4)
    for axis, count in ((2, coarse.shape[2]), (3, coarse.shape[3])):
        copies = [grown.narrow(axis, start, count) for start in range(_AROUND)]
        grown = reduce(torch.maximum, copies)
    return grown


def _means(weights: tuple[Tensor, ...], values: Tensor) -> tuple[Tensor, ...]:
    """Return the (B, M, C) means of (B, N, C) values under each of several (B, M, N) weights."""
    together = torch.cat(weights, dim=1)
    share = together / together.sum(-1, keepdim=True).clamp(min=1e-3)
    return (share.to(values.dtype) @ values).chunk(len(weights), dim=1)


def _described(inside: Tensor, rims: Tensor) -> tuple[Tensor, Tensor]:
    """Return what can be said of (B, M, N) soft masks: (B, M, `_SCALARS`) numbers, and (B, M, M) soft IoUs.

    The numbers: size, length of the rim for the size, how sure the inside is, how little changes where the mask is cut
    higher or lower.
    """
    area = inside.sum(-1)  # (B, M)
    both = inside @ inside.transpose(1, 2)  # (B, M, M)
    higher, lower = ((inside > cut).sum(-1).float() for cut in (0.7, 0.3))
    scalars = (
        (area + 1).log() / 8,
        rims.sum(-1) / (area + 1).sqrt() / 8,
        torch.diagonal(both, dim1=1, dim2=2) / area.clamp(min=1e-3),
        higher / lower.clamp(min=1),
    )
    shared = both / (area[:, :, None] + area[:, None] - both).clamp(min=1e-3)
    return torch.stack(scalars, dim=-1), shared


def _compared(verdict: Tensor, shared: Tensor, *, area: Tensor) -> Tensor:
    """Return what tells each mask from the others, (B, M, `_COMPARED`), from (B, M) verdicts and areas.

    Its own verdict, the IoU that is to be expected where any of them may be right, the best IoU there is, how much it
    shares with that mask, and how much smaller it is.
    """
    ious = torch.sigmoid(verdict)
    chances = torch.softmax(SHARPNESS * ious, dim=-1)
    best = ious.argmax(dim=-1, keepdim=True)  # (B, 1)
    highest, largest = (x.gather(1, best).expand_as(ious) for x in (ious, area))
    like_best = shared.gather(2, best[:, None].expand(-1, shared.shape[1], -1))[..., 0]
    expected = (shared * chances[:, None]).sum(-1)
    smaller = (largest + 1).log() - (area + 1).log()
    return torch.stack((verdict, expected, highest, like_best, smaller), dim=-1)
