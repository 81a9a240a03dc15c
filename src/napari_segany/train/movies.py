"""Procedural movies and z-stacks with exact labels: what a model learns from, and is measured on, as video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_segany.core.errors import DataError, ImageError
from napari_segany.core.types import AnyArray, Labels

from .canvas import Canvas
from .films import FILMS, Filmer, Footage
from .stacks import STACKS

MOVIE_KINDS: tuple[str, ...] = tuple(FILMS)
STACK_KINDS: tuple[str, ...] = tuple(STACKS)
CLIP_KINDS: tuple[str, ...] = MOVIE_KINDS + STACK_KINDS
"""The kinds of clip that a seed chooses from."""

_FILMERS: dict[str, Filmer] = FILMS | STACKS
_AXES = ("t", "z")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One rendered movie or z-stack, which predictors open as it is: a source of frames.

    Attributes
    ----------
    images : (T, H, W)
        uint8, uint16 (a 12 or 16 bit range) or float32 (about 0 to 1).
    labels : (T, H, W)
        What is visible of each object, by numbers 1..N that stay the same over frames; at least 12 pixels, or
        nothing. An object that leaves and comes back keeps its number.
    parents
        Daughter to mother, where bodies divide: daughters are new objects, the mother is gone from then on.
    axis : "t" or "z"
    kind : one of `CLIP_KINDS`
    """

    images: AnyArray
    labels: Labels
    parents: Mapping[int, int]
    axis: str
    kind: str

    def __post_init__(self) -> None:
        if self.images.ndim != 3 or self.images.shape != self.labels.shape:
            raise DataError(
                f"a clip's images and labels must both be (T, H, W), got {self.images.shape} and {self.labels.shape}"
            )
        if self.labels.dtype != np.uint32:
            raise DataError(f"a clip's labels must be uint32, got {self.labels.dtype}")
        if self.axis not in _AXES:
            raise DataError(f"a clip's axis must be 't' or 'z', got {self.axis!r}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, frame: int, /) -> AnyArray:
        image: AnyArray = self.images[frame]
        return image

    @property
    def over_time(self) -> bool:
        """Whether frames are times, so that what is gone may come back."""
        return self.axis == "t"


def render_clip(
    seed: int, *, kind: str | None = None, frames: int = 8, size: tuple[int, int] = (256, 256)
) -> Clip:
    """Return the clip of a seed, the same on every call.

    Parameters
    ----------
    seed
        0 or more.
    kind
        One of `CLIP_KINDS`; None lets the seed choose.
    frames
        Time points or planes, 1 to 1000.
    size
        (H, W), 64 to 2048 each.

    Raises
    ------
    DataError
        If the kind, the number of frames or the seed is not one of these.
    ImageError
        If the size is not.
    """
    _check(seed, kind=kind, frames=frames, size=size)
    rng = np.random.default_rng(seed)
    chosen = CLIP_KINDS[int(rng.integers(len(CLIP_KINDS)))] if kind is None else kind
    while True:  # nearly always once: a clip shows something
        canvas = Canvas(size, rng, background=0.0)
        clip = _numbered(_FILMERS[chosen](canvas, frames), kind=chosen)
        if clip.labels.any():
            return clip


def _numbered(footage: Footage, *, kind: str) -> Clip:
    """Return a clip whose objects are numbered from 1 in the order of their bodies, without those never seen."""
    seen = np.unique(footage.labels)
    seen = seen[seen > 0]
    numbers = np.zeros(int(footage.labels.max()) + 1, dtype=np.uint32)
    numbers[seen] = np.arange(1, len(seen) + 1)
    parents = {
        int(numbers[daughter]): int(numbers[mother])
        for daughter, mother in footage.parents.items()
        if max(daughter, mother) < len(numbers) and numbers[daughter] and numbers[mother]
    }
    axis = "t" if kind in FILMS else "z"
    return Clip(footage.images, numbers[footage.labels], parents, axis, kind)


def _check(seed: int, *, kind: str | None, frames: int, size: tuple[int, int]) -> None:
    """Raise unless a clip can be rendered so."""
    if seed < 0:
        raise DataError(f"a clip's seed must be 0 or more, got {seed}")
    if kind is not None and kind not in _FILMERS:
        raise DataError(f"no clip kind {kind!r}; take one of {', '.join(CLIP_KINDS)}")
    if not 1 <= frames <= 1000:
        raise DataError(f"a clip must be 1 to 1000 frames long, got {frames}")
    if len(size) != 2 or not all(64 <= side <= 2048 for side in size):
        raise ImageError(f"a clip's size must be (H, W) with 64 to 2048 pixels each, got {tuple(size)}")


def clip_stream(
    seed: int, *, frames: int, size: tuple[int, int], kinds: Sequence[str] = CLIP_KINDS
) -> Iterator[Clip]:
    """Yield clips without end, each of a random one of `kinds` and a seed from 2**32 on; the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        kind = kinds[int(rng.integers(len(kinds)))]
        yield render_clip(int(rng.integers(2**32, 2**62)), kind=kind, frames=frames, size=size)


def export_clips(
    folder: str | Path,
    *,
    count: int,
    seed: int,
    frames: int = 32,
    size: tuple[int, int] = (256, 256),
    kinds: Sequence[str] = CLIP_KINDS,
) -> None:
    """Write `count` clips, kinds in turn: TIFFs in `images/` and `labels/` (16 bit), and `clips.json`.

    The JSON has, by name, each clip's kind, axis and parents {daughter: mother}.
    """
    import tifffile

    root = Path(folder)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    notes: dict[str, dict[str, object]] = {}
    for number in range(count):
        clip = render_clip(
            seed * 1_000_003 + number, kind=kinds[number % len(kinds)], frames=frames, size=size
        )
        name = f"{clip.kind}_{number:04d}"
        parents = {str(daughter): mother for daughter, mother in clip.parents.items()}
        notes[name] = {"kind": clip.kind, "axis": clip.axis, "parents": parents}
        metadata = {"axes": f"{clip.axis.upper()}YX"}
        for part, array in (("images", clip.images), ("labels", clip.labels.astype(np.uint16))):
            tifffile.imwrite(root / part / f"{name}.tif", array, photometric="minisblack", metadata=metadata)
    (root / "clips.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
