import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from napari_segany.core.types import Box
from napari_segany.ui.outlines import (
    box_of_corners,
    corners_of_box,
    ellipse_outline,
    fill_outline,
    fill_outlines,
    scribble_clicks,
)

SHAPE = (30, 40)
# off the grid of pixel centres, where "inside" has one meaning
corner = st.tuples(*(st.integers(-5, side + 5).map(lambda i: i + 0.37) for side in SHAPE))


@given(st.lists(corner, min_size=3, max_size=8))
def test_filled_pixels_are_those_an_independent_rule_fills(corners: list[tuple[float, float]]) -> None:
    outline = np.array(corners, dtype=np.float32)
    differing = fill_outline(outline, shape=SHAPE) ^ polygon2mask(SHAPE, outline)
    rows, cols = np.nonzero(differing)
    for point in zip(
        rows, cols, strict=True
    ):  # only where an edge runs through the pixel's centre may they differ
        assert _distance_to_edges(np.array(point, dtype=float), outline) < 1e-3


def _distance_to_edges(point: np.ndarray, outline: np.ndarray) -> float:
    a, b = outline, np.roll(outline, -1, axis=0)
    along = np.einsum("ij,ij->i", point - a, b - a) / np.maximum(((b - a) ** 2).sum(axis=1), 1e-12)
    nearest = a + np.clip(along, 0, 1)[:, None] * (b - a)
    return float(np.linalg.norm(nearest - point, axis=1).min())


def test_a_drawn_box_holds_the_pixels_whose_centres_it_surrounds() -> None:
    box = box_of_corners(np.array([[1.6, 2.6], [1.6, 7.4], [5.4, 7.4], [5.4, 2.6]], dtype=np.float32))
    assert box == Box(*np.float32([2.1, 3.1, 5.9, 7.9]).tolist())
    edges = fill_outline(corners_of_box(Box(2, 3, 6, 8)), shape=SHAPE)
    expected = np.zeros(SHAPE, dtype=bool)
    expected[2:6, 3:8] = True
    assert np.array_equal(edges, expected)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9))
def test_boxes_come_back_as_they_were(row: int, col: int, height: int, width: int) -> None:
    box = Box(row, col, row + height, col + width)
    assert box_of_corners(corners_of_box(box)) == box


def test_a_line_is_no_box() -> None:
    assert box_of_corners(np.array([[1, 1], [1, 9], [1.5, 9], [1.5, 1]], dtype=np.float32)) is None


def test_ellipses_and_unions_have_their_area() -> None:
    corners = np.array([[5, 5], [5, 25], [19, 25], [19, 5]], dtype=np.float32)
    ellipse = ellipse_outline(corners)
    assert fill_outline(ellipse, shape=SHAPE).sum() == pytest.approx(np.pi * 7 * 10, rel=0.05)
    both = fill_outlines([ellipse, corners_of_box(Box(0, 0, 2, 2))], shape=SHAPE)
    assert both[:2, :2].all() and both[12, 15]


def test_scribbles_become_clicks_along_the_path() -> None:
    path = np.array([[0, 0], [0, 20], [20, 20]], dtype=np.float32)
    clicks = scribble_clicks(path, positive=False)
    assert 2 <= len(clicks) <= 8 and not clicks.positive.any()
    on_path = (clicks.coords[:, 0] == 0) | (clicks.coords[:, 1] == 20)
    assert on_path.all()
