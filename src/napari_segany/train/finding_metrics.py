"""How well objects are found without prompts, as flat labels, whatever their names.

Segmentation accuracy at an IoU of t is TP / (TP + FP + FN), where a true object counts as found if an object overlaps
it by t or more (Caicedo et al. 2019, who call it average precision; Archit et al. 2025 call its mean over t = 0.5,
0.55, … 0.95 mSA). It is the mean over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import DataError
from napari_segany.core.types import Labels

from .dataset import Annotated

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True, slots=True)
class ImageFound:
    """What was found in one image: true objects, objects, and how many are right at each of `THRESHOLDS`."""

    name: str
    modality: str
    truths: int
    found: int
    right: tuple[int, ...]

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """(10,) segmentation accuracies; 1 where there is nothing and nothing was found."""
        right = np.array(self.right, dtype=np.float64)
        total = self.truths + self.found - right
        return np.divide(right, total, out=np.ones_like(right), where=total > 0)


@dataclass(frozen=True, slots=True)
class FindingEvaluation:
    """Results over images."""

    model: str
    images: tuple[ImageFound, ...]

    def as_dict(self) -> dict[str, object]:
        """Return means over images as plain values, ready for JSON: `msa`, and `ap50` and `ap75` at one threshold."""
        modalities = sorted({image.modality for image in self.images})
        return {
            "model": self.model,
            **_summary(self.images),
            "by_modality": {m: _summary([i for i in self.images if i.modality == m]) for m in modalities},
        }


def _summary(images: Iterable[ImageFound]) -> dict[str, float]:
    """Return the means over some images."""
    images = list(images)
    means = np.mean([image.accuracies for image in images], axis=0)
    return {
        "images": len(images),
        "objects": sum(image.truths for image in images),
        "found": sum(image.found for image in images),
        "msa": round(float(means.mean()), 4),
        "ap50": round(float(means[THRESHOLDS.index(0.5)]), 4),
        "ap75": round(float(means[THRESHOLDS.index(0.75)]), 4),
    }


def evaluate_finding(
    find: Callable[[Annotated], Labels],
    items: Iterable[Annotated],
    *,
    model: str,
    progress: Callable[[int, str], None] | None = None,
) -> FindingEvaluation:
    """Measure the (H, W) labels that `find` returns for annotated images, beside their flat labels.

    Raises
    ------
    DataError
        If there is no image.
    """
    images = []
    for done, item in enumerate(items, start=1):
        ious = label_ious(find(item), item.labels)
        right = tuple(int((ious.max(axis=0, initial=0.0) >= t).sum()) for t in THRESHOLDS)
        images.append(ImageFound(item.name, item.modality, ious.shape[1], ious.shape[0], right))
        if progress is not None:
            progress(done, item.name)
    if not images:
        raise DataError("there is no image to find objects in")
    return FindingEvaluation(model, tuple(images))


def label_ious(a: Labels, b: Labels) -> NDArray[np.float64]:
    """Return the IoU of every object of (H, W) labels with every object of others, ids in ascending order."""
    ids_a, index_a = np.unique(a, return_inverse=True)
    ids_b, index_b = np.unique(b, return_inverse=True)
    counts = np.zeros((len(ids_a), len(ids_b)))
    np.add.at(counts, (index_a.ravel(), index_b.ravel()), 1)
    either = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    ious: NDArray[np.float64] = (counts / either)[ids_a != 0][:, ids_b != 0]
    return ious
