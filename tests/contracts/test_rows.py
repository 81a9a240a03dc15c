"""Every row, shrunken, through the public path: load by name, embed an image, answer a prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.registry import list_models
from napari_segany.models.sam2 import SAM2, build_sam2
from napari_segany.predict import loading
from napari_segany.predict.image import ImagePredictor

from .shrink import shrunken

NAMES = [spec.name for spec in list_models() if spec.family == "sam2"]
PRECISIONS = ("float32", "bfloat16")
CLICK = Prompt(points=Points(np.array([[20.0, 30.0]], dtype=np.float32), np.array([True])))
BOX = Prompt(box=Box(5, 8, 30, 50))


@pytest.fixture(params=NAMES)
def row(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a row that loads shrunken, with random weights."""
    name: str = request.param
    monkeypatch.setitem(SAM2, name, shrunken(SAM2[name]))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_file(build_sam2(name).state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(loading, "find_weights", lambda spec, **_: tmp_path / "weights.safetensors")
    return name


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56), dtype=np.uint8)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_answers_clicks_and_boxes(row: str, precision: str, image: np.ndarray) -> None:
    predictor = ImagePredictor(loading.load_model(row, device="cpu", precision=precision))
    features = predictor.embed(image)
    assert features.image_shape == image.shape
    for multimask, count in ((True, 3), (False, 1)):
        for answer in predictor.predict_many(features, [CLICK, BOX], multimask=multimask):
            assert answer.masks.shape == (count, *image.shape)
            assert np.isfinite(answer.logits).all()
            assert (np.diff(answer.scores) <= 0).all()


def test_reduced_precision_changes_little(
    row: str, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Magnified windows and dropped islands are decided by thresholds: with random weights a rounding tips them.
    monkeypatch.setitem(SAM2, row, replace(SAM2[row], is_local=False))
    logits = []
    for precision in PRECISIONS:
        predictor = ImagePredictor(loading.load_model(row, device="cpu", precision=precision))
        answer = predictor.predict(predictor.embed(image), CLICK, multimask=False)
        logits.append(answer.logits)
    exact, reduced = logits
    assert np.linalg.norm(reduced - exact) < 0.05 * np.linalg.norm(exact)
    assert not np.array_equal(reduced, exact)


def test_a_previous_answer_refines(row: str, image: np.ndarray) -> None:
    predictor = ImagePredictor(loading.load_model(row, device="cpu", precision="float32"))
    features = predictor.embed(image)
    first = predictor.predict(features, CLICK)
    again = predictor.predict(features, Prompt(points=CLICK.points, mask=first.logits[0]), multimask=False)
    alone = predictor.predict(features, Prompt(mask=first.logits[0]), multimask=False)
    for answer in (again, alone):
        assert answer.masks.shape == (1, *image.shape)
        assert not np.array_equal(answer.logits[0], first.logits[0])
