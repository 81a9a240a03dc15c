"""Tracking in the published order: what it keeps, gives and refuses. The numbers are compared in the goldens."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from napari_segany.core.errors import PromptError
from napari_segany.models.hiera import HieraConfig
from napari_segany.models.mask_decoder import DecoderConfig
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.promptable import ImageFeatures
from napari_segany.models.sam2 import Sam2, Sam2Config
from napari_segany.models.tracking import ABSENT, Tracking
from napari_segany.predict.recall import RecallRules
from napari_segany.predict.reference import ReferenceOptions, ReferenceTracker, fill_holes

CONFIG = Sam2Config(
    "small",
    HieraConfig(width=8, heads=1, stages=(1, 1, 2, 1), global_blocks=(3,), windows=(8, 4, 4, 2)),
    image_size=64,
    width=32,
    decoder=DecoderConfig(mlp_width=64, iou_width=32),
    memory=MemoryConfig(width=16, layers=2, mlp_width=64, frames=4, pointers=5),
)
N_FRAMES = 5


@pytest.fixture(scope="module")
def model() -> Sam2:
    torch.manual_seed(4)
    model = Sam2(CONFIG).eval().requires_grad_(False)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    return model


@pytest.fixture
def tracker(model: Sam2) -> ReferenceTracker:
    return tracker_of(model)


def tracker_of(model: Sam2, **options: bool) -> ReferenceTracker:
    @functools.cache
    def features(frame: int) -> ImageFeatures:
        generator = torch.Generator().manual_seed(frame)
        return model.encode_frame(torch.randn(1, 3, 64, 64, generator=generator))

    rules = RecallRules(frames=4, pointers=5)
    return ReferenceTracker(
        Tracking(model), features, n_frames=N_FRAMES, options=ReferenceOptions(rules, **options)
    )


def click(x: float, y: float, *, positive: bool = True) -> dict[str, Tensor]:
    return {"xy": torch.tensor([[[x, y]]]), "labels": torch.tensor([[int(positive)]])}


def frames_of(tracker: ReferenceTracker, **options: int | bool | None) -> list[int]:
    return [answer.frame for answer in tracker.propagate(**options)]


def test_frames_follow_from_the_first_prompt_or_from_where_one_says(tracker: ReferenceTracker) -> None:
    tracker.add_points(2, "a", **click(20, 30))
    assert frames_of(tracker) == [2, 3, 4]
    assert frames_of(tracker, start=2, most=1) == [2, 3]
    assert frames_of(tracker, start=2, is_reverse=True) == [2, 1, 0]
    assert frames_of(tracker, start=4, most=2, is_reverse=True) == [4, 3, 2]
    assert frames_of(tracker, start=0, is_reverse=True) == []


def test_objects_that_are_not_known_on_a_frame_are_absent_there(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", **click(20, 30))
    answer = tracker.add_mask(3, "b", mask=torch.ones(64, 64))
    assert answer.object_ids == ("a", "b")
    assert (answer.logits[0] == ABSENT).all()
    assert (answer.logits[1] > 0).all()


def test_an_object_can_come_later_and_does_not_change_the_others(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", **click(20, 30))
    before = {answer.frame: answer.logits for answer in tracker.propagate()}
    tracker.add_mask(1, "b", mask=torch.eye(64) > 0)
    for answer in tracker.propagate(start=1):
        assert len(answer.logits) == 2
        torch.testing.assert_close(answer.logits[:1], before[answer.frame])


def test_corrections_are_lost_as_published_unless_kept(model: Sam2) -> None:
    for keeps in (False, True):
        tracker = tracker_of(model, keeps_corrections=keeps)
        tracker.add_points(0, "a", **click(20, 30))
        before = {answer.frame: answer.logits for answer in tracker.propagate()}
        corrected = tracker.add_mask(2, "a", mask=torch.tril(torch.ones(64, 64)))
        after = {answer.frame: answer.logits for answer in tracker.propagate()}
        assert torch.equal(after[2], corrected.logits) == keeps
        assert torch.equal(after[2], before[2]) != keeps
        assert torch.equal(after[1], before[1]) != keeps  # a prompted frame ahead is remembered too


def test_cleared_prompts_count_as_passed(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", **click(20, 30))
    tracker.add_points(3, "a", **click(40, 30))
    assert len(list(tracker.propagate())) == N_FRAMES
    tracker.clear(3, "a")
    memory = tracker.kept(3, "a").memory
    assert memory is not None
    list(tracker.propagate())
    assert tracker.kept(3, "a").memory is not memory  # worked out again


def test_a_removed_object_is_gone(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", **click(20, 30))
    tracker.add_points(0, "b", **click(40, 30))
    (answer,) = tracker.remove("a")
    assert (answer.frame, answer.object_ids, len(answer.logits)) == (0, ("b",), 1)
    assert tracker.remove("b") == []


def test_exclusive_pixels_belong_to_the_highest_logit(model: Sam2) -> None:
    tracker = tracker_of(model, is_exclusive=True)
    logits = torch.stack((torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), 5.0)))
    shown = tracker.shown(logits, size=(8, 8))
    assert (shown[0] == -10).all()
    assert (shown[1] == 5).all()
    assert (tracker_of(model).shown(logits, size=(8, 8)) > 0).all()


def test_holes_are_small_parts_of_the_background() -> None:
    logits = torch.full((2, 1, 8, 8), 4.0)
    logits[0, 0, 1, 1] = logits[0, 0, 2, 2] = -3.0  # one part: corners touch
    logits[0, 0, 4:7, 4:7] = -3.0
    filled = fill_holes(logits, largest=2)
    assert filled[0, 0, 1, 1] == filled[0, 0, 2, 2] == pytest.approx(0.1)
    assert (filled[0, 0, 4:7, 4:7] == -3).all()
    assert torch.equal(filled[1], logits[1])
    assert torch.equal(fill_holes(logits, largest=1), logits)


def test_what_cannot_be_done_is_said(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", **click(20, 30))
    box = {"xy": torch.tensor([[[5.0, 5.0], [40.0, 40.0]]]), "labels": torch.tensor([[2, 3]])}
    with pytest.raises(PromptError, match="replaces=True"):
        tracker.add_points(0, "a", **box, replaces=False)
    tracker.clear(0, "a")
    with pytest.raises(PromptError, match="object 'a' has no prompt"):
        list(tracker.propagate())
