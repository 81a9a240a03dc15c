"""Small objects seen again: windows stay in the image, answers travel exactly, large objects are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.geometry import ResizeMap, fit_long_side
from napari_segany.core.types import Box, MaskPrediction, Points, Prompt
from napari_segany.predict.zoom import OUTSIDE_LOGIT, VIEW_SIDE, choose_window, drop_islands, resample


def _answer(mask: np.ndarray, score: float = 0.9) -> MaskPrediction:
    logits = np.where(mask, 5.0, -5.0).astype(np.float32)[None]
    return MaskPrediction(mask[None], np.array([score], dtype=np.float32), logits, np.array([4]))


def _click(row: float, col: float) -> Prompt:
    return Prompt(points=Points(np.array([[row, col]]), np.array([True])))


@given(
    height=st.integers(40, 900),
    width=st.integers(40, 900),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    side=st.integers(1, 12),
)
def test_a_window_holds_the_object_and_stays_in_the_image(
    height: int, width: int, place: tuple[float, float], side: int
) -> None:
    resize = fit_long_side((height, width), long_side=min(max(height, width, 512), 1280), multiple=32)
    row, col = int(place[0] * (height - side)), int(place[1] * (width - side))
    mask = np.zeros((height, width), dtype=bool)
    mask[row : row + side, col : col + side] = True
    window = choose_window(_click(row, col), _answer(mask), resize)
    if window is None:
        return
    for part, start, length in zip(window, (row, col), (height, width), strict=True):
        assert 0 <= part.start <= start
        assert start + side <= part.stop <= length


def test_a_small_object_is_magnified() -> None:
    resize = fit_long_side((600, 1200), long_side=1200, multiple=32)
    mask = np.zeros((600, 1200), dtype=bool)
    mask[300:310, 500:510] = True
    window = choose_window(_click(305, 505), _answer(mask), resize)
    assert window is not None
    assert max(part.stop - part.start for part in window) * max(resize.scale) <= VIEW_SIDE / 2


def test_a_large_object_is_left_alone() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    mask = np.zeros((512, 512), dtype=bool)
    mask[100:300, 100:300] = True
    assert choose_window(_click(200, 200), _answer(mask), resize) is None


def test_far_clicks_keep_the_whole_frame() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    points = Points(np.array([[10, 10], [400, 400]]), np.array([True, True]))
    mask = np.zeros((512, 512), dtype=bool)
    mask[8:12, 8:12] = True
    assert choose_window(Prompt(points=points), _answer(mask), resize) is None


def test_nothing_found_is_looked_at_again_around_the_click() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    window = choose_window(_click(256, 256), _answer(np.zeros((512, 512), dtype=bool)), resize)
    assert window is not None
    assert all(part.start <= 256 < part.stop for part in window)


def test_a_box_decides_where_nothing_was_found() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    empty = _answer(np.zeros((512, 512), dtype=bool))
    assert choose_window(Prompt(box=Box(10, 10, 20, 20)), empty, resize) is not None
    assert choose_window(Prompt(box=Box(10, 10, 200, 200)), empty, resize) is None


@given(rows=st.integers(2, 24), cols=st.integers(2, 24), seed=st.integers(0, 99))
def test_resampling_onto_the_same_grid_changes_nothing(rows: int, cols: int, seed: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, rows, cols)).astype(np.float32))
    same = resample(
        logits,
        source=ResizeMap((3 * rows, 3 * cols), (96, 96)),
        origin=(0, 0),
        size=(rows, cols),
        step=(3, 3),
    )
    torch.testing.assert_close(same, logits, atol=1e-4, rtol=0)


def test_resampling_outside_is_background() -> None:
    logits = torch.ones(1, 1, 4, 4)
    moved = resample(logits, source=ResizeMap((8, 8), (64, 64)), origin=(-8, 0), size=(8, 4), step=(2, 2))
    assert (moved[0, 0, :4] == OUTSIDE_LOGIT).all()
    assert (moved[0, 0, 4:] == 1).all()


@pytest.mark.parametrize(("island", "is_kept"), [(2, False), (6, True)])
def test_islands_well_below_the_largest_part_go(island: int, is_kept: bool) -> None:
    logits = torch.full((1, 1, 20, 20), -3.0)
    logits[0, 0, :4, :4] = 4.0
    logits[0, 0, 10, :island] = 4.0
    cleaned = drop_islands(logits)
    assert bool((cleaned[0, 0, 10, :island] > 0).all()) is is_kept
    assert (cleaned[0, 0, :4, :4] == 4.0).all()
    assert (logits[0, 0, 10, :island] == 4.0).all(), "the decoder's own answer was changed"
