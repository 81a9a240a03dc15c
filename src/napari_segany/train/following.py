"""The loss of a batch of clips: prompts on some frames, following on the others, the memory and its use learnt.

Paper: Ravi et al. 2024, appendix D.2.2 ("Full training"). The image model is frozen here, so clips cost one encoding of
each frame without gradients, and windows of one clip are encoded together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.models.close_memory import Clicks, CloseRecollection
from napari_segany.models.close_tracking import CloseKept, CloseTracking, Seen
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.windows import Places
from napari_segany.predict.preprocess import normalise

from .clicks import coarse_mask, spoilt_mask
from .losses import ABSENT_WEIGHT, DICE_WEIGHT, OBJECT_WEIGHT, dice_loss, focal_loss, true_iou
from .simulate import CELL, PromptBatch, PromptMix, corrected, first_prompts

PRESENCE_WEIGHT = 1.0
IOU_WEIGHT = 0.5
FOCAL_WEIGHT = 5.0
CLICKED_WEIGHT = 1.5
HARD = 10.0
"""Logits of masks that are taken as they are."""

_SOFT = 8.0  # logits beyond this count little more: a lost object is no reason to doubt everything
_LOST, _LOST_SHARE = (
    0.3,
    0.1,
)  # objects whose last mask has less IoU than this cannot be found; what they count
_FIRST_MIX = PromptMix(click=0.75, box=0.2)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is simulated in one batch.

    Attributes
    ----------
    is_drawn
        Whether the first frame's masks are drawn, exactly or coarsely, and taken as they are; else they are clicked.
    corrected
        The frame on which a person corrects what was found; None for none.
    clicks
        How often, there and on the first frame.
    true_share
        Of remembered answers that are the truth instead, so that late frames are of use from the start.
    forget
        Of followed frames that are not told the last mask.
    odd_share
        Of first clicks of which any of the image model's three answers is taken, not the best by score.
    wrong_share
        Of corrected frames on which such an answer to another click is corrected: what is followed for a few frames
        is seldom as wrong as what is followed for fifty.
    spoilt_share
        Of followed masks that are spoilt, for the same reason, before they are remembered and followed further.
    """

    is_drawn: bool = False
    corrected: int | None = None
    clicks: int = 1
    true_share: float = 0.0
    forget: float = 0.0
    odd_share: float = 0.0
    wrong_share: float = 0.0
    spoilt_share: float = 0.0

    @classmethod
    def of(cls, rng: np.random.Generator, frames: int, *, spoilt_share: float) -> Lesson:
        """Return the lesson of one batch of training."""
        return cls(
            is_drawn=rng.random() < 0.3,
            corrected=int(rng.integers(1, frames)) if rng.random() < 0.6 else None,
            clicks=1 + int(rng.random() < 0.5) + int(rng.random() < 0.3),
            true_share=0.2,
            forget=0.1,
            odd_share=0.2,
            wrong_share=0.5,
            spoilt_share=spoilt_share,
        )


