"""Features of the planes that were looked at: in memory within a limit of bytes, and in a store that outlives it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from typing import Protocol

from napari_segany.core.errors import SegAnyError
from napari_segany.core.identity import FeatureKey
from napari_segany.core.types import FeaturePacker, FeaturesLike, ImagePredictorLike, PackedFeatures

_logger = logging.getLogger(__name__)
_MOST_WAITING = 4


class FeatureCache:
    """A byte-limited cache that forgets the features unused for longest. Safe to share between threads."""

    def __init__(self, *, max_bytes: int = 1 << 29) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[FeatureKey, FeaturesLike] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: FeatureKey) -> FeaturesLike | None:
        """Return the features of one plane, window and model, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: FeatureKey, features: FeaturesLike) -> None:
        """Keep features; the newest always stay, even alone above the limit."""
        with self._lock:
            self._kept[key] = features
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and self._size() > self._max_bytes:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, e.g. when the image changed."""
        with self._lock:
            self._kept.clear()

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        with self._lock:
            return self._size()

    def __contains__(self, key: FeatureKey) -> bool:
        with self._lock:
            return key in self._kept

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def _size(self) -> int:
        return sum(features.nbytes for features in self._kept.values())


class FeatureStoreLike(Protocol):
    """Keeps packed features beyond the session. `io.features.FeatureStore` is the real one."""

    def get(self, key: FeatureKey) -> PackedFeatures | None:
        """Return what was put under a key, or None; called on the worker's thread."""

    def put(self, key: FeatureKey, packed: PackedFeatures) -> bool:
        """Keep it, and say whether it was kept; called on a thread of its own."""


class StoredFeatures:
    """Reads features from a store, and writes them behind the caller's back so that no click waits for the disk.

    The writing thread ends when nothing is left to write. It is no daemon: a program that ends finishes its writes.
    """

    def __init__(self, store: FeatureStoreLike) -> None:
        self._store = store
        self._waiting: deque[tuple[FeatureKey, PackedFeatures]] = deque()
        self._changed = threading.Condition()
        self._is_writing = False

    def read(self, key: FeatureKey, predictor: ImagePredictorLike) -> FeaturesLike | None:
        """Return the features of a key as this predictor's own, or None."""
        if not isinstance(predictor, FeaturePacker):
            return None
        try:
            packed = self._store.get(key)
            return predictor.unpack(*packed) if packed is not None else None
        except SegAnyError as error:
            _logger.info("stored features of plane %s do not fit %s: %s", key.plane, key.model, error)
        except Exception:  # a cache never costs an answer
            _logger.warning("stored features of plane %s cannot be used", key.plane, exc_info=True)
        return None

    def write(self, key: FeatureKey, features: FeaturesLike, *, predictor: ImagePredictorLike) -> None:
        """Have features written soon; drops them if the disk does not keep up."""
        if not isinstance(predictor, FeaturePacker):
            return
        try:
            packed = predictor.pack(features)  # here: the next prediction may change what features hold
        except Exception:  # as above
            _logger.warning("features of plane %s cannot be packed", key.plane, exc_info=True)
            return
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                _logger.debug("the disk is slow: features of plane %s are not kept", key.plane)
                return
            self._waiting.append((key, packed))
            if self._is_writing:
                return
            self._is_writing = True
        threading.Thread(target=self._write_all, name="segany-features").start()

    def wait(self, *, timeout: float) -> bool:
        """Wait for what is being written, and say whether all of it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing, timeout)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_writing = False
                    self._changed.notify_all()
                    return
                key, packed = self._waiting.popleft()
            try:
                self._store.put(key, packed)
            except Exception:  # whatever a store raises: the session goes on without it
                _logger.warning("features of plane %s could not be stored", key.plane, exc_info=True)
