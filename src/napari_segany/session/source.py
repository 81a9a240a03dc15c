"""Where a session reads its planes from: any array, lazily, one plane at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import ImageError
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import AnyArray

from .prompts import PlaneIndex


class PlaneSource(Protocol):
    """An image or stack that a session can read plane by plane, on its worker's thread."""

    @property
    def name(self) -> str:
        """For messages and provenance."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., H, W): what labels of this image look like; channels are not counted."""

    def read(self, index: PlaneIndex) -> AnyArray:
        """Return one (H, W) or (H, W, C) plane."""

    def window(self) -> Window:
        """Return the one intensity window of the whole stack; the same at every call."""


class SliceableArray(Protocol):
    """NumPy, dask, zarr, h5py: anything with a shape that basic slicing reads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    @property
    def dtype(self) -> np.dtype[Any]:  # Any: whatever the file holds
        """Of its values."""

    def __getitem__(self, key: Any, /) -> Any:  # Any: array libraries disagree on both
        """Return a part that `np.asarray` can read."""


@dataclass(eq=False)
class ArraySource:
    """Planes of one array.

    Attributes
    ----------
    array : (..., H, W) or, with `is_rgb`, (..., H, W, C)
        Read lazily.
    fixed
        The intensity window; sampled from the array when first needed if None.
    """

    array: SliceableArray
    name: str = "image"
    is_rgb: bool = False
    fixed: Window | None = None

    def __post_init__(self) -> None:
        needed = 3 if self.is_rgb else 2
        if len(self.array.shape) < needed:
            raise ImageError(f"{self.name} has shape {self.array.shape}; at least {needed} axes are needed")
        if 0 in self.array.shape:
            raise ImageError(f"{self.name} is empty: its shape is {self.array.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., H, W) without the channels of an RGB image."""
        return tuple(self.array.shape[:-1] if self.is_rgb else self.array.shape)

    def read(self, index: PlaneIndex) -> NDArray[np.generic]:
        """Return one plane as NumPy."""
        lead = self.shape[:-2]
        if len(index) != len(lead) or any(not 0 <= i < n for i, n in zip(index, lead, strict=True)):
            raise ImageError(f"plane {index} is not in {self.name}, whose planes are numbered up to {lead}")
        return np.asarray(self.array[index] if index else self.array[:])

    def window(self) -> Window:
        """Return the window of the whole array."""
        if self.fixed is None:
            self.fixed = sample_window(self.array)  # type: ignore[arg-type]  # it only slices
        return self.fixed


def plane_index(position: Sequence[float], shape: Sequence[int]) -> PlaneIndex:
    """Return the plane nearest to a data position, clipped into a (..., H, W) shape."""
    lead = zip(position, shape[:-2], strict=False)
    return tuple(int(np.clip(int(np.floor(p + 0.5)), 0, n - 1)) for p, n in lead)
