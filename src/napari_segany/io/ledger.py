"""The commit record of a label store: one JSON line per commit, and a lock that only one writer holds."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from napari_segany.core.errors import StoreError

_logger = logging.getLogger(__name__)
_LOCK_BYTE = 1 << 20  # past the text, so that others may read who holds the lock


@dataclass(frozen=True, slots=True)
class Commit:
    """One line of the ledger.

    Attributes
    ----------
    number
        1 for the first commit of the store.
    time
        UTC, ISO 8601.
    index, box
        Which plane, and which rectangle (row0, col0, row1, col1) of it; an empty one for a remark without labels.
    labels
        Ids that gained pixels; empty for an erasure.
    highest
        Highest id that the store has ever held, so far as it was known then.
    shards
        The files that were written, with their time of writing (ns) and size in bytes.
    note
        How it came about, as the caller said: model, weights, prompts, window, versions.
    """

    number: int
    time: str
    index: tuple[int, ...]
    box: tuple[int, int, int, int]
    labels: tuple[int, ...]
    highest: int
    shards: tuple[tuple[str, int, int], ...]
    note: Mapping[str, Any] = field(default_factory=dict)  # JSON, of any form

    def line(self) -> bytes:
        """Return the line that stands for this commit."""
        content = {name: getattr(self, name) for name in self.__slots__}
        try:
            return json.dumps(content, separators=(",", ":"), default=_plain).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise StoreError(f"the note of a commit must be JSON: {error}") from error

    @classmethod
    def remark(
        cls, number: int, time: str, index: tuple[int, ...], *, highest: int, note: Mapping[str, Any]
    ) -> Commit:
        """Return a line that changes no label."""
        return cls(number, time, index, (0, 0, 0, 0), (), highest, (), dict(note))

    @classmethod
    def parse(cls, line: bytes) -> Commit:
        """Return the commit of a line; ValueError, KeyError or TypeError if it is not one."""
        content = json.loads(line)
        row0, col0, row1, col1 = content["box"]
        return cls(
            int(content["number"]),
            str(content["time"]),
            tuple(content["index"]),
            (row0, col0, row1, col1),
            tuple(content["labels"]),
            int(content["highest"]),
            tuple((str(key), int(stamp), int(size)) for key, stamp, size in content["shards"]),
            dict(content["note"]),
        )


def _plain(value: object) -> object:
    """Return NumPy values and paths as JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ledger:
    """An append-only file of commits; a line counts once its newline is on disk."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def commits(self) -> list[Commit]:
        """Return every commit, oldest first; a torn last line is none.

        Raises
        ------
        StoreError
            If a line other than the last is damaged, or the file is gone.
        """
        *lines, _torn = self._content().split(b"\n")
        commits = []
        for number, line in enumerate(lines, start=1):
            try:
                commits.append(Commit.parse(line))
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"line {number} of {self.file} is damaged ({error!r}); the labels are not touched: "
                    "restore the file from a copy, or remove that line"
                ) from error
        return commits

    def repair(self) -> None:
        """Cut off a torn last line, so that the next commit starts on its own line."""
        content = self._content()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _logger.warning("dropped an unfinished last line of %s", self.file)
            os.truncate(self.file, whole)

    def append(self, commit: Commit) -> None:
        """Add a line; it is on disk when this returns, and not there at all when this raises OSError."""
        line = commit.line()
        with self.file.open("r+b") as out:  # never creates: a store that was moved away is an error
            size = out.seek(0, os.SEEK_END)
            try:
                out.write(line)
                out.flush()
                os.fsync(out.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.file, size)
                raise

    def _content(self) -> bytes:
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise StoreError(
                f"cannot read the ledger {self.file}: {error}; was the store moved or deleted?"
            ) from error


class WriterLock:
    """Held by the one writer of a store; the operating system takes it back however the process ends."""

    def __init__(self, file: Path) -> None:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise StoreError(
                f"cannot write to {file.parent} ({error.strerror}); open the store with read_only=True, "
                "or copy it to a folder that you may write to"
            ) from error
        self._release = weakref.finalize(self, os.close, handle)
        try:
            _lock_handle(handle)
        except (BlockingIOError, PermissionError):
            holder = file.read_text(encoding="utf-8", errors="replace").strip() or "another program"
            self._release()
            raise StoreError(
                f"{file.parent.parent} is being written by {holder}; close it, or open with read_only=True"
            ) from None
        except OSError as error:  # some network drives have no locks
            _logger.warning("%s cannot be locked (%s): make sure that nobody else writes to it", file, error)
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now()}\n".encode())

    def release(self) -> None:
        """Let others write."""
        self._release()


if sys.platform == "win32":
    import msvcrt

    def _lock_handle(handle: int) -> None:
        """Take an exclusive lock on a file without waiting."""
        os.lseek(handle, _LOCK_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock_handle(handle: int) -> None:
        """Take an exclusive lock on a file without waiting."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
