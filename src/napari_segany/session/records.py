"""What is known of the objects of a stack: results by frame, names, colours, locks; values that undo can keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import PromptError
from napari_segany.core.types import BoolMask, FloatArray, Labels

from .prompts import ObjectPrompts

Colour: TypeAlias = tuple[float, float, float]
"""Red, green, blue, 0 to 1."""

FramePromptMap: TypeAlias = Mapping[int, ObjectPrompts]
"""The prompts of one object, by frame."""


@dataclass(frozen=True, slots=True)
class FrameResult:
    """One object on one frame, as it was painted.

    Attributes
    ----------
    score
        Predicted IoU, 0 to 1; negative where the object was judged absent.
    area
        In pixels.
    centre
        (row, col) of the painted pixels; None where there are none.
    is_stale
        Whether a prompt that came later may change it.
    """

    score: float
    area: int
    centre: tuple[float, float] | None = None
    is_stale: bool = False

    def __post_init__(self) -> None:
        if self.area < 0 or (self.area == 0) != (self.centre is None):
            raise PromptError(f"an object of {self.area} pixels cannot have its centre at {self.centre}")


def measure(labels: Labels, object_id: int, *, score: float) -> FrameResult:
    """Return the result of an object in the (H, W) labels of a frame."""
    places = np.flatnonzero(labels == object_id)  # many times faster than in two dimensions
    if not places.size:
        return FrameResult(float(score), 0)
    rows, cols = np.divmod(places, labels.shape[1])
    return FrameResult(float(score), int(places.size), (float(rows.mean()), float(cols.mean())))


@dataclass(frozen=True, slots=True, eq=False)
class ObjectRecord:
    """One object of a stack.

    Attributes
    ----------
    results
        By frame, where the object was looked for.
    told
        The prompts that the results follow from, by frame; newer ones may wait to be answered.
    name, colour
        As a person chose; an empty name is shown as the number, None is the colour of the label.
    is_locked
        Whether its pixels and results stay as they are.
    parents
        Objects that it came from, in a division or a fusion.
    """

    results: Mapping[int, FrameResult] = field(default_factory=dict)
    told: FramePromptMap = field(default_factory=dict)
    name: str = ""
    colour: Colour | None = None
    is_locked: bool = False
    parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.colour is not None and (len(self.colour) != 3 or not all(0 <= c <= 1 for c in self.colour)):
            raise PromptError(f"a colour is (red, green, blue), each 0 to 1; got {self.colour}")

    @property
    def valid(self) -> frozenset[int]:
        """The frames whose results no prompt has outdated."""
        return frozenset(frame for frame, result in self.results.items() if not result.is_stale)

    def with_results(self, results: Mapping[int, FrameResult]) -> ObjectRecord:
        """Return the record with some results replaced."""
        return replace(self, results={**self.results, **results})

    def without_result(self, frame: int) -> ObjectRecord:
        """Return the record as if the object had not been looked for on a frame."""
        return replace(self, results={f: result for f, result in self.results.items() if f != frame})

    def with_stale(self, stale: frozenset[int], *, told: FramePromptMap) -> ObjectRecord:
        """Return the record as the predictor sees it once it was told all of `told`."""
        results = {
            frame: replace(result, is_stale=frame in stale) if result.is_stale != (frame in stale) else result
            for frame, result in self.results.items()
        }
        return replace(self, results=results, told=dict(told))


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """All objects of a stack, by id, and the frames that are locked; never changed, only replaced."""

    objects: Mapping[int, ObjectRecord] = field(default_factory=lambda: MappingProxyType({}))
    locked_frames: frozenset[int] = frozenset()

    def __getitem__(self, object_id: int) -> ObjectRecord:
        try:
            return self.objects[object_id]
        except KeyError:
            known = ", ".join(map(str, sorted(self.objects))) or "none yet"
            raise PromptError(f"there is no object {object_id}; there are: {known}") from None

    def __contains__(self, object_id: object) -> bool:
        return object_id in self.objects

    @property
    def locked_ids(self) -> frozenset[int]:
        """The objects that are locked."""
        return frozenset(i for i, record in self.objects.items() if record.is_locked)

    def put(self, object_id: int, record: ObjectRecord) -> Records:
        """Return the records with one object added or replaced."""
        return replace(self, objects={**self.objects, object_id: record})

    def drop(self, object_id: int) -> Records:
        """Return the records without one object."""
        return replace(self, objects={i: r for i, r in self.objects.items() if i != object_id})


def marked_on(records: Records, frames: frozenset[int], *, is_stale: bool) -> Records:
    """Return records in which all results on some frames are stale, or none of them is."""
    for object_id, record in records.objects.items():
        wrong = {f: r for f, r in record.results.items() if f in frames and r.is_stale != is_stale}
        if wrong:
            marked = {frame: replace(result, is_stale=is_stale) for frame, result in wrong.items()}
            records = records.put(object_id, record.with_results(marked))
    return records


@dataclass(frozen=True, slots=True, eq=False)
class RecordsEdit:
    """One change of the records."""

    before: Records
    after: Records


@dataclass(frozen=True, slots=True)
class DoubtRule:
    """When a result is worth a look.

    Attributes
    ----------
    min_score
        Scores from 0 to below this are doubtful.
    max_jump
        So is an area that is more than this many times larger or smaller than in the frame before or after.
    """

    min_score: float = 0.6
    max_jump: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.min_score <= 1 and self.max_jump > 1):
            raise PromptError(f"doubts need min_score 0 to 1 and max_jump above 1, got {self}")

    def doubtful(self, scores: FloatArray, areas: NDArray[np.int_]) -> BoolMask:
        """Return (N,) True where scores (N,), NaN where unknown, or areas (N,), in pixels, leave doubts.

        An object that is absent in one frame and there in the next is no jump; one that is absent in between leaves
        doubts on both sides: what came back may be another.
        """
        present = np.nan_to_num(scores, nan=-1) >= 0
        doubts = present & (scores < self.min_score)
        both = present[1:] & present[:-1]
        larger, smaller = np.maximum(areas[1:], areas[:-1]), np.minimum(areas[1:], areas[:-1])
        jumps = both & (larger > self.max_jump * smaller)
        doubts[1:] |= jumps
        there = np.flatnonzero(present)
        unknown = np.cumsum(np.isnan(scores))
        before, after = there[:-1], there[1:]
        is_gap = (after > before + 1) & (unknown[before] == unknown[after])
        doubts[before[is_gap]] = doubts[after[is_gap]] = True
        return doubts


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTrack:
    """One object along the N frames of its stack, for a timeline or a table.

    Attributes
    ----------
    object_id, name, colour, is_locked, parents
        As in its record.
    scores : (N,)
        0 to 1, negative where judged absent, NaN where not looked for.
    areas : (N,)
        In pixels.
    prompted, doubtful, locked, stale : (N,)
        True where a person said something; should look; nothing may change; a later prompt outdated the result.
    """

    object_id: int
    name: str
    colour: Colour | None
    is_locked: bool
    parents: tuple[int, ...]
    scores: FloatArray
    areas: NDArray[np.int_]
    prompted: BoolMask
    doubtful: BoolMask
    locked: BoolMask
    stale: BoolMask

    @property
    def frame_range(self) -> tuple[int, int] | None:
        """The first and the last frame with pixels; None when there are none."""
        frames = np.flatnonzero(self.areas)
        return (int(frames[0]), int(frames[-1])) if frames.size else None

    @property
    def mean_score(self) -> float:
        """Of the frames where it is there; NaN when there are none."""
        present = self.scores[np.nan_to_num(self.scores, nan=-1) >= 0]
        return float(present.mean()) if present.size else float("nan")


def track_of(
    records: Records, object_id: int, *, n_frames: int, prompted: frozenset[int], rule: DoubtRule
) -> ObjectTrack:
    """Return one object along its stack; `prompted` are the frames on which a person said something."""
    record = records[object_id]
    scores = np.full(n_frames, np.nan, dtype=np.float32)
    areas = np.zeros(n_frames, dtype=np.int_)
    stale, said, locked = (np.zeros(n_frames, dtype=bool) for _ in range(3))
    for frame, result in record.results.items():
        scores[frame], areas[frame], stale[frame] = result.score, result.area, result.is_stale
    said[sorted(prompted)] = True
    locked[sorted(records.locked_frames)] = True
    return ObjectTrack(
        object_id=object_id,
        name=record.name,
        colour=record.colour,
        is_locked=record.is_locked,
        parents=record.parents,
        scores=scores,
        areas=areas,
        prompted=said,
        doubtful=rule.doubtful(scores, areas) & ~said,
        locked=locked | record.is_locked,
        stale=stale,
    )
