"""What is small is looked for in a window at once: fewer looks, the same masks, and what is found has the last word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.geometry import fit_long_side
from napari_segany.core.masks import mask_iou
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.sam2 import Sam2
from napari_segany.models.size_head import SizeHead, seen_at
from napari_segany.predict.foresight import SURELY_SMALL, foreseen_window, window_after, window_of_prompt
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.predict.zoom import SMALL, choose_window

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
        with foretelling(real, 500), looks(real) as widths:
            usual = real.predict(features, click(*place))
        assert widths == [64, 32]
        assert mask_iou(answer.best, usual.best) > 0.9
        assert answer.scores[0] == pytest.approx(usual.scores[0], abs=0.1)


def test_a_click_on_something_large_is_answered_from_the_frame(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(50, places=((128, 128),)))
    with looks(real) as widths:
        real.predict(features, click(128, 128))
    assert widths == [64]


@pytest.mark.parametrize("radius", [4, 20, 45, 70])
def test_what_is_foretold_wrongly_is_put_right(real: ImagePredictor, radius: int) -> None:
    features = real.embed(image_of_discs(radius, places=((128, 128),)))
    with foretelling(real, 500):
        usual = real.predict(features, click(128, 128))
    with foretelling(real, 20):
        answer = real.predict(features, click(128, 128))
    assert mask_iou(answer.best, usual.best) > 0.9
    if 2 * radius * features.resize.scale[0] > 1.2 * SMALL:  # then it is the very answer of the frame
        np.testing.assert_array_equal(answer.masks, usual.masks)


def test_many_clicks_at_once_are_those_one_by_one(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9) | image_of_discs(40, places=((190, 60),)))
    prompts = [click(*place) for place in (*PLACES, (190, 60))]
    prompts.insert(2, Prompt(box=Box(50, 50, 71, 71)))
    together = real.predict_many(features, prompts)
    for one, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(one.masks, real.predict(features, prompt).masks)


def test_a_small_box_needs_one_look_and_a_large_one_is_answered_from_the_frame(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    with looks(real) as widths:
        answer = real.predict(features, Prompt(box=Box(50, 50, 71, 71)), multimask=False)
        real.predict(features, Prompt(box=Box(10, 10, 210, 210)), multimask=False)
    assert widths == [32, 64]
    row, col = np.nonzero(answer.best)
    assert 49 <= row.min() <= row.max() <= 71 and 49 <= col.min() <= col.max() <= 71


def test_clicks_on_nothing_but_background_foretell_nothing(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    negative = Prompt(points=Points(np.array([[60.0, 60.0]], dtype=np.float32), np.array([False])))
    with foretelling(real, 10), looks(real) as widths:
        real.predict(features, negative)
    assert widths[0] == 64


def test_drawn_masks_are_looked_at_in_the_frame(real: ImagePredictor) -> None:
    features = real.embed(image_of_discs(9))
    drawn = np.zeros((256, 256), dtype=bool)
    drawn[52:69, 52:69] = True
    assert window_of_prompt(Prompt(mask=drawn), features) is None
    assert window_of_prompt(Prompt(mask=drawn, box=Box(50, 50, 71, 71)), features) is None


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
    window = foreseen_window(click(row, col), side, resize)
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
    foreseen = choose_window(prompt, [], features.resize)
    assert foreseen is not None
    middle = Box(120, 120, 136, 136)
    assert window_after(prompt, [middle], foreseen, features) == foreseen
    near_its_edge = Box(foreseen[0].start + 5, 120, foreseen[0].start + 20, 136)
    at_the_edge = click(foreseen[0].start + 15, 128)
    moved = window_after(at_the_edge, [near_its_edge], foreseen, features)
    assert moved == choose_window(at_the_edge, [near_its_edge], features.resize) != foreseen
    assert moved is not None
    assert window_after(prompt, [Box(20, 20, 230, 230)], foreseen, features) is None


def test_an_untrained_head_foretells_nothing_small() -> None:
    head = SizeHead(8)
    assert (head(torch.randn(5, 8)).exp2() > 2 * SURELY_SMALL).all()


def test_it_is_looked_at_in_the_cell_that_the_click_lies_in() -> None:
    embedding = torch.arange(2 * 3 * 4).reshape(1, 2, 3, 4).float()
    xy = torch.tensor([[-0.5, -0.5], [7.4, 7.4], [7.6, 15.4], [31.5, 23.5], [99.0, -9.0]])
    expected = embedding[0][:, [0, 0, 1, 2, 0], [0, 0, 1, 3, 3]].T
    torch.testing.assert_close(seen_at(embedding, xy, stride=8), expected)
