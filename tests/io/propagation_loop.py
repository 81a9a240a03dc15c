"""A process that follows three objects through a stack until it is killed; started by test_propagation_crash.py.

A frame takes some time and is answered from the one before it, as a real predictor does: an object drifts and grows by
what its last mask was. A session that resumes without the masks that are there would go on from the wrong ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np

from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, FrameMasks, FrameSource, ModelCard, Prompt
from napari_segany.io.label_store import LabelStore
from napari_segany.session.source import ArraySource
from napari_segany.session.volume import VolumeSession

SHAPE = (24, 64, 80)
BOXES = {1: Box(4, 4, 12, 12), 2: Box(20, 30, 34, 40), 3: Box(26, 34, 50, 44)}  # 2 and 3 meet


class State:
    def __init__(self, frames: FrameSource, window: Window) -> None:
        self.n_frames, self.window, self.frame_shape = len(frames), window, (64, 80)
        self.said: dict[int, dict[int, Prompt]] = {}
        self.masks: dict[int, dict[int, np.ndarray]] = {}

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.said)

    def prompted(self, object_id: int) -> tuple[int, ...]:
        return tuple(sorted(self.said[object_id]))

    def stale(self, object_id: int) -> frozenset[int]:
        return frozenset(range(self.n_frames)) - self.masks[object_id].keys()


class Drifting:
    """Every answer is the mask beside it, one pixel down and right, and larger by a column in every third frame."""

    card = ModelCard("drifting", "0" * 64)

    def __init__(self, *, seconds: float) -> None:
        self.seconds, self.worked_out = seconds, 0

    def open(self, frames: FrameSource, *, window: Window | None = None) -> State:
        return State(frames, window or Window(0, 1))

    def prompt(self, state: State, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        mask = np.zeros(state.frame_shape, dtype=bool)
        mask[int(prompt.box.row0) : int(prompt.box.row1), int(prompt.box.col0) : int(prompt.box.col1)] = True
        state.said.setdefault(object_id, {})[frame] = prompt
        state.masks[object_id] = {frame: mask}
        return FrameMasks(frame, np.array([object_id]), mask[None], np.array([0.95], dtype=np.float32))

    def propagate(self, state: State, frames: range) -> Iterator[FrameMasks]:
        for frame in frames:
            ids = [i for i in state.said if frame in state.stale(i)]
            if ids:
                time.sleep(self.seconds)
                self.worked_out += 1
                yield self._answer(state, frame, ids, back=frame - frames.step)

    def _answer(self, state: State, frame: int, ids: list[int], *, back: int) -> FrameMasks:
        taken = np.zeros(state.frame_shape, dtype=bool)
        for i in ids:
            mask = np.roll(state.masks[i][back], (1, 1), axis=(0, 1))
            if frame % 3 == 0:
                mask |= np.roll(mask, 1, axis=1)
            state.masks[i][frame] = mask & ~taken
            taken |= mask
        masks = np.stack([state.masks[i][frame] for i in ids])
        return FrameMasks(frame, np.array(ids), masks, np.full(len(ids), 0.8, dtype=np.float32))

    def forget(self, state: State, *, object_id: int, frame: int | None = None) -> None:
        state.said.pop(object_id), state.masks.pop(object_id)

    def recall(self, state: State, *, frame: int, object_id: int, mask: np.ndarray, score: float) -> None:
        state.masks[object_id][frame] = mask


def source() -> ArraySource:
    return ArraySource(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))


def begin(session: VolumeSession) -> None:
    """Say all, and follow from frame 4 to both ends."""
    for object_id, box in BOXES.items():
        session.set_box(4, box, object_id=object_id)
    session.propagate()


if __name__ == "__main__":
    with LabelStore.open(sys.argv[1]) as opened:
        work = VolumeSession(source(), Drifting(seconds=0.02), sink=opened)
        work.frame_painted.connect(lambda frame, _: print(frame, flush=True))  # only what is durable
        if work.interrupted:
            work.resume()
        else:
            begin(work)
        print("end", flush=True)
