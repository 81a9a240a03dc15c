"""Kinds of movies: nuclei, crawling cells, cells in phase contrast, sheets of cells, and growing rods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import AnyArray, FloatArray, Labels

from .canvas import Canvas
from .looks import Look, lay, some_look, some_microscope
from .motion import Habits, Troupe, shifted
from .optics import lamp, some_camera
from .poses import Pose, Traced, labelled, traced
from .shapes import partition


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """What was filmed: `images` and `labels` (T, H, W), and which body came of which."""

    images: AnyArray
    labels: Labels
    parents: dict[int, int]


Filmer = Callable[[Canvas, int], Footage]
"""Films a number of frames with what a canvas draws."""


def some_diameter(canvas: Canvas, *, low: float, high: float) -> float:
    """Return a typical diameter in pixels, at most 45 % of the image's shorter side."""
    high = max(min(high, 0.45 * min(canvas.shape)), low)
    return float(np.exp(canvas.rng.uniform(np.log(low), np.log(high))))


def some_count(canvas: Canvas, *, diameter: float, fill: tuple[float, float]) -> int:
    """Return how many bodies, 3 to 40, cover a share of the image and its surroundings."""
    world = (canvas.shape[0] + diameter) * (canvas.shape[1] + diameter)
    share = canvas.rng.uniform(*fill)
    return int(np.clip(share * world / (0.785 * diameter**2), 3, 40))


def some_pace(
    canvas: Canvas, *, diameter: float, most: float = 0.2
) -> dict[str, float | tuple[float, float]]:
    """Return how fast bodies of a movie move: at a crawl or up to a third of their diameter per frame."""
    rng = canvas.rng
    drift = rng.normal(0, 0.03 * diameter, 2) if rng.random() < 0.3 else np.zeros(2)
    return {
        "speed": diameter * float(np.exp(rng.uniform(np.log(0.01), np.log(most)))),
        "inertia": float(rng.uniform(0.3, 0.97)),
        "spin": float(np.exp(rng.uniform(np.log(0.005), np.log(0.15)))),
        "drift": (float(drift[0]), float(drift[1])),
    }


def some_division(canvas: Canvas, *, frames: int, chance: float = 0.6) -> float:
    """Return the chance of a division per body and frame: none in some movies, half of the bodies at most."""
    rng = canvas.rng
    return float(rng.uniform(0.15, 0.6)) / max(frames, 8) if rng.random() < chance else 0.0


def _jolts(canvas: Canvas, *, frames: int, diameter: float) -> NDArray[np.float64]:
    """Return (T, 2) pixels that the stage has moved by: none, jitter, or a few jumps."""
    rng = canvas.rng
    style = rng.choice(["none", "jitter", "jumps"], p=[0.6, 0.25, 0.15])
    if style == "jitter":
        return rng.normal(0, min(0.02 * diameter, 1.5), (frames, 2))
    moves = np.zeros((frames, 2))
    if style == "jumps":
        hits = rng.random(frames) < 2 / max(frames, 8)
        moves[hits] = rng.normal(0, 0.12 * diameter, (int(hits.sum()), 2))
    return np.cumsum(moves, axis=0)


def _rehearse(canvas: Canvas, habits: Habits, *, frames: int) -> tuple[list[list[Pose]], dict[int, int]]:
    """Return the poses of all frames, and the mothers of those that were born."""
    troupe = Troupe(canvas.rng, canvas.shape, habits)
    jolts = _jolts(canvas, frames=frames, diameter=habits.diameter)
    scenes = []
    for frame in range(frames):
        scenes.append(shifted(troupe.poses(), jolts[frame]))
        troupe.step()
    return scenes, troupe.parents


def filmed(canvas: Canvas, habits: Habits, look: Look, *, frames: int, contrast: str) -> Footage:
    """Return the movie of bodies of some habits and look."""
    rng = canvas.rng
    glows = contrast == "fluorescence"
    camera = some_camera(rng, dim=True) if glows else lamp(rng)
    scope = some_microscope(
        canvas, frames=frames, contrast=contrast, camera=camera, diameter=habits.diameter, is_movie=True
    )
    scenes, parents = _rehearse(canvas, habits, frames=frames)
    images, labels = [], []
    for index, poses in enumerate(scenes):
        bodies = bodies_of(poses, shape=canvas.shape, margin=look.softness)
        labels.append(labelled(((b.pose.number, b.patch) for b in bodies), shape=canvas.shape))
        light = np.zeros(canvas.shape, dtype=np.float32)
        for body in bodies:
            lay(light, body, look)
        images.append(scope.frame(light, rng, index=index))
    return Footage(np.stack(images), np.stack(labels), parents)


