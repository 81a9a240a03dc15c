from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_segany.core.errors import ImageError
from napari_segany.core.intensity import Window, sample_window

rng = np.random.default_rng(5)

ANY_IMAGE = hnp.arrays(
    st.one_of(
        hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.floating_dtypes()
    ),
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ENDS = st.one_of(
    st.tuples(_FLOATS, _FLOATS).map(lambda ends: tuple(sorted(ends))),
    st.tuples(st.floats(-1e12, 1e12), st.floats(1e-6, 1e6)).map(lambda at: (at[0], at[0] + at[1])),
).filter(lambda ends: ends[0] < ends[1])


def exact_share(value: float, window: Window) -> float:
    """Where a value lies in a window, 0 to 1, without any rounding."""
    if math.isnan(value):
        return 0.0
    if math.isinf(value):
        return float(value > 0)
    at, low, high = Fraction(value), Fraction(window.low), Fraction(window.high)
    return float(min(max((at - low) / (high - low), Fraction(0)), Fraction(1)))


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

    @pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64, np.float64])
    @pytest.mark.parametrize("offset", [1e9, 2.0e9 - 1000])
    def test_a_small_range_far_from_zero_is_resolved(self, dtype: type, offset: float) -> None:
        steps = np.arange(101)
        scaled = Window(offset, offset + 100).apply((steps + offset).astype(dtype))
        assert scaled == pytest.approx(steps / 100, abs=1e-6)

    @given(ANY_IMAGE, ENDS)
    def test_any_image_and_window_are_exact_to_five_digits(
        self, image: np.ndarray, ends: tuple[float, float]
    ) -> None:
        window = Window(*ends)
        scaled = window.apply(image)
        assert scaled.dtype == np.float32 and scaled.shape == image.shape
        for value, got in zip(image.ravel().tolist(), scaled.ravel().tolist(), strict=True):
            rounding = abs(int(value) - int(float(value))) if image.dtype.kind in "iu" else 0
            allowed = 2e-5 + rounding / (window.high - window.low)  # integers past 2**53 become float64
            assert got == pytest.approx(exact_share(value, window), abs=allowed)

    @given(ANY_IMAGE)
    def test_order_is_kept_under_the_sampled_window(self, image: np.ndarray) -> None:
        if not any(math.isfinite(value) for value in image.ravel().tolist()):
            with pytest.raises(ImageError, match="no finite"):
                sample_window(image)
            return
        values = image[~np.isnan(image)] if image.dtype.kind == "f" else image.ravel()
        scaled = sample_window(image).apply(np.sort(values))
        assert (np.diff(scaled) >= 0).all() and (scaled >= 0).all() and (scaled <= 1).all()

    def test_the_fast_path_equals_the_exact_one(self) -> None:
        image = rng.integers(0, 65536, (64, 64)).astype(np.uint16)
        window = Window(812.25, 40000.5)
        assert np.abs(window.apply(image) - window.apply(image.astype(np.float64))).max() < 1e-6

    @pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, np.nan), (-np.inf, 0), (2**60, 2**60 + 1)])
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

    @pytest.mark.parametrize(
        "flat",
        [
            np.full((9, 9), 2**60, dtype=np.int64),
            np.full((9, 9), 2**64 - 1, dtype=np.uint64),
            np.full((9, 9), 1e17),
            np.full((9, 9), -3.4e38, dtype=np.float32),
            np.full((9, 9), -1.7e308),
        ],
        ids=str,
    )
    def test_constant_images_of_huge_values_are_black(self, flat: np.ndarray) -> None:
        assert (sample_window(flat).apply(flat) == 0).all()

    def test_the_largest_float_can_be_windowed(self) -> None:
        top = np.full((3, 3), np.finfo(np.float64).max)
        assert (sample_window(top).apply(top) == 1).all()

    def test_bool_images(self) -> None:
        assert sample_window(np.eye(4, dtype=bool)) == Window(0, 1)

    @pytest.mark.parametrize("shape", [(1000, 4096, 4096), (50, 20, 2048, 2048, 3), (9000, 9000, 4)])
    def test_only_a_part_of_a_large_stack_is_read(self, shape: tuple[int, ...]) -> None:
        class Lazy:
            ndim = len(shape)
            dtype = np.dtype(np.uint16)
            read = 0
            frames: ClassVar[list[tuple[int, ...]]] = []

            def __init__(self) -> None:
                self.shape = shape

            def __getitem__(self, key: tuple[int | slice, ...]) -> np.ndarray:
                sides = [len(range(n)[k]) for k, n in zip(key, shape, strict=False) if isinstance(k, slice)]
                part = rng.integers(0, 999, (*sides, *shape[len(key) :]), dtype=np.uint16)
                self.read += part.size
                self.frames.append(tuple(k for k in key if isinstance(k, int)))
                return part

        lazy = Lazy()
        assert sample_window(lazy).high <= 999  # type: ignore[arg-type]
        assert 0 < lazy.read <= 2**22
        if len(shape) != 3 or shape[-1] > 4:  # from the first frame to the last
            assert set(lazy.frames) >= {tuple(0 for _ in lazy.frames[0]), lazy.frames[-1]}
            assert lazy.frames[-1] == tuple(n - 1 for n in shape[: len(lazy.frames[-1])])

    def test_empty_and_not_finite(self) -> None:
        with pytest.raises(ImageError, match="empty"):
            sample_window(np.zeros((0, 5)))
        with pytest.raises(ImageError, match="no finite"):
            sample_window(np.full((5, 5), np.nan))
