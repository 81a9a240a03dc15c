"""What following objects through clips came to: per object and frame, and the means over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.types import BoolMask

DISTANCES = (0, 1, 8, 16, 32, 48)
"""Frames from the nearest prompt; each stands for the distances that are nearer to it than to the others."""

Summary = dict[str, int | float | None]
"""Measures by name; None where nothing was there to measure."""


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """How one object was followed through a clip of T frames.

    Attributes
    ----------
    kind, axis
        Of the clip.
    number
        In the clip's labels.
    prompted
        Frames with a prompt.
    counted : (T,)
        Frames that say something: not those of a mother after her division, nor of a daughter before it.
    present : (T,)
        Frames that show the object.
    ious : (T,)
        IoU of mask and object; 0 where it is absent.
    called_absent : (T,)
        Negative score or empty mask.
    at_division, swallowed : (T,)
        Frames beside a division in or near the object; those in which its mask takes more than half of another.
    """

    kind: str
    axis: str
    number: int
    prompted: tuple[int, ...]
    counted: BoolMask
    present: BoolMask
    ious: NDArray[np.float64]
    called_absent: BoolMask
    at_division: BoolMask
    swallowed: BoolMask

    @property
    def shown(self) -> BoolMask:
        """(T,) frames whose IoU counts."""
        return self.counted & self.present

    @property
    def away(self) -> NDArray[np.int_]:
        """(T,) frames to the nearest prompt."""
        frames = np.arange(len(self.ious))
        nearest: NDArray[np.int_] = np.abs(frames[:, None] - np.array(self.prompted)[None]).min(1)
        return nearest


@dataclass(frozen=True, slots=True)
class VideoEvaluation:
    """Results over all objects of some clips; `rounds[n]` are those after `n` corrections of each object.

    `clicks` is the most clicks of a correction.
    """

    model: str
    clips: int
    frames: int
    rounds: tuple[tuple[Followed, ...], ...]
    clicks: int = 3

    def as_dict(self) -> dict[str, object]:
        """Return means after all corrections, and what they were before, as plain values, ready for JSON."""
        last = self.rounds[-1]
        return {
            "model": self.model,
            "clips": self.clips,
            "frames": self.frames,
            "corrections": len(self.rounds) - 1,
            "clicks_per_correction": self.clicks,
            **summary(last),
            "drift": drift(last),
            "by_corrections": {
                str(n): summary(part) | {"drift": drift(part)} for n, part in enumerate(self.rounds)
            },
            "by_axis": self._by([o.axis for o in last]),
            "by_kind": self._by([o.kind for o in last]),
        }

    def _by(self, names: Sequence[str]) -> dict[str, Summary]:
        """Return the measures of groups of objects after all corrections, and their IoU with one click."""
        groups: dict[str, Summary] = {}
        for name in sorted(set(names)):
            picked = [place for place, own in enumerate(names) if own == name]
            first, last = ([part[place] for place in picked] for part in (self.rounds[0], self.rounds[-1]))
            groups[name] = {**summary(last), "iou_of_one_click": summary(first)["iou"]}
        return groups


def summary(objects: Iterable[Followed]) -> Summary:
    """Return the measures over the object-frames of some objects.

    `iou` where they are present; `absent`, the share of frames without them that was called so; `swallowed`, the
    share of frames beside divisions in which a mask takes another object.
    """
    objects = list(objects)
    ious = _joined([o.ious[o.shown] for o in objects])
    absent = _joined([o.called_absent[o.counted & ~o.present] for o in objects])
    swallowed = _joined([o.swallowed[o.at_division] for o in objects])
    return {
        "objects": len(objects),
        "object_frames": len(ious),
        "iou": _mean(ious),
        "absent_frames": len(absent),
        "absent": _mean(absent),
        "division_frames": len(swallowed),
        "swallowed": _mean(swallowed),
    }


def drift(objects: Iterable[Followed]) -> dict[str, float | None]:
    """Return the mean IoU of object-frames by their distance from the nearest prompt, as in `DISTANCES`."""
    objects = list(objects)
    ious = _joined([o.ious[o.shown] for o in objects])
    away = _joined([o.away[o.shown] for o in objects])
    nearest = np.abs(away[:, None] - np.array(DISTANCES)[None]).argmin(1)
    nearest[away > 0] = np.maximum(nearest[away > 0], 1)
    return {str(distance): _mean(ious[nearest == place]) for place, distance in enumerate(DISTANCES)}


def _joined(parts: list[NDArray[np.generic]]) -> NDArray[np.float64]:
    """Return (N,) values of all parts."""
    return np.concatenate([np.zeros(0), *parts]).astype(np.float64)


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean to four digits, None of nothing."""
    return round(float(values.mean()), 4) if len(values) else None
