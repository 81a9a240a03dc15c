"""Frames of stacks: any order of axes, any dtype, one window, read one at a time and one ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_segany.core.axes import Calibration, label_axes
from napari_segany.core.errors import AxesError, ImageError
from napari_segany.core.frames import FrameStack, ImagePlanes, ReadAhead, frame_stacks
from napari_segany.core.intensity import Window

SIDES = {"T": 3, "Z": 4, "C": 2, "Y": 5, "X": 6}


class Lazy:
    """An array that notes what is read from it, and on which thread."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.keys, self.threads = array, [], set()  # type: ignore[var-annotated]
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: tuple[object, ...]) -> np.ndarray:
        self.keys.append(key)
        self.threads.add(threading.current_thread())
        return self._array[key]


def stacks(array: object, axes: str, **options: object) -> list[FrameStack]:
    where = {name: options.pop(name) for name in ("axis", "fixed") if name in options}
    return list(frame_stacks(ImagePlanes(array, axes, **options), **where))  # type: ignore[arg-type]


def frames_of(stack: FrameStack) -> np.ndarray:
    return np.stack([stack[i] for i in range(len(stack))])


class TestStacks:
    @given(st.permutations("TZYX"), st.sampled_from("TZ"))
    def test_every_order_of_axes_gives_the_same_stacks(self, order: list[str], axis: str) -> None:
        axes, other = "".join(order), "TZ".replace(axis, "")
        canon = np.arange(3 * 4 * 5 * 6).reshape(3, 4, 5, 6)  # T Z Y X
        found = stacks(canon.transpose(["TZYX".index(letter) for letter in axes]), axes, axis=axis.lower())
        wanted = canon if axis == "Z" else canon.swapaxes(0, 1)
        assert [stack.at for stack in found] == [((other, i),) for i in range(SIDES[other])]
        for stack, frames in zip(found, wanted, strict=True):
            assert stack.along == axis and stack.frame_shape == (5, 6)
            np.testing.assert_array_equal(frames_of(stack), frames)

    @given(st.permutations("TCZYX"), st.sampled_from("TZ"), st.integers(0, 2), st.integers(0, 1))
    def test_one_channel_and_one_place(self, order: list[str], axis: str, place: int, channel: int) -> None:
        axes, other = "".join(order), "TZ".replace(axis, "")
        canon = np.arange(3 * 2 * 4 * 5 * 6).reshape(3, 2, 4, 5, 6)  # T C Z Y X
        image = canon.transpose(["TCZYX".index(letter) for letter in axes])
        (stack,) = stacks(image, axes, axis=axis, fixed={other.lower(): place}, channels=[channel])
        wanted = canon[:, channel, place] if axis == "T" else canon[place, channel]
        np.testing.assert_array_equal(frames_of(stack), wanted)

    @given(st.permutations("TZYX"), st.sampled_from("TZ"))
    def test_a_frame_knows_its_plane_of_the_labels_and_back(self, order: list[str], axis: str) -> None:
        axes = "".join(order)
        image = np.zeros([SIDES[letter] for letter in axes], np.uint8)
        seen = set()
        for stack in stacks(image, axes, axis=axis):
            for frame in range(len(stack)):
                index = stack.index(frame)
                assert dict(zip(label_axes(axes), index, strict=False)) == {axis: frame, **dict(stack.at)}
                assert stack.frame_of(index) == frame
                seen.add(index)
        assert len(seen) == 12
        first = stacks(image, axes, axis=axis)[0]
        elsewhere = dict.fromkeys("TZ", 1)
        assert first.frame_of([elsewhere[letter] for letter in label_axes(axes)[:-2]]) is None

    def test_time_comes_before_depth_unless_asked(self) -> None:
        image = np.zeros((3, 4, 5, 6))
        assert [len(stack) for stack in stacks(image, "TZYX")] == [3] * 4
        assert [len(stack) for stack in stacks(image, "TZYX", axis="z")] == [4] * 3
        assert stacks(image[0], "ZYX")[0].along == "Z"

    def test_names_say_where(self) -> None:
        image = np.zeros((3, 4, 5, 6))
        assert stacks(image, "TZYX", axis="Z", fixed={"T": 2}, name="a.tif")[0].name == "a.tif [T=2]"
        assert stacks(image[0], "ZYX", name="a.tif")[0].name == "a.tif"

    def test_only_what_is_asked_for_is_read(self) -> None:
        lazy = Lazy(np.zeros((5, 4, 8, 9), np.uint16))
        (stack,) = stacks(lazy, "TZYX", axis="T", fixed={"Z": 2})
        assert len(stack) == 5 and lazy.keys == []
        assert stack[3].shape == (8, 9)
        assert lazy.keys == [(3, 2, slice(None), slice(None))]

    def test_frames_iterate_to_their_end(self) -> None:
        stack = np.arange(3 * 2 * 2).reshape(3, 2, 2)
        assert np.array_equal(np.stack([frame for frame in stacks(stack, "ZYX")[0]]), stack)  # noqa: C416
        with pytest.raises(IndexError, match="frame -1 is not one of the 3"):
            stacks(stack, "ZYX")[0][-1]

    def test_depth_that_differs_from_width_is_known(self) -> None:
        image, units = np.zeros((3, 4, 5, 6)), ("second", "um", "nm", "nm")
        sizes = Calibration("TZYX", (60, 0.5, 100, 100), (), units)
        assert stacks(image, "TZYX", axis="Z", calibration=sizes)[0].anisotropy == pytest.approx(5)
        assert stacks(image, "TZYX", axis="T", calibration=sizes)[0].anisotropy is None
        assert stacks(image, "TZYX", axis="Z")[0].anisotropy is None

    @pytest.mark.parametrize(
        ("shape", "axes", "options", "message"),
        [
            ((5, 6), "YX", {}, "one plane only"),
            ((5, 6, 3), "YXS", {}, "one plane only"),
            ((3, 5, 6), "ZYX", {"axis": "t"}, "without 'T'"),
            ((3, 2, 5, 6), "TCYX", {"axis": "C"}, "without 'C'"),
            ((3, 4, 5, 6), "TZYX", {"axis": "T", "fixed": {"T": 1}}, "frame axis"),
            ((3, 4, 5, 6), "TZYX", {"axis": "T", "fixed": {"Z": 4}}, "index 4 on axis 'Z'"),
            ((3, 4, 5, 6), "TZYX", {"axis": "T", "fixed": {"Q": 0}}, "axis 'Q'"),
            ((3, 5, 6), "TZYX", {}, "one letter a side"),
            ((3, 5, 5, 6), "TCYX", {}, "5 channels; pick one, or up to 3"),
            ((3, 2, 5, 6), "TCYX", {"channels": [2]}, "from 0 to 1"),
            ((3, 2, 5, 6), "TCYX", {"channels": [1, 1]}, "different numbers"),
            ((3, 5, 6), "TYX", {"channels": [0]}, "have none"),
        ],
    )
    def test_wrong_axes_are_refused(
        self, shape: tuple[int, ...], axes: str, options: dict[str, object], message: str
    ) -> None:
        with pytest.raises(AxesError, match=message):
            stacks(np.zeros(shape), axes, **options)


