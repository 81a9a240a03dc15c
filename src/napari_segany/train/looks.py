"""How moving or sliced bodies look: their light or thickness, and what the microscope makes of it over a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.types import AnyArray, FloatArray

from .canvas import Canvas
from .optics import Camera, blurred, expose, halo, illumination, relief
from .poses import Traced
from .shapes import BlobForm, blob

CONTRASTS = ("fluorescence", "phase", "relief", "brightfield")


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the bodies of one clip share.

    `profile` is "flat", "domed" or "rim"; `grain` the strength of their texture from `tile` (256, 256), `zoom`ed;
    `wall` the width of a rim in pixels; `inner` "none", "dark" or "bright" for what lies near the middle, of
    `kernel` times the body's size; `spots` how much brighter (or darker, negative) the spots of `dots` (256, 256)
    are; `softness` of edges in pixels; `is_clear` adds light where bodies overlap.
    """

    tile: FloatArray
    dots: FloatArray | None = None
    spots: float = 0.0
    profile: str = "flat"
    grain: float = 0.1
    zoom: float = 1.0
    wall: float = 2.0
    inner: str = "none"
    kernel: float = 0.45
    softness: float = 1.5
    is_clear: bool = False


def some_look(canvas: Canvas, *, diameter: float, profiles: tuple[str, ...], inners: tuple[str, ...]) -> Look:
    """Return how the bodies of a clip look, drawn by the canvas."""
    rng = canvas.rng
    beta = float(rng.choice([0.9, 1.3, 1.8]))
    canvas.noise(1, 1, beta=beta)
    return Look(
        tile=np.ascontiguousarray(canvas.noise(256, 256, beta=beta)),
        dots=_dots(rng, size=float(np.clip(rng.uniform(0.05, 0.1) * diameter, 1.2, 6))),
        spots=float(rng.choice([0.0, -0.7, 1.5], p=[0.65, 0.2, 0.15])),
        profile=str(rng.choice(profiles)),
        grain=float(rng.choice([0.0, 0.08, 0.2, 0.35], p=[0.2, 0.3, 0.3, 0.2])),
        zoom=float(np.clip(diameter / 50, 0.5, 1.5)),
        wall=float(rng.uniform(1.2, 2.0 + 0.05 * diameter)),
        inner=str(rng.choice(inners)),
        kernel=float(rng.uniform(0.3, 0.55)),
        softness=float(rng.uniform(1.0, 1.0 + 0.08 * diameter)),
        is_clear=bool(rng.random() < 0.25),
    )


def shade(body: Traced, look: Look) -> FloatArray:
    """Return the (h, w) brightness of a body, about its pose's light."""
    depth = body.depth()
    light: NDArray[np.floating]
    if look.profile == "domed":
        light = np.float32(0.45) + np.float32(0.75) * np.sqrt(depth)
    elif look.profile == "rim":
        reach = np.float32(max(min(body.pose.long, body.pose.short), 1.0))
        light = 0.25 + np.exp(-((depth * reach / np.float32(look.wall)) ** 2))
    else:
        light = 1 - 0.2 * (1 - depth) ** 2
    if look.grain:
        light = light * (1 + np.float32(look.grain) * body.texture(look.tile, zoom=look.zoom))
    if look.spots and look.dots is not None:
        light = light * (1 + np.float32(look.spots) * body.texture(look.dots))
    if look.inner != "none":
        light = light + kernel_cover(body, look) * ((0.3 if look.inner == "dark" else 2.0) - light)
    return np.asarray(np.maximum(light, 0.08) * np.float32(body.pose.light), dtype=np.float32)


def kernel_cover(body: Traced, look: Look) -> FloatArray:
    """Return (h, w) coverage, 0 to 1, by what lies in the middle of a body: a nucleus or a lumen."""
    pose = body.pose
    long, short = (np.float32(max(look.kernel * half, 1)) for half in (pose.long, pose.short))
    even = np.sqrt(long * short)  # rounder than the body
    long, short = (long + even) / 2, (short + even) / 2
    room = 0.7 * (1 - look.kernel)
    along = body.along - np.float32(room * pose.long * np.sin(pose.offset[0]))
    across = body.across - np.float32(room * pose.short * np.sin(pose.offset[1]))
    rho = np.hypot(along / long, across / short)
    reach = np.float32(np.sqrt(max(1 - (pose.cut / look.kernel) ** 2, 0)) if pose.cut else 1.0)
    return np.asarray(np.clip((reach - rho) * short * 0.6 + 0.5, 0, 1) * (reach > 0), dtype=np.float32)


