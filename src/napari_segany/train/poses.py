"""One body in one frame: where it lies, how it is turned and shaped, and the outline that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import FloatArray, Labels

from .canvas import SMALLEST_AREA
from .shapes import Patch

_TABLE = 256  # samples of a polar outline
_LOBES = 5


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """How one body lies in one frame, in pixels and radians.

    Attributes
    ----------
    number
        Which body, 1 or more.
    centre : (row, col)
        May lie outside of the frame.
    angle
        Of the long axis, from the columns' axis towards higher rows.
    long, short
        Half axes of the outline in this frame.
    outline : (256,)
        Distance of the edge around the body, 1 on an ellipse.
    light
        Brightness, about 0.5.
    height
        Bodies of greater height cover the others.
    is_rod
        A rod with round ends instead of an ellipse.
    offset : (row, col)
        Where its texture lies in the tile that all bodies share.
    cut
        Where a plane cuts a solid body: 0 through the middle, -1 and 1 at its ends; 0 in movies.
    """

    number: int
    centre: tuple[float, float]
    angle: float
    long: float
    short: float
    outline: FloatArray
    light: float
    height: float
    is_rod: bool = False
    offset: tuple[float, float] = (0.0, 0.0)
    cut: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """The outline of a pose inside the image, and (h, w) pixels `along` and `across` the body from its centre."""

    pose: Pose
    patch: Patch
    along: FloatArray
    across: FloatArray

    def texture(self, tile: FloatArray, *, zoom: float = 1.0) -> FloatArray:
        """Return the (h, w) part of a periodic tile that belongs to the body and turns with it."""
        rows = (self.across * np.float32(1 / zoom) + np.float32(self.pose.offset[0])).astype(np.int32)
        cols = (self.along * np.float32(1 / zoom) + np.float32(self.pose.offset[1])).astype(np.int32)
        return tile[rows % tile.shape[0], cols % tile.shape[1]]

    def depth(self) -> FloatArray:
        """Return (h, w) depth below the surface of a solid body, 0 to 1, of a flat one where `cut` is 0."""
        reach = np.float32(max(min(self.pose.long, self.pose.short), 1.0))
        radius = 1 - np.clip(self.patch.field / reach, 0, 1)
        cut = np.float32(self.pose.cut)
        return np.asarray(1 - np.sqrt(cut**2 + (1 - cut**2) * radius**2), dtype=np.float32)


def some_waves(rng: np.random.Generator, *, roughness: float) -> NDArray[np.complex128]:
    """Return (5,) random harmonics of an outline, `roughness` its deviation as a share of the radius."""
    size = roughness / np.arange(1, _LOBES + 1) ** 1.2
    waves = np.empty(_LOBES, dtype=np.complex128)
    waves.real, waves.imag = rng.normal(0, size, (2, _LOBES))
    return waves


def outline_of(waves: NDArray[np.complex128]) -> FloatArray:
    """Return the (256,) outline of a body from the strengths of its 2nd, 3rd, ... harmonic."""
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    spectrum[2 : 2 + len(waves)] = waves * (_TABLE / 2)
    return np.clip(1 + np.fft.irfft(spectrum, _TABLE), 0.4, 1.7).astype(np.float32)


def traced(pose: Pose, *, shape: tuple[int, int], margin: float) -> Traced | None:
    """Return the outline of a pose, clipped to the image with `margin` pixels around it; None outside."""
    reach = max(pose.long, pose.short) * float(pose.outline.max()) + margin
    row, col = pose.centre
    rows = max(int(row - reach), 0), min(int(row + reach) + 2, shape[0])
    cols = max(int(col - reach), 0), min(int(col + reach) + 2, shape[1])
    if rows[1] <= rows[0] or cols[1] <= cols[0]:
        return None
    down = np.arange(*rows, dtype=np.float32)[:, None] - np.float32(row)
    right = np.arange(*cols, dtype=np.float32)[None, :] - np.float32(col)
    cosine, sine = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    along, across = right * cosine + down * sine, down * cosine - right * sine
    field = _rod_field(pose, along, across) if pose.is_rod else _round_field(pose, along, across)
    return Traced(pose, Patch(rows[0], cols[0], field), along, across)


def _rod_field(pose: Pose, along: FloatArray, across: FloatArray) -> FloatArray:
    """Return the distance to the edge of a rod with round ends."""
    past = np.maximum(np.abs(along) - np.float32(max(pose.long - pose.short, 0)), 0)
    return np.asarray(np.float32(pose.short) - np.hypot(past, across), dtype=np.float32)


def _round_field(pose: Pose, along: FloatArray, across: FloatArray) -> FloatArray:
    """Return about the distance to the edge of an ellipse with the pose's outline."""
    long, short = np.float32(max(pose.long, 0.5)), np.float32(max(pose.short, 0.5))
    u, v = along / long, across / short
    rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
    index = (np.arctan2(v, u) * np.float32(_TABLE / (2 * np.pi))).astype(np.int32) % _TABLE
    slope = np.maximum(np.hypot(u / long, v / short) / rho, 1 / max(long, short))
    return np.asarray((pose.outline[index] - rho) / slope, dtype=np.float32)


def labelled(bodies: Iterable[tuple[int, Patch]], *, shape: tuple[int, int]) -> Labels:
    """Return the (H, W) label image of outlines with their numbers, later ones on top.

    What is left of an object counts from 12 pixels on; less is background.
    """
    labels = np.zeros(shape, dtype=np.uint32)
    for number, patch in bodies:
        labels[patch.box][patch.mask] = number
    areas = np.bincount(labels.ravel())
    if (areas[areas > 0] < SMALLEST_AREA).any():
        labels[(areas < SMALLEST_AREA)[labels]] = 0
    return labels
