"""Prompts in windows, with small random models: what is asked of them, in which order, not how well they answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.contracts.shrink import shrunken

from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, MaskPrediction, ModelCard, Points, Prompt
from napari_segany.models.close_memory import Clicks, CloseMemoryConfig, CloseRecollection
from napari_segany.models.close_tracking import CloseTracking, Seen
from napari_segany.models.sam2 import SAM2, Sam2
from napari_segany.models.tracking import TrackedFrame
from napari_segany.predict.features import Features
from napari_segany.predict.follower import Ask, resolved
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import Model, _prepare
from napari_segany.predict.precision import place
from napari_segany.predict.video import VideoPredictor
from napari_segany.predict.window_follower import APPEARING, SIDE, WindowFollower, _laid
from napari_segany.train.movies import render_clip

SHAPE = (96, 112)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(3)
    config = replace(shrunken(SAM2["sam2-nano"]), memory=CloseMemoryConfig(width=16, layers=1, mlp_width=32))
    placement = place("cpu", "float32")
    return Model(ModelCard("sam2-nano", "0" * 64), _prepare(Sam2(config).eval(), placement), placement)


@pytest.fixture(scope="module")
def movie() -> np.ndarray:
    return render_clip(1, kind="nuclei", frames=6, size=SHAPE).images


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """What the memory's decoder is asked of clicks: how many, pixels of the earlier mask, whether on memories."""
    asked: list[tuple[int, int, bool]] = []
    original = CloseTracking.clicked

    def noted(
        self: CloseTracking,
        seen: Seen,
        told: CloseRecollection | None,
        *,
        earlier: torch.Tensor,
        clicks: Clicks,
    ) -> TrackedFrame:
        count = int((clicks.labels >= 0).sum())
        asked.append((count, int((earlier > 0).sum()), told is not None))
        return original(self, seen, told, earlier=earlier, clicks=clicks)

    monkeypatch.setattr(CloseTracking, "clicked", noted)
    return asked


def clicks(*coords: tuple[float, float], positive: tuple[bool, ...] | None = None) -> Prompt:
    signs = positive or (True,) * len(coords)
    return Prompt(points=Points(np.array(coords, dtype=np.float32), np.array(signs)))


def square() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[30:60, 40:60] = True
    return mask


def test_a_drawn_mask_is_the_answer(model: Model, movie: np.ndarray, heard: list) -> None:
    follower = WindowFollower(model, window=Window(0, 255))
    found = follower.prompt(follower.look(movie[0]), Prompt(mask=square()), earlier=None)
    assert np.array_equal(found.drawn.logits > 0, square())
    assert not heard


@pytest.fixture
def seen_by_image_model(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool, bool]]:
    """What the image model is asked: how many clicks, whether on an earlier answer, whether for several masks.

    It finds a square, and is as sure of it as the list's own `sureness`.
    """

    class Asked(list[tuple[int, bool, bool]]):
        sureness = 0.0

    asked = Asked()

    def noted(
        self: ImagePredictor, features: Features, prompt: Prompt, *, multimask: bool = True
    ) -> MaskPrediction:
        asked.append((len(prompt.points or ()), prompt.mask is not None, multimask))
        logits = np.where(square()[None], np.float32(4), np.float32(-4))
        return MaskPrediction(
            square()[None], np.array([asked.sureness], np.float32), logits[:, ::2, ::2], np.array([3])
        )

    monkeypatch.setattr(ImagePredictor, "predict", noted)
    return asked


@pytest.mark.parametrize("sureness", [0.3, 0.9])
def test_what_the_image_model_is_sure_of_is_not_looked_at_again(
    model: Model, movie: np.ndarray, heard: list, seen_by_image_model: list, sureness: float
) -> None:
    seen_by_image_model.sureness = sureness
    follower, asked_for_memories = WindowFollower(model, window=Window(0, 255)), []

    def reminded() -> None:
        asked_for_memories.append(1)

    found = follower.prompt(follower.look(movie[0]), clicks((40, 50)), earlier=None, reminded=reminded)
    assert seen_by_image_model[0] == (1, False, True)
    if sureness > 0.8:
        assert not heard
        assert not asked_for_memories  # which may have to be made
        assert np.array_equal(found.drawn.logits > 0, square())
    else:
        assert heard
        assert asked_for_memories == [1]


def test_clicks_are_answered_one_by_one(
    model: Model, movie: np.ndarray, heard: list, seen_by_image_model: list
) -> None:
    follower = WindowFollower(model, window=Window(0, 255))
    prompt = clicks((40, 50), (35, 45), (80, 20), positive=(True, True, False))
    follower.prompt(follower.look(movie[0]), prompt, earlier=None)
    assert seen_by_image_model[:3] == [(1, False, True), (2, True, False), (3, True, False)]
    assert heard
    assert all(count == 3 for count, _, _ in heard)  # on top of that, all that was said at once
    assert not any(is_reminded for _, _, is_reminded in heard)


