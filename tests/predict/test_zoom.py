"""Small objects seen again: windows stay in the image, answers travel exactly, large objects are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from napari_segany.core.geometry import ResizeMap, fit_long_side
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.predict.zoom import (
    ISLAND_SHARE,
    LARGEST_SCALE,
    OUTSIDE_LOGIT,
    VIEW_SIDE,
    boxes_of_answer,
    boxes_of_logits,
    choose_window,
    kept_parts,
    resample,
    windows_of_small,
    without_islands,
)


def _answer(*masks: np.ndarray, scores: tuple[float, ...] = (0.9,)) -> MaskOutput:
    logits = torch.from_numpy(np.where(np.stack(masks), 5.0, -5.0)).float()[None]
    return MaskOutput(logits, torch.tensor([scores]), None, torch.zeros(1, len(masks), 8))


def _window(prompt: Prompt, mask: np.ndarray, resize: ResizeMap) -> tuple[slice, slice] | None:
    return choose_window(prompt, boxes_of_answer(_answer(mask), resize), resize)


def _click(row: float, col: float) -> Prompt:
    return Prompt(points=Points(np.array([[row, col]]), np.array([True])))


@settings(deadline=None)
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
    window = _window(_click(row, col), mask, resize)
    if window is None:
        return
    for part, start, length in zip(window, (row, col), (height, width), strict=True):
        assert 0 <= part.start <= start
        assert start + side <= part.stop <= length


def test_a_small_object_is_magnified() -> None:
    resize = fit_long_side((600, 1200), long_side=1200, multiple=32)
    mask = np.zeros((600, 1200), dtype=bool)
    mask[300:310, 500:510] = True
    window = _window(_click(305, 505), mask, resize)
    assert window is not None
    assert max(part.stop - part.start for part in window) * max(resize.scale) <= VIEW_SIDE / 2


def test_a_large_object_is_left_alone() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    mask = np.zeros((512, 512), dtype=bool)
    mask[100:300, 100:300] = True
    assert _window(_click(200, 200), mask, resize) is None


def test_far_clicks_keep_the_whole_frame() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    points = Points(np.array([[10, 10], [400, 400]]), np.array([True, True]))
    mask = np.zeros((512, 512), dtype=bool)
    mask[8:12, 8:12] = True
    assert _window(Prompt(points=points), mask, resize) is None


def test_nothing_found_is_looked_at_again_around_the_click() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    window = _window(_click(256, 256), np.zeros((512, 512), dtype=bool), resize)
    assert window is not None
    assert all(part.start <= 256 < part.stop for part in window)


def test_a_box_decides_where_nothing_was_found() -> None:
    resize = fit_long_side((512, 512), long_side=512, multiple=32)
    assert choose_window(Prompt(box=Box(10, 10, 20, 20)), [], resize) is not None
    assert choose_window(Prompt(box=Box(10, 10, 200, 200)), [], resize) is None


def test_doubtful_answers_do_not_keep_the_whole_frame() -> None:
    small, large = np.zeros((64, 64), dtype=bool), np.ones((64, 64), dtype=bool)
    small[10:14, 20:26] = True
    resize = ResizeMap((64, 64), (64, 64))
    assert boxes_of_answer(_answer(small, large, scores=(0.9, 0.3)), resize) == [Box(10, 20, 14, 26)]
    assert len(boxes_of_answer(_answer(small, large, scores=(0.9, 0.8)), resize)) == 2


def test_the_box_of_earlier_logits_is_in_image_pixels() -> None:
    logits = np.full((64, 32), -1.0, dtype=np.float32)
    logits[16:32, 8:16] = 1.0
    assert boxes_of_logits(logits, ResizeMap((128, 128), (128, 64))) == [Box(32, 32, 64, 64)]
    assert boxes_of_logits(-np.ones((4, 4), dtype=np.float32), ResizeMap((8, 8), (8, 8))) == []


@settings(deadline=None)
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


@settings(deadline=None)
@given(
    origin=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    step=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    seed=st.integers(0, 99),
)
def test_resampling_is_bilinear_and_repeats_the_outermost_logits(
    origin: tuple[float, float], step: tuple[float, float], seed: int
) -> None:
    logits = torch.randn(2, 1, 6, 9, generator=torch.Generator().manual_seed(seed))
    image, size = (30, 27), (17, 13)
    places = [
        (origin[axis] + (np.arange(size[axis]) + 0.5) * step[axis]) / image[axis] * 2 - 1 for axis in (0, 1)
    ]
    inside = np.logical_and.outer(*(np.abs(along) <= 1 for along in places))
    grid = torch.from_numpy(np.stack(np.meshgrid(places[1], places[0]), axis=-1)).float()
    expected = F.grid_sample(
        logits, grid[None].expand(2, -1, -1, -1), padding_mode="border", align_corners=False
    )
    expected[:, :, ~torch.from_numpy(inside)] = OUTSIDE_LOGIT
    found = resample(logits, source=ResizeMap(image, (60, 54)), origin=origin, size=size, step=step)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_resampling_outside_is_background() -> None:
    logits = torch.ones(1, 1, 4, 4)
    moved = resample(logits, source=ResizeMap((8, 8), (64, 64)), origin=(-8, 0), size=(8, 4), step=(2, 2))
    assert (moved[0, 0, :4] == OUTSIDE_LOGIT).all()
    assert (moved[0, 0, 4:] == 1).all()


def _is_all_but(kept: Tensor | None, gone: NDArray[np.bool_]) -> bool:
    """Whether one mask keeps all but what is `gone` (H, W), None standing for everything."""
    return not gone.any() if kept is None else np.array_equal(kept[0, 0].numpy(), ~gone)


@pytest.mark.parametrize(("island", "is_kept"), [(2, False), (6, True)])
def test_islands_well_below_the_largest_part_go(island: int, is_kept: bool) -> None:
    logits = torch.full((1, 1, 20, 20), -3.0)
    logits[0, 0, :4, :4] = 4.0
    logits[0, 0, 10, :island] = 4.0
    kept = kept_parts(logits)
    if is_kept:
        assert kept is None
    else:
        assert kept is not None
        assert not kept[0, 0, 10, :island].any()
        assert kept.sum() == kept.numel() - island


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 16), fill=st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5]))
def test_wherever_a_mask_lies_its_small_parts_go_and_nothing_else_changes(seed: int, fill: float) -> None:
    rng = np.random.default_rng(seed)
    inside = rng.random((12, 14)) < fill
    logits = torch.from_numpy(
        np.pad(np.where(inside, 2.0, -3.0), rng.integers(0, 6, (2, 2)), constant_values=-3.0)
    )
    tidied, kept = without_islands(logits[None, None])
    parts, count = ndimage.label((logits > 0).numpy())
    sizes = np.bincount(parts.ravel(), minlength=2)[1:]
    gone = np.isin(parts, 1 + np.flatnonzero(sizes < ISLAND_SHARE * sizes.max())) if count else parts > 0
    assert _is_all_but(kept, gone)
    assert torch.equal(tidied[0, 0], torch.where(torch.from_numpy(gone), -1.0, logits))


@settings(max_examples=100, deadline=None)
@given(runs=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=6))
def test_masks_of_one_run_a_row_are_in_one_piece_where_runs_touch(runs: list[tuple[int, int]]) -> None:
    mask = np.zeros((len(runs), 16), dtype=bool)
    for row, (start, length) in zip(mask, runs, strict=True):
        row[start : start + length] = True
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())[1:]
    gone = np.isin(parts, 1 + np.flatnonzero(sizes < ISLAND_SHARE * sizes.max()))
    kept = kept_parts(torch.from_numpy(np.where(mask, 1.0, -1.0))[None, None])
    assert _is_all_but(kept, gone)


def test_tiny_and_small_masks_get_windows_of_their_own() -> None:
    resize = fit_long_side((512, 512), long_side=512)
    masks = np.zeros((4, 512, 512), dtype=bool)
    for mask, half in zip(masks, (4, 5, 22, 120), strict=True):  # two tiny ones, a small one, a large one
        mask[200 - half : 200 + half, 300 - half : 300 + half] = True
    found = windows_of_small(_click(200, 300), _answer(*masks, scores=(0.9, 0.8, 0.7, 0.6)), resize)
    assert [indices for indices, _ in found] == [[0, 1], [2]]
    sides = [window[0].stop - window[0].start for _, window in found]
    assert sides == [round(VIEW_SIDE / LARGEST_SCALE), VIEW_SIDE // 2]
    assert windows_of_small(_click(200, 300), _answer(masks[3]), resize) == []
    assert windows_of_small(_click(200, 300), _answer(np.zeros((512, 512), dtype=bool)), resize) == []
