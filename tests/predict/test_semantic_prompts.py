"""Semantic-SAM behind a predictor: six levels from any prompt, and no prompt in another's way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from semantic_rows import semantic_model

from napari_segany.core.errors import CapabilityError, PromptError, SettingsError
from napari_segany.core.granularity import LEVELS
from napari_segany.core.types import Box, MaskPrediction, Namer, Points, Prompt
from napari_segany.predict.features import Features
from napari_segany.predict.image import ImagePredictor

IMAGE = np.random.default_rng(3).random((96, 128)).astype(np.float32)
ROWS = ("semantic-nano", "semantic_sam_swinT")


def click(row: float, col: float, *more: tuple[float, float, bool]) -> Prompt:
    coords = np.array([(row, col), *((r, c) for r, c, _ in more)], dtype=np.float32)
    return Prompt(points=Points(coords, np.array([True, *(sign for *_, sign in more)])))


def opened(name: str) -> tuple[ImagePredictor, Features]:
    predictor = ImagePredictor(semantic_model(name))
    return predictor, predictor.embed(IMAGE)


def same(one: MaskPrediction, two: MaskPrediction) -> bool:
    return (
        np.array_equal(one.levels, two.levels)
        and np.allclose(one.scores, two.scores, atol=1e-5)
        and np.allclose(one.logits, two.logits, atol=1e-3)
        and one.names == two.names
    )


@pytest.mark.parametrize("name", ROWS)
def test_every_prompt_gets_six_levels(name: str) -> None:
    predictor, features = opened(name)
    drawn = np.zeros(IMAGE.shape, dtype=bool)
    drawn[20:50, 30:70] = True
    prompts = [
        click(30, 40),
        Prompt(box=Box(10, 10, 60, 90)),
        click(30, 40, (60, 80, False)),
        Prompt(mask=drawn),
        Prompt(box=Box(10, 10, 60, 90), points=click(20, 20).points),
    ]
    for answer in predictor.predict_many(features, prompts):
        assert sorted(answer.levels) == list(LEVELS)
        assert answer.masks.shape == (6, *IMAGE.shape)
        assert (np.diff(answer.scores) <= 0).all()
        assert ((answer.scores >= 0) & (answer.scores <= 1)).all()


@pytest.mark.parametrize("name", ROWS)
@given(
    places=st.lists(st.tuples(st.integers(0, 95), st.integers(0, 127)), min_size=1, max_size=6, unique=True),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=15)
def test_an_answer_does_not_depend_on_the_other_clicks(
    name: str, places: list[tuple[int, int]], order: object
) -> None:
    predictor, features = opened(name)
    prompts = [click(*place) for place in places]
    alone = [predictor.predict(features, prompt) for prompt in prompts]
    shuffled = list(range(len(places)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' random.Random
    together = predictor.predict_many(features, [prompts[index] for index in shuffled])
    for place, answer in zip(shuffled, together, strict=True):
        assert same(answer, alone[place])


def test_in_the_reference_s_order_clicks_see_each_other() -> None:
    model = semantic_model("semantic_sam_swinT")
    predictor = ImagePredictor(model, reference=True)
    features = predictor.embed(IMAGE)
    prompts = [click(10 + 9 * k, 20 + 11 * k) for k in range(7)]  # more than are worked out at once otherwise
    alone = predictor.predict(features, prompts[0])
    together = predictor.predict_many(features, prompts)[0]
    assert not same(alone, together)
    assert same(alone, ImagePredictor(model).predict(features, prompts[0]))


def test_a_level_comes_first_when_asked_for() -> None:
    predictor, features = opened("semantic-nano")
    best = predictor.predict(features, click(30, 40))
    for level in LEVELS:
        answer = predictor.predict(features, click(30, 40), level=level)
        assert answer.levels[0] == level
        assert np.array_equal(answer.best, best.masks[list(best.levels).index(level)])
        assert answer.names[0] == best.names[list(best.levels).index(level)]
        assert sorted(answer.levels) == list(LEVELS)
    with pytest.raises(SettingsError, match="7"):
        predictor.predict(features, click(30, 40), level=7)


def test_masks_that_break_a_click_lose_score() -> None:
    predictor, features = opened("semantic-nano")
    first = predictor.predict(features, click(48, 64))
    shown = first.best
    inside = np.argwhere(shown)
    row, col = inside[len(inside) // 2]
    answer = predictor.predict(features, click(48, 64, (float(row), float(col), False)))
    for mask, score, level in zip(answer.masks, answer.scores, answer.levels, strict=True):
        if mask[row, col]:
            assert score <= first.scores[list(first.levels).index(level)] * 0.5 + 1e-5


def test_names_are_of_the_classes_given() -> None:
    predictor, features = opened("semantic-nano")
    assert isinstance(predictor, Namer)
    vocabulary = predictor.model.network.config.vocabulary.words  # type: ignore[attr-defined]  # Semantic-SAM's
    assert predictor.classes == vocabulary
    assert set(predictor.predict(features, click(30, 40)).names) <= {"", *vocabulary}
    two = predictor.naming(["cell", "nucleus"])
    assert two.predict(features, click(30, 40)).names.__len__() == 6
    assert set(two.predict(features, click(30, 40)).names) <= {"", "cell", "nucleus"}
    assert predictor.naming([]).predict(features, click(30, 40)).names == ()
    with pytest.warns(RuntimeWarning, match="'starfish'"):
        predictor.naming(["starfish", "cell"])
    with pytest.raises(PromptError, match="different"):
        predictor.naming(["cell", "Cell"])


def test_released_models_say_that_they_know_no_words() -> None:
    predictor, features = opened("semantic_sam_swinT")
    assert predictor.classes == ()
    assert predictor.predict(features, click(30, 40)).names == ()
    with pytest.raises(CapabilityError, match="released no text encoder"):
        predictor.naming(["cell"])


@pytest.mark.parametrize("shape", [(40, 400), (257, 130), (7, 9)])
def test_images_of_any_shape_are_answered(shape: tuple[int, int]) -> None:
    for name in ROWS:
        predictor = ImagePredictor(semantic_model(name))
        features = predictor.embed(np.random.default_rng(0).random(shape).astype(np.float32))
        answer = predictor.predict(features, click(shape[0] / 2, shape[1] / 2))
        assert answer.masks.shape == (6, *shape)


def test_features_survive_packing() -> None:
    predictor, features = opened("semantic-nano")
    again = predictor.unpack(*predictor.pack(features))
    one, two = (predictor.predict(each, click(30, 40)) for each in (features, again))
    assert np.array_equal(one.levels, two.levels)
    assert np.allclose(one.scores, two.scores, atol=5e-3)