def test_a_mask_that_a_click_contradicts_is_looked_at_again(
    model: Model, movie: np.ndarray, heard: list, seen_by_image_model: list
) -> None:
    seen_by_image_model.sureness = 0.99
    follower = WindowFollower(model, window=Window(0, 255))
    follower.prompt(follower.look(movie[0]), clicks((40, 50), (80, 20)), earlier=None)
    assert heard


def test_a_click_beside_the_mask_may_begin_anew(
    model: Model, movie: np.ndarray, heard: list, seen_by_image_model: list
) -> None:
    """The mask may be on the neighbour: what was followed to there is then not told."""
    seen_by_image_model.sureness = 0.9
    follower = WindowFollower(model, window=Window(0, 255))
    look, elsewhere = follower.look(movie[0]), np.roll(square(), 40, axis=1)
    prompt = clicks((50, 90), (40, 50), positive=(False, True))
    follower.prompt(look, prompt, earlier=elsewhere)
    assert seen_by_image_model[:2] == [(1, False, True), (2, True, False)]
    assert heard


def test_a_correction_begins_with_the_mask_that_it_corrects(
    model: Model, movie: np.ndarray, heard: list
) -> None:
    follower = WindowFollower(model, window=Window(0, 255))
    look, earlier = follower.look(movie[0]), square()
    with torch.inference_mode():
        follower.prompt(look, clicks((40, 50), positive=(False,)), earlier=earlier)
    count, pixels, _ = heard[0]
    scale = _laid(Box(30, 40, 60, 60), shape=SHAPE).scale
    assert count == 1
    assert pixels == pytest.approx(600 * scale**2 / 4, rel=0.1)  # two window pixels on the side of a logit


def test_what_was_said_before_on_the_frame_does_not_matter(model: Model, movie: np.ndarray) -> None:
    """A prompt is all that is known: two clicks at once are two clicks one after the other."""
    predictor = VideoPredictor(model)
    first, second = clicks((40, 50)), clicks((40, 50), (35, 45), positive=(True, False))
    step_by_step, at_once = predictor.open(movie), predictor.open(movie)
    predictor.prompt(step_by_step, first, frame=2, object_id=1)
    told = [predictor.prompt(state, second, frame=2, object_id=1).masks for state in (step_by_step, at_once)]
    assert np.array_equal(*told)


def test_corrections_are_answered_on_what_is_remembered(model: Model, movie: np.ndarray, heard: list) -> None:
    predictor = VideoPredictor(model)
    state = predictor.open(movie)
    predictor.prompt(state, Prompt(mask=square()), frame=0, object_id=1)
    list(predictor.propagate(state, range(4)))
    assert not heard
    predictor.prompt(state, clicks((40, 50)), frame=3, object_id=1)
    assert heard
    assert all(is_reminded for _, _, is_reminded in heard)


@pytest.mark.parametrize("iou", [0.3, 0.7])
@pytest.mark.parametrize("is_repeated", [False, True])
def test_what_was_missing_comes_back_only_with_a_good_mask(
    model: Model, movie: np.ndarray, monkeypatch: pytest.MonkeyPatch, iou: float, is_repeated: bool
) -> None:
    def found(
        self: CloseTracking, seen: Seen, told: CloseRecollection, *, earlier: torch.Tensor
    ) -> TrackedFrame:
        score = torch.full((len(earlier), 1), iou)
        return TrackedFrame(earlier, score, torch.ones_like(score), self.memory.no_pointer)

    monkeypatch.setattr(CloseTracking, "followed", found)
    follower = WindowFollower(model, window=Window(0, 255))
    look = follower.look(movie[1])
    memory = follower.adopt(follower.look(movie[0]), square())
    ask = Ask(((0, memory),), (), square(), Box(30, 40, 60, 60), is_repeated=is_repeated)
    drawn = [one.drawn for one in follower.follow(look, [ask, replace(ask, is_repeated=False)])]
    assert ((drawn[0].logits > 0).any(), drawn[0].score > 0) == (2 * (not is_repeated or iou > 0.5,))
    assert drawn[1].score == pytest.approx(iou)
    assert resolved(drawn[1:], SHAPE)[0].sum() > 400


@pytest.mark.parametrize(
    ("long", "shape"), [(10, (256, 256)), (44, (256, 256)), (120, (256, 256)), (400, (1024, 900))]
)
def test_objects_appear_as_large_as_the_memory_knows_them(long: int, shape: tuple[int, int]) -> None:
    laid = _laid(Box(20, 20, 20 + long, 30), shape=shape)
    assert 0.8 * APPEARING <= long * laid.scale <= 1.25 * APPEARING or laid.scale == SIDE / min(shape)
    assert laid.side / laid.scale <= max(min(shape), SIDE / laid.scale)  # the window is in the image