def bodies_of(poses: list[Pose], *, shape: tuple[int, int], margin: float) -> list[Traced]:
    """Return the outlines of those poses that touch the image."""
    found = (traced(pose, shape=shape, margin=0.5 * margin + 2.0) for pose in poses)
    return [body for body in found if body is not None]


def nuclei(canvas: Canvas, frames: int) -> Footage:
    """Film stained nuclei that wander and divide."""
    rng = canvas.rng
    diameter = some_diameter(canvas, low=11, high=60)
    habits = Habits(
        diameter,
        some_count(canvas, diameter=diameter, fill=(0.04, 0.5)),
        aspect=rng.uniform(1.1, 1.7),
        roughness=rng.uniform(0.01, 0.05),
        wobble=rng.uniform(0.02, 0.2),
        push=rng.choice([0.0, 0.3, 0.8], p=[0.2, 0.3, 0.5]),
        contrast=rng.uniform(0.05, 0.5),
        division=some_division(canvas, frames=frames),
        growth=0.01,
        **some_pace(canvas, diameter=diameter),  # type: ignore[arg-type]  # named like its fields
    )
    look = some_look(canvas, diameter=diameter, profiles=("flat", "domed"), inners=("none", "none", "dark"))
    return filmed(canvas, habits, look, frames=frames, contrast="fluorescence")


def cells(canvas: Canvas, frames: int) -> Footage:
    """Film whole cells that crawl and change shape, bright all over, at their rims, or with a nucleus."""
    rng = canvas.rng
    diameter = some_diameter(canvas, low=20, high=90)
    habits = Habits(
        diameter,
        some_count(canvas, diameter=diameter, fill=(0.1, 0.6)),
        aspect=rng.uniform(1.1, 2.2),
        roughness=rng.uniform(0.04, 0.18),
        wobble=rng.uniform(0.05, 0.3),
        push=rng.choice([0.0, 0.4, 0.8], p=[0.15, 0.35, 0.5]),
        contrast=rng.uniform(0.05, 0.45),
        division=some_division(canvas, frames=frames),
        growth=0.01,
        **some_pace(canvas, diameter=diameter, most=0.25),  # type: ignore[arg-type]  # named like its fields
    )
    look = some_look(
        canvas, diameter=diameter, profiles=("flat", "domed", "rim"), inners=("none", "dark", "bright")
    )
    return filmed(canvas, habits, look, frames=frames, contrast="fluorescence")


def phase(canvas: Canvas, frames: int) -> Footage:
    """Film living cells in phase contrast, in relief, or as they absorb light."""
    rng = canvas.rng
    diameter = some_diameter(canvas, low=18, high=80)
    habits = Habits(
        diameter,
        some_count(canvas, diameter=diameter, fill=(0.08, 0.5)),
        aspect=rng.uniform(1.1, 2.0),
        roughness=rng.uniform(0.02, 0.14),
        wobble=rng.uniform(0.05, 0.25),
        push=rng.choice([0.1, 0.6, 0.9], p=[0.15, 0.4, 0.45]),
        contrast=rng.uniform(0.05, 0.2),
        division=some_division(canvas, frames=frames),
        growth=0.01,
        **some_pace(canvas, diameter=diameter, most=0.25),  # type: ignore[arg-type]  # named like its fields
    )
    look = some_look(
        canvas, diameter=diameter, profiles=("domed", "domed", "flat"), inners=("none", "bright", "dark")
    )
    contrast = str(rng.choice(["phase", "relief", "brightfield"], p=[0.55, 0.25, 0.2]))
    return filmed(canvas, habits, _lens(look), frames=frames, contrast=contrast)


def _lens(look: Look) -> Look:
    """Return a look for thickness: sharp edges, nothing added where bodies overlap, one that can be seen."""
    return Look(
        tile=look.tile,
        dots=look.dots,
        spots=look.spots,
        profile=look.profile,
        grain=max(look.grain, 0.08),
        zoom=look.zoom,
        inner=look.inner,
        kernel=look.kernel,
        softness=1.5,
    )


