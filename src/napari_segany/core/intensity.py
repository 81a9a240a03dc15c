"""One intensity window per stack: raw values of any dtype to the models' range, never per slice, never via 8 bit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

_SAMPLE_PIXELS = 1 << 20
_HUGE = 1e300


@dataclass(frozen=True, slots=True)
class Window:
    """The raw values that become 0 and 1, the same for every channel and frame they are applied to."""

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = float(self.low), float(self.high)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ImageError(f"window ends must be finite, got {self.low} and {self.high}")
        if high <= low:
            raise ImageError(f"window is empty or inverted: {self.low} to {self.high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return the image as float32, 0 at `low` and 1 at `high`, clipped; NaN becomes 0."""
        values = np.asarray(image)
        low, high, exact = self.low, self.high, self._exact_type(values.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # far outside is infinite, and clipped below
            scaled: NDArray[np.floating] = values.astype(exact)  # a copy: the caller's is never written
            if not np.isfinite(high - low):
                scaled, low, high = scaled * exact(0.25), 0.25 * low, 0.25 * high
            scaled -= exact(low)
            scaled /= exact(high - low)
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
        return np.clip(scaled, 0.0, 1.0, out=scaled).astype(np.float32, copy=False)

    def _exact_type(self, dtype: np.dtype[Any]) -> type[np.float32 | np.float64]:  # Any: of whatever image
        """Return float32 where it holds the values and resolves the window to 1 / 65 000 of its width."""
        width, furthest = self.high - self.low, max(abs(self.low), abs(self.high))
        is_near = width > 1e-30 and furthest < min(1e30, 256.0 * width)
        return np.float32 if is_near and np.can_cast(dtype, np.float32) else np.float64


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
    with np.errstate(over="ignore", invalid="ignore"):  # wider floats than float64, signalling NaN
        values = _sample(stack)
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise ImageError(f"the array of shape {stack.shape} holds no finite value")
    unit = 4.0 if np.abs(values).max() > _HUGE else 1.0  # differences of huge values would overflow
    ends = unit * np.percentile(values / unit, [low, high])
    if ends[1] <= ends[0]:
        ends = np.array([values.min(), values.max()])
    if ends[1] <= ends[0]:
        return _above(float(ends[0]))
    return Window(float(ends[0]), float(ends[1]))


def _above(value: float) -> Window:
    """Return a window that maps a constant image to 0; to 1 where no float is larger."""
    high = max(value + 1.0, math.nextafter(value, math.inf))
    return Window(value, high) if math.isfinite(high) else Window(math.nextafter(value, 0.0), value)


def _sample(stack: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return about a million values or fewer (of each channel), spread evenly over frames and pixels."""
    space = stack.shape[:-1] if stack.ndim >= 3 and stack.shape[-1] <= 4 else stack.shape
    lead, plane = space[:-2], space[-2:]
    frames = math.prod(lead)
    picked = np.unique(np.linspace(0, frames - 1, num=min(frames, 16)).astype(int))
    step = max(1, math.ceil(math.sqrt(math.prod(plane) * len(picked) / _SAMPLE_PIXELS)))
    inside = (slice(None, None, step),) * len(plane)
    keys: list[tuple[int | slice, ...]] = [(*_position(int(i), lead), *inside) for i in picked]
    return np.concatenate([np.asarray(stack[key], dtype=np.float64).ravel() for key in keys])


def _position(number: int, lead: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of a frame, counted over the leading axes."""
    return tuple(int(i) for i in np.unravel_index(number, lead)) if lead else ()
