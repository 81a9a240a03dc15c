"""The loss of a batch of clips: prompts on some frames, following on the others, the memory and its use learnt.

Paper: Ravi et al. 2024, appendix D.2.2 ("Full training"). The image model is frozen here, so clips cost one encoding of
each frame without gradients, and windows of one clip are encoded together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.close_tracking import CloseKept, CloseTracking, Seen
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.promptable import ImageFeatures
from napari_segany.models.tracking import TrackedFrame
from napari_segany.models.windows import Places
from napari_segany.predict.preprocess import normalise

from .clicks import coarse_mask
from .losses import DICE_WEIGHT, dice_loss, focal_loss, true_iou
from .simulate import CELL

PRESENCE_WEIGHT = 1.0
IOU_WEIGHT = 0.5
ABSENT_WEIGHT = 4.0
FOCAL_WEIGHT = 5.0
_SOFT = 8.0  # logits beyond this count little more: a lost object is no reason to doubt everything
_LOST, _LOST_SHARE = (
    0.3,
    0.1,
)  # objects whose last mask has less IoU than this cannot be found; what they count
_TRUE_SHARE = (
    0.25  # of remembered answers that are the truth instead, so that late frames are of use from the start
)
_COARSE_SHARE = 0.5  # of first masks that are drawn coarsely
_SECOND_SHARE = 0.3  # of batches that get a second prompted frame
_FORGET_SHARE = 0.15  # of followed frames that are not told the last mask
_POINTERS = 6


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


def clip_loss(tracking: CloseTracking, batch: ClipBatch, *, rng: np.random.Generator) -> Tensor:
    """Return the mean loss over the followed frames of a batch."""
    frames = batch.masks.shape[1]
    prompted = {0} | ({int(rng.integers(2, frames))} if rng.random() < _SECOND_SHARE else set())
    losses, share = [], torch.ones_like(batch.truth(0)[:, 0, 0, 0])
    for t, answer, output in _follow(
        tracking, batch, prompted, rng=rng, forget=_FORGET_SHARE, true_share=_TRUE_SHARE
    ):
        losses.append(followed_loss(output, batch.truth(t), share=share))
        found = true_iou(answer.logits, batch.truth(t))[:, 0]
        is_there = (batch.truth(t) > 0.5).flatten(1).any(1)
        share = torch.where(is_there & (found < _LOST), _LOST_SHARE, 1.0)
    return torch.stack(losses).mean()


def _follow(
    tracking: CloseTracking,
    batch: ClipBatch,
    prompted: set[int],
    *,
    rng: np.random.Generator,
    forget: float = 0.0,
    true_share: float = 0.0,
) -> Iterator[tuple[int, TrackedFrame, MaskOutput]]:
    """Yield the followed frames of a batch: answers, and what the decoder said before absent objects were emptied."""
    frames, count = batch.masks.shape[1:3]
    seeing, own = (next(part.parameters()).dtype for part in (tracking.model.image_encoder, tracking.memory))
    with torch.no_grad():
        pixels = normalise(batch.pixels.flatten(0, 1)).to(seeing, memory_format=torch.channels_last)
        features = tracking.model.encode(pixels).to(pixels.device, own)
    bank: dict[int, tuple[CloseKept, TrackedFrame]] = {}
    for t in range(frames):
        seen = Seen(_of_frame(features, t, frames=frames, count=count), batch.places(t))
        if t in prompted:
            answer = _drawn(tracking, seen, batch.truth(t), rng=rng, coarse=_COARSE_SHARE)
        else:
            output = _asked(tracking, seen, bank, t, prompted, forget=forget, rng=rng)
            answer = tracking.judged(output)
            yield t, answer, output
            if rng.random() < true_share:
                answer = _drawn(tracking, seen, batch.truth(t), rng=rng, coarse=0.5)
        bank[t] = tracking.remember(seen, answer), answer


@torch.inference_mode()
def follow_quality(
    tracking: CloseTracking, clips: list[tuple[Tensor, Tensor, Tensor, Tensor]], *, batch: int = 8
) -> dict[str, float]:
    """Return the mean IoU over followed object-frames, the same at the last frame, and the accuracy of presence."""
    rng = np.random.default_rng(0)
    ious: list[tuple[int, float]] = []
    right: list[bool] = []
    for start in range(0, len(clips), batch):
        parts = ClipBatch(*(torch.stack(x) for x in zip(*clips[start : start + batch], strict=True)))
        for t, answer, _ in _follow(tracking, parts, {0}, rng=rng):
            truth = parts.truth(t)
            is_there = (truth > 0.5).flatten(1).any(1)
            found = true_iou(answer.logits, truth)[:, 0]
            ious += [(t, float(iou)) for iou in found[is_there]]
            right += (answer.is_present[:, 0] == is_there).tolist()
    mean = float(np.mean([iou for _, iou in ious]))
    last = float(np.mean([iou for t, iou in ious if t == clips[0][0].shape[0] - 1]))
    presence = float(np.mean(right))
    return {
        "iou": round(mean, 4),
        "last": round(last, 4),
        "presence": round(presence, 4),
        "score": round((mean + last + presence) / 3, 4),
    }


def followed_loss(output: MaskOutput, truth: Tensor, *, share: Tensor) -> Tensor:
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
        FOCAL_WEIGHT * focal_loss(logits, truth) + overlap
    )  # (N, 1); of absent objects, nothing is to be found
    scores = (output.ious.float() - true_iou(logits, truth)).abs() * is_there[:, None]
    presence = F.binary_cross_entropy_with_logits(
        output.object_scores[:, 0].float(), is_there, reduction="none"
    )
    rarity = torch.where(is_there > 0, 1.0, ABSENT_WEIGHT)  # most objects are there in most frames
    each = (masks + IOU_WEIGHT * scores)[:, 0] + PRESENCE_WEIGHT * rarity * presence
    return (each * share).sum() / share.sum().clamp(min=1)


def _drawn(
    tracking: CloseTracking, seen: Seen, truth: Tensor, *, rng: np.random.Generator, coarse: float
) -> TrackedFrame:
    """Return true masks as answers, `coarse` of them as a hasty hand or a first prompt would give them."""
    binary = (truth[:, 0] > 0.5).cpu().numpy()
    drawn = [coarse_mask(m, rng) if m.any() and rng.random() < coarse else m for m in binary]
    logits = torch.from_numpy(np.stack(drawn)).to(truth)[:, None] * 20 - 10
    return tracking.drawn(seen, logits)


def _asked(
    tracking: CloseTracking,
    seen: Seen,
    bank: dict[int, tuple[CloseKept, TrackedFrame]],
    frame: int,
    prompted: set[int],
    *,
    forget: float,
    rng: np.random.Generator,
) -> MaskOutput:
    """Return what the decoder says to a frame without a prompt."""
    told_frames = sorted(t for t in prompted if t < frame)
    passed = [t for t in range(frame - 1, max(-1, frame - tracking.memory.n_ages), -1) if t not in prompted]
    kept = [(0, bank[t][0]) for t in told_frames] + [(frame - t, bank[t][0]) for t in passed]
    pointers = [
        (frame - t, k.pointers) for t, (k, _) in bank.items() if frame - t <= _POINTERS or t in prompted
    ]
    told = tracking.recollection(seen.places, kept, pointers)
    last, answer = bank[frame - 1]
    earlier = tracking.earlier(answer, source=last.places, target=seen.places).detach()
    is_told = torch.from_numpy(rng.random(len(earlier)) >= forget).to(earlier.device)
    return tracking.asked(seen, told, earlier=earlier * is_told[:, None, None, None])


def _of_frame(features: ImageFeatures, frame: int, *, frames: int, count: int) -> ImageFeatures:
    """Return the features of one frame of all clips, (B * T) rows in, one row an object out."""

    def pick(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, frames))[:, frame].repeat_interleave(count, 0)

    return ImageFeatures(pick(features.embedding), tuple(pick(level) for level in features.fine))
