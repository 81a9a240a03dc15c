"""How far a long run is, on standard error: one line that is rewritten, or in a log a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_LIVE_SECONDS = 0.1
_LOG_SECONDS = 10.0


class ProgressLine:
    """Says `12/64 frames, 3.1 frames/s, 0:17 left`, as often as makes sense for where it is written.

    Parameters
    ----------
    title
        What is being done, before the numbers.
    out
        Standard error if None.
    clock
        Seconds, from any moment on.
    """

    def __init__(
        self, title: str, *, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._out, self._clock = title, out or sys.stderr, clock
        self._is_live = self._out.isatty()
        self._start = self._said = clock()
        self._line, self._width = "", 0

    def show(self, done: int, *, total: int) -> None:
        """Say how many of how many frames are done, unless something was said just now."""
        now = self._clock()
        seconds = max(now - self._start, 1e-6)
        rate = done / seconds
        left = f", {_duration((total - done) / rate)} left" if done else ""
        self._line = f"{self._title}: {done}/{total} frames, {rate:.2g} frames/s{left}"
        if now - self._said >= (_LIVE_SECONDS if self._is_live else _LOG_SECONDS):
            self._said = now
            self._write()

    def end(self) -> None:
        """Say the last thing that there was to say, and leave the line."""
        if self._line:
            self._write()
        if self._is_live and self._width:
            self._out.write("\n")
            self._out.flush()
        self._line, self._width = "", 0

    def _write(self) -> None:
        if self._is_live:
            self._out.write("\r" + self._line.ljust(self._width))
            self._width = len(self._line)
        else:
            self._out.write(self._line + "\n")
        self._line = ""
        self._out.flush()


def _duration(seconds: float) -> str:
    """Return 0:17, 12:05 or 3:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
