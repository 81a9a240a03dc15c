"""The loss of a batch of nested crops: six masks a prompt, objects without prompts, and words.

Papers: Li et al. 2023, "Semantic-SAM" (sections 3.2 and 3.3) and "Mask DINO" (section 3.2); Zhou et al. 2019, "Objects
as points", for the hearts that say where objects are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.query_decoder import TOKENS, Answers, Looked, Queries
from napari_segany.models.semantic_sam import CLICK_SIDE, SemanticSam, boxes_of
from napari_segany.predict.preprocess import normalise

from .hearts import heart_loss, seeded
from .losses import dice_loss, focal_loss, true_iou
from .matching import at_most_six, many_to_many, one_to_one, spare
from .nested import NestedBatch
from .votes import vote_loss

FOCAL_WEIGHT = 10.0
BOX_WEIGHT = 0.5
IOU_WEIGHT = 0.5
WORD_WEIGHT = 0.5
EARLY_WEIGHT = 0.4
"""Of the masks behind the middle layer."""
SEED_WEIGHT = 0.3
VOTE_WEIGHT = 0.3
"""Of where pixels say that the middle of their object is."""
FOUND_WEIGHT = 0.5
"""Of what is found without prompts."""
OTHERS_WEIGHT = 0.25
"""Of the other five masks where only one object of a click is annotated."""
SPARE_WEIGHT = 0.25
"""Of the masks that show what another of the six shows better: they are free to show what is rarely there."""
EXTRA_SEEDS = 8

_SYNONYMS = {
    "nucleus": ("nuclei", "cell nucleus"),
    "cell": ("cells", "cell body"),
    "bacterium": ("bacteria",),
    "mitochondrion": ("mitochondria",),
    "nucleolus": ("nucleoli",),
    "soma": ("cell soma",),
    "colony": ("colonies", "cell colony"),
    "spot": ("spots", "punctum"),
    "filament": ("filaments", "fiber"),
    "vessel": ("vessels", "blood vessel"),
    "gland": ("glands",),
    "neuron": ("neurons",),
    "vesicle": ("vesicles",),
    "vacuole": ("vacuoles",),
    "organoid": ("organoids",),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Masks and what each of them is to become.

    `truth` (N,) says which of an image's true masks, `weight` (N,) how much it counts, `drawn` (N,) what share of that
    its shape and box count, `image` (N,) of which image.
    """

    truth: Tensor
    weight: Tensor
    drawn: Tensor
    image: Tensor


def nested_loss(
    model: SemanticSam, batch: NestedBatch, *, rng: np.random.Generator, is_many: bool = True
) -> Tensor:
    """Return the loss of a batch of crops; `is_many` matches many to many, else one to one."""
    kind = next(model.image_encoder.parameters()).dtype
    pixels = normalise(batch.pixels).to(kind, memory_format=torch.channels_last)
    features = model.encode(pixels)
    masks = batch.masks.float() / 255
    words = _words(model, rng)
    total = _prompted(model, features, batch, masks, words=words, rng=rng, is_many=is_many)
    total = total + VOTE_WEIGHT * vote_loss(model.query_decoder.votes_of(features.fine[0]), masks, batch)
    return total + _unprompted(model, features, batch, masks, words=words)


