"""Stacks of other dtypes give the masks of the same data in 8 bits, and a bleached frame does not change its window."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from small_models import predictor_of

from napari_segany.core.frames import FrameStack, ImagePlanes, frame_stacks
from napari_segany.core.types import BoolMask, Box, Prompt
from napari_segany.predict.video import VideoPredictor


def _twelve_bits() -> np.ndarray:
    """Return (T, H, W) smooth values of 0 to 4095; frame 3 bleached."""
    rng = np.random.default_rng(0)
    stack = np.stack([gaussian_filter(rng.random((64, 64)), 3) for _ in range(5)])
    stack = 4095 * (stack - stack.min()) / np.ptp(stack)
    stack[3] *= 0.3
    return stack


def _followed(stack: FrameStack) -> BoolMask:
    predictor = VideoPredictor(predictor_of("sam2.1_hiera_tiny").model)
    state = predictor.open(stack, window=stack.window())
    first = predictor.prompt(state, Prompt(box=Box(10, 10, 40, 40)), frame=0, object_id=1)
    rest = predictor.propagate(state, range(1, len(stack)))
    return np.stack([first.masks[0], *(one.masks[0] for one in rest)])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_masks_are_those_of_the_data_scaled_to_8_bits(dtype: str) -> None:
    twelve = _twelve_bits()
    eight = np.round(twelve / 4095 * 255).astype(np.uint8)
    raw = np.round(twelve).astype(np.uint16) if dtype == "uint16" else (twelve * 1e-3 - 2).astype(np.float32)
    ours, theirs = (_followed(*frame_stacks(ImagePlanes(data, "TYX"))) for data in (raw, eight))
    assert theirs.any(axis=(1, 2)).all() and not theirs.all()
    for mask, other in zip(ours, theirs, strict=True):
        assert (mask & other).sum() / (mask | other).sum() > 0.99
