"""Answers to single clicks, as a predictor gives them, for the judge to learn which of four masks is meant.

A crop shows a model less than a whole frame does, and all else that learns meanwhile moves the masks; a judge that was
trained along with everything else prefers spots that are too large, and cells that are too small. Here nothing else
moves: answers are collected on whole images and in the windows that small objects are looked at again in. Where there
are fine boundaries, another judge looks at masks that were changed as a whole, which is done on whole images alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.types import Points, Prompt
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.judge import Evidence, MaskJudge
from napari_segany.models.mask_decoder import MaskDecoder, MaskOutput
from napari_segany.models.outline import OutlineHead
from napari_segany.models.prompt_encoder import PromptEncoder
from napari_segany.models.sam2 import Sam2
from napari_segany.predict.features import Features
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.parts import Part
from napari_segany.predict.prompts import Encoded, encode_prompt, in_view

from .answer_plan import AnswerPlan
from .clicks import any_click
from .dataset import FIRST_SEED, Annotated, from_scene
from .losses import pick_loss, true_iou
from .metrics import whole_mask
from .sides import sides_loss, sides_of
from .ways import ways_loss, ways_of

PICKING = 2.0
"""Weight of what picking by the predicted IoUs costs, against 1 for their cross-entropy."""


class AnswerStream(torch.utils.data.IterableDataset[tuple[Tensor, ...]]):
    """An endless stream of batches of (seen, told, shared, area, true): an `Evidence` and the true IoUs (B, M).

    About ways, of (seen, gains), as `ways_of` says; about sides, of (seen, side), as `sides_of` does.
    """

    def __init__(
        self,
        predictor: ImagePredictor,
        images: list[Annotated],
        plan: AnswerPlan,
        *,
        seed: int,
        kinds: tuple[str, ...],
        batch: int,
    ) -> None:
        super().__init__()
        self.predictor, self.plan, self.kinds = predictor, plan, kinds
        self.images = [item for item in images if item.objects]
        self.seed, self.batch = seed, batch

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Collect the answers, again in a run that is resumed, then yield random ones of them."""
        rng = np.random.default_rng(self.seed)
        of_scenes, of_images = (
            self.collected(self._scenes(rng), rng),
            self.collected(self._pictures(rng), rng),
        )
        share = self.plan.image_share if of_images and of_scenes else float(bool(of_images))
        while True:
            count = int(rng.binomial(self.batch, share))
            drawn = (_drawn(of_scenes, self.batch - count, rng), _drawn(of_images, count, rng))
            yield tuple(torch.cat(values) for values in zip(*(each for each in drawn if each), strict=True))

    def collected(
        self, items: Iterator[tuple[Annotated, int]], rng: np.random.Generator
    ) -> tuple[Tensor, ...]:
        """Return all answers to clicks on some images as one long batch; what is seen in half precision."""
        collect = {"masks": answers_of, "ways": ways_of, "sides": sides_of}[self.plan.about]
        looks = [look for item, most in items for look in collect(self.predictor, item, rng, most=most)]
        return tuple(torch.cat(values) for values in zip(*looks, strict=True))

    def _scenes(self, rng: np.random.Generator) -> Iterator[tuple[Annotated, int]]:
        """Yield scenes, and how many objects of each are clicked on."""
        for index in range(self.plan.scenes):
            seed = FIRST_SEED + int(rng.integers(1 << 40))
            kind = self.kinds[index % len(self.kinds)]
            yield from_scene(seed, size=self.plan.size, kind=kind), self.plan.objects[0]

    def _pictures(self, rng: np.random.Generator) -> Iterator[tuple[Annotated, int]]:
        """Yield annotated images, and how many objects of each are clicked on."""
        order = rng.permutation(len(self.images))
        for index in range(self.plan.images if self.images else 0):
            yield self.images[order[index % len(order)]], self.plan.objects[1]


