"""Small annotated images for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from skimage.io import imsave

from napari_segany.train.dataset import Annotated, annotate


def disc_labels(size: tuple[int, int] = (64, 80), *, radius: float = 7) -> np.ndarray:
    """Return uint32 labels of discs in rows and columns, 1 to N."""
    labels = np.zeros(size, dtype=np.uint32)
    rows, cols = np.mgrid[: size[0], : size[1]]
    step = int(2 * radius + 6)
    number = 0
    for row in range(step // 2, size[0] - step // 2 + 1, step):
        for col in range(step // 2, size[1] - step // 2 + 1, step):
            number += 1
            labels[(rows - row) ** 2 + (cols - col) ** 2 <= radius**2] = number
    return labels


def disc_image(
    name: str = "discs",
    *,
    size: tuple[int, int] = (64, 80),
    modality: str = "fluorescence",
    radius: float = 7,
) -> Annotated:
    """Return bright discs on a dim ground, 16 bit, with their labels."""
    labels = disc_labels(size, radius=radius)
    noise = np.random.default_rng(len(name)).integers(0, 300, size=size)
    image = (np.where(labels > 0, 3000, 400) + noise).astype(np.uint16)
    return annotate(name, image, labels, modality=modality)


def write_pair(
    folder: Path, name: str, *, image: np.ndarray, labels: np.ndarray, suffix: str = "tif"
) -> None:
    """Write one image and its labels, as PNG or TIFF."""
    for part, array in (("images", image), ("labels", labels)):
        path = folder / part / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix in ("tif", "tiff"):
            tifffile.imwrite(path, array)
        else:
            imsave(path, array, check_contrast=False)
