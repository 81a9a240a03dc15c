"""How far a propagation is: frames, frames per second, time left, and Stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtWidgets import QGridLayout, QLabel, QProgressBar, QWidget

from .buttons import button

_REMEMBERED_S = 20.0
_MINUTE_S, _HOUR_S = 60, 3600


class Pace:
    """Frames per second over the last seconds, and how long the rest will take."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def start(self) -> None:
        """Begin with no frame done."""
        self._seen.clear()
        self._seen.append((self._clock(), 0))

    def step(self, done: int) -> None:
        """Take in how many frames are done."""
        now = self._clock()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _REMEMBERED_S:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """Frames per second, None until two moments are known."""
        if len(self._seen) < 2:
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    def left_s(self, frames: int) -> float | None:
        """Return how many seconds some more frames will take."""
        rate = self.per_second
        return None if rate is None else frames / rate


def time_text(seconds: float) -> str:
    """Return a duration as people say it: "8 s", "2 min 10 s", "1 h 5 min"."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"


class RunBar(QWidget):
    """A progress bar with Stop, shown while objects are followed."""

    stopped = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._pace = Pace()
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setMaximumHeight(12)
        self.text = QLabel("")
        self.stop_button = button(
            "Stop", "Stop after this frame (Esc); what is painted stays", clicked=self.stopped
        )
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.text, 0, 0)
        layout.addWidget(self._bar, 1, 0)
        layout.addWidget(self.stop_button, 0, 1, 2, 1)
        layout.setColumnStretch(0, 1)
        self.hide()

    def begin(self) -> None:
        """Show that objects are being followed."""
        self._pace.start()
        self._bar.setRange(0, 0)
        self.text.setText("Following …")
        self.show()

    def show_progress(self, done: int, total: int) -> None:
        """Show how many frames are done."""
        self._pace.step(done)
        self._bar.setRange(0, max(1, total))
        self._bar.setValue(done)
        words = [f"{done} of {total} frames"]
        rate, left = self._pace.per_second, self._pace.left_s(total - done)
        if rate is not None and left is not None:
            words += [f"{rate:.1f} frames/s" if rate >= 1 else f"{1 / rate:.1f} s a frame"]
            words += [f"{time_text(left)} left"]
        self.text.setText(" · ".join(words))

    def end(self) -> None:
        """Show that nothing is being followed any more."""
        self.hide()
