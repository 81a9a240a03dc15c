"""Prompts to masks: one at a time or many, alone or in company, from one thread or two."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from small_models import predictor_of

from napari_segany.core.errors import PromptError
from napari_segany.core.types import Box, MaskPrediction, Points, Prompt
from napari_segany.predict.image import Features, ImagePredictor

SHAPE = (50, 67)
IMAGE = np.random.default_rng(2).integers(0, 4096, size=SHAPE, dtype=np.uint16)


@pytest.fixture(scope="module")
def features(predictor: ImagePredictor) -> Features:
    return predictor.embed(IMAGE)


def drawn() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[10:30, 20:50] = True
    return mask


def clicks(count: int, *, seed: int = 0) -> Points:
    rng = np.random.default_rng((seed, count))
    return Points(rng.uniform(0, 49, size=(count, 2)), rng.random(count) < 0.6)


def mixed_prompts(features: Features) -> list[Prompt]:
    """Return prompts of every form, in an order that no grouping has."""
    logits = np.random.default_rng(8).normal(0, 4, size=features.logits_shape).astype(np.float32)
    return [
        Prompt(points=clicks(1)),
        Prompt(box=Box(3, 4, 30, 60)),
        Prompt(points=clicks(3)),
        Prompt(mask=drawn()),
        Prompt(points=clicks(2), box=Box(0, 0, *SHAPE)),
        Prompt(mask=logits),
        Prompt(points=clicks(2), mask=logits),
        Prompt(points=clicks(1, seed=1)),
        Prompt(box=Box(5.5, 6.25, 20.125, 30), mask=drawn()),
        Prompt(points=clicks(2, seed=3)),
    ]


def assert_same(ours: MaskPrediction, theirs: MaskPrediction) -> None:
    """Assert equality up to the rounding of sums in another order."""
    assert_allclose(ours.logits, theirs.logits, rtol=1e-3, atol=1e-3 * np.abs(theirs.logits).max())
    assert_allclose(ours.scores, theirs.scores, rtol=1e-4)
    assert np.mean(ours.masks != theirs.masks) < 2e-3


def test_predict_many_is_predict_on_each(predictor: ImagePredictor, features: Features) -> None:
    prompts = mixed_prompts(features)
    for multimask in (True, False):
        together = predictor.predict_many(features, prompts, multimask=multimask)
        assert len(together) == len(prompts)
        for prompt, answer in zip(prompts, together, strict=True):
            assert_same(answer, predictor.predict(features, prompt, multimask=multimask))
    assert predictor.predict_many(features, []) == []


def test_company_and_order_change_nothing(predictor: ImagePredictor, features: Features) -> None:
    prompts = [Prompt(points=clicks(1, seed=s)) for s in range(40)]  # more than one decoder batch
    answers = predictor.predict_many(features, prompts)
    order = np.random.default_rng(0).permutation(40)
    shuffled = predictor.predict_many(features, [prompts[i] for i in order] + mixed_prompts(features))
    for place, index in enumerate(order):
        assert_same(shuffled[place], answers[index])
    assert not np.allclose(answers[0].logits, answers[1].logits, rtol=1e-3)


def test_an_answer_has_the_agreed_form(predictor: ImagePredictor, features: Features) -> None:
    for prompt in mixed_prompts(features):
        for multimask, count in ((True, 3), (False, 1)):
            answer = predictor.predict(features, prompt, multimask=multimask)
            assert answer.masks.shape == (count, *SHAPE)
            assert answer.masks.dtype == bool
            assert answer.logits.shape == (count, *features.logits_shape)
            assert answer.logits.dtype == answer.scores.dtype == np.float32
            assert answer.scores.shape == (count,)
            assert ((answer.scores >= 0) & (answer.scores <= 1)).all()
            assert (np.diff(answer.scores) <= 0).all()
            assert answer.levels.tolist() == ([4] if count == 1 else answer.levels.tolist())
            assert np.array_equal(answer.best, answer.masks[0])


def test_levels_follow_the_area(predictor: ImagePredictor, features: Features) -> None:
    for seed in range(6):
        answer = predictor.predict(features, Prompt(points=clicks(1, seed=seed)))
        by_level = np.argsort(answer.levels)
        assert answer.levels[by_level].tolist() == [2, 4, 6]
        assert (np.diff(answer.masks.sum((1, 2))[by_level]) >= 0).all()


def test_masks_are_the_logits_at_the_image_size(predictor: ImagePredictor, features: Features) -> None:
    """Logits and masks stay together when they are sorted by score."""
    answer = predictor.predict(features, Prompt(points=clicks(2)))
    resized = F.interpolate(torch.from_numpy(answer.logits)[None], size=SHAPE, mode="bilinear")[0]
    assert np.array_equal(answer.masks, resized.numpy() > 0)


def test_logits_can_be_given_back(predictor: ImagePredictor, features: Features) -> None:
    first = predictor.predict(features, Prompt(points=clicks(1)))
    points = clicks(1).with_click(40, 50, positive=False)
    plain = predictor.predict(features, Prompt(points=points), multimask=False)
    refined = predictor.predict(features, Prompt(points=points, mask=first.logits[0]), multimask=False)
    assert refined.logits.shape == first.logits[:1].shape
    assert not np.allclose(refined.logits, plain.logits, rtol=1e-3)


@pytest.mark.parametrize("multimask", [True, False])
def test_nothing_given_is_written_to(
    predictor: ImagePredictor, features: Features, *, multimask: bool
) -> None:
    image, window_before = IMAGE.copy(), features.window
    image.setflags(write=False)
    own = predictor.embed(image)
    points, mask = clicks(2), drawn()
    logits = np.full(own.logits_shape, 20, dtype=np.float32)
    for array in (points.coords, points.positive, mask, logits):
        array.setflags(write=False)
    predictor.predict_many(
        own, [Prompt(points=points, mask=mask), Prompt(points=points, mask=logits)], multimask=multimask
    )
    assert np.array_equal(image, IMAGE)
    assert (logits == 20).all()
    assert np.array_equal(mask, drawn())
    assert own.window == window_before


def test_what_comes_back_belongs_to_the_caller(predictor: ImagePredictor, features: Features) -> None:
    before = predictor.predict(features, Prompt(points=clicks(1)))
    kept = before.logits.copy()
    before.masks[:] = True
    before.logits[:] = 99
    assert np.array_equal(predictor.predict(features, Prompt(points=clicks(1))).logits, kept)


def test_two_images_can_be_open(predictor: ImagePredictor) -> None:
    other = np.random.default_rng(4).random((40, 31))
    prompt = Prompt(points=Points([[20, 15]], [True]))
    alone = [predictor.predict(predictor.embed(image), prompt) for image in (IMAGE, other)]
    first, second = predictor.embed(IMAGE), predictor.embed(other)
    answers = [predictor.predict(f, prompt) for f in (second, first, second, first)]
    for answer, expected in zip(answers, [alone[1], alone[0]] * 2, strict=True):
        assert np.array_equal(answer.logits, expected.logits)
        assert np.array_equal(answer.masks, expected.masks)
    assert (first.image_shape, second.image_shape) == (SHAPE, (40, 31))
    assert first.nbytes > 0


def test_two_threads_get_their_own_answers(nano: ImagePredictor) -> None:
    images = [IMAGE, np.random.default_rng(4).random((64, 40))]
    prompts = [Prompt(points=Points([[20, 15]], [True])), Prompt(box=Box(1, 2, 30, 31))]
    expected = [nano.predict(nano.embed(i), p) for i, p in zip(images, prompts, strict=True)]
    wrong: list[str] = []
    turn = threading.Barrier(2)

    def work(index: int) -> None:
        for round_ in range(6):
            turn.wait(30)
            answer = nano.predict(nano.embed(images[index]), prompts[index])
            if not np.allclose(answer.logits, expected[index].logits, rtol=1e-3, atol=1e-4):
                wrong.append(f"thread {index}, round {round_}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_text_is_refused_by_a_model_that_reads_none(predictor: ImagePredictor, features: Features) -> None:
    with pytest.raises(PromptError, match=f"{predictor.card.name} reads no text"):
        predictor.predict(features, Prompt(text="nucleus"))
    with pytest.raises(PromptError, match="no text"):
        predictor.predict(features, Prompt(text="nucleus", points=clicks(1)))


def test_a_mask_of_another_size_is_refused(predictor: ImagePredictor, features: Features) -> None:
    with pytest.raises(PromptError, match=r"\(51, 67\).*\(50, 67\)"):
        predictor.predict(features, Prompt(mask=np.ones((51, 67), dtype=bool)))
    shape = (features.logits_shape[0] + 4, features.logits_shape[1])
    with pytest.raises(PromptError) as caught:
        predictor.predict(features, Prompt(mask=np.ones(shape, dtype=np.float32)))
    assert str(shape) in str(caught.value)
    assert str(features.logits_shape) in str(caught.value)


def test_logits_of_another_image_are_refused(nano: ImagePredictor) -> None:
    logits = nano.predict(nano.embed(IMAGE), Prompt(points=clicks(1))).logits[0]
    tall = nano.embed(np.zeros((90, 20), dtype=np.uint8))
    with pytest.raises(PromptError, match="do not belong"):
        nano.predict(tall, Prompt(mask=logits))


def test_features_of_another_model_are_refused(nano: ImagePredictor) -> None:
    other = predictor_of("sam2-nano", seed=6)  # the same name, other weights
    with pytest.raises(PromptError, match="embed the image again"):
        nano.predict(other.embed(IMAGE), Prompt(points=clicks(1)))
    with pytest.raises(PromptError, match="ndarray"):
        nano.predict(IMAGE, Prompt(points=clicks(1)))  # type: ignore[arg-type]


def test_a_wrong_prompt_among_many_is_found_before_anything_runs(
    nano: ImagePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = nano.embed(IMAGE)
    monkeypatch.setattr(ImagePredictor, "_decode", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(PromptError, match="outside"):
        nano.predict_many(
            features, [Prompt(points=clicks(1)), Prompt(points=Points([[SHAPE[0], 0]], [True]))]
        )
