"""One process at a time per downloaded file. Imports no torch."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_logger = logging.getLogger(__name__)
_PAUSE = 0.1  # seconds between looks at a lock that another process holds


@contextlib.contextmanager
def held(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file while the block runs; the operating system frees it however the process ends.

    Parameters
    ----------
    path
        The file that the lock is for; the lock is `<file>.lock` beside it, and gone afterwards.
    waiting
        Called ten times a second while another process holds the lock; may raise.
    """
    lock = path.with_name(f"{path.name}.lock")
    handle = _acquired(lock, waiting=waiting)
    try:
        yield
    finally:
        if handle is not None:
            _release(handle, lock)


def _acquired(lock: Path, *, waiting: Callable[[], None]) -> int | None:
    """Return the open lock file, or None where files cannot be locked (a read-only folder, some network drives)."""
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            _logger.debug("cannot write %s: %s", lock, error)
            return None
        try:
            _lock_handle(handle)
            if _is_current(handle, lock):
                return handle
        except (BlockingIOError, PermissionError):
            os.close(handle)
            waiting()
            time.sleep(_PAUSE)
            continue
        except OSError as error:
            _logger.warning("%s cannot be locked (%s): let only one process download at a time", lock, error)
            return handle
        os.close(handle)


def _release(handle: int, lock: Path) -> None:
    """Remove a lock file while it is held, so that who waits for it sees that it is gone; Windows forbids that."""
    if sys.platform != "win32":
        lock.unlink(missing_ok=True)
    os.close(handle)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):  # the next one has it already
            lock.unlink()


def _is_current(handle: int, lock: Path) -> bool:
    """Return whether a lock file is still the one in the folder: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), lock.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock_handle(handle: int) -> None:
        """Take an exclusive lock on a file without waiting."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock_handle(handle: int) -> None:
        """Take an exclusive lock on a file without waiting."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
