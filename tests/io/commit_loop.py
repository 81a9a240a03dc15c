"""A process that commits until it is killed; started by test_store_crash.py.

Commit `n` fills one rectangle of one plane with the label `n`: both follow from `n` alone, so that the test
knows what every commit, also one that was cut short, wanted to write.
"""

from __future__ import annotations

import sys

import numpy as np

from napari_segany.core.masks import LabelPatch, slices_of
from napari_segany.core.types import Box
from napari_segany.io.label_store import LabelStore

SHAPE = (3, 700, 600)


def place_of(n: int) -> tuple[tuple[int, ...], Box]:
    """Return the plane and the rectangle of a commit."""
    rng = np.random.default_rng(n)
    height, width = rng.integers(1, 300, 2)
    row0, col0 = rng.integers(0, SHAPE[1] - height), rng.integers(0, SHAPE[2] - width)
    return (int(rng.integers(SHAPE[0])),), Box(int(row0), int(col0), int(row0 + height), int(col0 + width))


def commit(store: LabelStore, n: int) -> None:
    """Write commit `n`."""
    index, box = place_of(n)
    before = store.read(index, slices_of(box))
    after = np.full(before.shape, n, dtype=np.uint32)
    store.write(
        LabelPatch(index=index, row0=int(box.row0), col0=int(box.col0), before=before, after=after),
        note={"n": n},
    )


if __name__ == "__main__":
    opened = LabelStore.open(sys.argv[1])
    number = len(opened.records())
    while True:
        number += 1
        commit(opened, number)
        print(number, flush=True)  # only after write() returned
