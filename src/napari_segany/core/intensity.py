"""One intensity window per stack: raw values of any dtype to the models' range, never per slice, never via 8 bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

_SAMPLE_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Window:
    """The raw values that become 0 and 1, the same for every channel and frame they are applied to."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            raise ImageError(f"window ends must be finite, got {self.low} and {self.high}")
        if self.high <= self.low:
            raise ImageError(f"window is empty or inverted: {self.low} to {self.high}")

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the image as float32, 0 at `low` and 1 at `high`, clipped; NaN becomes 0."""
        scaled = np.asarray(image).astype(np.float32)  # a copy: the caller's array is never written
        scaled -= np.float32(self.low)
        scaled *= np.float32(1.0 / (self.high - self.low))
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        return np.clip(scaled, 0.0, 1.0, out=scaled)


def sample_window(stack: NDArray[np.generic], *, low: float = 0.1, high: float = 99.9) -> Window:
    """Return a window from percentiles of a bounded sample of a stack.

    uint8 colour images keep their whole 0..255 range: they were windowed when they were made.

    Parameters
    ----------
    stack
        Any shape; read through basic slicing only, so lazy arrays are sampled and not loaded.
    low, high
        Percentiles, 0 to 100.

    Raises
    ------
    ImageError
        If the stack is empty or holds no finite value.
    """
    if 0 in stack.shape:
        raise ImageError(f"cannot window an empty array of shape {stack.shape}")
    if stack.dtype == np.uint8 and stack.ndim >= 3 and stack.shape[-1] in (3, 4):
        return Window(0.0, 255.0)
    if stack.dtype == np.bool_:
        return Window(0.0, 1.0)
    values = _sample(stack)
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise ImageError(f"the array of shape {stack.shape} holds no finite value")
    ends = np.percentile(values, [low, high])
    if ends[1] <= ends[0]:
        ends = np.array([values.min(), values.max()])
    if ends[1] <= ends[0]:
        ends[1] = ends[0] + 1.0  # a constant image: everything maps to 0
    return Window(float(ends[0]), float(ends[1]))


def _sample(stack: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return at most about a million values, spread evenly over frames and pixels."""
    frames = int(np.prod(stack.shape[:-2])) if stack.ndim > 2 else 1
    if stack.ndim <= 2 or stack.shape[-1] <= 4:  # one image, with or without channels
        step = (
            max(1, int(np.ceil(np.sqrt(np.prod(stack.shape[:2]) / _SAMPLE_PIXELS)))) if stack.ndim <= 3 else 1
        )
        part = stack[::step, ::step] if stack.ndim in (2, 3) else stack
        return np.asarray(part, dtype=np.float64).ravel()[: 4 * _SAMPLE_PIXELS]
    picked = np.unique(np.linspace(0, frames - 1, num=min(frames, 16)).astype(int))
    share = _SAMPLE_PIXELS // len(picked)
    step = max(1, int(np.ceil(np.sqrt(stack.shape[-2] * stack.shape[-1] / share))))
    planes = (
        stack[(*np.unravel_index(i, stack.shape[:-2]), slice(None, None, step), slice(None, None, step))]
        for i in picked
    )
    return np.concatenate([np.asarray(plane, dtype=np.float64).ravel() for plane in planes])
