"""How large objects are that clicks are about, for a model to foretell how large one may be (`models/size_head.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from napari_segany.core.types import Prompt
from napari_segany.models.size_head import QUANTILE, SizeHead, seen_at
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.prompts import encode_prompt

from .clicks import any_click
from .dataset import Annotated
from .metrics import whole_mask


def sides_of(
    predictor: ImagePredictor, item: Annotated, rng: np.random.Generator, *, most: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (seen (1, C), side (1,)) of clicks on some primary objects of an image, nothing being drawn.

    Sides are the longer ones, as logarithms to base 2 of frame pixels.
    """
    chosen = rng.permutation([i for i, thing in enumerate(item.objects) if thing.is_primary])[:most]
    if not len(chosen):
        return
    features = predictor.embed(item.image)
    for index in chosen:
        thing = item.objects[index]
        click = encode_prompt(Prompt(points=any_click(whole_mask(thing, item.labels.shape), rng)), features)
        seen = seen_at(features.tensors.embedding, click.xy, stride=features.stride)
        longer = max(ends.stop - ends.start for ends in thing.box) * max(features.resize.scale)
        yield seen.half().cpu(), torch.tensor([float(np.log2(longer))])


def sides_loss(head: SizeHead, batch: list[Tensor]) -> Tensor:
    """Return what bounds of sides cost, in doublings: each object above its bound counts nine times as much as below.

    Its minimum is the quantile.
    """
    seen, sides = batch
    above = sides - head(seen)
    return torch.maximum(QUANTILE * above, (QUANTILE - 1) * above).mean()