@dataclass(frozen=True, slots=True)
class FollowedWeights:
    """What counts how much in the loss: object pixels of 1 in all, and frames without the object against 1."""

    object: float = OBJECT_WEIGHT
    absent: float = ABSENT_WEIGHT


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """B clips of T windows: pixels (B, T, 3, S, S), masks (B, T, K, S, S), corners (B, T, 2), scales (B, 1)."""

    pixels: Tensor
    masks: Tensor
    corners: Tensor
    scales: Tensor

    def truth(self, t: int) -> Tensor:
        """Return the (B * K, 1, S / 2, S / 2) chances of frame `t`."""
        return F.avg_pool2d(self.masks[:, t].float(), CELL).flatten(0, 1)[:, None]

    def places(self, t: int) -> Places:
        """Return the (B * K) places of frame `t`."""
        count = self.masks.shape[2]
        return Places(
            self.corners[:, t].repeat_interleave(count, 0), self.scales[:, 0].repeat_interleave(count, 0)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What the decoder said on frame `t`, before absent objects were emptied, and how much each (N,) object counts."""

    t: int
    output: MaskOutput
    truth: Tensor
    share: Tensor
    is_clicked: bool


def clip_loss(
    tracking: CloseTracking,
    batch: ClipBatch,
    *,
    rng: np.random.Generator,
    lesson: Lesson,
    weights: FollowedWeights = FollowedWeights(),
) -> Tensor:
    """Return the mean loss over the followed and the clicked frames of a batch."""
    total, weight = batch.scales.new_zeros(()), 0.0
    for step in _Course(tracking, batch, lesson, rng).steps():
        own = CLICKED_WEIGHT if step.is_clicked else 1.0
        total = total + own * followed_loss(step.output, step.truth, share=step.share, weights=weights)
        weight += own
    return total / weight


class _Course:
    """One batch of clips, followed as `predict` does: memories of hard masks, pointers of prompted frames alone."""

    def __init__(
        self, tracking: CloseTracking, batch: ClipBatch, lesson: Lesson, rng: np.random.Generator
    ) -> None:
        self.tracking, self.batch, self.lesson, self.rng = tracking, batch, lesson, rng
        self.frames, self.count = batch.masks.shape[1:3]
        seeing, own = (next(p.parameters()).dtype for p in (tracking.model.image_encoder, tracking.memory))
        with torch.no_grad():
            pixels = normalise(batch.pixels.flatten(0, 1)).to(seeing, memory_format=torch.channels_last)
            self.features = tracking.model.encode(pixels).to(pixels.device, own)
        first = batch.masks[:, 0].flatten(2)
        twice = (first[:, :1] == first[:, 1:]).all(2).any(1) if self.count > 1 else first.new_ones(len(first))
        self.is_apart = ~twice.bool()  # (B,) clips whose objects are not one and the same
        self.kept: dict[int, CloseKept] = {}
        self.prompted: set[int] = set()

    def steps(self) -> Iterator[Step]:
        """Yield what is said on the frames, one after the other."""
        answer = None  # (N, 1, h, w) hard logits of the last frame
        for t in range(self.frames):
            seen = Seen(
                _of_frame(self.features, t, frames=self.frames, count=self.count), self.batch.places(t)
            )
            truth = self.batch.truth(t)
            if answer is None:
                answer = yield from self._first(seen, truth)
            else:
                answer = yield from self._followed(seen, truth, t=t, last=answer)
            if t not in self.prompted:
                answer = _spoilt(answer, self.rng, share=self.lesson.spoilt_share)
            shown = self.tracking.drawn(seen, answer) if t in self.prompted else self.tracking.bare(answer)
            self.kept[t] = self.tracking.remember(seen, shown)

    def _first(self, seen: Seen, truth: Tensor) -> Generator[Step, None, Tensor]:
        """Prompt all objects on the first frame: drawn masks, or clicks that the image model answers first."""
        self.prompted.add(0)
        if self.lesson.is_drawn:
            return _drawn(truth, self.rng, coarse=0.5)
        binary = _binary(truth)
        prompts = first_prompts(binary, self.rng, mix=_FIRST_MIX).to(truth.device)
        logits = self._on_image(seen, prompts, odd_share=self.lesson.odd_share)
        found = true_iou(logits, truth)[:, 0]
        share = torch.where(found < _LOST, _LOST_SHARE, 1.0)
        return (
            yield from self._clicked(
                seen, truth, t=0, told=None, clicks=Clicks(prompts.xy, prompts.labels),
                answer=_hard(logits), share=share, turns=self.lesson.clicks,
            )
        )  # fmt: skip

    @torch.no_grad()
    def _on_image(self, seen: Seen, prompts: PromptBatch, *, odd_share: float) -> Tensor:
        """Return the (N, 1, h, w) logits that the image model answers, `odd_share` of them not its best."""
        image = self.tracking.model.decode_all(seen.features, prompts.xy, prompts.labels, masks=prompts.masks)
        best = image.ious[:, 1:].argmax(1) + 1
        is_odd = torch.from_numpy(self.rng.random(len(best)) < odd_share).to(best.device)
        best = torch.where(is_odd, torch.from_numpy(self.rng.integers(1, 4, len(best))).to(best.device), best)
        chosen = torch.where(prompts.is_ambiguous, best, torch.zeros_like(best))
        return image.logits[torch.arange(len(chosen)), chosen][:, None].float()

    def _followed(self, seen: Seen, truth: Tensor, *, t: int, last: Tensor) -> Generator[Step, None, Tensor]:
        """Follow all objects to a frame, and correct what was found if the lesson says so."""
        told = self._told(seen, t)
        before = self.batch.places(t - 1)
        earlier = self.tracking.earlier(self.tracking.bare(last), source=before, target=seen.places)
        is_told = torch.from_numpy(self.rng.random(len(earlier)) >= self.lesson.forget).to(earlier.device)
        earlier = earlier * is_told[:, None, None, None]
        output = self.tracking.traced(seen, told, earlier=earlier)
        was_there = (self.batch.truth(t - 1) > 0.5).flatten(1).any(1)
        found = true_iou(last, self.batch.truth(t - 1))[:, 0]
        share = torch.where(was_there & (found < _LOST), _LOST_SHARE, 1.0)
        yield Step(t, output, truth, share, is_clicked=False)
        answer = self._resolved(self.tracking.judged(output).logits)
        if t == self.lesson.corrected:
            self.prompted.add(t)
            if self.rng.random() < self.lesson.wrong_share:
                answer = self._wrong(seen, truth)
            none = Clicks.none(len(truth), like=truth)
            clicks = self._corrections(none, truth, answer, shows=self.rng.random() < 0.5)
            answer = yield from self._clicked(
                seen, truth, t=t, told=told, clicks=clicks, answer=answer,
                share=torch.ones_like(share), turns=self.lesson.clicks,
            )  # fmt: skip
        elif self.rng.random() < self.lesson.true_share:
            answer = _drawn(truth, self.rng, coarse=0.5)
        return answer

    def _clicked(
        self, seen: Seen, truth: Tensor, *, t: int, told: CloseRecollection | None, clicks: Clicks,
        answer: Tensor, share: Tensor, turns: int,
    ) -> Generator[Step, None, Tensor]:  # fmt: skip
        """Answer clicks on top of an answer, and then one more click each on what is still wrong."""
        for turn in range(turns):
            if turn:
                clicks = self._corrections(clicks, truth, answer)
            output = self.tracking.asked(seen, told, earlier=answer, clicks=clicks)
            yield Step(t, output, truth, share, is_clicked=True)
            answer = self._resolved(self.tracking.judged(output, clicks=clicks).logits)
        return answer

    def _wrong(self, seen: Seen, truth: Tensor) -> Tensor:
        """Return hard logits of wrong answers: the other objects' masks, or what the image model says to some click."""
        if self.rng.random() < 0.35:
            return _hard(truth.unflatten(0, (-1, self.count)).roll(1, 1).flatten(0, 1) - 0.5)
        prompts = first_prompts(_binary(truth), self.rng, mix=PromptMix(click=1.0)).to(truth.device)
        return _hard(self._on_image(seen, prompts, odd_share=0.8))

    def _corrections(self, clicks: Clicks, truth: Tensor, answer: Tensor, *, shows: bool = False) -> Clicks:
        """Return clicks with one more each."""
        prompts = PromptBatch(clicks.xy, clicks.labels, answer, clicks.labels[:, 0] > 1)
        more = corrected(prompts, _binary(truth, least=False), logits=answer, rng=self.rng, shows=shows)
        return Clicks(more.xy, more.labels)

    def _told(self, seen: Seen, t: int) -> CloseRecollection:
        """Return what is recalled on a frame."""
        prompted = sorted(self.prompted)
        passed = [f for f in range(t - 1, max(-1, t - self.tracking.memory.n_ages), -1) if f not in prompted]
        kept = [(0, self.kept[f]) for f in prompted] + [(t - f, self.kept[f]) for f in passed]
        return self.tracking.recollection(
            seen.places, kept, [(t - f, self.kept[f].pointers) for f in prompted]
        )

    @torch.no_grad()
    def _resolved(self, logits: Tensor) -> Tensor:
        """Return hard logits; a pixel that several objects of a clip want goes to the surest."""
        each = logits.unflatten(0, (-1, self.count))
        is_best = (each >= each.amax(1, keepdim=True)) | ~self.is_apart[:, None, None, None, None]
        return _hard(torch.where(is_best, each, -HARD).flatten(0, 1))


@torch.inference_mode()
def follow_quality(
    tracking: CloseTracking, clips: list[tuple[Tensor, Tensor, Tensor, Tensor]], *, batch: int = 8
) -> dict[str, float]:
    """Return the mean IoU of clicked, of mended, of followed and of last frames, and how often presence is right.

    One click on the first frame, one correction in the middle.
    """
    rng = np.random.default_rng(0)
    first: list[float] = []
    mended: list[float] = []
    ious: list[tuple[bool, float]] = []
    right: list[bool] = []
    for start in range(0, len(clips), batch):
        parts = ClipBatch(*(torch.stack(x) for x in zip(*clips[start : start + batch], strict=True)))
        frames = parts.masks.shape[1]
        for step in _Course(tracking, parts, Lesson(corrected=frames // 2), rng).steps():
            answer = tracking.judged(step.output)
            is_there = (step.truth > 0.5).flatten(1).any(1)
            found = true_iou(answer.logits, step.truth)[:, 0]
            if step.is_clicked:
                (mended if step.t else first).extend(found[is_there].tolist())
                continue
            ious += [(step.t == frames - 1, float(iou)) for iou in found[is_there]]
            right += (answer.is_present[:, 0] == is_there).tolist()
    mean = float(np.mean([iou for _, iou in ious]))
    last = float(np.mean([iou for is_last, iou in ious if is_last]))
    parts_of = {"first": float(np.mean(first)), "mended": float(np.mean(mended)), "iou": mean, "last": last}
    parts_of["presence"] = float(np.mean(right))
    score = float(np.mean(list(parts_of.values())))
    return {name: round(value, 4) for name, value in (parts_of | {"score": score}).items()}


def followed_loss(
    output: MaskOutput, truth: Tensor, *, share: Tensor, weights: FollowedWeights = FollowedWeights()
) -> Tensor:
    """Return the loss of one followed frame: masks (empty ones where the object is not), their scores, presence.

    Parameters
    ----------
    output
        With one mask; logits (N, 1, h, w), object scores (N, 1).
    truth : (N, 1, h, w), 0 to 1
    share : (N,)
        How much each object counts.
    """
    assert output.object_scores is not None
    is_there = (truth > 0.5).flatten(1).any(1).float()
    logits = _SOFT * torch.tanh(output.logits.float() / _SOFT)
    overlap = DICE_WEIGHT * dice_loss(logits, truth) * is_there[:, None]
    masks = (
        FOCAL_WEIGHT * focal_loss(logits, truth, alpha=weights.object) + overlap
    )  # (N, 1); of absent objects, nothing is to be found
    scores = (output.ious.float() - true_iou(logits, truth)).abs() * is_there[:, None]
    presence = F.binary_cross_entropy_with_logits(
        output.object_scores[:, 0].float(), is_there, reduction="none"
    )
    rarity = torch.where(is_there > 0, 1.0, weights.absent)
    each = (masks + IOU_WEIGHT * scores)[:, 0] + PRESENCE_WEIGHT * rarity * presence
    return (each * share).sum() / share.sum().clamp(min=1)


def _drawn(truth: Tensor, rng: np.random.Generator, *, coarse: float) -> Tensor:
    """Return true masks as hard logits, `coarse` of them as a hasty hand would give them."""
    binary = _binary(truth, least=False)
    drawn = [coarse_mask(m, rng) if m.any() and rng.random() < coarse else m for m in binary]
    return torch.from_numpy(np.stack(drawn)).to(truth)[:, None] * (2 * HARD) - HARD


def _spoilt(logits: Tensor, rng: np.random.Generator, *, share: float) -> Tensor:
    """Return hard logits, `share` of the masks as what is followed for long may become."""
    masks = (logits[:, 0] > 0).cpu().numpy()
    spoilt = [spoilt_mask(mask, rng) if rng.random() < share else mask for mask in masks]
    return torch.from_numpy(np.stack(spoilt)).to(logits)[:, None] * (2 * HARD) - HARD


def _hard(logits: Tensor) -> Tensor:
    """Return logits of masks that are taken as they are."""
    return (logits > 0).float() * (2 * HARD) - HARD


def _binary(truth: Tensor, *, least: bool = True) -> NDArray[np.bool_]:
    """Return (N, h, w) masks; with `least`, of at least one cell."""
    binary: NDArray[np.bool_] = (truth[:, 0] > 0.5).cpu().numpy()
    if least:
        binary[~binary.any((1, 2)), 0, 0] = True
    return binary


def _of_frame(features: ImageFeatures, frame: int, *, frames: int, count: int) -> ImageFeatures:
    """Return the features of one frame of all clips, (B * T) rows in, one row an object out."""

    def pick(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, frames))[:, frame].repeat_interleave(count, 0)

    return ImageFeatures(pick(features.embedding), tuple(pick(level) for level in features.fine))
