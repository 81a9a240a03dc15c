"""Procedural microscopy scenes with exact masks, nested the way biology is: for training and for testing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from napari_segany.core.errors import DataError, ImageError
from napari_segany.core.types import AnyArray, Labels

from . import cilia, glowing, stained, thin, transmitted
from .canvas import SMALLEST_AREA, Canvas, SceneObject
from .glowing import Painter

__all__ = [
    "KINDS",
    "SMALLEST_AREA",
    "THIN_KINDS",
    "Scene",
    "SceneObject",
    "export_scenes",
    "render_scene",
    "scene_stream",
]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a kind is painted: kinds of its `primary` objects, ranges of diameters in pixels, colour or not."""

    paint: Painter
    primary: tuple[str, ...]
    diameters: tuple[tuple[float, float], ...]
    is_colour: bool = False


_LARGEST_WHOLE = 4  # what lies in a gland or a colony stays an object

_CELLS = ("cell", "bacterium", "yeast", "bud", "neuron")
_RECIPES: dict[str, _Recipe] = {
    "fluorescence": _Recipe(glowing.fluorescence, ("nucleus",), ((8, 26), (8, 26), (22, 70))),
    "composite": _Recipe(glowing.composite, ("cell",), ((24, 110),), is_colour=True),
    "membrane": _Recipe(glowing.membrane, ("cell",), ((16, 80),)),
    "phase": _Recipe(transmitted.phase, _CELLS, ((14, 90),)),
    "brightfield": _Recipe(transmitted.brightfield, ("nucleus", "organoid", "yeast"), ((10, 45), (20, 90))),
    "histology": _Recipe(stained.histology, ("nucleus",), ((9, 26), (16, 60)), is_colour=True),
    "em": _Recipe(transmitted.em, ("cell",), ((28, 110),)),
    "filaments": _Recipe(glowing.filaments, ("filament",), ((25, 90),)),
    "spots": _Recipe(glowing.spots, ("spot",), ((5, 10),)),
}

KINDS: tuple[str, ...] = tuple(_RECIPES)
"""The kinds of scene that a seed chooses from; the list and its order never change, or the seeds would."""

_THIN_RECIPES: dict[str, _Recipe] = {
    "neurites": _Recipe(thin.neurites, ("neuron",), ((50, 150),)),
    "vessels": _Recipe(thin.vessels, ("vessel",), ((80, 200),)),
    "cilia": _Recipe(cilia.cilia, ("cell", "bacterium"), ((30, 110),)),
}

THIN_KINDS: tuple[str, ...] = ("filaments", "phase", *_THIN_RECIPES)
"""Kinds whose objects are thin or have thin processes; some are rendered only when asked for by name."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One rendered scene.

    Attributes
    ----------
    image : (H, W) or (H, W, 3)
        uint8, uint16 (a 12 or 16 bit range) or float32 (about 0 to 1).
    objects : (N,)
        Parents come before their parts.
    labels : (H, W)
        The primary objects, 1..N, what a person would annotate first (nuclei in sections, cells in sheets).
    kind : one of `KINDS` or `THIN_KINDS`
    """

    image: AnyArray
    objects: tuple[SceneObject, ...]
    labels: Labels
    kind: str

    def is_part(self, item: SceneObject) -> bool:
        """Return whether an object is a part of one: it lies in a cell or in something smaller, or is a lumen."""
        if item.part_of < 0:
            return False
        return item.kind == "lumen" or self.objects[item.part_of].level <= _LARGEST_WHOLE


