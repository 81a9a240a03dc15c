"""A person at a desk: a shown viewer with the widget docked, real mouse and key events, and a clock."""

from __future__ import annotations

import time

import numpy as np

_MOVE_MS = 25  # between two moves of the mouse: vispy drops a move within 10 ms of the one before


class Hand:
    """Real mouse and keyboard events on the canvas of a viewer, at (row, col) of its first image."""

    def __init__(self, viewer, qtbot) -> None:
        from qtpy.QtCore import Qt

        self.viewer, self.qtbot, self.qt = viewer, qtbot, Qt
        self.canvas = viewer.window._qt_viewer.canvas.native

    def at(self, row: float, col: float):
        """Return where a pixel of the first image is on the canvas, worked out from the camera."""
        from qtpy.QtCore import QPoint

        layer, camera = self.viewer.layers[0], self.viewer.scene.camera
        lead = layer.world_to_data(self.viewer.dims.point)[:-2]
        world = np.asarray(layer.data_to_world((*lead, row, col)))[-2:]
        offset = (world - np.asarray(camera.center)[-2:]) * camera.zoom
        size = np.array([self.canvas.height(), self.canvas.width()])
        y, x = np.round(offset + size / 2).astype(int)
        return QPoint(int(x), int(y))

    def click(self, row: float, col: float, *, right: bool = False, shift: bool = False) -> None:
        button, keys, point = self._button(right), self._keys(shift), self.at(row, col)
        self._move(point, keys)
        self.qtbot.mousePress(self.canvas, button, keys, point)
        self.qtbot.mouseRelease(self.canvas, button, keys, point)

    def drag(self, start, end, *, shift: bool = False, steps: int = 5, during=lambda: None) -> None:
        keys, left = self._keys(shift), self.qt.MouseButton.LeftButton
        self._move(self.at(*start), keys)
        self.qtbot.mousePress(self.canvas, left, keys, self.at(*start))
        path = [self.at(*(np.array(start) + (np.array(end) - start) * t)) for t in np.linspace(0, 1, steps)]
        for point in path:
            self._move(point, keys, held=left)
            during()
        self.qtbot.mouseRelease(self.canvas, left, keys, path[-1])

    def _move(self, point, keys, *, held=None) -> None:
        """Move the mouse by an event of ours: one that the window server makes may come after the next press."""
        from qtpy.QtCore import QEvent, QPointF
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        self.qtbot.wait(_MOVE_MS)
        none = self.qt.MouseButton.NoButton
        where = QPointF(point), QPointF(self.canvas.mapToGlobal(point))
        event = QMouseEvent(QEvent.Type.MouseMove, *where, none, held or none, keys)
        QApplication.sendEvent(self.canvas, event)

    def key(self, name: str, *, ctrl: bool = False, shift: bool = False) -> None:
        keys = self._keys(shift) | (self.qt.KeyboardModifier.ControlModifier if ctrl else self._keys(False))
        self.qtbot.keyClick(self.canvas, getattr(self.qt.Key, f"Key_{name}"), keys)

    def _button(self, right: bool):
        return self.qt.MouseButton.RightButton if right else self.qt.MouseButton.LeftButton

    def _keys(self, shift: bool):
        held = self.qt.KeyboardModifier
        return held.ShiftModifier if shift else held.NoModifier


class Desk:
    """A shown viewer with the widget docked, and a hand to use it."""

    def __init__(self, viewer, qtbot, predictor, *, load=None) -> None:
        from napari_segany.ui.annotate import AnnotateWidget

        self.viewer, self.qtbot, self.predictor = viewer, qtbot, predictor
        self.widget = AnnotateWidget(viewer, load=load or (lambda name, settings, progress: predictor))
        viewer.window.add_dock_widget(self.widget, name="Segment by clicks", area="right")
        self.hand = Hand(viewer, qtbot)

    def start(self, *, wait: bool = True):
        self.widget.start_button.click()
        assert self.running is not None
        if wait:
            self.settle()
        return self.running

    def leave(self) -> None:
        """Close the session and hold nothing, so that the check for leaked windows sees only real leaks."""
        self.widget.release()
        self.__dict__.clear()

    @property
    def running(self):
        return self.widget.running

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.running.target.array)

    def settle(self) -> None:
        """Wait until nothing is computed any more, and what was computed is drawn."""
        from napari_segany.session.answers import Stage

        self.qtbot.waitUntil(
            lambda: self.running is None or self.running.session.stage is Stage.IDLE, timeout=30_000
        )
        self.qtbot.wait(20)


class Gaps:
    """The largest time between two events of the window's loop."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self.largest, self._last = 0.0, time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(2)
        self._timer.timeout.connect(self._tick)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.largest, self._last = max(self.largest, now - self._last), now

    def __enter__(self):
        self._last = time.perf_counter()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tick()
        self._timer.stop()


def open_desk(make_viewer, qtbot, predictor, image, *, load=None, **how) -> Desk:
    viewer = make_viewer(show=True)
    viewer.window.resize(1100, 800)
    viewer.add_image(image, **how)
    desk = Desk(viewer, qtbot, predictor, load=load)
    qtbot.wait(50)
    viewer.reset_view()
    return desk
