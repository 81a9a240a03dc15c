"""Fine boundaries in magnified looks and others, with the bundled weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from napari_segany.core.types import Points, Prompt
from napari_segany.models.mask_decoder import FineUse, MaskDecoder, MaskOutput
from napari_segany.models.ways import AS_IT_IS, EXTENDED, OUTLINED
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


@pytest.fixture
def prefer(predictor: ImagePredictor) -> Iterator[Callable[[int, int], None]]:
    """Return what makes the model take a way in whole frames and one in windows, whatever it sees."""
    decoder = predictor.model.network.decoder
    bias = decoder.fine.choice.gain.bias
    before = bias.detach().clone()

    def preferred(in_frame: int, in_window: int) -> None:
        taken = (in_frame == OUTLINED, in_frame == EXTENDED, in_window == OUTLINED)
        with torch.no_grad():
            bias.copy_(1e4 * torch.tensor([1.0 if each else -1.0 for each in taken]))

    yield preferred
    with torch.no_grad():
        bias.copy_(before)


@pytest.mark.parametrize(("kind", "expected"), [("spots", ["outlines"]), ("membrane", ["added"])])
def test_only_looks_that_do_not_magnify_may_extend_masks(
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


@pytest.mark.parametrize("radius", [4, 9, 40])
@pytest.mark.parametrize("multimask", [True, False])
def test_left_as_it_is_an_answer_is_the_base_models(
    predictor: ImagePredictor, prefer: Callable[[int, int], None], radius: int, multimask: bool
) -> None:
    rows, cols = np.ogrid[:256, :256]
    image = np.clip(radius + 1 - np.hypot(rows - 100, cols - 120), 0, 1).astype(np.float32)
    image += np.random.default_rng(0).normal(0, 0.03, image.shape).astype(np.float32)
    features = predictor.embed(image)
    plain = predictor.predict(features, click(100, 120), multimask=multimask, fine=False)
    assert plain.best[100, 120]
    for in_frame, in_window, is_same in (
        (AS_IT_IS, AS_IT_IS, True),
        (OUTLINED, OUTLINED, False),
        (EXTENDED, OUTLINED, False),
    ):
        prefer(in_frame, in_window)
        fine = predictor.predict(features, click(100, 120), multimask=multimask)
        same = np.array_equal(fine.masks, plain.masks) and np.array_equal(fine.scores, plain.scores)
        assert same == is_same or radius == 4  # whose few pixels may be drawn alike
        logits = all(np.array_equal(a, b) for a, b in zip(fine.logits, plain.logits, strict=True))
        assert not is_same or logits


def test_an_answer_alone_is_what_it_is_among_others(predictor: ImagePredictor) -> None:
    """Of prompts that are decoded together, each is finished in its own way."""
    scene = render_scene(3, size=(256, 256), kind="em")
    features = predictor.embed(scene.image)
    prompts = [click(row, col) for row in (40, 120, 200) for col in (50, 130, 210)]
    together = predictor.predict_many(features, prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = predictor.predict(features, prompt)
        assert np.mean(alone.best != answer.best) < 1e-3
        np.testing.assert_allclose(
            alone.scores, answer.scores, atol=0.01
        )  # what is beyond reach is heard faintly
