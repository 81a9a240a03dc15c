"""What each way of finishing an answer is worth, for a model to learn which of them suits it (`models/ways.py`).

Three prompts on an object, a click, its box and a click that corrects, are answered in every way, as a person would get
the answers; only which way is taken differs, so that what a look shows beforehand can be held against what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_segany.core.masks import box_of
from napari_segany.core.types import BoolMask, FeaturesLike, Prompt
from napari_segany.models.outline import OutlineHead
from napari_segany.models.sam2 import Sam2
from napari_segany.models.ways import AS_IT_IS, EXTENDED, OUTLINED, WayChoice
from napari_segany.predict.image import ImagePredictor

from .clicks import any_click, corrective_click
from .dataset import Annotated
from .metrics import boundary_iou, iou_of, whole_mask


def ways_of(
    predictor: ImagePredictor, item: Annotated, rng: np.random.Generator, *, most: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (seen (1, S), gains (1, 3)), one row each, of looks at some primary objects of an image.

    Gains are of the mean of IoU and boundary IoU of what is shown in the end, over what the base draws: of the two ways
    of whole frames, then of the one of windows; NaN where the look is of the other sort.
    """
    chosen = rng.permutation([i for i, thing in enumerate(item.objects) if thing.is_primary])[:most]
    if not len(chosen):
        return
    features = predictor.embed(item.image)
    for index in chosen:
        truth = whole_mask(item.objects[index], item.labels.shape)
        for prompt, multimask in _asked(predictor, features, truth, rng):
            yield from _compared(predictor, features, prompt, multimask=multimask, truth=truth)


def ways_loss(choice: WayChoice, batch: list[Tensor], *, left_out: float) -> Tensor:
    """Return the mean squared error of foretold gains, in points; of what is seen `left_out` is as it mostly is."""
    seen, gains = batch
    usual = seen.mean(dim=0)
    foretold = choice.gain(usual + nn.functional.dropout(seen - usual, left_out))
    known = ~torch.isnan(gains)
    miss: Tensor = 100 * (foretold - gains)[known]
    return miss.square().mean()


def _asked(
    predictor: ImagePredictor, features: FeaturesLike, truth: BoolMask, rng: np.random.Generator
) -> Iterator[tuple[Prompt, bool]]:
    """Yield a click on an object, its box, and the click that corrects the first answer; and if several are wanted."""
    points = any_click(truth, rng)
    yield Prompt(points=points), True
    yield Prompt(box=box_of(truth)), False
    answer = predictor.predict(features, Prompt(points=points))
    wrong = corrective_click(truth, answer.best)
    if wrong is not None:
        points = points.with_click(wrong.row, wrong.col, positive=wrong.is_positive)
        yield Prompt(points=points, mask=answer.logits[0]), False


def _compared(
    predictor: ImagePredictor, features: FeaturesLike, prompt: Prompt, *, multimask: bool, truth: BoolMask
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what was seen of each look at one prompt, and what came of every way there."""
    network = predictor.model.network
    assert isinstance(network, Sam2) and isinstance(network.decoder.fine, OutlineHead)
    choice = network.decoder.fine.choice

    def worth_of(in_frame: int, in_window: int) -> float:
        with _taken(choice, in_frame, in_window):
            mask = predictor.predict(features, prompt, multimask=multimask).best
        return (iou_of(mask, truth) + boundary_iou(mask, truth)) / 2

    with _witnessed(choice) as looks:
        most = worth_of(EXTENDED, OUTLINED)
    if looks[0][1]:
        plain = worth_of(AS_IT_IS, OUTLINED)
        gains = [worth_of(OUTLINED, OUTLINED) - plain, most - plain, nan]
        yield looks[0][0], torch.tensor([gains])
    if not looks[-1][1]:
        yield looks[-1][0], torch.tensor([[nan, nan, most - worth_of(EXTENDED, AS_IT_IS)]])


@contextmanager
def _taken(choice: WayChoice, in_frame: int, in_window: int) -> Iterator[None]:
    """Let ways be taken in whole frames and in windows, whatever is seen there."""
    bias = choice.gain.bias
    before = bias.detach().clone()
    taken = [*(in_frame == way for way in (OUTLINED, EXTENDED)), in_window == OUTLINED]
    with torch.no_grad():
        bias.copy_(torch.where(torch.tensor(taken), 1e4, -1e4))
    try:
        yield
    finally:
        with torch.no_grad():
            bias.copy_(before)


@contextmanager
def _witnessed(choice: WayChoice) -> Iterator[list[tuple[Tensor, bool]]]:
    """Give a list that fills with the (1, S) that is seen in each look, in half precision, and whether it extends."""
    looks: list[tuple[Tensor, bool]] = []

    def noted(_: WayChoice, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        looks.append((inputs[0].half().cpu(), named["extends"]))

    hook = choice.register_forward_pre_hook(noted, with_kwargs=True)
    try:
        yield looks
    finally:
        hook.remove()
