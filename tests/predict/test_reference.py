"""Tracking in the published order: what it keeps, gives and refuses. The numbers are compared in the goldens."""

from __future__ import annotations

import functools

import pytest
import torch

from napari_segany.core.errors import PromptError
from napari_segany.models.hiera import HieraConfig
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import DecoderConfig
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.sam2 import Sam2, Sam2Config
from napari_segany.models.tracking import ABSENT, Tracking
from napari_segany.predict.following import Clicks, ReferenceOptions, Stack, fill_holes
from napari_segany.predict.recall import RecallRules
from napari_segany.predict.reference import ReferenceTracker
from napari_segany.predict.reference_batched import BatchedReferenceTracker

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
    return ReferenceTracker(stack_of(model))


def stack_of(model: Sam2, *, frames: int = 4, **options: bool) -> Stack:
    @functools.cache
    def features(frame: int) -> ImageFeatures:
        generator = torch.Generator().manual_seed(frame)
        return model.encode_frame(torch.randn(1, 3, 64, 64, generator=generator))

    rules = RecallRules(frames=frames, pointers=5)
    return Stack(Tracking(model), features, n_frames=N_FRAMES, options=ReferenceOptions(rules, **options))


def click(x: float, y: float) -> Clicks:
    return torch.tensor([[[x, y]]]), torch.tensor([[1]])


def frames_of(tracker: ReferenceTracker | BatchedReferenceTracker, **options: int | bool | None) -> list[int]:
    return [answer.frame for answer in tracker.propagate(**options)]


def test_frames_follow_from_the_first_prompt_or_from_where_one_says(tracker: ReferenceTracker) -> None:
    tracker.add_points(2, "a", clicks=click(20, 30))
    assert frames_of(tracker) == [2, 3, 4]
    assert frames_of(tracker, start=2, most=1) == [2, 3]
    assert frames_of(tracker, start=2, is_reverse=True) == [2, 1, 0]
    assert frames_of(tracker, start=4, most=2, is_reverse=True) == [4, 3, 2]
    assert frames_of(tracker, start=0, is_reverse=True) == []


def test_objects_that_are_not_known_on_a_frame_are_absent_there(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", clicks=click(20, 30))
    answer = tracker.add_mask(3, "b", mask=torch.ones(64, 64))
    assert answer.object_ids == ("a", "b")
    assert (answer.logits[0] == ABSENT).all()
    assert (answer.logits[1] > 0).all()


def test_an_object_can_come_later_and_does_not_change_the_others(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", clicks=click(20, 30))
    before = {answer.frame: answer.logits for answer in tracker.propagate()}
    tracker.add_mask(1, "b", mask=torch.eye(64) > 0)
    for answer in tracker.propagate(start=1):
        assert len(answer.logits) == 2
        torch.testing.assert_close(answer.logits[:1], before[answer.frame])


def test_corrections_are_lost_as_published_unless_kept(model: Sam2) -> None:
    for keeps in (False, True):
        tracker = ReferenceTracker(stack_of(model, keeps_corrections=keeps))
        tracker.add_points(0, "a", clicks=click(20, 30))
        before = {answer.frame: answer.logits for answer in tracker.propagate()}
        corrected = tracker.add_mask(2, "a", mask=torch.tril(torch.ones(64, 64)))
        after = {answer.frame: answer.logits for answer in tracker.propagate()}
        assert torch.equal(after[2], corrected.logits) == keeps
        assert torch.equal(after[2], before[2]) != keeps
        assert torch.equal(after[1], before[1]) != keeps  # a prompted frame ahead is remembered too


def test_cleared_prompts_count_as_passed(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", clicks=click(20, 30))
    tracker.add_points(3, "a", clicks=click(40, 30))
    assert len(list(tracker.propagate())) == N_FRAMES
    tracker.clear(3, "a")
    memory = tracker.kept(3, "a").memory
    assert memory is not None
    list(tracker.propagate())
    assert tracker.kept(3, "a").memory is not memory  # worked out again


def test_a_removed_object_is_gone(tracker: ReferenceTracker) -> None:
    tracker.add_points(0, "a", clicks=click(20, 30))
    tracker.add_points(0, "b", clicks=click(40, 30))
    (answer,) = tracker.remove("a")
    assert (answer.frame, answer.object_ids, len(answer.logits)) == (0, ("b",), 1)
    assert tracker.remove("b") == []


def test_exclusive_pixels_belong_to_the_highest_logit(model: Sam2) -> None:
    logits = torch.stack((torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), 5.0)))
    shown = stack_of(model, is_exclusive=True).shown(logits, size=(8, 8))
    assert (shown[0] == -10).all()
    assert (shown[1] == 5).all()
    assert (stack_of(model).shown(logits, size=(8, 8)) > 0).all()


def test_one_object_is_followed_alike_in_both_orders(model: Sam2, tracker: ReferenceTracker) -> None:
    batched = BatchedReferenceTracker(stack_of(model))
    for one in (tracker, batched):
        one.add_points(1, "a", clicks=click(20, 30))
    for ours, theirs in zip(batched.propagate(), tracker.propagate(), strict=True):
        assert ours.frame == theirs.frame
        torch.testing.assert_close(ours.logits, theirs.logits)


def test_batches_count_objects_without_a_prompt_as_absent(model: Sam2) -> None:
    tracker = BatchedReferenceTracker(stack_of(model))
    tracker.add_points(0, "a", clicks=click(20, 30))
    tracker.add_mask(2, "b", mask=torch.ones(64, 64))
    assert frames_of(tracker) == [0, 1, 2, 3, 4]
    first = tracker.kept(0).answer
    assert (first.logits[1] == ABSENT).all()
    assert float(first.object_scores[1]) == 10.0
    assert torch.equal(first.pointers[1:], model.no_obj_ptr)
    with pytest.raises(PromptError, match="object 'c' is new"):
        tracker.add_points(1, "c", clicks=click(20, 30))


def test_batches_keep_corrections(model: Sam2) -> None:
    tracker = BatchedReferenceTracker(stack_of(model))
    tracker.add_points(0, "a", clicks=click(20, 30))
    before = {answer.frame: answer.logits for answer in tracker.propagate()}
    corrected = tracker.add_mask(2, "a", mask=torch.tril(torch.ones(64, 64)))
    after = {answer.frame: answer.logits for answer in tracker.propagate()}
    assert torch.equal(after[2], corrected.logits)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[3], before[3])


def test_a_prompt_makes_its_surroundings_forgotten(model: Sam2) -> None:
    tracker = BatchedReferenceTracker(stack_of(model, frames=1, forgets_nearby=True, keeps_corrections=True))
    tracker.add_points(0, "a", clicks=click(20, 30))
    list(tracker.propagate())
    memories = {frame: tracker.kept(frame) for frame in range(N_FRAMES)}
    tracker.add_points(3, "a", clicks=click(40, 30))
    next(tracker.propagate())  # frame 0 is prompted too: frame 1 is near it
    assert tracker.kept(0) is memories[0]
    for frame in (1, 2, 4):
        with pytest.raises(KeyError):
            tracker.kept(frame)


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
    tracker.add_points(0, "a", clicks=click(20, 30))
    box = torch.tensor([[[5.0, 5.0], [40.0, 40.0]]]), torch.tensor([[2, 3]])
    with pytest.raises(PromptError, match="replaces=True"):
        tracker.add_points(0, "a", clicks=box, replaces=False)
    tracker.clear(0, "a")
    with pytest.raises(PromptError, match="object 'a' has no prompt"):
        list(tracker.propagate())
