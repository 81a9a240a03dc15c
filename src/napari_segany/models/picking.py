"""Which of the judged masks of a prompt are shown, and what the best of them takes over from those like it.

SAM shows masks 1 to 3 of an ambiguous prompt and mask 0 of any other (Kirillov et al. 2023, appendix A). The bundled
models judge each mask by a look at it, so that any of the four may be shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .judge import SHARPNESS

if TYPE_CHECKING:
    from .mask_decoder import MaskOutput

Obedience = Callable[[Tensor], Tensor]
"""From (B, M, h, w) logits to the (B, M) share of the clicks that each mask obeys."""

FAVOUR = 0.1
"""What is added to the judged IoU of mask 0, which alone is trained for prompts that leave no doubt."""
SAME = 0.5
"""IoU with the best mask from which on another is taken to mean the same object."""
_LEAST_CHANCE = 1e-6


def three_apart(output: MaskOutput, *, obeyed: Obedience) -> MaskOutput:
    """Return the best of four masks and two others of each of B prompts, without the one that is most like the best.

    A mask that is certainly wrong (empty, or its score is 0) is left out before one that is like the best. Fine
    outlines are learnt on masks as their own tokens see them, so that only answers without them are `_agreed`.

    Parameters
    ----------
    output
        Four masks of each prompt.
    obeyed
        Says which share of the clicks masks obey.
    """
    best = output.ious.argmax(dim=1)
    inside = _inside(output)
    like = _likeness(inside, best)
    crowded = like + ((output.ious <= 0) | ~inside.any(-1)).float()
    crowded[_rows(best), best] = -1  # it stays
    kept = crowded.topk(output.ious.shape[1] - 1, dim=1, largest=False).indices.sort(dim=1).values
    shown = output.masks(kept)
    first = _agreed(output, best, like=like * output.is_plain[:, None], obeyed=obeyed)
    return replace(
        shown, logits=torch.where((kept == best[:, None])[..., None, None], first[:, None], shown.logits)
    )


def best_one(output: MaskOutput, *, obeyed: Obedience) -> MaskOutput:
    """Return the best of four masks of each of B prompts, mask 0 favoured: (B, 1, …); `obeyed` as above."""
    scores = output.ious.clone()
    scores[:, 0] += FAVOUR
    best = scores.argmax(dim=1)
    like = _likeness(_inside(output), best)
    logits = _agreed(output, best, like=like, obeyed=obeyed)[:, None]
    return replace(output.masks(best[:, None]), logits=logits)


def _inside(output: MaskOutput) -> Tensor:
    """Return (B, M, N) what lies inside, of every second row and column."""
    return (output.logits[:, :, ::2, ::2] > 0).flatten(2)


def _likeness(inside: Tensor, best: Tensor) -> Tensor:
    """Return the (B, M) IoUs of each of (B, M, N) masks with that at `best` (B,)."""
    each = inside.float()
    both, area = each @ each[_rows(best), best][..., None], each.sum(-1, keepdim=True)  # (B, M, 1)
    own = area[_rows(best), best][:, None]
    return (both / (area + own - both).clamp(min=1))[..., 0]


def _agreed(output: MaskOutput, best: Tensor, *, like: Tensor, obeyed: Obedience) -> Tensor:
    """Return the `best` (B,) masks' (B, h, w) logits, cut from the mean of the chances that those like them see, too.

    Masks of one object differ in where they draw its outline; each counts by how likely it is the one that is meant.
    A mask that would obey fewer clicks for it stays as it is.
    """
    own = output.logits[_rows(best), best]
    has_say = like >= SAME
    has_several = has_say.sum(dim=1) > 1
    if not has_several.any():
        return own
    share = torch.softmax(SHARPNESS * output.ious, dim=1) * has_say
    share = share / share.sum(dim=1, keepdim=True)  # (B, M)
    chances = torch.einsum("bm,bmhw->bhw", share, output.logits.float().sigmoid())
    mixed = torch.logit(chances, eps=_LEAST_CHANCE).to(own)
    shares = obeyed(torch.stack((mixed, own), dim=1))  # (B, 2)
    is_mixed = has_several & (shares[:, 0] >= shares[:, 1])
    return torch.where(is_mixed[:, None, None], mixed, own)


def _rows(best: Tensor) -> Tensor:
    """Return the numbers of B rows."""
    return torch.arange(len(best), device=best.device)
