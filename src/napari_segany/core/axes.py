"""Named axes: what each axis of an array is, how large a pixel is, and how to walk over planes and frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from .errors import AxesError
from .types import AnyArray

PLAIN_UNIT = "pixel"
"""The unit of an axis that nobody calibrated."""

_CHANNELS = "CS"  # C: channels; S: colour samples (TIFF's word for RGB)
_MAX_COLOURS = 4
_GUESSES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}
_UNIT_NAMES = {
    "": PLAIN_UNIT,
    "px": PLAIN_UNIT,
    "pixels": PLAIN_UNIT,
    "um": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "\u00b5m": "micrometer",
    "\u03bcm": "micrometer",
    "micrometre": "micrometer",
    "nm": "nanometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "\u212b": "angstrom",
    "\u00c5": "angstrom",
    "pm": "picometer",
    "inch": "inch",
    "s": "second",
    "sec": "second",
    "seconds": "second",
    "ms": "millisecond",
    "us": "microsecond",
    "\u00b5s": "microsecond",
    "min": "minute",
    "h": "hour",
    "d": "day",
}
_MICROMETERS = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25400.0,
}
_SECONDS = {
    "nanosecond": 1e-9,
    "microsecond": 1e-6,
    "millisecond": 1e-3,
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
}


def unit_name(text: str) -> str:
    """Return the spelled-out name of a unit ("micrometer" for "um"); unknown names come back as they are."""
    return _UNIT_NAMES.get(text.strip(), text.strip())


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where labels lie in the world: one scale, translation and unit for each axis but the channels.

    Attributes
    ----------
    axes
        One letter an axis, slowest first, for example "TZYX"; it ends with "YX".
    scale
        World units per pixel, above 0; all 1 when left out.
    translate
        World position of the first pixel's centre; all 0 when left out.
    units
        Spelled-out names such as "micrometer"; "pixel" where nobody calibrated.
    """

    axes: str
    scale: tuple[float, ...] = ()
    translate: tuple[float, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        axes = self.axes.upper()
        if not axes.endswith("YX") or len(set(axes)) != len(axes) or not axes.isalpha():
            raise AxesError(
                f"axes {self.axes!r} must be different letters that end with 'YX', such as 'TZYX'"
            )
        if set(axes) & set(_CHANNELS):
            raise AxesError(f"a calibration has no channel axis, got {self.axes!r}; leave C and S out")
        sides = len(axes)
        scale = tuple(float(value) for value in self.scale) or (1.0,) * sides
        translate = tuple(float(value) for value in self.translate) or (0.0,) * sides
        units = tuple(unit_name(value) for value in self.units) or (PLAIN_UNIT,) * sides
        for name, given in (("scale", scale), ("translate", translate), ("units", units)):
            if len(given) != sides:
                raise AxesError(f"axes {axes!r} need {sides} values of {name}, got {given}")
            object.__setattr__(self, name, given)
        if not all(np.isfinite(value) and value > 0 for value in self.scale):
            raise AxesError(f"scale must be above 0 and finite on every axis, got {self.scale} for {axes!r}")
        if not np.isfinite(self.translate).all():
            raise AxesError(f"translate must be finite on every axis, got {self.translate} for {axes!r}")
        object.__setattr__(self, "axes", axes)

    @property
    def spacing_um(self) -> tuple[float, ...] | None:
        """Micrometres per pixel along Z (where there is one), Y and X; None unless all are lengths."""
        places = [i for i, letter in enumerate(self.axes) if letter in "ZYX"]
        if not all(self.units[i] in _MICROMETERS for i in places):
            return None
        return tuple(self.scale[i] * _MICROMETERS[self.units[i]] for i in places)

    @property
    def interval_s(self) -> float | None:
        """Seconds between time points; None without a T axis or without a unit of time."""
        place = self.axes.find("T")
        if place < 0 or self.units[place] not in _SECONDS:
            return None
        return self.scale[place] * _SECONDS[self.units[place]]

    def keep(self, axes: str) -> Calibration:
        """Return the calibration of some of the axes, in the order asked for."""
        places = [pick_axis(self.axes, letter, where="the calibration") for letter in axes.upper()]
        return Calibration(
            axes.upper(),
            tuple(self.scale[i] for i in places),
            tuple(self.translate[i] for i in places),
            tuple(self.units[i] for i in places),
        )

    def fits(self, shape: tuple[int, ...]) -> None:
        """Raise AxesError unless there is one axis for each side of an array of labels."""
        if len(shape) != len(self.axes):
            raise AxesError(
                f"labels of shape {shape} do not fit axes {self.axes!r}: {len(self.axes)} axes are named"
            )


def pick_axis(axes: str, letter: str, *, where: str) -> int:
    """Return the position of one axis letter in, for example, "TCYX"."""
    try:
        return axes.index(letter)
    except ValueError:
        raise AxesError(
            f"{where} has axes {axes!r}, without {letter!r}; pass axes=... to name them"
        ) from None


def resolve_axes(shape: tuple[int, ...], axes: str | None = None, *, where: str = "the image") -> str:
    """Return one upper-case letter per axis of an image, checked against its shape.

    Without `axes`, 2 to 5 sides are taken as YX, ZYX, TZYX, TCZYX, and a last side of at most 4 as colours.

    Parameters
    ----------
    shape
        Of the array, channels included.
    axes
        For example "tcyx"; C or S is the channel axis.
    where
        What the array is, for the message of an error.

    Raises
    ------
    AxesError
        If letters are missing, doubled or too many, or the shape cannot be guessed.
    """
    if axes is None:
        return _guess_axes(shape, where)
    letters = axes.upper()
    if len(letters) != len(shape):
        raise AxesError(
            f"{where} has shape {shape} but axes {axes!r}: {len(shape)} letters are needed, one a side"
        )
    if len(set(letters)) != len(letters) or not letters.isalpha():
        raise AxesError(f"axes {axes!r} of {where} must be different letters")
    for letter in "YX":
        pick_axis(letters, letter, where=where)
    if set(_CHANNELS) <= set(letters):
        raise AxesError(
            f"axes {axes!r} of {where} name two channel axes, C and S; select one plane of one of them first"
        )
    return letters


def _guess_axes(shape: tuple[int, ...], where: str) -> str:
    """Return the letters that a shape suggests."""
    colours = len(shape) >= 3 and shape[-1] <= _MAX_COLOURS < min(shape[-3:-1])
    guess = _GUESSES.get(len(shape) - colours)
    if guess is None or (colours and "C" in guess):
        raise AxesError(
            f"cannot guess the axes of {where} of shape {shape}; pass axes=..., for example 'TCZYX'"
        )
    return guess + "C" if colours else guess


def channel_axis(axes: str) -> int | None:
    """Return the position of the channel (C) or colour (S) axis, None if there is none."""
    return next((i for i, letter in enumerate(axes) if letter in _CHANNELS), None)


def label_axes(axes: str) -> str:
    """Return the axes that labels of an image have: its own without channels, rows and columns last."""
    return "".join(letter for letter in axes if letter not in _CHANNELS + "YX") + "YX"


def label_shape(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """Return the shape of the labels of an image, in the order of `label_axes`."""
    return tuple(shape[axes.index(letter)] for letter in label_axes(axes))


def frame_axis(axes: str, *, prefer: str | None = None) -> str:
    """Return the letter of the axis that frames follow each other on: `prefer`, or T, or Z, or the last.

    Raises
    ------
    AxesError
        If the image is a single plane, or `prefer` is not one of its axes.
    """
    leading = label_axes(axes)[:-2]
    if prefer is not None:
        pick_axis(leading, prefer.upper(), where="the stack, besides rows and columns,")
        return prefer.upper()
    if not leading:
        raise AxesError(f"axes {axes!r} hold one plane only: a stack needs T or Z, in e.g. 'TYX'")
    return next((letter for letter in "TZ" if letter in leading), leading[-1])


def plane_indices(
    shape: tuple[int, ...], axes: str, *, at: Mapping[str, int] | None = None
) -> Iterator[tuple[int, ...]]:
    """Yield the leading label indices of every plane of an image, last axis fastest.

    Parameters
    ----------
    shape
        Of the image, in the order of `axes`.
    axes
        Letters as from `resolve_axes`.
    at
        Axes that stay at one index, for example {"Z": 3}.
    """
    fixed = {letter.upper(): i for letter, i in (at or {}).items()}
    leading = label_axes(axes)[:-2]
    for letter, i in fixed.items():
        side = shape[axes.index(letter)] if letter in leading else 0
        if not 0 <= i < side:
            raise AxesError(
                f"index {i} on axis {letter!r} is outside an image with axes {axes!r} of shape {shape}"
            )
    sides = [(fixed[letter],) if letter in fixed else range(shape[axes.index(letter)]) for letter in leading]
    yield from product(*sides)


class Sliceable(Protocol):
    """An array that may be lazy: NumPy, dask, zarr, tifffile."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides in pixels."""

    @property
    def dtype(self) -> np.dtype[Any]:  # Any: images come in every dtype
        """Of the values."""

    def __getitem__(self, key: Any, /) -> Any:  # Any: the array libraries agree on no narrower type
        """Return a part."""


def plane_of(
    image: Sliceable, axes: str, *, index: tuple[int, ...] = (), channel: int | None = None
) -> AnyArray:
    """Return one plane of an image, read into memory.

    Parameters
    ----------
    image
        Any shape; only the plane is read.
    axes
        Letters as from `resolve_axes`.
    index
        Leading label indices, in the order of `label_axes`.
    channel
        One channel; None keeps all of them.

    Returns
    -------
    (H, W) or (H, W, C)
    """
    leading = label_axes(axes)[:-2]
    if len(index) != len(leading):
        raise AxesError(
            f"axes {axes!r} need {len(leading)} indices, for {leading!r}, to name a plane; got {index}"
        )
    where = dict(zip(leading, index, strict=True))
    place = channel_axis(axes)
    if channel is not None and place is None:
        raise AxesError(f"channel {channel} was asked for, but axes {axes!r} have none")
    if channel is not None and place is not None:
        if not 0 <= channel < image.shape[place]:
            raise AxesError(
                f"channel {channel} is outside the {image.shape[place]} channels of axes {axes!r}"
            )
        where[axes[place]] = channel
    plane = np.asarray(image[tuple(where.get(letter, slice(None)) for letter in axes)])
    left = [letter for letter in axes if letter not in where]
    order = [left.index(letter) for letter in "YX"] + [
        i for i, letter in enumerate(left) if letter not in "YX"
    ]
    return np.ascontiguousarray(plane.transpose(order))
