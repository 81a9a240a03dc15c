"""A follower of blobs for tests: an object is what has the raw value that its first click, box or mask covers most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from napari_segany.core.intensity import Window
from napari_segany.core.types import BoolMask, FrameMasks, FrameSource, ModelCard, Prompt


def blob_movie(n_frames: int = 8, *, height: int = 40, width: int = 60) -> np.ndarray:
    """Return (T, H, W) uint16: a square of 1000 that moves right from (5, 2), one of 2000 that stays at (25, 30)."""
    movie = np.zeros((n_frames, height, width), np.uint16)
    for i, frame in enumerate(movie):
        frame[5:13, 2 + 2 * i : 10 + 2 * i] = 1000
        frame[25:33, 30:38] = 2000
    return movie


@dataclass(eq=False)
class BlobState:
    """An open stack, and the frames that each object was answered on."""

    frames: FrameSource
    window: Window
    said: dict[int, dict[int, int]] = field(default_factory=dict)
    answered: dict[int, set[int]] = field(default_factory=dict)

    @property
    def n_frames(self) -> int:
        return len(self.frames)

    @property
    def frame_shape(self) -> tuple[int, int]:
        height, width = self.frames[0].shape[:2]
        return height, width

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.said)

    def prompted(self, object_id: int) -> tuple[int, ...]:
        return tuple(sorted(self.said.get(object_id, {})))

    def stale(self, object_id: int) -> frozenset[int]:
        return frozenset(range(self.n_frames)) - self.answered.get(object_id, set())


class BlobFollower:
    """Answers as a video predictor does; `worked` is (object, frame) of each step; `before` comes first."""

    def __init__(self, *, before: Callable[[int], None] = lambda frame: None) -> None:
        self.before = before
        self.worked: list[tuple[int, int]] = []
        self.recalled: list[tuple[int, int]] = []
        self.prompts: list[tuple[int, int, Prompt]] = []
        self.windows: list[Window | None] = []
        self.over_time: list[bool] = []
        self.shapes: list[tuple[int, ...]] = []

    @property
    def card(self) -> ModelCard:
        return ModelCard("blobs", "0" * 64)

    def open(self, frames: FrameSource, *, window: Window | None = None) -> BlobState:
        self.windows.append(window)
        self.over_time.append(bool(getattr(frames, "over_time", False)))
        return BlobState(frames, window or Window(0, 1))

    def prompt(self, state: BlobState, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        self.prompts.append((object_id, frame, prompt))
        image = np.asarray(state.frames[frame])
        self.shapes.append(image.shape)
        value = _value(image, prompt)
        state.said.setdefault(object_id, {})[frame] = value
        state.answered[object_id] = set(state.said[object_id])
        return self._answer(image, frame, {object_id: value})

    def propagate(self, state: BlobState, frames: range) -> Iterator[FrameMasks]:
        for frame in frames:
            behind = frame - frames.step  # an object is followed from frame to frame, never across a gap
            due = [i for i in state.said if frame in state.stale(i) and behind in state.answered[i]]
            if due:
                self.before(frame)
                self.worked += [(i, frame) for i in due]
                for i in due:
                    state.answered[i].add(frame)
                image = np.asarray(state.frames[frame])
                yield self._answer(image, frame, {i: next(iter(state.said[i].values())) for i in due})

    def forget(self, state: BlobState, *, object_id: int, frame: int | None = None) -> None:
        said = state.said.get(object_id, {})
        said.pop(frame, None) if frame is not None else said.clear()
        state.answered[object_id] = set(said)
        if not said:
            state.said.pop(object_id, None)

    def recall(self, state: BlobState, *, frame: int, object_id: int, mask: BoolMask, score: float) -> None:
        self.recalled.append((object_id, frame))
        state.answered.setdefault(object_id, set()).add(frame)

    @staticmethod
    def _answer(image: np.ndarray, frame: int, values: dict[int, int]) -> FrameMasks:
        grey = image if image.ndim == 2 else image[..., 0]
        masks = np.stack([grey == value for value in values.values()])
        scores = np.where(masks.any(axis=(1, 2)), 0.9, -1).astype(np.float32)
        return FrameMasks(frame, np.array(list(values)), masks, scores)


def _value(image: np.ndarray, prompt: Prompt) -> int:
    """Return the raw value that is meant."""
    if prompt.points is not None:
        row, col = prompt.points.coords[0].astype(int)
        return int(np.ravel(image[row, col])[0])
    if prompt.mask is not None:
        return int(np.median(image[np.asarray(prompt.mask, bool)]))
    assert prompt.box is not None
    rows, cols = (
        slice(int(prompt.box.row0), int(prompt.box.row1)),
        slice(int(prompt.box.col0), int(prompt.box.col1)),
    )
    return int(np.median(image[rows, cols]))
