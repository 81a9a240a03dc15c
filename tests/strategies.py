"""Hypothesis strategies that several tests share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_segany.core.axes import Calibration

sides = st.integers(1, 24)
finite = st.floats(-1e4, 1e4, allow_nan=False, width=32)


@st.composite
def masks(draw: st.DrawFn, *, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Noise, rectangles, whole columns, empty and full masks: (H, W) bool."""
    shape = (height or draw(sides), width or draw(sides))
    kind = draw(st.sampled_from(["noise", "box", "columns", "empty", "full"]))
    if kind == "noise":
        return draw(hnp.arrays(bool, shape))
    mask = np.full(shape, kind == "full")
    if kind in ("box", "columns"):
        row0, row1 = sorted(draw(st.tuples(*[st.integers(0, shape[0])] * 2)))
        col0, col1 = sorted(draw(st.tuples(*[st.integers(0, shape[1])] * 2)))
        mask[slice(None) if kind == "columns" else slice(row0, row1), col0:col1] = True
    return mask


label_ids = st.one_of(st.integers(0, 5), st.just(2**32 - 1))


def label_planes(height: int, width: int) -> st.SearchStrategy[np.ndarray]:
    """(height, width) uint32 with few ids, so that objects touch and repeat."""
    return hnp.arrays(np.uint32, (height, width), elements=label_ids)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    """Calibrations that OME-Zarr can hold."""
    axes = draw(st.sampled_from(["YX", "ZYX", "TYX", "TZYX"]))
    size = len(axes)
    units = {"T": ["second", "hour", "pixel"], "": ["micrometer", "nanometer", "pixel"]}
    return Calibration(
        axes,
        tuple(draw(st.lists(st.floats(1e-3, 1e3), min_size=size, max_size=size))),
        tuple(draw(st.lists(finite, min_size=size, max_size=size))),
        tuple(draw(st.sampled_from(units["T" if letter == "T" else ""])) for letter in axes),
    )
