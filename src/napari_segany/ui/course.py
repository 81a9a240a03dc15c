"""What is known of one object along the frames, and how as many frames as there are fit on as many pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_segany.core.errors import PromptError
from napari_segany.core.types import BoolMask, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """One object in N frames.

    Attributes
    ----------
    scores : (N,)
        0 to 1; negative where the object was judged absent, NaN where it was not looked for yet.
    prompted : (N,)
        True where a person said something.
    doubtful : (N,)
        True where a person should look.
    locked : (N,)
        True where nothing may change.
    stale : (N,)
        True where the answer is outdated by a prompt that came later.
    """

    scores: FloatArray
    prompted: BoolMask
    doubtful: BoolMask
    locked: BoolMask
    stale: BoolMask

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes = {name: np.shape(getattr(self, name)) for name in ("prompted", "doubtful", "locked", "stale")}
        wrong = {name: shape for name, shape in shapes.items() if shape != (n,)}
        if n == 0 or wrong:
            raise PromptError(f"a course has one value for each frame: {n} scores, but {wrong or 'no frame'}")

    @classmethod
    def unknown(cls, n_frames: int) -> Course:
        """Return the course of an object that was looked for nowhere."""
        nothing = np.zeros(n_frames, dtype=bool)
        return cls(np.full(n_frames, np.nan, dtype=np.float32), nothing, nothing, nothing, nothing)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def absent(self) -> BoolMask:
        """(N,) True where the object was judged absent."""
        absent: BoolMask = self.scores < 0
        return absent

    @property
    def marked(self) -> NDArray[np.int_]:
        """The frames with a prompt or a doubt, in order."""
        return np.flatnonzero(self.prompted | self.doubtful)

    def next_marked(self, frame: int, *, step: int) -> int:
        """Return the next frame with a prompt or a doubt, the last one in a direction; the same where there is none."""
        marked = self.marked
        ahead = marked[marked > frame] if step > 0 else marked[marked < frame][::-1]
        return int(ahead[0]) if len(ahead) else frame

    def describe(self, frame: int) -> str:
        """Return what is known of a frame, in words."""
        score = float(self.scores[frame])
        is_seen = not np.isnan(score)
        answer = "absent" if score < 0 else f"score {score:.2f}"
        words = [f"frame {frame}", answer if is_seen else "not looked at yet"]
        words += [word for word in ("prompted", "doubtful", "locked") if getattr(self, word)[frame]]
        words += ["outdated"] if self.stale[frame] and is_seen else []
        return " · ".join(words)


@dataclass(frozen=True, slots=True)
class Bar:
    """Frames that are drawn as one: `first` to `last`, their lowest score (None where there is none), their marks."""

    first: int
    last: int
    score: float | None
    is_absent: bool
    is_prompted: bool
    is_doubtful: bool
    is_locked: bool
    is_stale: bool


def bin_course(course: Course, *, width: int) -> Iterator[Bar]:
    """Give one bar for each frame, or for each pixel where frames are more than pixels.

    A bar of many frames shows the lowest score among them and every mark; it is absent if the object is nowhere in it.
    """
    n = len(course)
    edges = np.unique(np.linspace(0, n, min(n, max(1, width)) + 1).round().astype(int))
    starts, ends = edges[:-1], edges[1:]
    scores, absent = course.scores, course.absent
    present = ~np.isnan(scores) & ~absent
    lowest = np.minimum.reduceat(np.where(present, scores, np.inf), starts)
    flags = (absent, course.prompted, course.doubtful, course.locked, course.stale & present)
    marks = [np.logical_or.reduceat(flag, starts).tolist() for flag in flags]
    rows = zip(starts.tolist(), ends.tolist(), lowest.tolist(), *marks, strict=True)
    for first, end, score, is_absent, *others in rows:
        is_there = np.isfinite(score)
        yield Bar(first, end - 1, score if is_there else None, is_absent and not is_there, *others)


@dataclass(frozen=True, slots=True)
class FrameScale:
    """The map between `n_frames` frames and the pixels `left` to `left + width`."""

    n_frames: int
    left: float
    width: float

    def left_of(self, frame: int) -> float:
        """Return where a frame begins, in pixels."""
        return self.left + self.width * frame / self.n_frames

    def middle_of(self, frame: int) -> float:
        """Return the middle of a frame, in pixels."""
        return self.left_of(frame) + self.width / self.n_frames / 2

    def frame_at(self, x: float) -> int:
        """Return the frame at a pixel; off the ends, the first or last one."""
        return int(np.clip((x - self.left) / self.width * self.n_frames, 0, self.n_frames - 1))

    def near(self, frames: NDArray[np.int_], *, x: float, reach: float) -> int | None:
        """Return the one among some frames whose middle is nearest to a pixel, None if all are out of reach."""
        if not len(frames):
            return None
        away = np.abs(self.left + self.width * (frames + 0.5) / self.n_frames - x)
        best = int(away.argmin())
        return int(frames[best]) if away[best] <= max(reach, self.width / self.n_frames / 2) else None

    def ticks(self, room: float) -> range:
        """Return evenly spaced round frame numbers, each with `room` pixels."""
        steps = (factor * 10**power for power in range(8) for factor in (1, 2, 5))
        step = next(
            step for step in steps if step * self.width / self.n_frames >= room or step >= self.n_frames
        )
        return range(0, self.n_frames, step)
