"""Where the objects of a stack are in each frame, as track layers and tables take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import PromptError

from .prompts import PlaneIndex
from .records import ObjectTrack, Records


@dataclass(frozen=True, slots=True, eq=False)
class TrackTable:
    """Centroids of objects, frame by frame.

    Attributes
    ----------
    data : (N, 1 + axes)
        Object id, leading indices of the plane, row, col; for a (T, H, W) stack (id, t, y, x). Sorted by id, then
        frame.
    graph
        By object, those that it came from; only objects with rows in `data`.
    scores, areas : (N,)
        Of each row.
    """

    data: NDArray[np.float64]
    graph: dict[int, list[int]]
    scores: NDArray[np.float32]
    areas: NDArray[np.int_]

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or len(self.scores) != len(self.data) or len(self.areas) != len(self.data):
            raise PromptError(
                f"tracks need a row each: data {self.data.shape}, scores {self.scores.shape}, areas {self.areas.shape}"
            )

    def __len__(self) -> int:
        return len(self.data)


def tracks_of(records: Records, *, index: Callable[[int], PlaneIndex]) -> TrackTable:
    """Return the centroids of every object; `index` says which plane a frame is."""
    rows, scores, areas = [], [], []
    for object_id in sorted(records.objects):
        for frame, result in sorted(records[object_id].results.items()):
            if result.centre is not None:
                rows.append((object_id, *index(frame), *result.centre))
                scores.append(result.score)
                areas.append(result.area)
    there = {row[0] for row in rows}
    graph = {
        object_id: [parent for parent in record.parents if parent in there]
        for object_id, record in records.objects.items()
        if object_id in there
    }
    width = 3 + len(index(0))
    return TrackTable(
        np.array(rows, dtype=np.float64).reshape(-1, width),
        {child: parents for child, parents in graph.items() if parents},
        np.array(scores, dtype=np.float32),
        np.array(areas, dtype=np.int_),
    )


def features_of(tracks: list[ObjectTrack]) -> dict[str, NDArray[np.generic]]:
    """Return a table with one row an object; `first` and `last` are -1 where it has no pixels."""
    spans = [track.frame_range or (-1, -1) for track in tracks]
    present = [int(np.count_nonzero(track.areas)) for track in tracks]
    means = [float(t.areas.sum()) / n if n else 0.0 for t, n in zip(tracks, present, strict=True)]
    return {
        "index": np.array([track.object_id for track in tracks], dtype=np.int_),
        "name": np.array([track.name for track in tracks], dtype=np.str_),
        "frames": np.array(present, dtype=np.int_),
        "first": np.array([span[0] for span in spans], dtype=np.int_),
        "last": np.array([span[1] for span in spans], dtype=np.int_),
        "score": np.array([track.mean_score for track in tracks], dtype=np.float32),
        "area": np.array(means, dtype=np.float32),
        "doubtful": np.array([int(track.doubtful.sum()) for track in tracks], dtype=np.int_),
        "prompted": np.array([int(track.prompted.sum()) for track in tracks], dtype=np.int_),
    }
