"""Distance maps to objects: seeds where centre and boundary distances are small, grown by a watershed.

The rule is that of micro-sam's automatic instance segmentation (Archit et al. 2025). Distances are inverted fractions:
the centre distance is 0 at an object's centre, the boundary distance 0 deep inside and 1 at its boundary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from napari_segany.core.errors import ImageError, SettingsError
from napari_segany.core.types import FloatArray, Labels

_EIGHT = np.ones((3, 3), dtype=bool)
_FOREGROUND_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class DistanceSettings:
    """What counts as a seed and as an object.

    Attributes
    ----------
    centre, boundary
        A seed lies where both distances are below these, more than 0 and at most 1. Smaller values part objects that
        touch; larger ones find more.
    smoothing, foreground_smoothing
        Spreads of the Gaussians that smooth the distances and the foreground before, in image pixels; 0 is none.
    min_size
        Objects of fewer pixels are dropped.
    """

    centre: float = 0.5
    boundary: float = 0.5
    smoothing: float = 1.6
    foreground_smoothing: float = 1.0
    min_size: int = 0

    def __post_init__(self) -> None:
        for name in ("centre", "boundary"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise SettingsError(
                    f"{name} is a threshold above 0 and up to 1, got {value}; the default is 0.5"
                )
        for name in ("smoothing", "foreground_smoothing"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} is a spread in pixels, 0 or more, got {value}")
        if self.min_size < 0:
            raise SettingsError(f"min_size is a number of pixels, 0 or more, got {self.min_size}")


PRESETS: dict[str, DistanceSettings] = {
    "microsam_vit_b_lm": DistanceSettings(centre=0.4, boundary=0.5, smoothing=2.0, min_size=100),
}
"""What micro-sam's authors set for a model, where that is not the default."""


def settings_of(model: str) -> DistanceSettings:
    """Return the settings that belong to a model's name."""
    return PRESETS.get(model, DistanceSettings())


def labels_of_distances(distances: FloatArray, *, settings: DistanceSettings | None = None) -> Labels:
    """Return the objects in distance maps.

    Parameters
    ----------
    distances : (3, H, W)
        Foreground, centre distance and boundary distance, 0 to 1.
    settings
        The defaults where None.

    Returns
    -------
    labels : (H, W)
        uint32; 0 is background, objects are 1, 2, 3, ... without gaps.
    """
    if distances.ndim != 3 or distances.shape[0] != 3:
        raise ImageError(
            f"distances are (3, H, W): foreground, centre, boundary; got shape {distances.shape}"
        )
    settings = settings or DistanceSettings()
    foreground = _smooth(distances[0], settings.foreground_smoothing) > _FOREGROUND_THRESHOLD
    centre, boundary = (_smooth(one, settings.smoothing) for one in distances[1:])
    is_seed = foreground & (centre < settings.centre) & (boundary < settings.boundary)
    seeds, count = ndimage.label(is_seed, structure=_EIGHT)
    if count == 0:
        return np.zeros(foreground.shape, dtype=np.uint32)
    return _large_ones(watershed(boundary, markers=seeds, mask=foreground), settings.min_size)


def _smooth(values: FloatArray, sigma: float) -> FloatArray:
    """Return an (H, W) map after a Gaussian."""
    if sigma == 0:
        return values
    return np.asarray(ndimage.gaussian_filter(values, sigma, output=np.float32))


def _large_ones(labels: NDArray[np.integer], min_size: int) -> Labels:
    """Return (H, W) labels counted anew, without objects of fewer than `min_size` pixels."""
    areas = np.bincount(labels.ravel())
    is_kept = areas >= max(min_size, 1)
    is_kept[0] = False
    return np.where(is_kept, np.cumsum(is_kept), 0).astype(np.uint32)[labels]
