"""Images with exact masks, from folders and from scenes."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.errors import DataError
from napari_segany.core.types import BoolMask, Labels

from .movies import render_clip
from .scenes import render_scene

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
MIN_PIXELS = 12
FIRST_SEED = 1 << 32
"""Of the scenes and clips that training renders; those that models are measured on have smaller seeds."""
_LONGEST = 8


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One object of an image: `mask` (h, w) inside `box`; `is_primary` where a person would name it first.

    `level` is its step of the ladder, 1 (finest) to 6, 0 where nobody said; `kind` its class name, "" likewise;
    `is_part` whether it is a part of another object, such as a nucleus in a cell.
    """

    box: tuple[slice, slice]
    mask: BoolMask
    is_primary: bool = True
    level: int = 0
    kind: str = ""
    is_part: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """One image (H, W) or (H, W, 3) of any dtype, its flat instance labels (H, W) and all its objects.

    `is_complete` says whether objects of all levels are annotated, as in scenes, and not only what a person drew.
    """

    name: str
    modality: str
    image: NDArray[np.generic]
    labels: Labels
    objects: tuple[Annotation, ...]
    is_complete: bool = False


def annotate(name: str, image: NDArray[np.generic], labels: Labels, *, modality: str) -> Annotated:
    """Return an image whose objects are the ids of a flat label map; fragments under 12 pixels are left out."""
    if labels.shape != image.shape[:2]:
        raise DataError(f"{name}: image {image.shape} and labels {labels.shape} differ in size")
    ids, inverse = np.unique(labels, return_inverse=True)
    places = inverse.reshape(labels.shape).astype(np.int32) + 1  # ids may be sparse and as large as 2**32 - 1
    objects = []
    for index, box in enumerate(ndimage.find_objects(places), start=1):
        mask = places[box] == index
        if ids[index - 1] != 0 and mask.sum() >= MIN_PIXELS:
            objects.append(Annotation(box, mask))
    return Annotated(name, modality, image, labels, tuple(objects))


def modality_of(image: NDArray[np.generic]) -> str:
    """Guess "fluorescence", "brightfield" or "histology" from colour and mean brightness."""
    if image.ndim == 3 and image.shape[2] >= 3:
        rgb = image[..., :3].astype(np.float32)
        if np.abs(rgb[..., 0] - rgb[..., 1]).mean() > 0.01 * max(1.0, float(rgb.max())):
            return "histology" if rgb.mean() > 0.25 * float(rgb.max()) else "composite"
        image = rgb[..., 0]
    return "brightfield" if image.mean() > 0.43 * max(1.0, float(image.max())) else "fluorescence"


def read_folder(folder: Path) -> Iterator[Annotated]:
    """Yield the images of `folder/images` that have labels of the same name in `folder/labels`.

    `folder/modality.json`, where present, names the modality of each image; otherwise it is guessed.

    Raises
    ------
    DataError
        If the folder has not that form, holds no pair, or a pair does not fit.
    """
    pairs = pair_files(folder)
    modalities = _modalities(folder)
    for image_path, labels_path in pairs:
        image, labels = read_array(image_path), read_array(labels_path)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"{labels_path}: labels must be a 2D integer image, got {labels.shape} {labels.dtype}"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < 1 << 32:
            raise DataError(
                f"{labels_path}: ids must be 0 to 2**32 - 1, got {labels.min()} to {labels.max()}"
            )
        if image.ndim == 3 and image.shape[2] == 4:
            image = image[..., :3]
        modality = modalities.get(image_path.stem) or modality_of(image)
        yield annotate(image_path.stem, image, labels.astype(np.uint32), modality=modality)


def pair_files(folder: Path) -> list[tuple[Path, Path]]:
    """Return (image, labels) paths in name order."""
    images, labels = folder / "images", folder / "labels"
    if not (images.is_dir() and labels.is_dir()):
        raise DataError(f"{folder} must hold two folders, images/ and labels/, with files of the same names")
    by_stem = {path.stem: path for path in labels.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    pairs = [(path, by_stem[path.stem]) for path in found if path.stem in by_stem]
    if not pairs:
        raise DataError(
            f"{folder}: none of the {len(found)} images has labels of its name ({', '.join(IMAGE_SUFFIXES)})"
        )
    return pairs


def read_array(path: Path) -> NDArray[np.generic]:
    """Read one image file."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            array: NDArray[np.generic] = tifffile.imread(path)
            return array
        from skimage.io import imread

        with warnings.catch_warnings():  # of reading what no plugin knows
            warnings.simplefilter("ignore", DeprecationWarning)
            return np.asarray(imread(io.BytesIO(path.read_bytes())))  # by name, plugins leave files open
    except Exception as error:  # a damaged file can raise almost anything
        raise DataError(f"cannot read {path}: {error}") from error


def _modalities(folder: Path) -> dict[str, str]:
    """Return the folder's own table of modalities, or nothing."""
    import json

    path = folder / "modality.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f'{path} must hold one JSON object, {{"image name": "modality"}}: {error}') from error


def is_validation(name: str) -> bool:
    """Tell whether an image belongs to the validation split: a fifth, by the second byte of its name's SHA-1."""
    return hashlib.sha1(name.encode()).digest()[1] % 5 == 0


def from_scene(seed: int, *, size: tuple[int, int], kind: str | None = None) -> Annotated:
    """Return a rendered scene; an object is primary where it owns most of its pixels in the scene's flat labels."""
    scene = render_scene(seed, kind=kind, size=size)
    objects = []
    for item in scene.objects:
        box = (item.mask_rows, item.mask_cols)
        inside = scene.labels[box][item.mask]
        owner = np.bincount(inside).argmax() if inside.size else 0
        same = owner > 0 and (inside == owner).sum() > 0.5 * inside.size
        whole = same and inside.size > 0.7 * (scene.labels == owner).sum()
        objects.append(
            Annotation(box, item.mask, bool(whole), item.level, item.kind, is_part=scene.is_part(item))
        )
    return Annotated(
        f"{scene.kind}-{seed}", scene.kind, scene.image, scene.labels, tuple(objects), is_complete=True
    )


def from_clip(seed: int, *, size: tuple[int, int], kind: str) -> Annotated:
    """Return the one frame of a rendered movie or stack of `kind`, up to `_LONGEST` long, that shows most objects."""
    clip = render_clip(seed, kind=kind, frames=1 + seed % _LONGEST, size=size)
    shown = [len(np.unique(labels)) for labels in clip.labels]
    best = int(np.argmax(shown))
    return annotate(f"{kind}-{seed}", clip.images[best], clip.labels[best], modality=kind)
