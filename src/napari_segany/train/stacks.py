"""Kinds of z-stacks: solid blobs, branching tubes, hollow shells and packed cells, cut plane by plane."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.types import FloatArray, Labels

from .canvas import Canvas
from .films import Filmer, Footage, bodies_of, some_count, some_diameter
from .looks import Look, lay, some_look, some_microscope
from .optics import blurred, expose, some_camera
from .poses import Pose, labelled, outline_of, some_waves
from .shapes import Partition, Patch
from .vines import Vine, cross_section, some_vines


@dataclass(frozen=True, slots=True, eq=False)
class _Solid:
    """An ellipsoid: `at` (plane, row, col), half axes `long`, `short` in pixels and `tall` in planes.

    `lean` (row, col) is how far its middle moves from one plane to the next.
    """

    pose: Pose
    at: NDArray[np.float64]
    tall: float
    lean: NDArray[np.float64]
    waves: NDArray[np.complex128]
    turning: NDArray[np.complex128]

    def cut(self, plane: int) -> Pose | None:
        """Return how a plane cuts it; None where it does not."""
        level = (plane - float(self.at[0])) / self.tall
        if abs(level) >= 0.995:
            return None
        size = float(np.sqrt(1 - level**2))
        row, col = self.at[1:] + self.lean * (plane - self.at[0])
        return replace(
            self.pose,
            centre=(float(row), float(col)),
            long=self.pose.long * size,
            short=self.pose.short * size,
            outline=outline_of(self.waves + level * self.turning),
            cut=level,
        )


def _step(canvas: Canvas, *, thinnest: float) -> float:
    """Return how far planes lie apart, in pixels: 1 to 6, and at least five to the `thinnest` body."""
    return float(np.exp(canvas.rng.uniform(0, np.log(np.clip(thinnest / 5, 1.05, 6)))))


@dataclass(frozen=True, slots=True)
class _Sort:
    """What the ellipsoids of one stack share: lengths in pixels, `squash` their height by their width."""

    diameter: float
    step: float
    roughness: float
    aspect: float
    contrast: float
    squash: float

    @property
    def tall(self) -> float:
        """Half the height of a ball, in planes."""
        return 0.5 * self.diameter / self.step


def _solids(canvas: Canvas, planes: int, *, diameter: float, step: float) -> list[_Solid]:
    """Return 3 to 40 ellipsoids that hardly touch, in a block of planes `step` pixels apart."""
    rng = canvas.rng
    area = some_count(canvas, diameter=diameter, fill=(0.1, 0.45))
    roughness, aspect = rng.uniform(0.0, 0.07), rng.uniform(1.05, 1.9)
    contrast, squash = rng.uniform(0.05, 0.4), rng.uniform(0.8, 1.3)
    sort = _Sort(diameter, step, roughness, aspect, contrast, squash)
    count = int(np.clip(area * max(planes / (1.6 * sort.tall), 1), 3, 40))
    found: list[_Solid] = []
    for number in range(1, count + 1):
        at = _free_place(canvas, planes, sort=sort, taken=[solid.at for solid in found])
        if at is not None:
            found.append(_some_solid(rng, at, number=number, sort=sort))
    return found


def _free_place(
    canvas: Canvas, planes: int, *, sort: _Sort, taken: list[NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """Return a (plane, row, col) away from others, the first three well inside; None where it is crowded."""
    block, size = np.array([planes - 1, *canvas.shape]), sort.diameter
    edge = np.array([-0.4 * sort.tall, -0.3 * size, -0.3 * size])
    if len(taken) < 3:
        edge = np.minimum([0, 0.5 * size, 0.5 * size], block / 3 * [0, 1, 1])
    tries = canvas.rng.uniform(edge, block - edge, (24, 3))
    if not taken:
        return np.asarray(tries[0])
    scale = [sort.step / sort.squash, 1, 1]
    away = (tries[:, None] - np.array(taken)[None]) * scale
    gaps = np.sqrt((away**2).sum(2)).min(1)
    if gaps.max() < 0.8 * size and len(taken) >= 3:
        return None
    fits = gaps > 1.15 * size
    return np.asarray(tries[int(np.argmax(fits)) if fits.any() else int(np.argmax(gaps))])


def _some_solid(rng: np.random.Generator, at: NDArray[np.float64], *, number: int, sort: _Sort) -> _Solid:
    """Return an ellipsoid of a sort around (plane, row, col)."""
    size = float(np.exp(rng.normal(0, 0.15)))
    ratio = 1 + (sort.aspect - 1) * rng.uniform(0.3, 1.3)
    waves, turning = (some_waves(rng, roughness=sort.roughness) for _ in range(2))
    pose = Pose(
        number,
        (0.0, 0.0),
        float(rng.uniform(0, 2 * np.pi)),
        long=0.5 * sort.diameter * size * np.sqrt(ratio),
        short=0.5 * sort.diameter * size / np.sqrt(ratio),
        outline=outline_of(waves),
        light=0.5 * float(np.exp(rng.normal(0, sort.contrast))),
        height=float(rng.random()),
        offset=(float(rng.uniform(4096, 8192)), float(rng.uniform(4096, 8192))),
    )
    lean = rng.normal(0, 0.25 * sort.step, 2)
    return _Solid(pose, at, max(sort.tall * size * sort.squash, 0.8), lean, waves, turning)


def _scanned(canvas: Canvas, light: FloatArray, labels: Labels, *, diameter: float, step: float) -> Footage:
    """Return a stack as the microscope records it: planes blurred, with light from those above and below."""
    rng = canvas.rng
    planes = len(light)
    scope = some_microscope(
        canvas, frames=planes, contrast="fluorescence", camera=some_camera(rng, dim=True),
        diameter=diameter, is_movie=False,
    )  # fmt: skip
    share = float(rng.uniform(0.0, 0.5))
    haze = np.stack([blurred(plane[::2, ::2], float(np.clip(0.5 * step, 0.7, 2.0))) for plane in light])
    haze = ndimage.gaussian_filter1d(haze, float(np.clip(6 / step, 0.6, 3.0)), axis=0, mode="nearest")
    images = []
    for index in range(planes):
        wide = haze[index].repeat(2, axis=0).repeat(2, axis=1)[: light.shape[1], : light.shape[2]]
        mixed = light[index] + np.float32(share) * (wide - light[index])
        images.append(expose(scope.seen(mixed, index=index), rng, camera=scope.camera))
    return Footage(np.stack(images), labels, {})


def blobs(canvas: Canvas, planes: int) -> Footage:
    """Cut solid round bodies: they appear, grow, shrink and vanish."""
    diameter = some_diameter(canvas, low=12, high=70)
    step = _step(canvas, thinnest=diameter)
    look = some_look(canvas, diameter=diameter, profiles=("flat", "domed"), inners=("none", "none", "dark"))
    return _cut(canvas, planes, diameter=diameter, step=step, look=look)


def _cut(canvas: Canvas, planes: int, *, diameter: float, step: float, look: Look) -> Footage:
    """Return the stack of ellipsoids of a look."""
    solids = _solids(canvas, planes, diameter=diameter, step=step)
    light = np.zeros((planes, *canvas.shape), dtype=np.float32)
    labels = []
    for plane in range(planes):
        poses = [pose for solid in solids if (pose := solid.cut(plane)) is not None]
        bodies = bodies_of(poses, shape=canvas.shape, margin=look.softness)
        labels.append(labelled(((b.pose.number, b.patch) for b in bodies), shape=canvas.shape))
        for body in bodies:
            lay(light[plane], body, look)
    return _scanned(canvas, light, np.stack(labels), diameter=diameter, step=step)


def shells(canvas: Canvas, planes: int) -> Footage:
    """Cut bodies that shine at their surface alone: free hollow ones, or cells packed into tissue."""
    if canvas.rng.random() < 0.5:
        return _tissue(canvas, planes)
    diameter = some_diameter(canvas, low=18, high=80)
    step = _step(canvas, thinnest=diameter)
    look = some_look(canvas, diameter=diameter, profiles=("rim",), inners=("none", "none", "bright"))
    return _cut(
        canvas, planes, diameter=diameter, step=step, look=replace(look, wall=min(look.wall, 0.12 * diameter))
    )


def _tissue(canvas: Canvas, planes: int) -> Footage:
    """Cut a block of packed cells with bright membranes."""
    rng, shape = canvas.rng, canvas.shape
    step = _step(canvas, thinnest=30)
    room = np.array([planes * step, shape[0], shape[1]])
    low = float(max(np.cbrt(room.prod() / 40), np.sqrt(shape[0] * shape[1] / 34)))
    diameter = float(np.clip(rng.uniform(low, 1.6 * low), 20, 0.6 * min(shape)))
    points = _lattice(rng, room, spacing=diameter)
    warp = np.stack([canvas.smooth_noise(0.6 * diameter) for _ in range(2)]) * np.float32(0.04 * diameter)
    wall, lumen = rng.uniform(1.2, 1.5 + 0.03 * diameter), rng.uniform(0.02, 0.25)
    levels = (0.5 * np.exp(rng.normal(0, 0.3, len(points)))).astype(np.float32)
    light = np.zeros((planes, *shape), dtype=np.float32)
    labels = []
    for plane in range(planes):
        cells = _plane_of(points, plane * step, shape=shape, spacing=diameter, warp=warp)
        patches = [(owner + 1, patch.shrunk(0.5)) for owner, patch in cells.patches()]
        labels.append(labelled(patches, shape=shape))
        light[plane] = lumen * levels[cells.owner] + 0.6 * np.exp(-((cells.edge / np.float32(wall)) ** 2))
    return _scanned(canvas, light, np.stack(labels), diameter=0.5 * diameter, step=step)


def _lattice(rng: np.random.Generator, room: NDArray[np.float64], *, spacing: float) -> NDArray[np.float64]:
    """Return (N, 3) jittered points that fill a block of pixels and half a spacing around it."""
    axes = [np.arange(-0.5 * spacing, side + 0.8 * spacing, spacing) for side in room]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    jittered: NDArray[np.float64] = grid + rng.normal(0, 0.2 * spacing, grid.shape)
    return jittered


def _plane_of(
    points: NDArray[np.float64], at: float, *, shape: tuple[int, int], spacing: float, warp: FloatArray
) -> Partition:
    """Return how a plane `at` pixels deep cuts the cells around (N, 3) points."""
    first = np.full(shape, 1e9, dtype=np.float32)
    second = np.full(shape, 1e9, dtype=np.float32)
    owner = np.zeros(shape, dtype=np.int32)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + warp[0]
    cols = np.arange(shape[1], dtype=np.float32)[None, :] + warp[1]
    reach = 1.8 * spacing
    for index, point in enumerate(points):
        if abs(point[0] - at) > reach:
            continue
        row0, row1 = (int(np.clip(point[1] + way * reach, 0, shape[0])) for way in (-1, 1))
        col0, col1 = (int(np.clip(point[2] + way * reach, 0, shape[1])) for way in (-1, 1))
        box = slice(row0, row1), slice(col0, col1)
        gap = (rows[box] - np.float32(point[1])) ** 2 + (cols[box] - np.float32(point[2])) ** 2
        gap = np.sqrt(gap + np.float32((point[0] - at) ** 2))
        nearer = gap < first[box]
        second[box] = np.where(nearer, first[box], np.minimum(second[box], gap))
        first[box] = np.where(nearer, gap, first[box])
        owner[box] = np.where(nearer, np.int32(index), owner[box])
    return Partition(owner, np.minimum((second - first) / 2, np.float32(4 * spacing)))


def tubes(canvas: Canvas, planes: int) -> Footage:
    """Cut vessels or neurites that branch and cross the planes, solid or hollow."""
    rng, shape = canvas.rng, canvas.shape
    width = float(np.exp(rng.uniform(np.log(8), np.log(28))))
    step = _step(canvas, thinnest=width)
    vines = some_vines(rng, room=(planes, *shape), width=width, step=step)
    wall = rng.uniform(1.2, 2.5) if width > 10 and rng.random() < 0.4 else 0.0
    grain = canvas.full_noise(beta=1.3) * np.float32(rng.choice([0.0, 0.1, 0.25]))
    light = np.zeros((planes, *shape), dtype=np.float32)
    labels = []
    for plane in range(planes):
        found = [(vine, cross_section(vine, plane=plane, step=step, shape=shape)) for vine in vines]
        patches = [(vine, patch) for vine, patch in found if patch is not None]
        labels.append(labelled(((vine.number, patch) for vine, patch in patches), shape=shape))
        for vine, patch in patches:
            _lay_vine(light[plane], vine, patch, wall=wall, grain=grain)
    return _scanned(canvas, light, np.stack(labels), diameter=width, step=step)


def _lay_vine(light: FloatArray, vine: Vine, patch: Patch, *, wall: float, grain: FloatArray) -> None:
    """Lay the cut of a tube over (H, W) light, its wall alone where it is hollow."""
    value = np.float32(vine.light) * (1 + grain[patch.box])
    if wall:
        value = value * (0.15 + np.exp(-((np.maximum(patch.field, 0) / np.float32(wall)) ** 2)))
    under = light[patch.box]
    under += patch.cover(1.5) * (value - under)


STACKS: dict[str, Filmer] = {"blobs": blobs, "tubes": tubes, "shells": shells}
"""The kinds of z-stacks by name; their order never changes, or the seeds would."""
