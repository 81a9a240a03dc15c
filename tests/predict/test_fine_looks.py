"""Fine boundaries in the two looks at a small object, with the bundled weights."""

from __future__ import annotations

import numpy as np
import pytest

from napari_segany.core.types import Points, Prompt
from napari_segany.models.mask_decoder import FineUse, MaskDecoder, MaskOutput
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.train.clicks import deepest_point
from napari_segany.train.scenes import render_scene


@pytest.fixture(scope="module")
def predictor() -> ImagePredictor:
    return ImagePredictor(load_model("sam2-hq-nano", device="cpu", precision="float32"))


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which fine boundaries the decoder is asked for."""
    asked: list[str] = []
    original = MaskDecoder.changed

    def noted(self: MaskDecoder, output: MaskOutput, *, fine: FineUse) -> MaskOutput:
        asked.append(fine)
        return original(self, output, fine=fine)

    monkeypatch.setattr(MaskDecoder, "changed", noted)
    return asked


def click(row: float, col: float) -> Prompt:
    return Prompt(points=Points(np.array([[row, col]], dtype=np.float32), np.array([True])))


@pytest.mark.parametrize(("kind", "expected"), [("spots", ["added", "off"]), ("membrane", ["added"])])
def test_only_whole_frames_extend_masks(
    predictor: ImagePredictor, uses: list[str], kind: str, expected: list[str]
) -> None:
    scene = render_scene(11, size=(256, 256), kind=kind)
    largest = max(scene.objects, key=lambda thing: thing.mask.sum())
    row, col = deepest_point(largest.mask)
    prompt = click(row + largest.mask_rows.start, col + largest.mask_cols.start)
    features = predictor.embed(scene.image)
    predictor.predict(features, prompt)
    assert uses == expected
    uses.clear()
    predictor.predict(features, prompt, fine=False)
    assert set(uses) == {"off"}


@pytest.mark.parametrize(("radius", "draws"), [(4, False), (9, True)])
def test_a_click_on_a_spot_leaves_its_outline_as_the_base_draws_it(
    predictor: ImagePredictor, uses: list[str], radius: int, draws: bool
) -> None:
    """Three masks of a tiny spot differ in how far it reaches, which no outline decides."""
    rows, cols = np.ogrid[:256, :256]
    away = np.hypot(rows - 100, cols - 120)
    image = np.clip(radius + 1 - away, 0, 1).astype(np.float32)
    image += np.random.default_rng(0).normal(0, 0.03, image.shape).astype(np.float32)
    features = predictor.embed(image)
    plain = predictor.predict(features, click(100, 120), fine=False)
    uses.clear()
    fine = predictor.predict(features, click(100, 120))
    assert uses == ["added", "outlines" if draws else "off"]
    assert fine.best[100, 120]
    assert (fine.masks != plain.masks).any() == draws
    uses.clear()
    predictor.predict(features, click(100, 120), multimask=False)
    assert uses == ["added", "outlines"]  # it is told how far it reaches, or is to be corrected
