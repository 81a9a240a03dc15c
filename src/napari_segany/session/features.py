"""Features of the planes that were looked at, newest kept, within a limit of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from napari_segany.core.types import FeaturesLike

from .prompts import PlaneIndex


class FeatureCache:
    """A byte-limited cache that forgets the plane unused for longest. Safe to share between threads."""

    def __init__(self, *, max_bytes: int = 1 << 29) -> None:
        self._max_bytes = max_bytes
        self._planes: OrderedDict[PlaneIndex, FeaturesLike] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index: PlaneIndex) -> FeaturesLike | None:
        """Return the features of one plane, or None."""
        with self._lock:
            if index in self._planes:
                self._planes.move_to_end(index)
            return self._planes.get(index)

    def put(self, index: PlaneIndex, features: FeaturesLike) -> None:
        """Keep the features of one plane; the newest always stays, even alone above the limit."""
        with self._lock:
            self._planes[index] = features
            self._planes.move_to_end(index)
            while len(self._planes) > 1 and self._size() > self._max_bytes:
                self._planes.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, e.g. when the image or the model changed."""
        with self._lock:
            self._planes.clear()

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        with self._lock:
            return self._size()

    def __contains__(self, index: PlaneIndex) -> bool:
        with self._lock:
            return index in self._planes

    def __len__(self) -> int:
        with self._lock:
            return len(self._planes)

    def _size(self) -> int:
        return sum(features.nbytes for features in self._planes.values())
