"""A person at a desk with a stack: the dock for stacks, its timeline, and a predictor that follows disks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from desks import Hand
from session_fakes import answer_masks

from napari_segany.core.intensity import Window
from napari_segany.core.types import FrameMasks, FrameSource, ModelCard, Prompt


@dataclass
class FakeState:
    """Prompts and answers by object and frame."""

    frames: FrameSource
    frame_shape: tuple[int, int]
    window: Window
    prompts: dict[int, dict[int, Prompt]] = field(default_factory=dict)
    fresh: dict[int, set[int]] = field(default_factory=dict)

    @property
    def n_frames(self) -> int:
        return len(self.frames)

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.prompts)

    def prompted(self, object_id: int) -> tuple[int, ...]:
        return tuple(sorted(self.prompts.get(object_id, {})))

    def stale(self, object_id: int) -> frozenset[int]:
        return frozenset(range(self.n_frames)) - self.fresh.get(object_id, set())

    def nearest(self, object_id: int, frame: int) -> int:
        return min(self.prompted(object_id), key=lambda at: (abs(at - frame), at))


class FakeVideoPredictor:
    """Objects move one column to the right a frame, from the nearest prompted frame; scores fade with the distance."""

    def __init__(self, name: str = "fake", *, before_frame: Callable[[int], object] = lambda _: None) -> None:
        self.card = ModelCard(name, "0" * 64)
        self.before_frame = before_frame
        self.worked_out: list[int] = []
        self.over_time: list[bool] = []

    def open(self, frames: FrameSource, *, window: Window | None = None) -> FakeState:
        self.over_time.append(bool(getattr(frames, "over_time", False)))
        return FakeState(frames, np.shape(frames[0])[:2], window or Window(0, 1))

    def prompt(self, state: FakeState, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        state.prompts.setdefault(object_id, {})[frame] = prompt
        fresh = state.fresh.setdefault(object_id, set())
        fresh -= {f for f in fresh if state.nearest(object_id, f) == frame}
        fresh.add(frame)
        return self._answer(state, frame, [object_id])

    def propagate(self, state: FakeState, frames: range) -> Iterator[FrameMasks]:
        for frame in frames:
            stale = [i for i in state.object_ids if frame in state.stale(i)]
            if stale:
                self.before_frame(frame)
                self.worked_out.append(frame)
                for object_id in stale:
                    state.fresh[object_id].add(frame)
                yield self._answer(state, frame, stale)

    def forget(self, state: FakeState, *, object_id: int, frame: int | None = None) -> None:
        if frame is None:
            state.prompts.pop(object_id, None)
            state.fresh.pop(object_id, None)
            return
        lost = {f for f in range(state.n_frames) if state.nearest(object_id, f) == frame}
        del state.prompts[object_id][frame]
        state.fresh[object_id] -= lost
        if not state.prompts[object_id]:
            del state.prompts[object_id]

    def recall(self, state: FakeState, *, frame: int, object_id: int, mask: np.ndarray, score: float) -> None:
        state.fresh.setdefault(object_id, set()).add(frame)

    def _answer(self, state: FakeState, frame: int, object_ids: list[int]) -> FrameMasks:
        masks, scores = [], []
        for object_id in object_ids:
            source = state.nearest(object_id, frame)
            mask = answer_masks(state.frame_shape, state.prompts[object_id][source])[2]
            masks.append(_moved(mask, frame - source))
            scores.append(0.95 - 0.02 * abs(frame - source) if masks[-1].any() else -0.5)
        ids = np.array(object_ids, dtype=int)
        return FrameMasks(frame, ids, np.stack(masks), np.array(scores, dtype=np.float32))


def _moved(mask: np.ndarray, cols: int) -> np.ndarray:
    """Return a mask moved to the right; what leaves the image is gone."""
    moved = np.zeros_like(mask)
    if cols >= 0:
        moved[:, cols:] = mask[:, : mask.shape[1] - cols]
    else:
        moved[:, :cols] = mask[:, -cols:]
    return moved


class StackDesk:
    """A shown viewer with the dock for stacks, and a hand to use it."""

    def __init__(self, viewer, qtbot, predictor, *, load=None) -> None:
        from napari_segany.ui.stack import StackWidget

        self.viewer, self.qtbot, self.predictor = viewer, qtbot, predictor
        self.widget = StackWidget(viewer, load=load or (lambda name, settings, progress: predictor))
        viewer.window.add_dock_widget(self.widget, name="Stacks", area="right")
        self.hand = Hand(viewer, qtbot)

    @property
    def running(self):
        return self.widget.running

    @property
    def session(self):
        return self.running.session

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.running.target.array)

    def start(self):
        self.widget.start_button.click()
        assert self.running is not None
        self.viewer.reset_view()
        self.qtbot.wait(30)
        return self.running

    def press(self, button) -> None:
        from qtpy.QtCore import Qt

        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def go_to(self, frame: int) -> None:
        """Click on the timeline."""
        from qtpy.QtCore import QPoint, Qt

        timeline = self.widget.timeline
        point = QPoint(round(timeline.scale.middle_of(frame)), timeline.height() // 2)
        self.qtbot.mouseClick(timeline, Qt.MouseButton.LeftButton, pos=point)
        assert self.running.frame == frame

    def settle(self) -> None:
        """Wait until nothing is computed any more, and what was computed is drawn."""
        from napari_segany.session.answers import Stage

        self.qtbot.waitUntil(
            lambda: (
                self.running is None or (self.session.stage is Stage.IDLE and not self.session.is_running)
            ),
            timeout=60_000,
        )
        self.qtbot.wait(200)
        self.qtbot.waitUntil(lambda: not any(t.isActive() for t in self.delays), timeout=10_000)

    @property
    def delays(self) -> list:
        """The timers that bring the list and the timeline up to date, once for many changes."""
        from qtpy.QtCore import QTimer

        return [timer for timer in self.widget.findChildren(QTimer) if timer.isSingleShot()]

    def leave(self) -> None:
        """Close the session and hold nothing, so that the check for leaked windows sees only real leaks."""
        self.widget.release()
        self.__dict__.clear()


def open_stack(make_viewer, qtbot, predictor, stack, *, load=None, **how) -> StackDesk:
    viewer = make_viewer(show=True)
    viewer.window.resize(1300, 1000)
    viewer.add_image(stack, **how)
    desk = StackDesk(viewer, qtbot, predictor, load=load)
    qtbot.wait(50)
    viewer.reset_view()
    return desk
