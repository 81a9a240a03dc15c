"""Corrections of an earlier answer: a click changes what it touches, and little else.

Every answer is decided anew from the image, so a click on one side of an object also moves the outline on the other,
there as often for the worse as for the better. Parts that changed without being clicked on are therefore averaged with
the earlier answer, which has as good a claim to them as the new one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.masks import box_of, slices_of
from napari_segany.core.types import FloatArray
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.prompt_labels import NEGATIVE, POSITIVE

from .prompts import DRAWN_LOGIT, Encoded

EARLIER = 0.7
"""How much the earlier answer counts in what no click touches."""
ALIKE = 0.6
"""IoU of both answers from which on the new one is a correction of the earlier one, not another object."""
REACH = 2
"""Cells of the logits from a click to what it touches."""
_AROUND = np.ones((3, 3), dtype=bool)


def corrected(answer: MaskOutput, prompt: Encoded, *, step: float) -> MaskOutput:
    """Return an answer that keeps to an earlier one where no click asks for a change.

    Parameters
    ----------
    answer
        Of one prompt, (1, M, h, w).
    prompt
        Clicks and the (1, h, w) logits of the earlier answer, on the same frame.
    step
        Frame pixels per cell of the logits, along either axis.
    """
    labels = prompt.labels.cpu().numpy()
    is_click = (labels == POSITIVE) | (labels == NEGATIVE)
    if prompt.mask is None or prompt.mask.shape[1:] != answer.logits.shape[2:] or not is_click.any():
        return answer
    earlier = prompt.mask[0].to(answer.logits).clamp(-DRAWN_LOGIT, DRAWN_LOGIT)
    inside = (earlier > 0).cpu().numpy()
    cells = _cells(prompt.xy.cpu().numpy()[is_click], step=step, shape=inside.shape)
    clicks = _unanswered(cells, labels[is_click] == POSITIVE, inside)
    logits = answer.logits.clone()
    for index, new in enumerate((answer.logits[0] > 0).cpu().numpy()):
        if np.count_nonzero(inside & new) < ALIKE * np.count_nonzero(inside | new):
            continue
        kept = torch.from_numpy(~_touched(inside != new, clicks)).to(logits.device)
        own = logits[0, index]
        logits[0, index] = torch.where(
            kept, torch.lerp(own.clamp(-DRAWN_LOGIT, DRAWN_LOGIT), earlier, EARLIER), own
        )
    return replace(answer, logits=logits)


def _cells(xy: FloatArray, *, step: float, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the (N, 2) (row, col) cells that (x, y) frame pixels lie in."""
    cells = np.floor((xy[:, ::-1] + 0.5) / step).astype(np.intp)
    return np.clip(cells, 0, np.array(shape) - 1)


def _unanswered(
    cells: NDArray[np.intp], positive: NDArray[np.bool_], inside: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return the clicks that the earlier answer does not obey, and the last one in any case."""
    is_open = inside[cells[:, 0], cells[:, 1]] != positive
    is_open[-1] = True
    return cells[is_open]


def _touched(changed: NDArray[np.bool_], clicks: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the connected parts of what changed that a click lies in or beside."""
    touched = np.zeros_like(changed)
    if not changed.any():
        return touched
    around = slices_of(box_of(changed))
    parts, count = ndimage.label(changed[around], structure=_AROUND)
    is_touched = np.zeros(count + 1, dtype=bool)
    for place in clicks - [each.start for each in around]:
        near = tuple(slice(max(0, at - REACH), max(0, at + REACH + 1)) for at in place)
        is_touched[parts[near]] = True
    is_touched[0] = False
    touched[around] = is_touched[parts]
    return touched
