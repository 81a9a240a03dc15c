"""What is said of an object, click by click, and where it lies in a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, PADDING, POSITIVE
from napari_segany.models.windows import Places
from napari_segany.predict.window_prompts import MOST_PASSES, around, at_points, by_click, in_places, misses

BOX = Box(2, 3, 12, 23)


def points(*coords: tuple[float, float], positive: tuple[bool, ...] | None = None) -> Points:
    signs = positive or (True,) * len(coords)
    return Points(np.array(coords, dtype=np.float32), np.array(signs))


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 20), has_box=st.booleans())
def test_each_part_says_one_click_more_and_the_last_says_all(count: int, has_box: bool) -> None:
    rng = np.random.default_rng(count)
    said = Points(rng.uniform(0, 50, (count, 2)).astype(np.float32), rng.random(count) < 0.5)
    parts = by_click(Prompt(points=said, box=BOX if has_box else None))
    counts = [len(part.points or ()) for part in parts]
    assert counts == list(range(counts[0], count + 1))
    assert len(parts) == min(count + has_box, MOST_PASSES)
    for part in parts:
        assert part.box == (BOX if has_box else None)
        if part.points is not None:
            assert np.array_equal(part.points.coords, said.coords[: len(part.points)])
            assert np.array_equal(part.points.positive, said.positive[: len(part.points)])


def test_a_box_alone_is_said_at_once() -> None:
    assert [part.box for part in by_click(Prompt(box=BOX))] == [BOX]


def test_clicks_that_a_mask_contradicts_are_counted() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = True
    said = points((3, 4), (8, 8), (3.4, 8.4), (4, 4), positive=(True, True, True, False))
    assert at_points(mask, said).tolist() == [True, False, True, True]
    assert misses(Prompt(points=said), mask) == 2
    assert misses(Prompt(box=BOX), mask) == 0
    assert not at_points(mask, points((-3, 40))).any()  # beyond the edge, the edge counts


def test_a_window_goes_around_all_that_was_said() -> None:
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:30, 10:15] = True
    found = around(Prompt(points=points((40, 12)), box=Box(22, 5, 25, 12)), mask)
    assert found == Box(20, 5, 40.5, 15)
    assert around(Prompt(points=points((4, 5))), np.zeros_like(mask)) == Box(3.5, 4.5, 4.5, 5.5)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.8])
def test_points_lie_in_windows_where_pixels_do(scale: float) -> None:
    """A click on the centre of a window pixel has that pixel's whole coordinates."""
    places = Places(torch.tensor([[7.0, 4.5]]), torch.tensor([scale]))  # (x, y)
    centres = places.centres((32, 32), stride=1.0)[0]  # (32 * 32, 2) edges at integers
    x, y = centres[5 * 32 + 9].tolist()  # window row 5, column 9
    clicks = in_places(Prompt(points=points((y - 0.5, x - 0.5), (0, 0), positive=(True, False))), places)
    assert clicks.labels.tolist() == [[POSITIVE, NEGATIVE]]
    np.testing.assert_allclose(clicks.xy[0, 0].numpy(), [9, 5], atol=1e-4)


def test_boxes_are_corners_and_a_single_click_is_padded() -> None:
    places = Places(torch.tensor([[0.0, 0.0]]), torch.tensor([2.0]))
    box = in_places(Prompt(box=BOX), places)
    assert box.labels.tolist() == [[BOX_START, BOX_END]]
    assert box.xy[0].tolist() == [[5.5, 3.5], [45.5, 23.5]]  # corners lie between pixels
    assert in_places(Prompt(points=points((1, 1))), places).labels.tolist() == [[POSITIVE, PADDING]]
    assert in_places(Prompt(points=points((1, 1)), box=BOX), places).labels.shape == (1, 3)