def _dots(rng: np.random.Generator, *, size: float) -> FloatArray:
    """Return a periodic (256, 256) tile of round spots, 0 to 1, of deviation about `size` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal((256, 256), dtype=np.float32), size, mode="wrap")
    return np.asarray(np.clip((noise / noise.std() - 1.3) * 3, 0, 1), dtype=np.float32)


def lay(light: FloatArray, body: Traced, look: Look) -> None:
    """Lay a body over (H, W) light, or add it where bodies are clear."""
    reach = float(max(min(body.pose.long, body.pose.short), 1.0))
    cover = body.patch.cover(min(look.softness, 0.9 * reach))
    under = light[body.patch.box]
    if look.is_clear:
        under += cover * shade(body, look)
    else:
        under += cover * (shade(body, look) - under)


@dataclass(frozen=True, slots=True, eq=False)
class Microscope:
    """What the instrument does to a clip of T frames.

    Attributes
    ----------
    contrast
        One of `CONTRASTS`.
    blur : (T,)
        Pixels: focus that drifts.
    gain : (T,)
        Lamp that flickers, dye that bleaches.
    backdrop, field : (H, W)
        Light that is there without bodies, and how evenly all is lit.
    strength
        Of phase, relief or absorption.
    angle
        Of the shadows of relief.
    near, far
        Pixels: blurs of phase halos.
    """

    camera: Camera
    contrast: str
    blur: NDArray[np.float64]
    gain: NDArray[np.float64]
    backdrop: FloatArray
    field: FloatArray
    strength: float
    angle: float
    near: float
    far: float

    def frame(self, light: FloatArray, rng: np.random.Generator, *, index: int) -> AnyArray:
        """Return the camera's reading of the (H, W) light or thickness of one frame."""
        return expose(self.seen(light, index=index), rng, camera=self.camera)

    def seen(self, light: FloatArray, *, index: int) -> FloatArray:
        """Return the (H, W) light that reaches the camera, without noise."""
        gain = np.float32(self.gain[index])
        if self.contrast == "fluorescence":
            seen = (blurred(light, float(self.blur[index])) + self.backdrop) * (self.field * gain)
        else:
            thick = light + self.backdrop
            if self.contrast == "phase":
                ring = halo(thick, near=self.near, far=self.far)
                seen = 0.5 + np.float32(self.strength) * (ring - np.float32(0.3) * thick)
            elif self.contrast == "relief":
                slope = relief(thick, angle=self.angle, sigma=self.near)
                seen = 0.45 + np.float32(self.strength * np.sqrt(4 * self.near)) * slope
            else:
                seen = 0.85 - np.float32(self.strength) * thick
            seen = blurred(seen, float(self.blur[index])) * (self.field * gain)
        return np.asarray(seen, dtype=np.float32)


def some_microscope(
    canvas: Canvas, *, frames: int, contrast: str, camera: Camera, diameter: float, is_movie: bool
) -> Microscope:
    """Return an instrument for a clip, drawn by the canvas; over time it bleaches, flickers, loses focus."""
    rng, shape = canvas.rng, canvas.shape
    glows = contrast == "fluorescence"
    focus = float(rng.uniform(0.4, min(0.7 + 0.03 * diameter, 2.2) if glows else 0.9))
    blur, gain = np.full(frames, focus), np.ones(frames)
    if is_movie and rng.random() < 0.4:
        blur = blur + min(0.06 * diameter, 2.5) * np.abs(_wander(rng, frames))
    if glows and rng.random() < 0.4:  # bleaching, or signal lost with depth
        gain = gain * np.linspace(1.0, rng.uniform(0.35, 0.9), frames)
    if is_movie and rng.random() < 0.4:
        gain = gain * np.exp(rng.normal(0, rng.uniform(0.02, 0.12 if glows else 0.05), frames))
    backdrop: FloatArray = np.zeros(shape, dtype=np.float32)
    if not glows:
        backdrop = np.float32(0.02) * canvas.full_noise(beta=1.4)
    elif rng.random() < 0.6:
        backdrop = np.float32(rng.uniform(0.005, 0.06)) * np.maximum(canvas.smooth_noise(60) + 1, 0)
    if is_movie and rng.random() < 0.3:
        _dirty(backdrop, canvas, diameter=diameter, value=0.3 if glows else 0.5)
    strength = {"fluorescence": 1.0, "phase": 0.55, "relief": 0.7, "brightfield": 0.4}[contrast]
    return Microscope(
        camera=camera,
        contrast=contrast,
        blur=blur,
        gain=gain,
        backdrop=backdrop,
        field=illumination(shape, rng, strength=rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0),
        strength=strength * float(rng.uniform(0.7, 1.3)),
        angle=float(rng.uniform(0, 2 * np.pi)),
        near=float(np.clip(0.03 * diameter, 0.5, 1.8)),
        far=float(np.clip(0.25 * diameter, 3, 10)),
    )


def _dirty(backdrop: FloatArray, canvas: Canvas, *, diameter: float, value: float) -> None:
    """Add specks that do not move: dust, and debris that sticks to the glass."""
    rng = canvas.rng
    for _ in range(int(rng.integers(1, 9))):
        row, col = rng.uniform(0, 1, 2) * canvas.shape
        size = float(rng.uniform(2, 0.25 * diameter + 3))
        speck = blob(rng, (row, col), diameter=size, shape=canvas.shape, form=BlobForm(1.5, 0.15))
        if speck is not None:
            backdrop[speck.box] += speck.cover(1.5) * np.float32(value * rng.uniform(0.3, 1.2))


def _wander(rng: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Return (T,) smooth noise of deviation about 0.6 that changes over about 8 frames."""
    noise: NDArray[np.float64] = ndimage.gaussian_filter1d(rng.normal(size=frames + 40), 4.0)[20:-20] * 2.2
    return noise
