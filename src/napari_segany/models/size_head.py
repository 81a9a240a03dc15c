"""How large an object may be, foretold from the image's embedding where it is clicked on, before any mask is drawn.

The bundled models look at small objects in a magnified window, and need no more of a large frame than the part around
an object. Where its size is foretold, window or part is looked at first, and mostly nothing else. What is foretold is
a bound, a quantile (Koenker and Bassett 1978, "Regression quantiles"): it lies far above the usual size where an
embedding says little, and near it where there is no doubt.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

QUANTILE = 0.9
"""Of the objects with such an embedding, this share is not larger than foretold."""
_UNTRAINED = 9.0  # log2 of frame pixels: everything may be large


class SizeHead(nn.Module):
    """What an embedding holds at a place to a bound of the longer side of the object there; untrained, a large one.

    Parameters
    ----------
    width
        C, channels of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.line = nn.Linear(width, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.constant_(self.line.bias, _UNTRAINED)

    def forward(self, seen: Tensor) -> Tensor:
        """Map (N, C) to (N,) logarithms, to base 2, of sides in frame pixels."""
        sides: Tensor = self.line(seen)[:, 0]
        return sides


def seen_at(embedding: Tensor, xy: Tensor, *, stride: int) -> Tensor:
    """Return the (N, C) cells of a (1, C, h, w) embedding that (N, 2) places (x, y) in frame pixels lie in."""
    height, width = embedding.shape[2:]
    cells = torch.floor((xy + 0.5) / stride).long().to(embedding.device)
    cols, rows = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
    return embedding[0, :, rows, cols].T
