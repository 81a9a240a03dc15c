"""Simulated people: clicks inside, on the error and of its sign; boxes and drawn masks that can be used."""

from __future__ import annotations

import numpy as np
import pytest
from annotated_images import disc_labels
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.strategies import masks

from napari_segany.core.errors import EmptyMaskError
from napari_segany.core.masks import box_of
from napari_segany.train.clicks import (
    coarse_mask,
    corrective_click,
    deepest_point,
    depth,
    first_click,
    noisy_box,
    spoilt_mask,
)

DISC = disc_labels((21, 21), radius=7) == 1


def slow_depth(mask: np.ndarray) -> np.ndarray:
    """Return distances to the nearest pixel outside, one pixel at a time."""
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    places = np.stack(np.mgrid[: mask.shape[0], : mask.shape[1]], -1)
    distance = np.linalg.norm(places[:, :, None] - outside[None, None], axis=-1).min(-1)
    return np.where(mask, distance, 0)


@settings(deadline=None)
@given(mask=masks())
def test_depth_is_the_distance_to_the_outside(mask: np.ndarray) -> None:
    np.testing.assert_allclose(depth(mask), slow_depth(mask), atol=1e-5)


@settings(deadline=None)
@given(mask=masks())
def test_the_deepest_point_is_inside_and_none_is_deeper(mask: np.ndarray) -> None:
    assume(mask.any())
    row, col = deepest_point(mask)
    assert mask[row, col]
    assert depth(mask)[row, col] == depth(mask).max()


def test_the_deepest_point_of_a_disc_is_its_centre() -> None:
    assert deepest_point(DISC) == (10, 10)
    assert deepest_point(np.ones((5, 9), dtype=bool))[0] == 2


def test_an_empty_mask_has_none() -> None:
    with pytest.raises(EmptyMaskError, match=r"\(4, 6\)"):
        deepest_point(np.zeros((4, 6), dtype=bool))


@settings(deadline=None)
@given(mask=masks(), seed=st.integers(0, 999))
def test_the_first_click_is_positive_and_inside(mask: np.ndarray, seed: int) -> None:
    assume(mask.any())
    click = first_click(mask, np.random.default_rng(seed))
    assert click.is_positive
    assert mask[int(click.row), int(click.col)]


def test_first_clicks_vary_but_keep_off_the_rim() -> None:
    clicks = [first_click(DISC, np.random.default_rng(seed)) for seed in range(60)]
    places = {(c.row, c.col) for c in clicks}
    assert len(places) > 15
    assert 15 < sum((c.row, c.col) == (10, 10) for c in clicks) < 50
    assert all(depth(DISC)[int(row), int(col)] > 1 for row, col in places)


@settings(deadline=None)
@given(
    data=st.data(),
    size=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    seed=st.none() | st.integers(0, 99),
)
def test_a_corrective_click_is_on_the_error_and_of_its_sign(
    data: st.DataObject, size: tuple[int, int], seed: int | None
) -> None:
    truth, guess = (data.draw(masks(height=size[0], width=size[1])) for _ in range(2))
    click = corrective_click(truth, guess, rng=None if seed is None else np.random.default_rng(seed))
    if click is None:
        assert np.array_equal(truth, guess)
        return
    row, col = int(click.row), int(click.col)
    assert truth[row, col] != guess[row, col]
    assert click.is_positive == truth[row, col]
    missed, extra = depth(truth & ~guess), depth(guess & ~truth)
    assert click.is_positive == (missed.max() >= extra.max())
    if seed is None:
        assert max(missed[row, col], extra[row, col]) == max(missed.max(), extra.max())


def test_equal_masks_need_no_click() -> None:
    assert corrective_click(DISC, DISC.copy()) is None
    assert corrective_click(~DISC | DISC, np.ones_like(DISC), rng=np.random.default_rng(0)) is None


@settings(deadline=None)
@given(mask=masks(), seed=st.integers(0, 999), noise=st.floats(0, 2))
def test_a_noisy_box_is_a_box(mask: np.ndarray, seed: int, noise: float) -> None:
    assume(mask.any())
    box = noisy_box(mask, np.random.default_rng(seed), noise=noise, most=5)
    exact = box_of(mask)
    assert min(box.height, box.width) >= 1 - 1e-9
    assert abs(box.row0 - exact.row0) <= 5
    assert abs(box.col0 - exact.col0) <= 5
    assert noisy_box(mask, None) == exact


def test_box_noise_is_in_proportion_to_the_side() -> None:
    mask = np.zeros((200, 200), dtype=bool)
    mask[50:150, 80:100] = True
    moves = np.array(
        [
            [box.row0 - 50, box.col0 - 80, box.row1 - 150, box.col1 - 100]
            for seed in range(300)
            if (box := noisy_box(mask, np.random.default_rng(seed)))
        ]
    )
    np.testing.assert_allclose(moves.std(0), [10, 2, 10, 2], rtol=0.25)
    assert np.abs(moves).max() <= 20


@settings(deadline=None)
@given(mask=masks(), seed=st.integers(0, 999))
def test_a_coarse_mask_covers_some_of_the_object(mask: np.ndarray, seed: int) -> None:
    assume(mask.any())
    coarse = coarse_mask(mask, np.random.default_rng(seed))
    assert coarse.shape == mask.shape
    assert coarse.dtype == bool
    assert (coarse & mask).any()


def test_a_coarse_mask_stays_near_the_object() -> None:
    """Not along the edges of the image, either, which once counted as near to any outside."""
    mask = np.zeros((96, 96), dtype=bool)
    mask[:42, :42][disc_labels((42, 42), radius=14) == 1] = True
    grown = shrunk = 0
    for seed in range(30):
        coarse = coarse_mask(mask, np.random.default_rng(seed))
        assert not coarse[:, 60:].any()
        assert not coarse[60:].any()
        assert (coarse & mask).sum() / (coarse | mask).sum() > 0.25
        assert not np.array_equal(coarse, mask)
        grown += coarse.sum() > mask.sum()
        shrunk += coarse.sum() < mask.sum()
    assert min(grown, shrunk) > 5


@given(mask=masks(), seed=st.integers(0, 2**32 - 1))
def test_a_spoilt_mask_is_a_part_of_it_or_more_and_never_next_to_nothing(mask: np.ndarray, seed: int) -> None:
    spoilt = spoilt_mask(mask, np.random.default_rng(seed))
    assert (spoilt & ~mask).sum() == 0 or (mask & ~spoilt).sum() == 0
    assert spoilt.sum() >= min(6, mask.sum())


def test_masks_are_spoilt_in_every_way() -> None:
    rng = np.random.default_rng(3)
    areas = np.array([spoilt_mask(DISC, rng).sum() for _ in range(60)]) / DISC.sum()
    assert (areas < 0.6).any() and ((areas > 0.6) & (areas < 1)).any() and (areas > 1).any()
