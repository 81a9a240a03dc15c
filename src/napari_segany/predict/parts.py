"""The part of a frame that holds an object, which is all that is decoded for it.

A decoder takes as long as its embedding has cells, and a frame of 1280 pixels has 25 times those of a part of 256. The
embedding has seen the whole frame by then, and the bundled models learnt on crops, so nothing is lost: measurements in
docs/develop/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.types import Box
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import MaskOutput

from .features import Features
from .prompts import Encoded
from .zoom import OUTSIDE_LOGIT, boxes_of_cells, near_best

AROUND = 72.0
"""Frame pixels around an object, at least, that are decoded with it."""
_STEP = 16  # cells; sides of parts are multiples of it, so that few sizes occur
_LARGEST_SHARE = 0.3  # of the frame; beyond it little is won, and lost where the frame is decoded after all
_EDGE = 2  # cells; a mask that comes nearer to an edge inside the frame may go on behind it
_LOGITS = 4  # along a cell


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows and columns of a frame's embedding of `cells` (h, w), each `stride` frame pixels wide."""

    rows: slice
    cols: slice
    cells: tuple[int, int]
    stride: int

    def features(self, whole: ImageFeatures) -> ImageFeatures:
        """Return the part's features."""
        return whole.part(self.rows, self.cols, stride=self.stride)

    def prompt(self, encoded: Encoded) -> Encoded:
        """Return a prompt of the frame in the part's pixels."""
        start = encoded.xy.new_tensor([self.cols.start * self.stride, self.rows.start * self.stride])
        mask = None if encoded.mask is None else encoded.mask[:, _logits(self.rows), _logits(self.cols)]
        return replace(encoded, xy=encoded.xy - start, mask=mask)

    def cuts(self, output: MaskOutput) -> bool:
        """Whether any mask of one prompt's answer, also a bad one, may go on outside of the part."""
        inside = (output.logits[0] > 0).any(dim=0)
        edges = []
        for lines, ends, count in zip((inside, inside.T), (self.rows, self.cols), self.cells, strict=True):
            edges += [lines[: _EDGE * _LOGITS]] if ends.start > 0 else []
            edges += [lines[-_EDGE * _LOGITS :]] if ends.stop < count else []
        return any(bool(edge.any()) for edge in edges)

    def boxes(self, output: MaskOutput, shape: tuple[int, int]) -> list[Box]:
        """Return the boxes of the best masks of one prompt's answer, in pixels of the image of `shape` (H, W)."""
        height, width = (pixels / (_LOGITS * count) for pixels, count in zip(shape, self.cells, strict=True))
        first = (_LOGITS * self.rows.start, _LOGITS * self.cols.start)
        return [
            box
            for logits in near_best(output).cpu().numpy()
            for box in boxes_of_cells(logits, size=(height, width), first=first)
        ]

    def placed(self, output: MaskOutput) -> MaskOutput:
        """Return an answer with masks of the whole frame, nothing lying outside of the part."""
        fine = None if output.fine is None else self._placed(output.fine)
        return replace(output, logits=self._placed(output.logits), fine=fine)

    def _placed(self, maps: Tensor) -> Tensor:
        """Return (B, M, h', w') logits of the part as those of the frame."""
        times = maps.shape[2] // (self.rows.stop - self.rows.start)
        (top, bottom), (left, right) = (
            (times * ends.start, times * (count - ends.stop))
            for ends, count in zip((self.rows, self.cols), self.cells, strict=True)
        )
        return F.pad(maps, (left, right, top, bottom), value=OUTSIDE_LOGIT)


def part_around(extent: Box, features: Features) -> Part | None:
    """Return the part of a frame around an extent in image pixels; None where it would be most of the frame."""
    cells = (features.tensors.embedding.shape[2], features.tensors.embedding.shape[3])
    stride, scale = features.stride, features.resize.scale
    side = max(extent.height * scale[0], extent.width * scale[1]) + 2 * AROUND
    count = _STEP * ceil(side / (_STEP * stride))
    middles = ((extent.row0 + extent.row1) / 2, (extent.col0 + extent.col1) / 2)
    rows, cols = (
        _around(middle * times / stride, count=min(count, length), length=length)
        for middle, times, length in zip(middles, scale, cells, strict=True)
    )
    if (rows.stop - rows.start) * (cols.stop - cols.start) > _LARGEST_SHARE * cells[0] * cells[1]:
        return None
    return Part(rows, cols, cells, stride)


def _around(middle: float, *, count: int, length: int) -> slice:
    """Return `count` cells of an axis around a place, in cells."""
    start = min(max(round(middle - count / 2), 0), length - count)
    return slice(start, start + count)


def _logits(cells: slice) -> slice:
    """Return the logits of some cells of an axis."""
    return slice(_LOGITS * cells.start, _LOGITS * cells.stop)