def _drawn(answers: tuple[Tensor, ...], count: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """Return `count` random rows of a batch, nothing of nothing."""
    if not answers or not count:
        return ()
    rows = torch.from_numpy(rng.integers(len(answers[0]), size=count))
    return tuple(values[rows].float() for values in answers)


def answers_of(
    predictor: ImagePredictor, item: Annotated, rng: np.random.Generator, *, most: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (seen, told, shared, area, true), one row each, of every look at some primary objects of an image."""
    chosen = rng.permutation([i for i, thing in enumerate(item.objects) if thing.is_primary])[:most]
    if not len(chosen):
        return
    features = predictor.embed(item.image)
    looks_of = _extended if predictor.card.has_fine else _looks
    for index in chosen:
        mask = whole_mask(item.objects[index], item.labels.shape)
        points = any_click(mask, rng)
        truth = encode_prompt(Prompt(points=points, mask=mask), features)
        for evidence, logits, true in looks_of(predictor, features, points, truth):
            assert true.mask is not None
            if (true.mask > 0).any():
                ious = true_iou(logits.cpu(), (true.mask[None] > 0).float())
                told, shared, area = (x.cpu() for x in (evidence.told, evidence.shared, evidence.area))
                yield evidence.seen.half().cpu(), told, shared, area, ious


def _looks(
    predictor: ImagePredictor, features: Features, points: Points, truth: Encoded
) -> Iterator[tuple[Evidence, Tensor, Encoded]]:
    """Yield evidence, (1, 4, h, w) logits and truth of each look, at the frame, a part of it or a window."""
    network = predictor.model.network
    assert isinstance(network, Sam2)
    with _witnessed(network) as looks:
        predictor.predict(features, Prompt(points=points))
    for evidence, logits, seen in looks:
        yield evidence, logits, _truth_in(seen, truth, features)


def _truth_in(seen: ImageFeatures, truth: Encoded, features: Features) -> Encoded:
    """Return the truth about a frame as it is in what was looked at."""
    for view in features.views.values():
        if view.tensors.embedding is seen.embedding:
            return in_view(truth, features, view)
    (height, width), stride = seen.embedding.shape[2:], features.stride
    col, row = (round(start) // stride for start in seen.origin)
    cells = (features.tensors.embedding.shape[2], features.tensors.embedding.shape[3])
    return Part(slice(row, row + height), slice(col, col + width), cells, stride).prompt(truth)


@torch.inference_mode()
def _extended(
    predictor: ImagePredictor, features: Features, _: Points, truth: Encoded
) -> Iterator[tuple[Evidence, Tensor, Encoded]]:
    """Yield evidence, (1, 4, h, w) logits and truth of the frame, where alone masks are changed as a whole."""
    network = predictor.model.network
    assert isinstance(network, Sam2) and isinstance(network.decoder.fine, OutlineHead)
    fine = network.decoder.fine
    answer = network.decode_all(features.tensors, truth.xy[None], truth.labels[None], with_fine=True)
    extended = fine.extended(answer)
    yield fine.evidence(extended), extended.logits, truth


def answers_loss(model: Sam2, batch: list[Tensor], plan: AnswerPlan) -> Tensor:
    """Return the loss of a batch of an `AnswerStream`: of fine parts where there are any, else of the base's judge."""
    decoder = model.decoder
    if plan.about == "sides":
        return sides_loss(model.size_head, batch)
    if plan.about == "ways":
        assert isinstance(decoder.fine, OutlineHead)
        return ways_loss(decoder.fine.choice, batch, left_out=plan.left_out)
    judge = decoder.fine.judge if decoder.config.fine is not None else decoder.judge
    assert isinstance(judge, MaskJudge)
    return judge_loss(judge, batch, left_out=plan.left_out)


def judge_loss(judge: MaskJudge, batch: list[Tensor], *, left_out: float) -> Tensor:
    """Return what a judge's IoUs are off by, and what picking by them costs, for a batch of an `AnswerStream`."""
    seen, told, shared, area, true = batch
    ious = judge.decide(Evidence(F.dropout(seen, left_out), told, shared, area))
    miss = F.binary_cross_entropy(ious.clamp(1e-4, 1 - 1e-4), true)
    return miss + PICKING * pick_loss(ious, true).mean()


@contextmanager
def _witnessed(network: Sam2) -> Iterator[list[tuple[Evidence, Tensor, ImageFeatures]]]:
    """Give a list that fills with what the judge was shown, (B, 4, h, w) logits, and the embedding, of each answer."""
    evidence: list[Evidence] = []
    origins: list[tuple[float, float]] = []
    looks: list[tuple[Evidence, Tensor, ImageFeatures]] = []

    def asked(_: PromptEncoder, __: object, named: dict[str, Any]) -> None:
        origins.append(named["origin"])

    def judged(_: MaskJudge, __: object, verdict: tuple[Tensor, Evidence]) -> None:
        evidence.append(verdict[1])

    def after(_: MaskDecoder, inputs: tuple[Tensor, ...], output: MaskOutput) -> None:
        shown = Evidence(*(x.clone() for x in astuple(evidence[-1])))
        looks.append((shown, output.logits.clone(), ImageFeatures(inputs[0], origin=origins[-1])))

    decoder = network.decoder
    hooks = (
        network.prompts.register_forward_pre_hook(asked, with_kwargs=True),
        decoder.judge.register_forward_hook(judged),
        decoder.register_forward_hook(after),
    )
    try:
        yield looks
    finally:
        for hook in hooks:
            hook.remove()
