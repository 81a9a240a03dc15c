"""The pixel grid that prompts, previews and labels of one image layer share, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import AxesError, ImageError
from napari_segany.session.prompts import PlaneIndex
from napari_segany.session.source import ArraySource, plane_index

if TYPE_CHECKING:
    from napari.layers import Image, Layer

_LONGEST_SIDE = (
    8192  # of a plane that is still read as a whole; beyond it a coarser level of a pyramid is taken
)
_DEFAULT_AXES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "PTZYX"}
_CHANNEL_NAMES = ("c", "ch", "channel", "channels")


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape and placement of the labels of an image layer.

    Attributes
    ----------
    shape
        (..., H, W), without channels.
    placement
        `scale`, `translate`, `rotate`, `shear`, `affine`, `units` and `axis_labels` for a layer on it.
    """

    shape: tuple[int, ...]
    placement: dict[str, Any]  # Any: napari takes arrays, tuples and strings here

    def calibration(self) -> Calibration:
        """Return what a label store keeps of the placement."""
        names = [str(name).upper() for name in self.placement["axis_labels"]]
        given = "".join(names)
        is_named = len(set(given)) == len(self.shape) == len(given) and given.isalpha()
        is_usable = is_named and given.endswith("YX") and not set(given) & set("CS")
        return Calibration(
            given if is_usable else _DEFAULT_AXES.get(len(self.shape), "QPTZYX"[-len(self.shape) :]),
            scale=tuple(float(value) for value in self.placement["scale"]),
            translate=tuple(float(value) for value in self.placement["translate"]),
            units=tuple(str(unit) for unit in self.placement["units"]),
        )


@dataclass(frozen=True, eq=False)
class _OneChannel:
    """One channel of an array whose first axis is the channels, read lazily."""

    array: Any  # Any: NumPy, dask, zarr ...
    channel: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def __getitem__(self, key: Any) -> Any:
        return self.array[(self.channel, *(key if isinstance(key, tuple) else (key,)))]


def channel_count(layer: Image) -> int | None:
    """Return how many channels the first axis of an image layer holds, None if it is no channel axis."""
    is_channel = str(layer.axis_labels[0]).lower() in _CHANNEL_NAMES
    if layer.rgb or layer.ndim < 3 or not is_channel:
        return None
    return int(_level_data(layer, 0).shape[0])


def picked_level(layer: Image) -> int:
    """Return the finest level of a pyramid whose planes can be read as a whole; 0 for a plain image."""
    if not layer.multiscale:
        return 0
    sides = [max(_plane_shape(layer, level)[-2:]) for level in range(len(layer.data))]
    return next((i for i, side in enumerate(sides) if side <= _LONGEST_SIDE), len(sides) - 1)


def source_of(layer: Image, *, channel: int | None = None) -> ArraySource:
    """Return the planes of an image layer, of one channel where it has a channel axis."""
    data = _level_data(layer, picked_level(layer))
    if channel_count(layer) is not None:
        data = _OneChannel(data, channel or 0)
    return ArraySource(data, name=layer.name, is_rgb=layer.rgb)


def grid_of(layer: Image) -> Grid:
    """Return the grid of the labels of an image layer."""
    level = picked_level(layer)
    shape = _plane_shape(layer, level)
    factor = np.asarray(_plane_shape(layer, 0)) / np.asarray(shape)
    placement = {
        "scale": np.asarray(layer.scale) * factor,
        "translate": np.asarray(layer.translate),
        "rotate": np.asarray(layer.rotate),
        "shear": np.asarray(layer.shear),
        "affine": np.asarray(layer.affine.affine_matrix),
        "units": tuple(layer.units),
        "axis_labels": tuple(layer.axis_labels),
    }
    if channel_count(layer) is not None:
        return Grid(shape[1:], _without_first_axis(placement, layer.name))
    return Grid(shape, placement)


def locate(
    layer: Layer, world: Sequence[float], *, shape: Sequence[int]
) -> tuple[PlaneIndex, tuple[float, float]]:
    """Return the plane and the (row, col) of a world position, on the grid of a layer."""
    data = np.asarray(layer.world_to_data(np.asarray(world)), dtype=float)[-len(shape) :]
    return plane_index(data.tolist(), shape), (float(data[-2]), float(data[-1]))


def is_inside(coord: tuple[float, float], shape: Sequence[int]) -> bool:
    """Return whether (row, col) is on a pixel of a (..., H, W) grid."""
    return all(-0.5 <= c < side - 0.5 for c, side in zip(coord, shape[-2:], strict=True))


def _level_data(layer: Image, level: int) -> Any:  # Any: as the layer holds it
    return layer.data[level] if layer.multiscale else layer.data


def _plane_shape(layer: Image, level: int) -> tuple[int, ...]:
    """Return the shape of one level, channels of colour images left out."""
    shape = tuple(int(side) for side in _level_data(layer, level).shape)
    shape = shape[:-1] if layer.rgb else shape
    if len(shape) < 2:
        raise ImageError(f"{layer.name} has one axis, {shape}; an image needs rows and columns")
    return shape


def _without_first_axis(placement: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a placement without its channel axis, which nothing may be rotated into."""
    rotate, affine = placement["rotate"], placement["affine"]
    mixes = [*rotate[0, 1:], *rotate[1:, 0], *affine[0, 1:-1], *affine[1:, 0], *np.ravel(placement["shear"])]
    if np.any(np.abs(mixes) > 1e-9):
        raise AxesError(f"{name} is sheared or rotated across its channel axis; split its channels first")
    placement = dict(placement, rotate=rotate[1:, 1:], affine=affine[1:, 1:])
    del placement["shear"]
    return {key: value if key in ("rotate", "affine") else value[1:] for key, value in placement.items()}
