"""Every row, shrunken, through the public path: load by name, embed an image, answer a prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_segany.core.errors import PromptError
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.build import CONFIGS, build_model
from napari_segany.models.query_decoder import TOKENS
from napari_segany.models.registry import list_models
from napari_segany.predict import loading
from napari_segany.predict.image import ImagePredictor

from .shrink import ALIKE, SEMANTIC, shrunken

LISTED = {spec.name for spec in list_models()}
NAMES = [name for name in ALIKE if name in LISTED]
PRECISIONS = ("float32", "bfloat16")
CLICK = Prompt(points=Points(np.array([[20.0, 30.0]], dtype=np.float32), np.array([True])))
BOX = Prompt(box=Box(5, 8, 30, 50))


@pytest.fixture(params=NAMES)
def row(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a row that loads shrunken, with random weights."""
    name: str = request.param
    monkeypatch.setitem(CONFIGS, name, shrunken(CONFIGS[name]))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_model(name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(loading, "find_weights", lambda spec, **_: tmp_path / "weights.safetensors")
    monkeypatch.setattr(loading, "find_decoder", lambda spec, **_: None)
    return name


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)


def predictor_of(row: str, *, precision: str = "float32") -> ImagePredictor:
    return ImagePredictor(loading.load_model(row, device="cpu", precision=precision))


def count_of(row: str, *, multimask: bool, fine: bool | None) -> int:
    """Return how many masks a row answers with."""
    if row in SEMANTIC:
        return TOKENS if multimask else 1
    is_merged = CONFIGS[row].has_fine and CONFIGS[row].decoder.generation == 1 and fine is not False
    return 3 if multimask and not is_merged else 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_answers_clicks_and_boxes(row: str, precision: str, image: np.ndarray) -> None:
    predictor = predictor_of(row, precision=precision)
    assert predictor.card.name == row
    assert predictor.card.has_fine == CONFIGS[row].has_fine
    features = predictor.embed(image)
    assert features.image_shape == image.shape
    for multimask in (True, False):
        for fine in (None, False):
            count = count_of(row, multimask=multimask, fine=fine)
            for answer in predictor.predict_many(features, [CLICK, BOX], multimask=multimask, fine=fine):
                assert answer.masks.shape == (count, *image.shape)
                assert answer.scores.shape == answer.levels.shape == (count,)
                assert np.isfinite(answer.logits).all()
                assert (np.diff(answer.scores) <= 0).all()


def test_many_prompts_are_answered_as_one_by_one(row: str, image: np.ndarray) -> None:
    predictor = predictor_of(row)
    features = predictor.embed(image)
    together = predictor.predict_many(features, [CLICK, BOX, CLICK])
    for prompt, ours in zip((CLICK, BOX, CLICK), together, strict=True):
        alone = predictor.predict(features, prompt)
        scale = np.abs(alone.logits).max()
        np.testing.assert_allclose(ours.logits, alone.logits, rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(ours.scores, alone.scores, rtol=0, atol=1e-4)


def test_fine_boundaries_are_a_switch_where_there_are_any(row: str, image: np.ndarray) -> None:
    predictor = predictor_of(row)
    features = predictor.embed(image)
    if not CONFIGS[row].has_fine:
        with pytest.raises(PromptError, match=row):
            predictor.predict(features, CLICK, fine=True)
        return
    made_for, on, off = (predictor.predict(features, CLICK, fine=fine) for fine in (None, True, False))
    assert np.array_equal(made_for.logits, on.logits)
    assert np.array_equal(made_for.masks, on.masks)
    assert not np.array_equal(on.masks, off.masks)
    assert not np.array_equal(on.logits, off.logits)  # the next click corrects what is shown


def test_reduced_precision_changes_little(
    row: str, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Magnified windows and dropped islands are decided by thresholds: with random weights a rounding tips them.
    monkeypatch.setitem(CONFIGS, row, replace(CONFIGS[row], is_local=False))
    logits = []
    for precision in PRECISIONS:
        predictor = predictor_of(row, precision=precision)
        answer = predictor.predict(predictor.embed(image), CLICK, multimask=False)
        logits.append(answer.logits)
    exact, reduced = logits
    assert np.linalg.norm(reduced - exact) < 0.05 * np.linalg.norm(exact)
    assert not np.array_equal(reduced, exact)


def test_a_previous_answer_refines(row: str, image: np.ndarray) -> None:
    predictor = predictor_of(row)
    features = predictor.embed(image)
    first = predictor.predict(features, CLICK)
    again = predictor.predict(features, Prompt(points=CLICK.points, mask=first.logits[0]), multimask=False)
    alone = predictor.predict(features, Prompt(mask=first.logits[0]), multimask=False)
    for answer in (again, alone):
        assert answer.masks.shape == (1, *image.shape)
    assert not np.array_equal(alone.logits[0], first.logits[0])
    if row in SEMANTIC:  # a mask is asked about by its box, where nothing else is asked
        assert np.array_equal(again.logits[0], first.logits[0])
    else:
        assert not np.array_equal(again.logits[0], first.logits[0])
