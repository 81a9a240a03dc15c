from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.axes import (
    Calibration,
    channel_axis,
    frame_axis,
    label_axes,
    label_shape,
    pick_axis,
    plane_indices,
    plane_of,
    resolve_axes,
    unit_name,
)
from napari_segany.core.errors import AxesError


class TestCalibration:
    def test_named_sizes(self) -> None:
        stack = Calibration("tzyx", (2, 500, 0.1, 0.1), (), ("min", "nm", "um", "\u00b5m"))
        assert stack.axes == "TZYX"
        assert stack.units == ("minute", "nanometer", "micrometer", "micrometer")
        assert stack.spacing_um == pytest.approx((0.5, 0.1, 0.1))
        assert stack.interval_s == 120
        assert stack.keep("YX") == Calibration("YX", (0.1, 0.1), (0, 0), ("um", "um"))

    def test_uncalibrated_says_so(self) -> None:
        plain = Calibration("TYX")
        assert plain.scale == (1, 1, 1) and plain.units == ("pixel",) * 3
        assert plain.spacing_um is None and plain.interval_s is None
        assert Calibration("YX", units=("um", "um")).interval_s is None

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (("TXY",), "'YX'"),
            (("TTYX",), "different letters"),
            (("CYX",), "leave C and S out"),
            (("YX", (1.0,)), "2 values of scale"),
            (("YX", (1.0, 0.0)), "above 0"),
            (("YX", (1.0, float("nan"))), "above 0"),
            (("YX", (), (0.0, float("inf"))), "translate must be finite"),
            (("YX", (), (), ("um",) * 3), "values of units"),
        ],
    )
    def test_contradictions_are_refused(self, values: tuple[object, ...], message: str) -> None:
        with pytest.raises(AxesError, match=message):
            Calibration(*values)  # type: ignore[arg-type]

    def test_fits(self) -> None:
        with pytest.raises(AxesError, match=r"\(4, 5\) do not fit axes 'TYX'"):
            Calibration("TYX").fits((4, 5))

    def test_unknown_units_stay(self) -> None:
        assert unit_name(" furlong ") == "furlong"


class TestNaming:
    @pytest.mark.parametrize(
        ("shape", "axes"),
        [
            ((50, 60), "YX"),
            ((50, 60, 3), "YXC"),
            ((3, 50, 60), "ZYX"),
            ((7, 50, 60), "ZYX"),
            ((2, 3, 50, 60), "TZYX"),
            ((9, 50, 60, 3), "ZYXC"),
            ((2, 3, 4, 50, 60), "TCZYX"),
        ],
    )
    def test_guesses(self, shape: tuple[int, ...], axes: str) -> None:
        assert resolve_axes(shape) == axes

    @pytest.mark.parametrize(
        ("shape", "axes", "message"),
        [
            ((5,), None, "cannot guess"),
            ((1, 2, 3, 4, 5, 6), None, "pass axes"),
            ((4, 5), "ZYX", "2 letters"),
            ((4, 5, 6), "YYX", "different letters"),
            ((4, 5, 6), "TZX", "without 'Y'"),
            ((4, 5, 6, 7), "CYXS", "two channel axes"),
        ],
    )
    def test_what_cannot_be_named(self, shape: tuple[int, ...], axes: str | None, message: str) -> None:
        with pytest.raises(AxesError, match=message):
            resolve_axes(shape, axes, where="scan.tif")

    def test_message_names_the_place(self) -> None:
        with pytest.raises(AxesError, match=r"scan\.tif has axes 'CYX', without 'T'; pass axes"):
            pick_axis("CYX", "T", where="scan.tif")

    def test_labels_lose_channels(self) -> None:
        assert label_axes("TCZYX") == "TZYX" and label_axes("YXS") == "YX" and label_axes("XYZ") == "ZYX"
        assert label_shape((4, 2, 5, 6), "TCYX") == (4, 5, 6)
        assert channel_axis("YXS") == 2 and channel_axis("TYX") is None

    def test_frame_axis(self) -> None:
        assert frame_axis("ZTCYX") == "T" and frame_axis("CZYX") == "Z" and frame_axis("QYX") == "Q"
        assert frame_axis("TZYX", prefer="z") == "Z"
        with pytest.raises(AxesError, match="one plane only"):
            frame_axis("CYX")
        with pytest.raises(AxesError, match="without 'C'"):
            frame_axis("TCYX", prefer="C")


class TestPlanes:
    @given(st.permutations("TCZYX"))
    def test_every_order_gives_the_same_planes(self, order: list[str]) -> None:
        axes = "".join(order)
        canon = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)  # T C Z Y X
        image = canon.transpose(["TCZYX".index(letter) for letter in axes])
        seen = {}
        for index in plane_indices(image.shape, axes):
            seen[index] = plane_of(image, axes, index=index)
            at = dict(zip(label_axes(axes)[:-2], index, strict=True))
            assert np.array_equal(seen[index], canon[at["T"], :, at["Z"]].transpose(1, 2, 0))
            assert np.array_equal(plane_of(image, axes, index=index, channel=1), canon[at["T"], 1, at["Z"]])
        assert len(seen) == 8

    def test_wrong_places_are_refused(self) -> None:
        image = np.zeros((2, 3, 8, 9))
        with pytest.raises(AxesError, match="need 1 indices, for 'T'"):
            plane_of(image, "TCYX")
        with pytest.raises(AxesError, match="channel 3 is outside the 3"):
            plane_of(image, "TCYX", index=(0,), channel=3)
        with pytest.raises(AxesError, match="have none"):
            plane_of(image, "TZYX", index=(0, 0), channel=0)
        with pytest.raises(AxesError, match="index 2 on axis 'T'"):
            list(plane_indices(image.shape, "TCYX", at={"t": 2}))
