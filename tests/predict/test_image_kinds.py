"""Images of every dtype, shape and range become the same features as their content says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from napari_segany.core.errors import ImageError
from napari_segany.core.intensity import Window
from napari_segany.core.types import Points, Prompt
from napari_segany.predict.image import Features, ImagePredictor
from napari_segany.predict.preprocess import check_image, to_rgb

RNG = np.random.default_rng(11)
GREY = RNG.integers(0, 4096, size=(40, 56))
CLICK = Prompt(points=Points([[20, 30]], [True]))


def with_nan() -> np.ndarray:
    image = GREY.astype(np.float32) / 4096
    image[3:6, 7:20] = np.nan
    image[0, 0], image[0, 1] = np.inf, -np.inf
    return image


KINDS = {
    "bool": GREY > 2000,
    "uint8": (GREY // 16).astype(np.uint8),
    "int8": (GREY // 16 - 128).astype(np.int8),
    "uint16": GREY.astype(np.uint16),
    "big-endian uint16": GREY.astype(">u2"),
    "int32": (GREY - 2000).astype(np.int32),
    "uint64": GREY.astype(np.uint64),
    "float16": (GREY / 4096).astype(np.float16),
    "float32 with NaN": with_nan(),
    "float64": GREY * 1e-9 - 5e-7,
    "large float32": GREY.astype(np.float32) * 1e30,
    "constant": np.full((40, 56), 7, dtype=np.uint16),
    "constant zero": np.zeros((40, 56)),
    "(H, W, 1)": GREY[..., None].astype(np.uint16),
    "(H, W, 2)": RNG.integers(0, 4096, size=(40, 56, 2)).astype(np.uint16),
    "(H, W, 3)": RNG.integers(0, 256, size=(40, 56, 3)).astype(np.uint8),
    "(H, W, 4)": RNG.integers(0, 256, size=(40, 56, 4)).astype(np.uint8),
    "turned view": GREY.astype(np.uint16)[::-1, ::-2],
    "Fortran order": np.asfortranarray(GREY.astype(np.float32)),
}


def assert_close(ours: Features, theirs: Features) -> None:
    for a, b in zip(
        (ours.tensors.embedding, *ours.tensors.fine),
        (theirs.tensors.embedding, *theirs.tensors.fine),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_any_real_image_is_segmented(nano: ImagePredictor, kind: str) -> None:
    image = KINDS[kind]
    before = image.copy()
    features = nano.embed(image)
    assert torch.isfinite(features.tensors.embedding).all()
    answer = nano.predict(features, Prompt(points=Points([[20, 12]], [True])))
    assert answer.masks.shape == (3, *image.shape[:2])
    assert np.isfinite(answer.logits).all()
    assert before.tobytes() == image.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (7, 500), (33, 31)])
def test_any_shape_is_segmented(predictor: ImagePredictor, shape: tuple[int, int]) -> None:
    features = predictor.embed(RNG.random(shape))
    assert features.image_shape == shape
    last = (shape[0] - 1, shape[1] - 1)
    answer = predictor.predict(features, Prompt(points=Points([last], [True])))
    assert answer.masks.shape == (3, *shape)
    again = predictor.predict(features, Prompt(mask=answer.logits[0]), multimask=False)
    assert again.masks.shape == (1, *shape)
    drawn = predictor.predict(features, Prompt(mask=np.ones(shape, dtype=bool)))
    assert np.isfinite(drawn.logits).all()


def test_scale_and_dtype_do_not_matter(nano: ImagePredictor) -> None:
    """12 bit counts, the same as fractions, and the same with an offset give the same masks."""
    counts = GREY.astype(np.uint16)
    expected = nano.embed(counts)
    answer = nano.predict(expected, CLICK)
    assert 0 < answer.masks.mean() < 1  # a comparison of empty masks would say nothing
    for same in (GREY / 4095, (GREY / 4095).astype(np.float32), GREY.astype(np.int32) - 5000, GREY * 8.0):
        features = nano.embed(same)
        assert_close(features, expected)
        assert np.mean(nano.predict(features, CLICK).masks != answer.masks) < 2e-3


def test_neighbouring_values_of_16_bits_stay_apart() -> None:
    values = np.arange(0, 65535, 257, dtype=np.uint16)[None]
    pixels = to_rgb(np.stack([values[0], values[0] + 1]), Window(0, 65535))[0, 0]
    assert (pixels[1] > pixels[0]).all()


def test_the_same_window_gives_the_same_features(nano: ImagePredictor) -> None:
    image = GREY.astype(np.uint16)
    sampled = nano.embed(image)
    given = nano.embed(image, window=sampled.window)
    assert torch.equal(sampled.tensors.embedding, given.tensors.embedding)
    assert given.window == sampled.window
    other = nano.embed(image, window=Window(0, 65535))
    assert other.window == Window(0, 65535)
    assert not torch.allclose(other.tensors.embedding, sampled.tensors.embedding, rtol=1e-2)


def test_one_window_for_a_stack_keeps_planes_comparable(nano: ImagePredictor) -> None:
    """A darker plane stays darker: the window is not made anew."""
    window = Window(0, 4096)
    bright, dark = (to_rgb((GREY // n).astype(np.uint16), window) for n in (1, 4))
    assert_allclose(dark.numpy(), bright.numpy() / 4, atol=3e-4)
    assert nano.embed(GREY // 4, window=window).window == window


def test_grey_is_grey_in_every_form(nano: ImagePredictor) -> None:
    grey = KINDS["uint8"]
    window = Window(0, 255)
    expected = nano.embed(grey, window=window)
    alpha = np.full_like(grey, 3)
    forms = [grey[..., None], np.stack([grey] * 3, axis=-1), np.stack([grey] * 3 + [alpha], axis=-1)]
    for form in forms:
        assert_close(nano.embed(form, window=window), expected)
    assert_close(nano.embed(forms[1]), expected)  # colour of 8 bits is windowed already


def test_channels_keep_their_places() -> None:
    two = np.stack([np.zeros((4, 5)), np.ones((4, 5))], axis=-1)
    rgb = to_rgb(check_image(two), Window(0, 1))
    assert rgb.shape == (1, 3, 4, 5)
    assert rgb[0].mean((1, 2)).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4), dtype=complex), "complex128"),
        (np.array([["a", "b"]]), "<U1"),
        (np.array([[None, 1]]), "object"),
        (np.zeros((0, 5)), r"\(0, 5\)"),
        (np.zeros((5, 0, 3)), r"\(5, 0, 3\)"),
        (np.zeros(7), r"\(7,\)"),
        (np.float32(3), r"\(\)"),
        (np.zeros((2, 3, 4, 3)), r"\(2, 3, 4, 3\)"),
        (np.zeros((6, 7, 5)), "5 channels"),
        (np.full((3, 3), np.nan), r"\(3, 3\)"),
    ],
)
def test_what_is_no_image_is_refused_with_its_value(
    nano: ImagePredictor, image: np.ndarray, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        nano.embed(image)
