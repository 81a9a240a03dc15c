"""Features on disk: one file a plane, whole or absent, within a limit of bytes, shared by any number of processes.

A file is a magic, a BLAKE2b digest of the rest, the length of a JSON header, that header, and the arrays' bytes. It is
written beside its place, brought to disk, and renamed; what a killed process leaves is never read, and removed later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from napari_segany.core.errors import FileFormatError, StoreError
from napari_segany.core.identity import FeatureKey
from napari_segany.core.types import AnyArray, PackedFeatures

_logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 * 10**9
_SUFFIX = ".features"
_PARTIAL = ".partial"
_ABANDONED_AFTER_S = 600.0  # a write takes seconds at most
_MAGIC = b"segany1\n"  # another layout, or other preprocessing under the same model names: another number
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8
_START = len(_MAGIC) + _DIGEST_BYTES


class FeatureStore:
    """Keeps packed features in a folder and drops those unused for longest. Safe between threads and processes.

    A cache and no archive: whatever goes wrong on disk, work goes on without it. The first write that fails is
    told by one warning and ends writing; what is there can still be read.

    Parameters
    ----------
    folder
        Made when first written to. Files of other kinds in it are left alone.
    max_bytes
        Of all entries together; an entry larger than this is not kept.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 0:
            raise StoreError(f"max_bytes is {max_bytes}; use 0 (keep nothing) or more")
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._is_writing = True
        self._has_warned = False

    @property
    def is_writing(self) -> bool:
        """False once a write failed: this store then only reads."""
        return self._is_writing

    @property
    def nbytes(self) -> int:
        """Size of all entries on disk, in bytes."""
        return sum(size for _, size, _ in self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def __contains__(self, key: FeatureKey) -> bool:
        return self._file(key).is_file()

    def get(self, key: FeatureKey) -> PackedFeatures | None:
        """Return what was put under a key, its arrays in the dtypes they had; None if there is nothing whole."""
        file = self._file(key)
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn("cannot read %s: %s; its plane is embedded again", file, error)
            return None
        try:
            packed = _decode(content, key)
        except FileFormatError as error:
            _logger.warning("removed the features in %s: %s", file, error)
            _remove(file)
            return None
        with contextlib.suppress(OSError):  # a folder that one may only read
            os.utime(file)  # used now
        return packed

    def put(self, key: FeatureKey, packed: PackedFeatures) -> bool:
        """Keep the features of a key, on disk when this returns; says whether they were kept.

        Parameters
        ----------
        key
            An entry of the same key is replaced.
        packed
            Named arrays of any shape, of bool, integers, or floats, which are rounded to float16 unless a value
            is beyond its range (then float32); and what else belongs to them, as JSON.

        Raises
        ------
        StoreError
            If an array is not of numbers or the description is not JSON.
        """
        if not self._is_writing:
            return False
        content = _encode(key, packed)
        if len(content) > self.max_bytes:
            _logger.info("features of %d bytes do not fit into %d", len(content), self.max_bytes)
            return False
        file = self._file(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(len(content) - _size_of(file))
            is_kept = _replace(file, content)
            self._make_room(0)  # others may have written meanwhile
        except OSError as error:
            self._is_writing = False
            self._warn("features are no longer kept in %s: %s; work goes on without", self.folder, error)
            return False
        return is_kept

    def clear(self) -> None:
        """Remove every entry, and write again if writing had ended.

        Raises
        ------
        StoreError
            If one cannot be removed.
        """
        try:
            for file in (*self._files(_SUFFIX), *self._files(_PARTIAL)):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove features from {self.folder}: {error}") from error
        self._is_writing, self._has_warned = True, False

    def _warn(self, message: str, where: Path, error: OSError) -> None:
        """Tell the first trouble with the disk; what follows from the same cause is for debugging."""
        _logger.log(logging.DEBUG if self._has_warned else logging.WARNING, message, where, error)
        self._has_warned = True

    def _file(self, key: FeatureKey) -> Path:
        return self.folder / f"{key.digest()}{_SUFFIX}"

    def _files(self, suffix: str) -> Iterator[Path]:
        """Yield entries, or what was being written; none if the folder cannot be listed."""
        with contextlib.suppress(OSError):
            for file in self.folder.iterdir():
                if file.name.endswith(suffix) and _SUFFIX in file.name:
                    yield file

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Return (last use in ns, size in bytes, file) of every entry, the one unused for longest first."""
        found = []
        for file in self._files(_SUFFIX):
            with contextlib.suppress(OSError):  # removed by another process meanwhile
                facts = file.stat()
                found.append((facts.st_mtime_ns, facts.st_size, file))
        return sorted(found)

    def _make_room(self, needed: int) -> None:
        """Remove what was unused for longest until `needed` more bytes fit, and what killed processes left."""
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) + needed - self.max_bytes
        for _, size, file in entries:
            if excess <= 0:
                break
            _remove(file)
            excess -= size
        for file in self._files(_PARTIAL):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _ABANDONED_AFTER_S:
                    _remove(file)


def _size_of(file: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(file: Path) -> None:
    """Remove a file, unless others hold or have removed it."""
    with contextlib.suppress(OSError):
        file.unlink()


def _replace(file: Path, content: bytes) -> bool:
    """Put a whole file in its place, on disk when this returns; False if others held or took it meanwhile."""
    beside = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with beside.open("xb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError:
        _remove(beside)
        raise
    try:
        beside.replace(file)
    except (
        PermissionError,
        FileNotFoundError,
    ) as error:  # open in a reader on Windows; cleared by another process
        _logger.debug("%s was not kept: %s", file, error)
        _remove(beside)
        return False
    _sync_folder(file.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Bring a rename to disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encode(key: FeatureKey, packed: PackedFeatures) -> bytes:
    """Return the content of a file."""
    arrays, description = packed
    stored = {name: _compact(name, np.asarray(array)) for name, array in arrays.items()}
    table = [
        [name, array.dtype.str, list(array.shape), np.asarray(arrays[name]).dtype.str]
        for name, array in stored.items()
    ]
    try:
        header = json.dumps({"key": asdict(key), "description": description, "arrays": table}).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"the description of features must be JSON: {error}") from error
    parts = [len(header).to_bytes(_LENGTH_BYTES, "little"), header, *(a.tobytes() for a in stored.values())]
    body = b"".join(parts)
    return _MAGIC + _digest(body) + body


def _decode(content: bytes, key: FeatureKey) -> PackedFeatures:
    """Return what a file holds; FileFormatError unless it is whole, unchanged and of this key."""
    body = memoryview(content)[_START:]
    if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) : _START] != _digest(body):
        raise FileFormatError(f"{len(content)} bytes that are torn, changed, or of another version")
    try:
        return _unfold(body, key)
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"a header that cannot be used: {error!r}") from error


def _unfold(body: memoryview, key: FeatureKey) -> PackedFeatures:
    """Return the arrays and the description that lie behind the digest."""
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    header: dict[str, Any] = json.loads(bytes(body[_LENGTH_BYTES:end]))  # Any: as JSON is
    if header["key"] != json.loads(json.dumps(asdict(key))):
        raise ValueError(f"they belong to {header['key']}")
    arrays: dict[str, AnyArray] = {}
    for name, stored, shape, original in header["arrays"]:
        start, end = end, end + math.prod(shape) * np.dtype(stored).itemsize
        flat = np.frombuffer(body[start:end], dtype=stored)
        arrays[name] = flat.reshape(shape).astype(original)  # a copy: aligned, writable
    return arrays, header["description"]


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _compact(name: str, array: AnyArray) -> AnyArray:
    """Return floats as float16, as float32 where a value is too large for that; everything else as it is."""
    if array.dtype.kind not in "biufc":
        raise StoreError(f"features must be arrays of numbers, but {name!r} has dtype {array.dtype}")
    if array.dtype.kind != "f":
        return array
    for narrow in (np.float16, np.float32):
        if array.dtype.itemsize <= np.dtype(narrow).itemsize:
            return array
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is looked for below; NaN stays NaN
            rounded = array.astype(narrow)
        if np.array_equal(np.isinf(rounded), np.isinf(array)):
            return rounded
    return array