class TestWindow:
    @settings(deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.sampled_from(["uint16", "float32", "float64", "int32"]),
        st.sampled_from(["TYX", "ZYX", "YXT"]),
    )
    def test_any_dtype_looks_like_the_same_data_scaled_to_8_bits(
        self, seed: int, dtype: str, axes: str
    ) -> None:
        """12-bit counts, as they are or as floats of another scale and offset, through one window each."""
        rng = np.random.default_rng(seed)
        twelve = rng.integers(0, 4096, (6, 20, 30)).astype(np.float64) ** 2 / 4096
        twelve[rng.integers(6)] *= 0.25  # a frame that bleached
        raw = np.round(twelve) if dtype in ("uint16", "int32") else twelve * 1e-4 - 7
        eight = np.round(255 * (twelve - twelve.min()) / np.ptp(twelve)).astype(np.uint8)
        order = ["TYX".index(letter) for letter in axes.replace("Z", "T")]
        (one,), (other,) = (stacks(data.transpose(order), axes) for data in (raw.astype(dtype), eight))
        for i in range(6):
            ours, theirs = one.window().apply(one[i]), other.window().apply(other[i])
            assert np.abs(ours - theirs).max() < 1.5 / 255

    def test_the_window_is_that_of_the_stack_not_of_a_frame(self) -> None:
        """Blank, dim and bright frames: equal values stay equal in the input of the model, whatever is around."""
        image = np.zeros((40, 16, 16), np.uint16)
        image[:, 4:8, 4:8] = np.arange(40)[:, None, None] * 50
        image[:, 0, 0] = 700
        (stack,) = stacks(image, "TYX")
        seen = [stack.window().apply(stack[i]) for i in range(40)]
        assert len({float(frame[0, 0]) for frame in seen}) == 1
        assert len({float(frame[15, 15]) for frame in seen}) == 1
        assert np.all(np.diff([frame[5, 5] for frame in seen][:39]) > 0)

    def test_all_stacks_of_an_image_share_it(self) -> None:
        image = np.arange(3 * 4 * 5 * 6, dtype=np.uint16).reshape(3, 4, 5, 6)
        windows = {stack.window() for stack in stacks(image, "TZYX", axis="Z")}
        (only,) = windows
        assert only.low < 5 and only.high > 350
        assert stacks(image, "TZYX", window=Window(7, 9))[0].window() == Window(7, 9)

    def test_it_is_sampled_once_and_not_from_everything(self) -> None:
        lazy = Lazy(np.random.default_rng(0).integers(0, 4096, (100, 8, 9)))
        (stack,) = stacks(lazy, "TYX")
        assert stack.window() == stack.window()
        assert 10 < len(lazy.keys) <= 16

    @pytest.mark.parametrize("blank", [0.0, np.nan, np.inf])
    def test_the_only_frame_with_content_is_found(self, blank: float) -> None:
        image = np.full((100, 8, 8), blank)
        image[43] = np.linspace(5, 9, 64).reshape(8, 8)
        (stack,) = stacks(image, "TYX")
        assert stack.window().low < 5.1 and stack.window().high > 8.5

    def test_nothing_finite_is_refused(self) -> None:
        with pytest.raises(ImageError, match=r"a\.tif holds no finite value on any of its 3 planes"):
            stacks(np.full((3, 8, 8), np.nan), "TYX", name="a.tif")[0].window()

    def test_missing_values_are_dark(self) -> None:
        image = np.random.default_rng(0).random((3, 8, 8)).astype(np.float32)
        image[1, 2:4] = np.nan
        (stack,) = stacks(image, "TYX")
        shown = stack.window().apply(stack[1])
        assert np.isfinite(shown).all() and (shown[2:4] == 0).all() and shown.max() > 0.5

    @pytest.mark.parametrize("dtype", [complex, object, "U3", "datetime64[s]"])
    def test_what_is_no_number_is_refused(self, dtype: object) -> None:
        with pytest.raises(ImageError, match="no real number"):
            ImagePlanes(np.zeros((3, 8, 8), dtype=dtype), "TYX")  # type: ignore[call-overload]

    def test_empty_images_are_refused(self) -> None:
        with pytest.raises(ImageError, match="empty"):
            ImagePlanes(np.zeros((0, 8, 8)), "TYX")


