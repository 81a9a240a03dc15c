"""What is said of one object, click by click, and in the pixels of the window that it is seen in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from napari_segany.core.masks import box_of
from napari_segany.core.types import AnyArray, BoolMask, Box, Points, Prompt
from napari_segany.models.close_memory import Clicks
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, PADDING, POSITIVE
from napari_segany.models.windows import Places

from .zoom import extent_of

MOST_PASSES = 8
"""Of a prompt's clicks, so many are answered one by one; those before them are said at once."""


def says_nothing_else(prompt: Prompt) -> bool:
    """Return whether there is neither point nor box."""
    return prompt.points is None and prompt.box is None


def by_click(prompt: Prompt) -> list[Prompt]:
    """Return a prompt as it was said: a box or the first click, then each further click beside what was said before."""
    points = prompt.points
    if points is None:
        return [prompt]
    least = max(1 if prompt.box is None else 0, len(points) - MOST_PASSES + 1)
    counts = range(least, len(points) + 1)
    said = [Points(points.coords[:count], points.positive[:count]) if count else None for count in counts]
    return [replace(prompt, points=part) for part in said]


def misses(prompt: Prompt, mask: BoolMask) -> int:
    """Return how many points a mask contradicts."""
    if prompt.points is None:
        return 0
    return int(np.count_nonzero(at_points(mask, prompt.points) != prompt.points.positive))


def at_points(mask: BoolMask, points: Points) -> BoolMask:
    """Return what an (H, W) mask is at (N,) points, those outside moved to its edge."""
    rows, cols = np.rint(points.coords).astype(int).T
    values: BoolMask = mask[rows.clip(0, mask.shape[0] - 1), cols.clip(0, mask.shape[1] - 1)]
    return values


def around(prompt: Prompt, mask: BoolMask) -> Box | None:
    """Return the box around a mask and what was said of it; None where there is nothing."""
    return extent_of(prompt, [box_of(mask)] if mask.any() else [])


def in_places(prompt: Prompt, places: Places) -> Clicks:
    """Return points and box corners in the pixels of one window, centres at integers."""
    edges: list[AnyArray] = [np.zeros((0, 2))]
    labels: list[int] = []
    if prompt.points is not None:
        edges.append(prompt.points.coords + 0.5)
        labels += [POSITIVE if sign else NEGATIVE for sign in prompt.points.positive.tolist()]
    if prompt.box is not None:
        box = prompt.box
        edges.append(np.array([[box.row0, box.col0], [box.row1, box.col1]]))
        labels += [BOX_START, BOX_END]
    xy = torch.from_numpy(np.concatenate(edges)[:, ::-1].astype(np.float32)).to(places.corner)
    inside = (xy - places.corner) * places.scale[:, None] - 0.5
    padding = [PADDING] * (2 - len(labels)) if len(labels) < 2 else []
    padded = torch.cat((inside, inside.new_zeros(len(padding), 2)))
    return Clicks(padded[None], torch.tensor([labels + padding], device=padded.device))
