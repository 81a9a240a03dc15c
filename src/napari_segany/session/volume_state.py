"""What of a volume session outlives it, as a value and as JSON: for saved states and for the ledger of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from napari_segany.core.errors import FileFormatError, SegAnyError
from napari_segany.core.rle import Rle, decode_rle, encode_rle
from napari_segany.core.types import Box, Points

from .prompts import ObjectPrompts, PlaneIndex, no_points
from .records import FramePromptMap, FrameResult, ObjectRecord, Records


@dataclass(frozen=True, slots=True, eq=False)
class VolumeState:
    """What is needed to go on later.

    Attributes
    ----------
    axis, at
        Which leading axis counts the frames, and the indices on the others.
    object_id
        The object in work.
    prompts
        By (object_id, frame).
    records
        Results, names, colours, locks.
    interrupted
        Ranges of a propagation that did not come to its end.
    """

    axis: int
    at: PlaneIndex
    object_id: int = 1
    prompts: Mapping[PlaneIndex, ObjectPrompts] = field(default_factory=dict)
    records: Records = field(default_factory=Records)
    interrupted: tuple[range, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values, of the form that `io.state.SavedStack` checks."""
        return changes_of(VolumeState(self.axis, self.at), self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> VolumeState:
        """Return the state of JSON values; FileFormatError if they are not of a stack."""
        try:
            return with_changes(cls(int(content["axis"]), tuple(content["at"])), content)
        except SegAnyError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise FileFormatError(f"this is no saved work on a stack: {error!r}") from error


def changes_of(old: VolumeState, new: VolumeState) -> dict[str, Any]:
    """Return what makes one state another, as plain JSON values; objects that are the same are left out."""
    before, after = _by_object(old.prompts), _by_object(new.prompts)
    objects = [
        {"id": i}
        | _object_changes(old.records.objects.get(i), now, before.get(i, {}), after=after.get(i, {}))
        for i, now in sorted(new.records.objects.items())
    ]
    content: dict[str, Any] = {"axis": new.axis, "at": list(new.at), "object_id": new.object_id}
    content["objects"] = [one for one in objects if len(one) > 1]
    content["dropped"] = sorted(i for i in old.records.objects if i not in new.records)
    content["locked_frames"] = runs_of(new.records.locked_frames)
    content["interrupted"] = [[r.start, r.stop, r.step] for r in new.interrupted]
    return content


def with_changes(state: VolumeState, content: Mapping[str, Any]) -> VolumeState:
    """Return a state as it is after some changes; whatever they do not name stays."""
    records, prompts = state.records, dict(state.prompts)
    for object_id in content.get("dropped", ()):
        records = records.drop(object_id)
        prompts = {key: value for key, value in prompts.items() if key[0] != object_id}
    for one in content.get("objects", ()):
        records = records.put(one["id"], _changed_record(records, prompts, one))
    if "locked_frames" in content:
        records = replace(records, locked_frames=_frames_of(content["locked_frames"]))
    return replace(
        state,
        object_id=int(content.get("object_id", state.object_id)),
        prompts=prompts,
        records=records,
        interrupted=tuple(range(*ends) for ends in content["interrupted"])
        if "interrupted" in content
        else state.interrupted,
    )


def result_row(frame: int, result: FrameResult | None) -> list[float | None]:
    """Return a result as [frame, score, area, row, col]; [frame] alone where it was taken back."""
    if result is None:
        return [frame]
    row, col = result.centre or (None, None)
    return [frame, result.score, result.area, row, col]


def runs_of(frames: frozenset[int]) -> list[list[int]]:
    """Return frames as half-open runs [first, last + 1], in order."""
    if not frames:
        return []
    ordered = np.array(sorted(frames))
    cuts = np.flatnonzero(np.diff(ordered) > 1)
    starts, ends = ordered[np.r_[0, cuts + 1]], ordered[np.r_[cuts, len(ordered) - 1]]
    return [[int(a), int(b) + 1] for a, b in zip(starts, ends, strict=True)]


def _frames_of(runs: list[list[int]]) -> frozenset[int]:
    return frozenset(frame for start, stop in runs for frame in range(start, stop))


def _by_object(prompts: Mapping[PlaneIndex, ObjectPrompts]) -> dict[int, dict[int, ObjectPrompts]]:
    """Return prompts by object and frame."""
    found: dict[int, dict[int, ObjectPrompts]] = {}
    for (object_id, frame), one in prompts.items():
        found.setdefault(object_id, {})[frame] = one
    return found


def _object_changes(
    was: ObjectRecord | None, now: ObjectRecord, before: FramePromptMap, *, after: FramePromptMap
) -> dict[str, Any]:
    """Return what is new of one object: its record, and its prompts before and after."""
    content: dict[str, Any] = {}
    if was is now and before == after:
        return content
    if was is None or _looks(was) != _looks(now):
        content |= _looks(now)
    if was is None or before != after or was.told != now.told:
        content["prompts"] = [prompts_to_json(frame, prompts) for frame, prompts in sorted(after.items())]
        content["told"] = sorted(frame for frame, prompts in now.told.items() if after.get(frame) is prompts)
    results = was.results if was is not None else {}
    frames = sorted({*results, *now.results})
    rows = [
        result_row(f, now.results.get(f)) for f in frames if _is_other(results.get(f), now.results.get(f))
    ]
    if rows:
        content["results"] = rows
    stale = frozenset(now.results) - now.valid
    if rows or was is None or stale != frozenset(results) - was.valid:
        content["stale"] = runs_of(stale)
    return content


def _is_other(was: FrameResult | None, now: FrameResult | None) -> bool:
    """Whether two results differ in more than whether they are stale."""
    if was is now or was is None or now is None:
        return was is not now
    return replace(was, is_stale=False) != replace(now, is_stale=False)


def _looks(record: ObjectRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "colour": None if record.colour is None else list(record.colour),
        "is_locked": record.is_locked,
        "parents": list(record.parents),
    }


def _changed_record(
    records: Records, prompts: dict[PlaneIndex, ObjectPrompts], content: Mapping[str, Any]
) -> ObjectRecord:
    """Return the record of an object after its changes, and put its prompts in place."""
    object_id = content["id"]
    record = records.objects.get(object_id, ObjectRecord())
    if "name" in content:
        colour = content["colour"] and tuple(content["colour"])
        looks = {"is_locked": content["is_locked"], "parents": tuple(content["parents"])}
        record = replace(record, name=content["name"], colour=colour, **looks)
    if "prompts" in content:
        for key in [key for key in prompts if key[0] == object_id]:
            del prompts[key]
        said = dict(prompts_from_json(one) for one in content["prompts"])
        prompts |= {(object_id, frame): one for frame, one in said.items()}
        record = replace(record, told={frame: said[frame] for frame in content["told"]})
    results = dict(record.results)
    for frame, *values in content.get("results", ()):
        results.pop(frame, None)
        if values:
            score, area, row, col = values
            results[frame] = FrameResult(score, area, None if row is None else (row, col))
    if "stale" in content:
        stale = _frames_of(content["stale"])
        results = {frame: replace(result, is_stale=frame in stale) for frame, result in results.items()}
    return replace(record, results=results)


def prompts_to_json(frame: int, prompts: ObjectPrompts) -> dict[str, Any]:
    """Return what was said on one frame; the polygons that a mask was drawn with are not kept."""
    clicks = zip(prompts.points.coords.tolist(), prompts.points.positive.tolist(), strict=True)
    box, mask = prompts.box, prompts.mask
    rle = encode_rle(mask) if mask is not None else None
    return {
        "frame": frame,
        "points": [[row, col, positive] for (row, col), positive in clicks],
        "box": None if box is None else [box.row0, box.col0, box.row1, box.col1],
        "mask": None if rle is None else {"size": list(rle.size), "counts": rle.counts},
    }


def prompts_from_json(content: Mapping[str, Any]) -> tuple[int, ObjectPrompts]:
    """Return a frame and what was said on it."""
    points, box, mask = content["points"], content["box"], content["mask"]
    return int(content["frame"]), ObjectPrompts(
        points=Points(
            np.array([point[:2] for point in points], dtype=np.float32),
            np.array([point[2] for point in points], dtype=bool),
        )
        if points
        else no_points(),
        box=None if box is None else Box(*box),
        mask=None if mask is None else decode_rle(Rle(tuple(mask["size"]), mask["counts"])),
    )
