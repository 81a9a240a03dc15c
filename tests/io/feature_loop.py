"""A process that stores features, to its end or until it is killed; started by test_feature_store.py.

Entry `n` holds arrays that follow from `n` alone, so that a reader can tell whether it is whole.
"""

from __future__ import annotations

import sys

import numpy as np

from napari_segany.core.identity import FeatureKey
from napari_segany.core.types import PackedFeatures
from napari_segany.io.features import FeatureStore


def key_of(n: int) -> FeatureKey:
    """Return the key of an entry."""
    return FeatureKey(f"{n:032x}", (n,), (0.0, 255.0), "fake", "0" * 64)


def entry_of(n: int) -> PackedFeatures:
    """Return what an entry holds; 50 to 250 kB on disk."""
    rng = np.random.default_rng(n)
    size = int(rng.integers(5_000, 25_000))
    return {"embedding": rng.integers(-999, 999, (5, size)).astype(np.float32)}, {"n": n}


def is_whole(n: int, found: PackedFeatures) -> bool:
    """Say whether an entry is what was put."""
    arrays, description = found
    wanted = entry_of(n)
    return description == wanted[1] and np.array_equal(arrays["embedding"], wanted[0]["embedding"])


if __name__ == "__main__":
    folder, limit, start, stop = sys.argv[1], *map(int, sys.argv[2:5])
    store = FeatureStore(folder, max_bytes=limit)
    for n in range(start, stop):
        print(n, int(store.put(key_of(n), entry_of(n))), flush=True)
