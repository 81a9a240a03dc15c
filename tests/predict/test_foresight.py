"""What is small is looked for in a window at once: fewer looks, the same masks, and what is found has the last word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.geometry import fit_long_side
from napari_segany.core.masks import mask_iou
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.sam2 import Sam2
from napari_segany.models.size_head import SizeHead, seen_at
from napari_segany.predict.foresight import SURELY_SMALL, foresee, foretold, window_after
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.predict.prompts import encode_prompt
from napari_segany.predict.zoom import choose_window

HUGE = 4000.0  # the whole frame is looked at
PLACES = ((60, 60), (60, 180), (150, 110), (200, 200))


def image_of_discs(radius: int, *, places: tuple[tuple[int, int], ...] = PLACES) -> np.ndarray:
    """Return a 256 x 256 image of bright discs on a noisy ground."""
    row, col = np.mgrid[:256, :256]
    inside = np.any([(row - r) ** 2 + (col - c) ** 2 <= radius**2 for r, c in places], axis=0)
    noise = np.random.default_rng(0).normal(50, 6, (256, 256))
    return np.clip(noise + 120 * inside, 0, 255).astype(np.uint8)


def click(row: float, col: float) -> Prompt:
    return Prompt(points=Points(np.array([[row, col]], dtype=np.float32), np.array([True])))


@pytest.fixture(scope="module")
def real() -> ImagePredictor:
    return ImagePredictor(load_model("sam2-nano", device="cpu", precision="float32"))


@contextmanager
def foretelling(predictor: ImagePredictor, side: float) -> Iterator[None]:
    """Let one side, in frame pixels, be foretold of everything."""
    network = predictor.model.network
    assert isinstance(network, Sam2)
    line = network.size_head.line
    before = {name: value.clone() for name, value in line.state_dict().items()}
    with torch.no_grad():
        line.weight.zero_()
        line.bias.fill_(float(np.log2(side)))
    try:
        yield
    finally:
        line.load_state_dict(before)


@contextmanager
def looks(predictor: ImagePredictor) -> Iterator[list[int]]:
    """Give a list that fills with how many cells wide each look of the decoder is."""
    network = predictor.model.network
    assert isinstance(network, Sam2)
    widths: list[int] = []
    hook = network.decoder.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[-1]))
    try:
        yield widths
    finally:
        hook.remove()


def test_a_click_on_something_small_needs_one_look(real: ImagePredictor) -> None:
    image = image_of_discs(9)
    features = real.embed(image)
    for place in PLACES:
        with looks(real) as widths:
            answer = real.predict(features, click(*place))
        assert widths == [32]
        with foretelling(real, HUGE), looks(real) as widths:
            usual = real.predict(features, click(*place))
        assert widths == [64, 32]
        assert mask_iou(answer.best, usual.best) > 0.9
        assert answer.scores[0] == pytest.approx(usual.scores[0], abs=0.1)


def test_a_click_on_something_large_is_answered_from_the_frame(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(90, places=((128, 128),)))
    with looks(real) as widths:
        real.predict(features, click(128, 128))
    assert widths[-1] == 64


@pytest.mark.parametrize("multimask", [True, False])
def test_a_click_on_something_between_is_answered_from_a_part_of_the_frame(
    real: ImagePredictor, multimask: bool
) -> None:
    features = real.embed(image_of_discs(18, places=PLACES[:3]))
    for place in PLACES[:3]:
        with looks(real) as widths:
            answer = real.predict(features, click(*place), multimask=multimask)
        assert widths == [32]
        with foretelling(real, HUGE), looks(real) as widths:
            usual = real.predict(features, click(*place), multimask=multimask)
        assert widths == [64]
        assert mask_iou(answer.best, usual.best) > 0.9
        assert answer.logits.shape == usual.logits.shape
        assert answer.masks.shape == usual.masks.shape


@pytest.mark.parametrize("side", [20, 90])
@pytest.mark.parametrize("radius", [4, 20, 45, 70])
def test_what_is_foretold_wrongly_is_put_right(real: ImagePredictor, radius: int, side: float) -> None:
    features = real.embed(image_of_discs(radius, places=((128, 128),)))
    with foretelling(real, HUGE):
        usual = real.predict(features, click(128, 128))
    with foretelling(real, side):
        answer = real.predict(features, click(128, 128))
    assert mask_iou(answer.best, usual.best) > 0.9
    if radius == 70:  # neither a window nor a part holds it: then it is the very answer of the frame
        np.testing.assert_array_equal(answer.masks, usual.masks)


def test_many_clicks_at_once_are_those_one_by_one(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9) | image_of_discs(40, places=((190, 60),)))
    prompts = [click(*place) for place in (*PLACES, (190, 60))]
    prompts.insert(2, Prompt(box=Box(50, 50, 71, 71)))
    together = real.predict_many(features, prompts)
    for one, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(one.masks, real.predict(features, prompt).masks)


def test_a_box_needs_one_look_at_a_window_a_part_or_the_frame(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    with looks(real) as widths:
        answer = real.predict(features, Prompt(box=Box(50, 50, 71, 71)), multimask=False)
        real.predict(features, Prompt(box=Box(40, 40, 81, 81)), multimask=False)
        real.predict(features, Prompt(box=Box(10, 10, 210, 210)), multimask=False)
    assert widths == [32, 32, 64]
    row, col = np.nonzero(answer.best)
    assert 49 <= row.min() <= row.max() <= 71 and 49 <= col.min() <= col.max() <= 71


def test_clicks_on_nothing_but_background_foretell_nothing(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    negative = Prompt(points=Points(np.array([[60.0, 60.0]], dtype=np.float32), np.array([False])))
    with foretelling(real, 10), looks(real) as widths:
        real.predict(features, negative)
    assert widths[0] == 64


def test_what_is_foretold_of_broken_features_counts_for_nothing(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    encoded = encode_prompt(click(60, 60), features)
    with torch.inference_mode():
        for value in (float("nan"), 1e30):
            broken = replace(features, tensors=ImageFeatures(torch.full((1, 128, 64, 64), value)))
            assert foresee(real.model.network, broken, click(60, 60), encoded) is None


def test_drawn_masks_are_looked_at_in_the_frame(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    drawn = np.zeros((256, 256), dtype=bool)
    drawn[52:69, 52:69] = True
    for prompt in (Prompt(mask=drawn), Prompt(mask=drawn, box=Box(50, 50, 71, 71))):
        assert foresee(real.model.network, features, prompt, encode_prompt(prompt, features)) is None


def test_a_correction_is_looked_at_where_the_answer_was(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(22, places=PLACES[:3]))
    first = real.predict(features, click(*PLACES[0]))
    points = Points(np.array([PLACES[0], (60, 78)], dtype=np.float32), np.array([True, True]))
    with looks(real) as widths:
        answer = real.predict(features, Prompt(points=points, mask=first.logits[0]), multimask=False)
    assert widths == [32]
    assert mask_iou(answer.best, first.best) > 0.9
    lost = Prompt(points=points, mask=np.full_like(first.logits[0], -9))
    assert foresee(real.model.network, features, lost, encode_prompt(lost, features)) is None


def test_no_mask_that_is_shown_ends_at_the_edge_of_a_part(real: ImagePredictor) -> None:
    stripe = np.full((256, 256), 50, dtype=np.uint8)
    stripe[110:146] = 180  # as high as a part can hold, and as wide as the image
    features = real.embed(stripe)
    with foretelling(real, 80), looks(real) as widths:
        answer = real.predict(features, click(128, 128))
    assert widths == [32, 64]
    with foretelling(real, HUGE):
        usual = real.predict(features, click(128, 128))
    np.testing.assert_array_equal(answer.masks, usual.masks)


@given(
    height=st.integers(60, 900),
    width=st.integers(60, 900),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    side=st.floats(1, 200),
)
def test_a_foreseen_window_holds_what_is_foretold(
    height: int, width: int, place: tuple[float, float], side: float
) -> None:
    resize = fit_long_side((height, width), long_side=min(max(height, width, 512), 1280), multiple=32)
    row, col = place[0] * (height - 1), place[1] * (width - 1)
    foreseen = foretold(click(row, col), side, resize)
    assert foreseen is not None and not foreseen.is_sure
    window = foreseen.window
    assert foreseen.extent.height == pytest.approx(max(1, side / max(resize.scale)))
    if side > SURELY_SMALL:
        assert window is None
    if window is None:
        return
    reach = side / (2 * max(resize.scale))
    for axis, at, length in zip(window, (row, col), (height, width), strict=True):
        assert 0 <= axis.start < axis.stop <= length
        assert axis.start <= max(at - reach, 0) + 1 and min(at + reach, length) - 1 <= axis.stop


def test_what_was_found_chooses_the_window(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    prompt = click(128, 128)
    window = choose_window(prompt, [], features.resize)
    assert window is not None
    middle = Box(120, 120, 136, 136)
    assert window_after(prompt, [middle], window, features) == window
    near_its_edge = Box(window[0].start + 5, 120, window[0].start + 20, 136)
    at_the_edge = click(window[0].start + 15, 128)
    moved = window_after(at_the_edge, [near_its_edge], window, features)
    assert moved == choose_window(at_the_edge, [near_its_edge], features.resize) != window
    assert moved is not None
    large = [Box(20, 20, 230, 230)]
    assert window_after(prompt, large, window, features) is None


def test_an_untrained_head_foretells_nothing_small() -> None:
    head = SizeHead(8)
    assert (head(torch.randn(5, 8)).exp2() > 2 * SURELY_SMALL).all()


def test_it_is_looked_at_in_the_cell_that_the_click_lies_in() -> None:
    embedding = torch.arange(2 * 3 * 4).reshape(1, 2, 3, 4).float()
    xy = torch.tensor([[-0.5, -0.5], [7.4, 7.4], [7.6, 15.4], [31.5, 23.5], [99.0, -9.0]])
    expected = embedding[0][:, [0, 0, 1, 2, 0], [0, 0, 1, 3, 3]].T
    torch.testing.assert_close(seen_at(embedding, xy, stride=8), expected)
