"""The hop from a worker's thread to the window's."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QObject, Qt, Signal, Slot  # type: ignore[attr-defined]  # a name that qtpy makes


class MainThread(QObject):
    """Runs callables on the thread it was made on, in the order they were posted."""

    _posted = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._is_open = True
        self._posted.connect(self._run, Qt.ConnectionType.QueuedConnection)

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` soon; safe from any thread."""
        try:
            self._posted.emit(call)
        except RuntimeError:
            return  # the window is gone, and with it whoever wanted to know

    def close(self) -> None:
        """Drop what is still on its way."""
        self._is_open = False

    @Slot(object)  # type: ignore[untyped-decorator]  # qtpy has no types for it
    def _run(self, call: Callable[[], None]) -> None:
        if self._is_open:
            call()
