"""A predictor that shifts masks one column a frame: all that sessions over stacks need to be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from session_fakes import answer_masks

from napari_segany.core.intensity import Window
from napari_segany.core.types import FrameMasks, FrameSource, ModelCard, Prompt


def shifted(mask: np.ndarray, columns: int) -> np.ndarray:
    """Return a mask moved to the right, without what leaves the frame."""
    moved = np.zeros_like(mask)
    width = mask.shape[1]
    if abs(columns) < width:
        moved[:, max(columns, 0) : width + min(columns, 0)] = mask[
            :, max(-columns, 0) : width - max(columns, 0)
        ]
    return moved


def nearest(frames: list[int], frame: int) -> int:
    """Return the prompted frame that decides about a frame: the nearest, of two the lower one."""
    return min(frames, key=lambda other: (abs(other - frame), other))


class FakeState:
    def __init__(self, frames: FrameSource, window: Window) -> None:
        self.n_frames, self.window = len(frames), window
        self.frame_shape = frames[0].shape[:2]
        self.said: dict[int, dict[int, Prompt]] = {}
        self.answered: dict[int, dict[int, Prompt | None]] = {}

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.said)

    def prompted(self, object_id: int) -> tuple[int, ...]:
        return tuple(sorted(self.said[object_id]))

    def source(self, object_id: int, frame: int) -> Prompt | None:
        said = self.said.get(object_id)
        return said[nearest(list(said), frame)] if said else None

    def stale(self, object_id: int) -> frozenset[int]:
        known = self.answered.get(object_id, {})
        wanted = {frame: self.source(object_id, frame) for frame in range(self.n_frames)}
        return frozenset(f for f, source in wanted.items() if f not in known or known[f] is not source)


class FakeVideo:
    """On every frame, an object is where its nearest prompt says, one column to the right for each frame in between.

    Answers lose what an earlier object of the same frame has; objects past the right edge are absent.
    """

    def __init__(
        self, *, before_frame: Callable[[int], object] = lambda frame: None, name: str = "fake"
    ) -> None:
        self.card = ModelCard(name, "0" * 64)
        self.before_frame = before_frame
        self.opened = 0
        self.over_time: list[bool] = []
        self.recalled: list[tuple[int, int]] = []
        self.prompted: list[tuple[int, int]] = []
        self.followed: list[tuple[int, int]] = []

    def open(self, frames: FrameSource, *, window: Window | None = None) -> FakeState:
        self.opened += 1
        self.over_time.append(bool(getattr(frames, "over_time", False)))
        return FakeState(frames, window or Window(0, 1))

    def mask(self, state: FakeState, object_id: int, frame: int) -> np.ndarray:
        said = state.said[object_id]
        origin = nearest(list(said), frame)
        return shifted(answer_masks(state.frame_shape, said[origin])[1], frame - origin)

    def prompt(self, state: FakeState, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        self.prompted.append((object_id, frame))
        state.said.setdefault(object_id, {})[frame] = prompt
        state.answered.setdefault(object_id, {})[frame] = prompt
        return self.answer(state, frame, [object_id])

    def propagate(self, state: FakeState, frames: range) -> Iterator[FrameMasks]:
        for frame in frames:
            ids = [i for i in sorted(state.said) if frame in state.stale(i)]
            if not ids:
                continue
            self.before_frame(frame)
            for object_id in ids:
                self.followed.append((object_id, frame))
                state.answered[object_id][frame] = state.source(object_id, frame)
            yield self.answer(state, frame, ids)

    def answer(self, state: FakeState, frame: int, ids: list[int]) -> FrameMasks:
        masks, taken = [], np.zeros(state.frame_shape, dtype=bool)
        for object_id in ids:
            masks.append(self.mask(state, object_id, frame) & ~taken)
            taken |= masks[-1]
        distances = [abs(nearest(list(state.said[i]), frame) - frame) for i in ids]
        scores = [0.9 - 0.01 * d if m.any() else -1.0 for d, m in zip(distances, masks, strict=True)]
        return FrameMasks(frame, np.array(ids), np.stack(masks), np.array(scores, dtype=np.float32))

    def forget(self, state: FakeState, *, object_id: int, frame: int | None = None) -> None:
        if frame is not None:
            del state.said[object_id][frame]
        if frame is None or not state.said[object_id]:
            state.said.pop(object_id, None)
            state.answered.pop(object_id, None)

    def recall(self, state: FakeState, *, frame: int, object_id: int, mask: np.ndarray, score: float) -> None:
        assert mask.shape == state.frame_shape and mask.dtype == bool
        self.recalled.append((object_id, frame))
        state.answered.setdefault(object_id, {})[frame] = state.source(object_id, frame)


class SparingFake(FakeVideo):
    """Settles the last frame of every range without yielding it, and corrects the mask that was there."""

    def __init__(self) -> None:
        super().__init__()
        self.corrected: list[tuple[int, int, int]] = []

    def propagate(self, state: FakeState, frames: range) -> Iterator[FrameMasks]:
        for object_id in state.said:
            state.answered[object_id][frames[-1]] = state.source(object_id, frames[-1])
        yield from super().propagate(state, frames)

    def recall(self, state: FakeState, *, frame: int, object_id: int, mask: np.ndarray, score: float) -> None:
        super().recall(state, frame=frame, object_id=object_id, mask=mask, score=score)
        self.corrected.append((object_id, frame, int(mask.sum())))