class TestChannels:
    def test_channels_become_colours_each_in_its_own_window(self) -> None:
        rng = np.random.default_rng(0)
        image = np.stack([rng.integers(0, 60000, (4, 8, 8)), rng.integers(100, 120, (4, 8, 8))], axis=1)
        (stack,) = stacks(image.astype(np.uint16), "TCYX", channels=[1, 0])
        frames = frames_of(stack)
        assert frames.shape == (4, 8, 8, 2) and stack.window() == Window(0, 1)
        assert frames.dtype == np.float32 and frames.min() == 0 and frames.max() == 1
        np.testing.assert_allclose(frames[..., 0], np.clip((image[:, 1] - 100) / 19, 0, 1), atol=0.06)
        assert frames[..., 0].std() > 0.2 and frames[..., 1].std() > 0.2  # the dim one is seen too

    def test_a_given_window_keeps_them_raw(self) -> None:
        image = np.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4)
        (stack,) = stacks(image, "TCYX", window=Window(0, 50))
        np.testing.assert_array_equal(frames_of(stack), image.transpose(0, 2, 3, 1))
        assert stack.window() == Window(0, 50)

    @pytest.mark.parametrize("samples", [3, 4])
    def test_rgb_stays_as_it_was_made(self, samples: int) -> None:
        image = np.random.default_rng(0).integers(90, 100, (3, 8, 8, samples), dtype=np.uint8)
        (stack,) = stacks(image, "TYXS")
        np.testing.assert_array_equal(frames_of(stack), image[..., :3])  # an alpha channel is no colour
        assert stack.window() == Window(0, 255)
        (blue,) = stacks(image, "TYXS", channels=[2])
        np.testing.assert_array_equal(frames_of(blue), image[..., 2])