def render_scene(
    seed: int,
    *,
    kind: str | None = None,
    size: tuple[int, int] = (256, 256),
    object_diameter: float | None = None,
) -> Scene:
    """Return the scene of a seed, the same on every call.

    Parameters
    ----------
    seed
        0 or more.
    kind
        One of `KINDS` or `THIN_KINDS`; None lets the seed choose from `KINDS`.
    size
        (H, W), 64 to 2048 each.
    object_diameter
        Typical diameter of the primary objects, 6 to 200 pixels; None lets the seed choose. Kinds whose
        objects cannot be as small or large take their nearest.

    Raises
    ------
    DataError
        If the kind, the diameter or the seed is not one of these.
    ImageError
        If the size is not.
    """
    _check(seed, kind=kind, size=size, object_diameter=object_diameter)
    rng = np.random.default_rng(seed)
    chosen = KINDS[int(rng.integers(len(KINDS)))] if kind is None else kind
    recipe = (_RECIPES | _THIN_RECIPES)[chosen]
    for wanted in chain((3, 3, 3), repeat(1)):  # a few objects if that is easily had, one at least
        low, high = recipe.diameters[int(rng.integers(len(recipe.diameters)))]
        high = min(high, 0.6 * min(size))
        drawn = float(np.exp(rng.uniform(np.log(min(low, high)), np.log(high))))
        canvas = Canvas(size, rng, background=np.zeros(3) if recipe.is_colour else 0.0)
        image = recipe.paint(canvas, drawn if object_diameter is None else float(object_diameter))
        objects = canvas.objects(image)
        labels = _flat(objects, size=size, kinds=recipe.primary)
        if labels.max() >= wanted:
            return Scene(image, objects, labels, chosen)
    raise AssertionError("the loop above ends by returning")


def _check(seed: int, *, kind: str | None, size: tuple[int, int], object_diameter: float | None) -> None:
    """Raise unless a scene can be rendered so."""
    if seed < 0:
        raise DataError(f"a scene's seed must be 0 or more, got {seed}")
    known = (*_RECIPES, *_THIN_RECIPES)
    if kind is not None and kind not in known:
        raise DataError(f"no scene kind {kind!r}; take one of {', '.join(known)}")
    if len(size) != 2 or not all(64 <= side <= 2048 for side in size):
        raise ImageError(f"a scene's size must be (H, W) with 64 to 2048 pixels each, got {tuple(size)}")
    if object_diameter is not None and not 6 <= object_diameter <= 200:
        raise DataError(f"object_diameter must be 6 to 200 pixels, got {object_diameter}")


def _flat(objects: Sequence[SceneObject], *, size: tuple[int, int], kinds: tuple[str, ...]) -> Labels:
    """Return the (H, W) label image of the objects of some kinds, numbered from 1 in their order."""
    labels = np.zeros(size, dtype=np.uint32)
    chosen = [thing for thing in objects if thing.kind in kinds]
    for number, thing in enumerate(chosen, start=1):
        labels[thing.mask_rows, thing.mask_cols][thing.mask] = number
    return labels


def scene_stream(seed: int, *, size: tuple[int, int], kinds: Sequence[str] = KINDS) -> Iterator[Scene]:
    """Yield scenes without end, each of a random one of `kinds`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        kind = kinds[int(rng.integers(len(kinds)))]
        yield render_scene(int(rng.integers(2**62)), kind=kind, size=size)


def export_scenes(
    folder: str | Path,
    *,
    count: int,
    seed: int,
    size: tuple[int, int] = (256, 256),
    kinds: Sequence[str] = KINDS,
) -> None:
    """Write `count` scenes, kinds in turn: `images/`, `labels/` (16 bit), `modality.json` {name: kind}.

    Images keep their dtype: PNG for 8 bit, TIFF for 16 bit and float.
    """
    from skimage import io

    root = Path(folder)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    modality: dict[str, str] = {}
    for number in range(count):
        scene = render_scene(seed * 1_000_003 + number, kind=kinds[number % len(kinds)], size=size)
        suffix = "png" if scene.image.dtype == np.uint8 else "tif"
        name = f"{scene.kind}_{number:04d}"
        modality[name] = scene.kind
        io.imsave(root / "images" / f"{name}.{suffix}", scene.image, check_contrast=False)
        io.imsave(root / "labels" / f"{name}.{suffix}", scene.labels.astype(np.uint16), check_contrast=False)
    (root / "modality.json").write_text(json.dumps(modality, indent=1) + "\n", encoding="utf-8")