def _words(model: SemanticSam, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the vectors of the vocabulary's objects and parts, some under another name."""
    vocabulary = model.config.vocabulary

    def said(word: str) -> str:
        others = _SYNONYMS.get(word, ())
        return str(rng.choice((word, *others))) if others and rng.random() < 0.5 else word

    return (
        model.text_encoder([said(word) for word in vocabulary.objects]),
        model.text_encoder([said(word) for word in vocabulary.parts]),
    )


def _prompted(
    model: SemanticSam,
    features: ImageFeatures,
    batch: NestedBatch,
    masks: Tensor,
    *,
    words: tuple[Tensor, Tensor],
    rng: np.random.Generator,
    is_many: bool,
) -> Tensor:
    """Return the loss of all prompts' six masks."""
    frame = model.frame_of(features)
    size = masks.new_tensor((frame[1], frame[0]) * 2)
    boxes = batch.places / size
    boxes[..., 2:] = torch.where(batch.is_box[..., None], boxes[..., 2:], CLICK_SIDE)
    looked = model.look(features, boxes, batch.is_box)
    last = model.answers(features, looked[-1], boxes[..., :2])
    task = _matched(last, batch, masks, rng=rng, is_many=is_many)
    early = model.answers(features, looked[len(looked) // 2 - 1])
    total = _mask_loss(last, masks, task) + EARLY_WEIGHT * _mask_loss(early, masks, task)
    total = total + BOX_WEIGHT * _box_losses(looked, last, masks, task)
    return total + WORD_WEIGHT * _word_loss(model, last, batch, task, words=words)


@torch.no_grad()
def _matched(
    answers: Answers, batch: NestedBatch, masks: Tensor, *, rng: np.random.Generator, is_many: bool
) -> _Task:
    """Return what each of the (B, K * 6) masks is to become."""
    costs = _costs(answers.logits, masks).unflatten(1, (-1, TOKENS)).cpu().numpy()  # (B, K, 6, G)
    areas = masks.sum((-2, -1)).cpu().numpy()
    levels, inside = batch.levels.cpu().numpy(), batch.inside.cpu().numpy()
    truth = np.zeros(costs.shape[:3], dtype=np.int64)
    weight = np.zeros(costs.shape[:3], dtype=np.float32)
    drawn = np.ones(costs.shape[:3], dtype=np.float32)
    for b, k in np.ndindex(*costs.shape[:2]):
        own = np.flatnonzero(inside[b, k])
        if not is_many:
            own = own[rng.integers(len(own))][None]
            token = one_to_one(costs[b, k, :, own[0]])
            truth[b, k], weight[b, k, token] = own[0], TOKENS
            continue
        own = own[at_most_six(areas[b, own], rng)]
        own_costs = costs[b, k][:, own].astype(np.float64)
        handed = many_to_many(own_costs, levels[b, own])
        truth[b, k] = own[handed]
        drawn[b, k] = np.where(spare(own_costs, handed), SPARE_WEIGHT, 1.0)
        is_known = bool(batch.is_complete[b]) or bool(batch.is_box[b, k])
        weight[b, k] = 1.0 if is_known else OTHERS_WEIGHT
        if not is_known:
            weight[b, k, one_to_one(own_costs[:, 0])] = 1.0
    image = torch.arange(len(masks)).repeat_interleave(truth.shape[1] * TOKENS)
    flat = [torch.from_numpy(each.reshape(-1)).to(masks.device) for each in (truth, weight, drawn)]
    return _Task(flat[0], flat[1], flat[2], image.to(masks.device))


def _costs(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - dice of (B, Q, H, W) answers as (B, G, H, W) true masks: (B, Q, G)."""
    guess, truth = logits.float().sigmoid().flatten(2), masks.flatten(2)
    both = guess @ truth.transpose(1, 2)
    either = guess.sum(-1)[..., None] + truth.sum(-1)[:, None]
    return 1 - (2 * both + 1) / (either + 1)


def _mask_loss(answers: Answers, masks: Tensor, task: _Task) -> Tensor:
    """Return the loss of masks and of their predicted IoU."""
    logits = answers.logits.float().flatten(0, 1)
    truth = masks[task.image, task.truth]
    loss = FOCAL_WEIGHT * focal_loss(logits, truth) + dice_loss(logits, truth)
    iou = true_iou(logits[:, None], truth[:, None])[:, 0]
    miss = (answers.ious.float().flatten() - iou).abs()
    return _mean(task.drawn * loss + IOU_WEIGHT * miss, task.weight)


def _box_losses(looked: list[Looked], last: Answers, masks: Tensor, task: _Task) -> Tensor:
    """Return the loss of the boxes that every layer but the first looks around, and of the last."""
    truth = boxes_of(masks > 0.5)[task.image, task.truth]
    boxes = (*(each.moved for each in looked[:-1]), last.boxes)
    losses = [_box_loss(each.flatten(0, 1), truth) for each in boxes]
    return sum((_mean(task.drawn * each, task.weight) for each in losses), masks.new_zeros(())) / len(losses)


def _box_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """Return the (N,) losses of boxes: sides and centres in units of the true sides, and generalised IoU."""
    sides = truth[:, 2:].clamp(min=1e-3)
    away = ((boxes[:, :2] - truth[:, :2]) / sides).abs().clamp(max=2).sum(-1)
    scale = (boxes[:, 2:].clamp(min=1e-4).log() - sides.log()).abs().clamp(max=3).sum(-1)
    return away + 0.5 * scale + 1 - _generalised_iou(boxes, truth)


def _generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised IoU (Rezatofighi et al. 2019) of (N, 4) boxes (x, y, w, h)."""
    low_a, high_a = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2
    low_b, high_b = b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    both = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    either = a[:, 2:].prod(-1) + b[:, 2:].prod(-1) - both
    around = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return both / either.clamp(min=1e-8) - (around - either) / around.clamp(min=1e-8)


def _word_loss(
    model: SemanticSam, answers: Answers, batch: NestedBatch, task: _Task, *, words: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the loss of class names: an object is none of the parts, and a part none of the objects."""
    states = answers.states.flatten(0, 1)
    classes = batch.classes[task.image, task.truth]  # (N, 2)
    known = task.weight * (classes >= 0).any(-1)
    total = states.new_zeros(())
    for kind in (0, 1):
        logits = model.word_logits(states, words[kind])[kind]
        none = logits.shape[1] - 1
        target = torch.where(classes[:, kind] >= 0, classes[:, kind], none)
        total = total + _mean(F.cross_entropy(logits, target, reduction="none"), known)
    return total


def _unprompted(
    model: SemanticSam,
    features: ImageFeatures,
    batch: NestedBatch,
    masks: Tensor,
    *,
    words: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the loss of what is found without prompts: hearts, and the masks of queries that begin there."""
    maps = model.query_decoder.seed_maps(model.levels_of(features)[0])
    boxes = boxes_of(masks > 0.5)
    total = SEED_WEIGHT * heart_loss(maps, masks, boxes, batch)
    chosen = seeded(maps.detach(), masks, boxes, batch, extra=EXTRA_SEEDS)
    frame = model.frame_of(features)
    queries: Queries = model.query_decoder.of_seeds(chosen.boxes, chosen.is_part)
    looked = model.query_decoder.look(queries, model.levels_of(features), frame=frame)
    found = model.answers(features, looked[-1])
    image = torch.arange(len(masks), device=masks.device).repeat_interleave(chosen.truth.shape[1])
    weight = (chosen.truth >= 0).float().flatten()
    task = _Task(chosen.truth.clamp(min=0).flatten(), weight, torch.ones_like(weight), image)
    loss = _mask_loss(found, masks, task) + BOX_WEIGHT * _box_losses(looked, found, masks, task)
    loss = loss + WORD_WEIGHT * _word_loss(model, found, batch, task, words=words)
    wrong = (1 - weight) * batch.is_complete[image]  # an object that nobody annotated may be one
    loss = loss + IOU_WEIGHT * _mean(found.ious.float().flatten().abs(), wrong)
    return total + FOUND_WEIGHT * loss


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean, 0 where nothing counts."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


class SemanticTrainable(nn.Module):
    """A model in one call, so that one set of cast weights serves a whole graph."""

    def __init__(self, model: SemanticSam) -> None:
        super().__init__()
        self.model = model

    def forward(self, task: str, batch: NestedBatch, rng: np.random.Generator, is_many: bool) -> Tensor:
        """Return the loss of a batch; `task` is "nested"."""
        assert task == "nested"
        return nested_loss(self.model, batch, rng=rng, is_many=is_many)
