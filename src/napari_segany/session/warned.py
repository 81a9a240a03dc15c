"""Warnings that a model gives on the worker's thread, brought to the owner of the session."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_lock = threading.Lock()
_heard: dict[
    int, Callable[[str], None]
] = {}  # by thread: Python shows the warnings of all threads in one place
_previous = warnings.showwarning


@contextmanager
def heard_by(tell: Callable[[str], None]) -> Iterator[None]:
    """Hand the RuntimeWarnings of this thread to `tell` instead of printing them; all others are shown as before."""
    thread = threading.get_ident()
    with _lock:
        _heard[thread] = tell
        _install()
    try:
        yield
    finally:
        with _lock:
            _heard.pop(thread, None)
            if not _heard and warnings.showwarning is _show:
                warnings.showwarning = _previous


def _install() -> None:
    global _previous  # the hook is Python's own global; what it replaces is kept beside it
    if warnings.showwarning is not _show:
        _previous, warnings.showwarning = warnings.showwarning, _show


def _show(  # noqa: PLR0917  # Python calls it by position
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Tell a warning to whoever hears this thread."""
    tell = _heard.get(threading.get_ident())
    if tell is None or not issubclass(category, RuntimeWarning):
        _previous(message, category, filename, lineno, file, line)
    else:
        tell(str(message))
