from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_segany.core.errors import ImageError
from napari_segany.core.geometry import ResizeMap, fit_long_side, stretch

shapes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
spots = hnp.arrays(np.float32, (5, 2), elements=st.floats(-10, 5000, width=32))


@given(shapes, shapes, spots)
def test_back_and_forth_is_where_it_was(
    source: tuple[int, int], target: tuple[int, int], coords: np.ndarray
) -> None:
    there = ResizeMap(source, target)
    tolerance = 1e-3 * max(1.0, *(1 / s for s in there.scale))
    assert there.backward(there.forward(coords)) == pytest.approx(coords, rel=1e-4, abs=tolerance)


def test_centres_and_edges_map_exactly() -> None:
    there = ResizeMap((256, 256), (1024, 1024))
    mapped = there.forward(np.array([[-0.5, -0.5], [0, 0], [255.5, 255.5]], dtype=np.float32))
    assert mapped.tolist() == [[-0.5, -0.5], [1.5, 1.5], [1023.5, 1023.5]]


@given(shapes, st.integers(1, 1024))
def test_the_longer_side_is_as_asked(shape: tuple[int, int], side: int) -> None:
    fitted = fit_long_side(shape, long_side=side)
    assert max(fitted.target) == side and min(fitted.target) >= 1
    wanted = min(shape) * side / max(shape)
    assert abs(min(fitted.target) - wanted) <= max(0.5, 1 - wanted) + 1e-9


def test_stretch_makes_squares() -> None:
    assert stretch((10, 40), side=20).scale == (2.0, 0.5)


@pytest.mark.parametrize(("source", "target"), [((0, 5), (4, 4)), ((5, 5), (4, 0))])
def test_nothing_has_no_map(source: tuple[int, int], target: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="at least one pixel"):
        ResizeMap(source, target)