def rods(canvas: Canvas, frames: int) -> Footage:
    """Film bacteria that grow along their axis and divide across it, shining or in phase contrast."""
    rng = canvas.rng
    diameter = some_diameter(canvas, low=12, high=36)
    habits = Habits(
        diameter,
        some_count(canvas, diameter=diameter, fill=(0.05, 0.3)),
        aspect=rng.uniform(2.0, 4.0),
        roughness=0.0,
        push=rng.uniform(0.3, 0.8),
        contrast=rng.uniform(0.03, 0.25),
        division=some_division(canvas, frames=frames, chance=0.8),
        growth=float(rng.uniform(0.005, 0.03)),
        is_rod=True,
        **some_pace(canvas, diameter=diameter, most=0.08),  # type: ignore[arg-type]  # named like its fields
    )
    look = some_look(canvas, diameter=diameter, profiles=("domed", "flat", "rim"), inners=("none",))
    if rng.random() < 0.5:
        return filmed(canvas, habits, look, frames=frames, contrast="fluorescence")
    return filmed(canvas, habits, _lens(look), frames=frames, contrast="phase")


def _sheet_habits(canvas: Canvas, frames: int) -> Habits:
    """Return how the cells of a closed sheet behave."""
    rng, shape = canvas.rng, canvas.shape
    low = float(np.sqrt((shape[0] + 40) * (shape[1] + 40) / 34))
    diameter = min(float(rng.uniform(low, 1.7 * low)), 120.0)
    world = (shape[0] + 1.6 * diameter) * (shape[1] + 1.6 * diameter)
    drift = rng.normal(0, 0.01 * diameter, 2)
    return Habits(
        diameter,
        int(world / (0.8 * diameter**2)),
        speed=diameter * float(np.exp(rng.uniform(np.log(0.005), np.log(0.06)))),
        inertia=float(rng.uniform(0.3, 0.95)),
        drift=(float(drift[0]), float(drift[1])),
        push=0.5,
        contrast=0.3,
        division=0.5 * some_division(canvas, frames=frames),
        most=90,
        is_packed=True,
    )


def sheet(canvas: Canvas, frames: int) -> Footage:
    """Film a closed sheet of cells with bright borders that flows, jostles and divides."""
    rng, shape = canvas.rng, canvas.shape
    habits = _sheet_habits(canvas, frames)
    diameter = habits.diameter
    scope = some_microscope(
        canvas, frames=frames, contrast="fluorescence", camera=some_camera(rng, dim=True),
        diameter=0.5 * diameter, is_movie=True,
    )  # fmt: skip
    scenes, parents = _rehearse(canvas, habits, frames=frames)
    warp = np.stack([canvas.smooth_noise(0.6 * diameter) for _ in range(2)]) * np.float32(0.04 * diameter)
    wall, lumen, kernel = rng.uniform(1.2, 1.5 + 0.04 * diameter), rng.uniform(0.02, 0.25), rng.random() < 0.4
    look = some_look(canvas, diameter=0.4 * diameter, profiles=("flat",), inners=("none",))
    images, labels = [], []
    for index, poses in enumerate(scenes):
        cut = partition(
            np.array([pose.centre for pose in poses]), shape=shape, spacing=diameter, warp=warp,
            weights=np.array([0.1 * (pose.long - 0.5 * diameter) for pose in poses]),
        )  # fmt: skip
        patches = [(poses[owner].number, patch.shrunk(0.5)) for owner, patch in cut.patches()]
        labels.append(labelled(patches, shape=shape))
        levels = np.array([pose.light for pose in poses], dtype=np.float32)[cut.owner]
        light = np.float32(lumen) * levels + np.float32(0.6) * np.exp(-((cut.edge / np.float32(wall)) ** 2))
        if kernel:
            _kernels(light, poses, look=look, share=0.4)
        images.append(scope.frame(light, rng, index=index))
    return Footage(np.stack(images), np.stack(labels), parents)


def _kernels(light: FloatArray, poses: list[Pose], *, look: Look, share: float) -> None:
    """Lay a nucleus of a `share` of its size into each cell of a sheet."""
    small = [replace(p, long=share * p.long, short=share * p.short, light=0.7 * p.light) for p in poses]
    for body in bodies_of(small, shape=light.shape, margin=look.softness):
        lay(light, body, look)


FILMS: dict[str, Filmer] = {"nuclei": nuclei, "cells": cells, "phase": phase, "rods": rods, "sheet": sheet}
"""The kinds of movies by name; their order never changes, or the seeds would."""
