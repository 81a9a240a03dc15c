from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_segany.core.errors import ImageError
from napari_segany.core.intensity import Window, sample_window

rng = np.random.default_rng(5)


class TestWindow:
    @given(hnp.arrays(np.uint16, (4, 5)), st.integers(0, 60000), st.integers(1, 5000))
    def test_between_0_and_1_and_in_order(self, image: np.ndarray, low: int, width: int) -> None:
        start = image.copy()
        scaled = Window(low, low + width).apply(image)
        assert scaled.dtype == np.float32 and scaled.min() >= 0 and scaled.max() <= 1
        assert np.array_equal(image, start)
        order = np.argsort(image, axis=None, kind="stable")
        assert (np.diff(scaled.ravel()[order]) >= 0).all()

    def test_sixteen_bits_are_not_rounded_to_eight(self) -> None:
        scaled = Window(0, 65535).apply(np.arange(1000, 1100, dtype=np.uint16))
        assert len(np.unique(scaled)) == 100

    def test_not_a_number_is_black(self) -> None:
        image = np.array([[np.nan, np.inf, -np.inf, 0.5]])
        assert Window(0, 1).apply(image).tolist() == [[0, 1, 0, 0.5]]

    @pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, np.nan), (-np.inf, 0)])
    def test_nonsense_is_refused(self, ends: tuple[float, float]) -> None:
        with pytest.raises(ImageError, match="window"):
            Window(*ends)


class TestSampling:
    def test_one_window_for_a_whole_stack(self) -> None:
        stack = rng.normal(1000, 50, (6, 40, 50)).astype(np.uint16)
        stack[5] += 2000  # a bright plane counts as much as the others
        window = sample_window(stack)
        assert 800 < window.low < 1000 and 3000 < window.high < 3300

    def test_hot_pixels_do_not_set_it(self) -> None:
        image = rng.normal(100, 5, (200, 200))
        image[0, 0] = 1e6
        assert sample_window(image).high < 200

    def test_colour_pictures_keep_their_range(self) -> None:
        assert sample_window(np.full((9, 9, 3), 7, dtype=np.uint8)) == Window(0, 255)

    def test_constant_images_are_black(self) -> None:
        flat = np.full((20, 20), 7.0)
        assert (sample_window(flat).apply(flat) == 0).all()

    def test_bool_images(self) -> None:
        assert sample_window(np.eye(4, dtype=bool)) == Window(0, 1)

    def test_only_a_part_of_a_large_stack_is_read(self) -> None:
        class Lazy:
            shape = (1000, 4096, 4096)
            ndim = 3
            dtype = np.dtype(np.uint16)
            read = 0

            def __getitem__(self, key: tuple[object, ...]) -> np.ndarray:
                side = len(range(0, 4096, key[1].step))  # type: ignore[attr-defined]
                part = rng.integers(0, 999, (side, side), dtype=np.uint16)
                self.read += part.size
                return part

        lazy = Lazy()
        assert sample_window(lazy).high <= 999  # type: ignore[arg-type]
        assert 0 < lazy.read <= 2**21

    def test_empty_and_not_finite(self) -> None:
        with pytest.raises(ImageError, match="empty"):
            sample_window(np.zeros((0, 5)))
        with pytest.raises(ImageError, match="no finite"):
            sample_window(np.full((5, 5), np.nan))
