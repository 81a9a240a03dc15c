"""What every reader returns: a lazy image that knows its axes and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_segany.core.axes import Calibration, Sliceable, label_axes, label_shape, resolve_axes
from napari_segany.core.errors import FileFormatError


@dataclass(frozen=True, slots=True, eq=False)
class OpenedImage:
    """An image in a file, not yet read.

    Attributes
    ----------
    path
        Where it is.
    levels
        Lazy arrays, full resolution first; all in the order of `axes`.
    axes
        One letter per side, for example "TCYX"; C or S is the channel axis.
    calibration
        Without the channel axis, rows and columns last: as the labels of this image have it.
    channels
        One name per channel; empty where the file names none.
    """

    path: Path
    levels: Sequence[Sliceable]
    axes: str
    calibration: Calibration
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.levels or min(self.data.shape, default=0) < 1:
            raise FileFormatError(f"{self.path} holds no pixels")
        resolve_axes(tuple(self.data.shape), self.axes, where=str(self.path))
        if self.calibration.axes != label_axes(self.axes):
            raise FileFormatError(
                f"{self.path}: calibration of {self.calibration.axes!r} for axes {self.axes!r}"
            )

    @property
    def data(self) -> Sliceable:
        """The full-resolution array."""
        return self.levels[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides of the full-resolution array, channels included."""
        return tuple(self.data.shape)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Sides that labels of this image have."""
        return label_shape(self.shape, self.axes)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the values."""
        return np.dtype(self.data.dtype)
