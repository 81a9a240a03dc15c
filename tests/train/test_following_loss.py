"""What is learnt from clips: presence, masks where the object is, and little from objects that are lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.contracts.shrink import shrunken

from napari_segany.models.close_tracking import CloseTracking
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.sam2 import SAM2, Sam2
from napari_segany.train.following import (
    ClipBatch,
    FollowedWeights,
    Lesson,
    _Course,
    clip_loss,
    follow_quality,
    followed_loss,
)

TRUTH = torch.zeros(2, 1, 16, 16)
TRUTH[0, :, 4:10, 4:10] = 1  # the second object is absent


def output(logits: torch.Tensor, *, scores: tuple[float, float] = (3.0, -3.0)) -> MaskOutput:
    return MaskOutput(logits, torch.ones(2, 1), torch.tensor(scores)[:, None], torch.zeros(2, 1, 4))


def loss(logits: torch.Tensor, *, scores: tuple[float, float] = (3.0, -3.0), share: float = 1.0) -> float:
    return float(followed_loss(output(logits, scores=scores), TRUTH, share=torch.tensor([share, 1.0])))


def test_right_answers_cost_least() -> None:
    right = TRUTH * 16 - 8
    assert loss(right) < loss(-right) / 5
    assert loss(right) < loss(right, scores=(-3.0, -3.0))  # said to be absent
    assert loss(right) < loss(right, scores=(3.0, 3.0))  # said to be present
    hallucinated = right.clone()
    hallucinated[1] = right[0]
    assert loss(right) < loss(hallucinated)


def test_lost_objects_count_little_and_without_bounds_nothing_grows() -> None:
    lost = TRUTH * 16 - 8
    lost[0] = -lost[0]
    assert loss(lost, share=0.1) < 0.6 * loss(lost)
    assert loss(100 * lost) == pytest.approx(loss(8 * lost), rel=0.05)


def test_weights_say_which_errors_count() -> None:
    def said(scores: tuple[float, float], weights: FollowedWeights) -> float:
        answer = output(TRUTH * 16 - 8, scores=scores)
        return float(followed_loss(answer, TRUTH, share=torch.ones(2), weights=weights))

    often, seldom = FollowedWeights(absent=4.0), FollowedWeights(absent=2.0)
    overlooked, invented = (-3.0, -3.0), (3.0, 3.0)
    assert said(overlooked, seldom) == pytest.approx(said(overlooked, often), abs=0.2)  # the second is right
    assert said(invented, often) > said(invented, seldom) + 2  # half of 2 * log(1 + e^3)
    wide, narrow = TRUTH * 16 - 8, TRUTH * 16 - 8
    wide[0, :, 3, 4:10], narrow[0, :, 4, 4:10] = 2, -2
    dearer = []
    for share in (0.9, 0.5, 0.1):
        costs = [
            followed_loss(output(x), TRUTH, share=torch.ones(2), weights=FollowedWeights(object=share))
            for x in (wide, narrow)
        ]
        dearer.append(float(costs[0] - costs[1]))
    assert dearer == sorted(dearer)  # what lies too far outside, the less object pixels weigh


def clips(count: int) -> list[tuple[torch.Tensor, ...]]:
    """A square that goes right by four pixels a frame, in windows at rest."""
    made = []
    for index in range(count):
        masks = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
        for t in range(3):
            masks[t, 0, 20:40, 10 + 4 * t + index : 30 + 4 * t + index] = True
        pixels = masks.float().expand(-1, 3, -1, -1) * 0.8 + 0.1
        made.append((pixels, masks, torch.zeros(3, 2), torch.ones(1)))
    return made


def tracking() -> CloseTracking:
    torch.manual_seed(0)
    return CloseTracking(Sam2(shrunken(SAM2["sam2-nano"])).eval())


@pytest.mark.parametrize(
    "lesson",
    [Lesson(is_drawn=True), Lesson(), Lesson(corrected=1, clicks=2), Lesson(corrected=2, true_share=1.0)],
    ids=["drawn", "clicked", "corrected", "told the truth"],
)
def test_steps_lower_the_loss_and_only_the_memory_moves(lesson: Lesson) -> None:
    follower = tracking()
    for name, parameter in follower.model.named_parameters():
        parameter.requires_grad = name.startswith("memory.")
    before = {k: v.clone() for k, v in follower.model.state_dict().items()}
    batch = ClipBatch(*(torch.stack(x) for x in zip(*clips(2), strict=True)))
    optimiser = torch.optim.Adam([p for p in follower.model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        value = clip_loss(follower, batch, rng=np.random.default_rng(0), lesson=lesson)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * max(losses)  # it rises where lost objects are found, which count in full then
    for name, value in follower.model.state_dict().items():
        if not name.startswith("memory."):
            assert torch.equal(value, before[name]), name


def test_spoilt_masks_are_what_the_next_frames_follow() -> None:
    batch = ClipBatch(*(torch.stack(x) for x in zip(*clips(2), strict=True)))
    follower = tracking()
    answers = []
    for share in (0.0, 1.0):
        course = _Course(follower, batch, Lesson(is_drawn=True, spoilt_share=share), np.random.default_rng(0))
        with torch.no_grad():
            answers.append({step.t: step.output.logits for step in course.steps()})
    plain, spoilt = answers
    assert torch.equal(plain[1], spoilt[1])  # the frame after the drawn one has heard of nothing spoilt
    assert not torch.equal(plain[2], spoilt[2])


def test_quality_is_a_share_of_what_is_right() -> None:
    quality = follow_quality(tracking(), clips(3), batch=2)
    assert set(quality) == {"first", "mended", "iou", "last", "presence", "score"}
    assert all(0 <= value <= 1 for value in quality.values())


def test_a_pixel_belongs_to_one_of_two_objects_but_not_where_they_are_the_same() -> None:
    masks = torch.zeros(2, 1, 2, 32, 32, dtype=torch.bool)
    masks[:, :, :, 8:24, 8:24] = True
    masks[0, 0, 1, 16:24] = False  # the objects of the first clip differ
    batch = ClipBatch(torch.zeros(2, 1, 3, 32, 32), masks, torch.zeros(2, 1, 2), torch.ones(2, 1))
    course = _Course(tracking(), batch, Lesson(), np.random.default_rng(0))
    logits = torch.full((4, 1, 16, 16), 1.0)
    logits[1] = logits[3] = 2.0
    found = course._resolved(logits) > 0
    assert [bool(one.any()) for one in found] == [False, True, True, True]


def test_windows_of_all_objects_of_a_clip_lie_alike() -> None:
    batch = ClipBatch(
        torch.zeros(2, 3, 3, 64, 64), torch.zeros(2, 3, 2, 64, 64, dtype=torch.bool),
        torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[1.0], [2.0]]),
    )  # fmt: skip
    assert batch.places(1).corner.tolist() == [[2, 3], [2, 3], [8, 9], [8, 9]]
    assert batch.places(1).scale.tolist() == [1, 1, 2, 2]
    assert replace(batch).truth(0).shape == (4, 1, 32, 32)