class TestReadAhead:
    @given(st.lists(st.integers(0, 6), max_size=12))
    def test_any_order_gives_the_same_frames(self, order: list[int]) -> None:
        image = np.arange(7 * 2 * 2).reshape(7, 2, 2)
        with ReadAhead(stacks(image, "TYX")[0]) as frames:
            assert len(frames) == 7
            for i in order:
                np.testing.assert_array_equal(frames[i], image[i])

    @pytest.mark.parametrize("order", [range(7), range(6, -1, -1), [*range(3, 7), *range(2, -1, -1)]])
    def test_frames_in_turn_are_read_once_and_on_one_thread(self, order: list[int]) -> None:
        lazy = Lazy(np.zeros((7, 2, 2)))
        with ReadAhead(stacks(lazy, "TYX")[0]) as frames:
            for i in order:
                frames[i]
        assert [key[0] for key in lazy.keys] == [*order]
        (thread,) = lazy.threads
        assert thread is not threading.current_thread() and not thread.is_alive()

    def test_the_next_frame_is_read_while_one_is_looked_at(self) -> None:
        read = [threading.Event() for _ in range(3)]

        class Slow:
            def __len__(self) -> int:
                return 3

            def __getitem__(self, i: int) -> np.ndarray:
                read[i].set()
                return np.full((2, 2), i)

        with ReadAhead(Slow()) as frames:
            assert frames[0][0, 0] == 0
            assert read[1].wait(10)  # nobody asked for it yet
            assert not read[2].is_set()

    def test_a_frame_that_cannot_be_read_raises_when_it_is_asked_for(self) -> None:
        class Damaged:
            def __len__(self) -> int:
                return 3

            def __getitem__(self, i: int) -> np.ndarray:
                if i == 1:
                    raise OSError("cut off")
                return np.full((2, 2), i)

        with ReadAhead(Damaged()) as frames:
            assert frames[0].max() == 0
            with pytest.raises(OSError, match="cut off"):
                frames[1]
            assert frames[2].max() == 2

    def test_it_ends_like_a_list(self) -> None:
        with ReadAhead([np.zeros((2, 2))] * 3) as frames:
            assert sum(1 for _ in _iterate(frames)) == 3


def _iterate(frames: ReadAhead) -> Iterator[object]:
    yield from iter(frames)  # type: ignore[call-overload]  # by the sequence protocol
