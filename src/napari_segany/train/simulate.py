"""A batch of simulated prompts, as tensors in frame pixels: first prompts, then corrections round by round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_segany.core.types import BoolMask, Box
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, PADDING, POSITIVE

from .clicks import Click, coarse_mask, corrective_click, first_click, first_correction, noisy_box

CELL = 2
"""Frame pixels per pixel of the logits that prompts are simulated on."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """Prompts of N objects.

    Attributes
    ----------
    xy : (N, P, 2)
        (x, y) in frame pixels.
    labels : (N, P)
    masks : (N, 1, h, w)
        Logits of drawn masks or earlier answers; zero where there is none.
    is_ambiguous : (N,)
        Where a single click is all that was said.
    """

    xy: Tensor
    labels: Tensor
    masks: Tensor
    is_ambiguous: Tensor

    def to(self, device: torch.device) -> PromptBatch:
        """Return the prompts on a device."""
        return PromptBatch(*(t.to(device) for t in (self.xy, self.labels, self.masks, self.is_ambiguous)))

    def rows(self, index: Tensor) -> PromptBatch:
        """Return the prompts of some objects."""
        return PromptBatch(self.xy[index], self.labels[index], self.masks[index], self.is_ambiguous[index])


@dataclass(frozen=True, slots=True)
class PromptMix:
    """Shares of first prompts: a click, a box, else a coarsely drawn mask."""

    click: float = 0.55
    box: float = 0.35


def first_prompts(truth: BoolMask, rng: np.random.Generator, *, mix: PromptMix) -> PromptBatch:
    """Return a first prompt for each of N objects, from their (N, h, w) masks at the logits' resolution."""
    xy = np.zeros((len(truth), 2, 2), dtype=np.float32)
    labels = np.full((len(truth), 2), PADDING, dtype=np.int64)
    masks = np.zeros((len(truth), 1, *truth.shape[1:]), dtype=np.float32)
    for i, mask in enumerate(truth):
        draw = rng.random()
        if draw < mix.click:
            click = first_click(mask, rng)
            xy[i, 0], labels[i, 0] = _frame_xy(click), POSITIVE
        elif draw < mix.click + mix.box:
            xy[i], labels[i] = _corners(noisy_box(mask, rng)), (BOX_START, BOX_END)
        else:
            masks[i, 0] = np.where(coarse_mask(mask, rng), 10.0, -10.0)
    is_click = labels[:, 0] == POSITIVE
    return PromptBatch(*(torch.from_numpy(a) for a in (xy, labels, masks, is_click)))


def corrected(
    prompts: PromptBatch,
    truth: BoolMask,
    *,
    logits: Tensor,
    rng: np.random.Generator,
    shows: bool = False,
) -> PromptBatch:
    """Return the prompts with one more click each, on the errors of (N, 1, h, w) logits, which become mask prompts.

    With `shows`, objects that are mostly missed are clicked on first.
    """
    choose = first_correction if shows else corrective_click
    guess = (logits[:, 0] > 0).cpu().numpy()
    xy = np.zeros((len(truth), 1, 2), dtype=np.float32)
    labels = np.full((len(truth), 1), PADDING, dtype=np.int64)
    for i in range(len(truth)):
        click = choose(truth[i], guess[i], rng=rng)
        if click is not None:
            xy[i, 0], labels[i, 0] = _frame_xy(click), POSITIVE if click.is_positive else NEGATIVE
    return PromptBatch(
        xy=torch.cat((prompts.xy, torch.from_numpy(xy).to(prompts.xy.device)), dim=1),
        labels=torch.cat((prompts.labels, torch.from_numpy(labels).to(prompts.labels.device)), dim=1),
        masks=logits.detach().float(),
        is_ambiguous=torch.zeros_like(prompts.is_ambiguous),
    )


def _frame_xy(click: Click) -> tuple[float, float]:
    """Return a click's (x, y) in frame pixels: the centre of its cell."""
    return (click.col + 0.5) * CELL - 0.5, (click.row + 0.5) * CELL - 0.5


def _corners(box: Box) -> list[tuple[float, float]]:
    """Return a half-open box's corners as (x, y) in frame pixels, pixel centres at integers."""
    return [
        (box.col0 * CELL - 0.5, box.row0 * CELL - 0.5),
        (box.col1 * CELL - 0.5, box.row1 * CELL - 0.5),
    ]
