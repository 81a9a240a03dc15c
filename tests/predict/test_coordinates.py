"""Where a prompt lands: exact at pixel centres and at the ends of half-open boxes, whatever the image's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from napari_segany.core.errors import PromptError
from napari_segany.core.geometry import ResizeMap, fit_long_side, stretch
from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, ModelCard, Points, Prompt
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, POSITIVE
from napari_segany.predict.features import Features
from napari_segany.predict.preprocess import to_frame
from napari_segany.predict.prompts import encode_prompt

sides = st.integers(64, 700)
shapes = st.tuples(sides, sides)


CARD = ModelCard("a model", "0" * 64)


def maps_of(shape: tuple[int, int]) -> list[ResizeMap]:
    return [
        fit_long_side(shape, long_side=512, multiple=32),
        stretch(shape, side=1024),
        fit_long_side(shape, long_side=1024),
    ]


def features_of(resize: ResizeMap) -> Features:
    """Return features without content, for their geometry."""
    blank = torch.zeros(1, 1, resize.target[0] // 8, resize.target[1] // 8)
    return Features(ImageFeatures(blank, (blank, blank)), resize, Window(0, 1), CARD, stride=8)


def points_of(prompt: Prompt, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prompt's points in the frame and their labels."""
    encoded = encode_prompt(prompt, features)
    return encoded.xy, encoded.labels


@settings(max_examples=60, deadline=None)
@given(shape=shapes, data=st.data())
def test_a_click_lands_exactly(shape: tuple[int, int], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, shape[0] - 1))
    col = data.draw(st.integers(0, shape[1] - 1))
    for resize in maps_of(shape):
        xy, labels = points_of(
            Prompt(points=Points([[row, col], [row, col]], [True, False])), features_of(resize)
        )
        scale = np.array(resize.target, dtype=np.float64) / np.array(shape)
        expected = (np.array([row, col]) + 0.5) * scale - 0.5
        assert xy.dtype == torch.float32
        assert_allclose(xy[0].numpy()[::-1], expected, atol=1e-4)
        assert torch.equal(xy[0], xy[1])
        assert labels.tolist() == [POSITIVE, NEGATIVE]


@settings(max_examples=60, deadline=None)
@given(shape=shapes, data=st.data())
def test_a_box_covers_exactly_its_pixels(shape: tuple[int, int], data: st.DataObject) -> None:
    row0, row1 = sorted(
        data.draw(st.lists(st.integers(0, shape[0]), min_size=2, max_size=2, unique=True), label="rows")
    )
    col0, col1 = sorted(
        data.draw(st.lists(st.integers(0, shape[1]), min_size=2, max_size=2, unique=True), label="cols")
    )
    for resize in maps_of(shape):
        prompt = Prompt(box=Box(row0, col0, row1, col1), points=Points([[row0, col0]], [True]))
        xy, labels = points_of(prompt, features_of(resize))
        assert labels.tolist() == [BOX_START, BOX_END, POSITIVE]
        scale = np.array(resize.target) / np.array(shape)
        edges = np.array([[row0, col0], [row1, col1]]) * scale - 0.5  # edges between pixels, in frame centres
        assert_allclose(xy[:2].numpy()[:, ::-1], edges, atol=1e-4)
        assert (xy[2] > xy[0]).all()  # the centre of the first pixel lies inside
        assert (xy[2] < xy[1]).all()


@settings(max_examples=60, deadline=None)
@given(shape=shapes, data=st.data())
def test_there_and_back_is_the_same_place(shape: tuple[int, int], data: st.DataObject) -> None:
    inside = [st.floats(-0.5, side - 0.5, width=32) for side in shape]
    coords = np.array([data.draw(st.tuples(*inside))], dtype=np.float32)
    for resize in maps_of(shape):
        assert_allclose(resize.backward(resize.forward(coords)), coords, atol=2e-3)
        ends = np.array([[-0.5, -0.5], [shape[0] - 0.5, shape[1] - 0.5]], dtype=np.float32)
        assert_allclose(resize.forward(ends), [[-0.5, -0.5], np.array(resize.target) - 0.5], atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(shape=shapes)
def test_fitting_keeps_the_aspect_as_well_as_its_multiple_allows(shape: tuple[int, int]) -> None:
    resize = fit_long_side(shape, long_side=512, multiple=32)
    assert max(resize.target) == 512
    assert all(side % 32 == 0 and side > 0 for side in resize.target)
    exact = np.array(shape) * 512 / max(shape)
    assert np.all(np.abs(np.array(resize.target) - exact) <= np.maximum(16, 32 - exact))


@pytest.mark.parametrize("shape", [(64, 64), (65, 129), (200, 77), (333, 512)])
def test_pixels_move_as_points_do(shape: tuple[int, int]) -> None:
    """A blob's centre of mass in the encoder's frame is where its centre is mapped to."""
    rng = np.random.default_rng(sum(shape))
    for resize in maps_of(shape):
        centre = rng.uniform(0.3, 0.7, size=2).astype(np.float32) * np.array(shape, dtype=np.float32)
        rows, cols = np.mgrid[: shape[0], : shape[1]]
        blob = np.exp(-(((rows - centre[0]) ** 2 + (cols - centre[1]) ** 2) / 32)).astype(np.float32)
        rgb = torch.from_numpy(blob).expand(1, 3, *shape)
        frame = to_frame(rgb, resize) - to_frame(torch.zeros_like(rgb), resize)
        weight = frame[0, 0].double().numpy()
        found = [
            (weight.sum(1 - axis) * np.arange(weight.shape[axis])).sum() / weight.sum() for axis in (0, 1)
        ]
        assert_allclose(found, resize.forward(centre[None])[0], atol=0.05)


@pytest.mark.parametrize(
    "place", [(-0.6, 3), (3, -0.6), (64, 3), (3, 80), (63.6, 3), (3, 79.6), (1e9, 0), (-5, -5)]
)
def test_a_click_outside_is_refused_and_named(place: tuple[float, float]) -> None:
    features = features_of(fit_long_side((64, 80), long_side=512, multiple=32))
    with pytest.raises(PromptError, match=r"64 x 80") as caught:
        points_of(Prompt(points=Points([[5, 5], place], [True, True])), features)
    assert f"({np.float32(place[0]):g}, {np.float32(place[1]):g})" in str(caught.value)


@pytest.mark.parametrize("place", [(-0.5, -0.5), (63.5, 79.5), (0, 79), (63.49, 0)])
def test_every_place_on_a_pixel_is_inside(place: tuple[float, float]) -> None:
    features = features_of(fit_long_side((64, 80), long_side=512, multiple=32))
    xy, _ = points_of(Prompt(points=Points([place], [True])), features)
    assert torch.isfinite(xy).all()


@pytest.mark.parametrize("box", [(0, 0, 65, 10), (0, 0, 10, 81), (-1, 0, 5, 5), (0, -1, 5, 5)])
def test_a_box_beyond_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    features = features_of(fit_long_side((64, 80), long_side=512, multiple=32))
    with pytest.raises(PromptError, match="outside"):
        points_of(Prompt(box=Box(*box)), features)
    whole, _ = points_of(Prompt(box=Box(0, 0, 64, 80)), features)
    height, width = features.resize.target
    assert_allclose(whole.numpy(), [[-0.5, -0.5], [width - 0.5, height - 0.5]], atol=1e-4)
