"""What a microscope does to a scene: blur, uneven light, relief, halos, noise, and the camera's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_segany.core.types import AnyArray, FloatArray


@dataclass(frozen=True, slots=True)
class Camera:
    """How light becomes numbers.

    `photons` at full light (shot noise), `read` noise as a share of full light, `top` the share of the
    output range that full light reaches (above 1 saturates), `floor` the share that darkness reads, `bits` 8,
    12, 16 or 32 (float).
    """

    photons: float
    read: float
    top: float
    floor: float
    bits: int


def blurred(light: FloatArray, sigma: float) -> FloatArray:
    """Return (H, W) or (H, W, 3) light through a Gaussian point spread of `sigma` pixels."""
    if sigma < 0.2:
        return light
    spread = (sigma, sigma, 0) if light.ndim == 3 else sigma
    result: FloatArray = ndimage.gaussian_filter(light, spread, truncate=3.0)
    return result


def illumination(shape: tuple[int, int], rng: np.random.Generator, *, strength: float) -> FloatArray:
    """Return (H, W) uneven light of mean about 1: a tilt and a vignette, both of about `strength`."""
    rows = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    cols = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    tilt = rng.uniform(-0.5, 0.5, 2)
    middle = rng.uniform(-0.5, 0.5, 2)
    away = (rows - middle[0]) ** 2 + (cols - middle[1]) ** 2
    field = 1 + strength * (tilt[0] * rows + tilt[1] * cols + rng.uniform(0, 0.6) * (0.6 - away))
    even: FloatArray = np.maximum(field, 0.15).astype(np.float32)
    return even


def relief(thickness: FloatArray, *, angle: float, sigma: float) -> FloatArray:
    """Return the (H, W) slope of a thickness map along `angle`: the shadows of differential contrast."""
    smooth = blurred(thickness, sigma)
    slope = np.sin(angle) * np.gradient(smooth, axis=0) + np.cos(angle) * np.gradient(smooth, axis=1)
    return np.asarray(slope, dtype=np.float32)


def halo(thickness: FloatArray, *, near: float, far: float) -> FloatArray:
    """Return (H, W) phase contrast: dark where thick, bright just outside; blurs `near` and `far` in px."""
    return blurred(thickness, far) - blurred(thickness, near)


def expose(light: FloatArray, rng: np.random.Generator, *, camera: Camera) -> AnyArray:
    """Return the camera's reading of (H, W) or (H, W, 3) light, 0 dark to 1 full."""
    signal = np.maximum(light, 0)
    deviation = np.sqrt(signal / np.float32(camera.photons) + np.float32(camera.read**2))
    noisy = signal + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    scaled = camera.floor + (camera.top - camera.floor) * noisy
    if camera.bits == 32:
        return scaled.astype(np.float32)
    full = 2**camera.bits - 1
    counts = np.clip(np.rint(scaled * full), 0, full)
    numbers: AnyArray = counts.astype(np.uint8 if camera.bits == 8 else np.uint16)
    return numbers


def some_camera(rng: np.random.Generator, *, colour: bool = False, dim: bool = False) -> Camera:
    """Return a camera as one meets them; `dim` may use little of its range, `colour` is mostly 8 bit."""
    bits = int(rng.choice([8, 12, 16, 32], p=[0.9, 0.04, 0.04, 0.02] if colour else [0.6, 0.16, 0.16, 0.08]))
    top = float(rng.uniform(0.75, 1.1))
    if dim and rng.random() < 0.6:
        top = float(np.exp(rng.uniform(np.log(0.12), np.log(0.9))))
    photons = float(np.exp(rng.uniform(np.log(60), np.log(4000))))
    floor = float(rng.uniform(0, 0.06)) if rng.random() < 0.7 else 0.0
    return Camera(
        photons=photons, read=float(rng.uniform(0.001, 0.015)), top=top + floor, floor=floor, bits=bits
    )


def lamp(rng: np.random.Generator, *, colour: bool = False) -> Camera:
    """Return a camera under plenty of light: little noise, most of the range used, at times low contrast."""
    some = some_camera(rng, colour=colour)
    photons, read = float(np.exp(rng.uniform(6, 9.5))), float(rng.uniform(0.001, 0.012))
    if not colour and rng.random() < 0.2:  # low contrast
        floor = float(rng.uniform(0.15, 0.5))
        return Camera(photons, read, top=floor + float(rng.uniform(0.15, 0.45)), floor=floor, bits=some.bits)
    return Camera(photons, read, top=float(rng.uniform(0.8, 1.0)), floor=some.floor, bits=some.bits)


def inverted(image: AnyArray) -> AnyArray:
    """Return the image with bright and dark swapped within its own range."""
    low, high = image.min(), image.max()
    swapped: AnyArray = ((high - image) + low).astype(image.dtype)
    return swapped
