"""The folder of downloaded weights: where it is, which files in it are what they should be. Imports no torch.

Beside every file that was checked lies a note, `<file>.json`: the file's size, time and sha256, and the sha256, address
and checked hash of the file that it was made from. A file that has not changed since is not read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .spec import RemoteFile

_logger = logging.getLogger(__name__)

CACHE_VARIABLE = "SEGANY_CACHE"
OFFLINE_VARIABLE = "SEGANY_OFFLINE"
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """What a cached file was made from: the downloaded file's sha256, and the hash it was checked by ("md5:...")."""

    file: str
    url: str
    sha256: str
    checked: str


def weights_dir(cache_dir: Path | None = None) -> Path:
    """Return the folder of downloads: in `cache_dir`, else in $SEGANY_CACHE, else in the user's cache."""
    if cache_dir is not None:
        return Path(cache_dir) / "weights"
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser() / "weights"
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "napari-segany" / "weights"
    return user_cache_path("napari-segany", appauthor=False) / "weights"


def is_offline() -> bool:
    """Return whether $SEGANY_OFFLINE forbids downloads."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def converted_path(original: Path) -> Path:
    """Return where the safetensors file is that a downloaded file is converted to."""
    return original.with_suffix(".safetensors")


def by_hand(remote: RemoteFile, path: Path) -> str:
    """Return what to do without a network."""
    known = " ".join(remote.known_hash) if remote.known_hash else "nobody published its hash"
    return f"download {remote.url} elsewhere and copy it to {path} ({known})"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits; a file of the same size and time is not read twice."""
    path = Path(path)
    note = _read_note(path)
    return str(note["sha256"]) if note is not None else digest_of(path, "sha256")


def origin_sha256(path: Path) -> str:
    """Return the sha256 of the file that a cached file was converted from; of the file itself if it was not."""
    origin = origin_of(Path(path))
    return origin.sha256 if origin is not None else sha256_of(path)


def origin_of(path: Path) -> Origin | None:
    """Return what an unchanged cached file was made from, or None."""
    note = _read_note(path)
    try:
        return Origin(**note["origin"]) if note is not None else None
    except (KeyError, TypeError):
        return None


def digest_of(path: Path, algorithm: str) -> str:
    """Return a file's hash ("sha256", "xxh128" or "md5") as hex digits."""
    size, mtime = _stamp(path)
    return _digest(path, algorithm, size=size, mtime=mtime)


def is_original(remote: RemoteFile, path: Path) -> bool:
    """Return whether a file is the one that was published, by its hash, or by its size where no hash is known."""
    if remote.known_hash is None:
        return remote.size_bytes in (None, path.stat().st_size)
    origin = origin_of(path)
    if origin is not None and _is_of(origin, remote):
        return True
    algorithm, expected = remote.known_hash
    return digest_of(path, algorithm) == expected


def is_converted(remote: RemoteFile, path: Path) -> bool:
    """Return whether a file is there and is what a row's published file was converted to."""
    if not path.is_file():
        return False
    if (origin := origin_of(path)) is not None:
        return _is_of(origin, remote)
    try:  # copied or touched: the content decides
        note = json.loads(note_path(path).read_text(encoding="utf-8"))
        origin = Origin(**note["origin"])
        if not _is_of(origin, remote) or digest_of(path, "sha256") != note["sha256"]:
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    write_note(path, origin)
    return True


def note_path(path: Path) -> Path:
    """Return where the note about a cached file is."""
    return path.with_name(f"{path.name}.json")


def origin_for(remote: RemoteFile, path: Path) -> Origin:
    """Return what to note about a published file that was found to be right."""
    checked = ":".join(remote.known_hash) if remote.known_hash else ""
    return Origin(remote.file, remote.url, digest_of(path, "sha256"), checked)


def write_note(path: Path, origin: Origin) -> None:
    """Note beside a cached file what it is, so that gigabytes are not read at every start."""
    size, mtime = _stamp(path)
    note = {
        "size": size,
        "mtime_ns": mtime,
        "sha256": digest_of(path, "sha256"),
        "origin": asdict(origin),
    }
    try:
        write_durably(note_path(path), json.dumps(note).encode())
    except OSError as error:  # a read-only cache: hashed again next time
        _logger.debug("cannot write %s: %s", note_path(path), error)


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file that is on disk, whole, when this returns; if it fails, the old one stays."""
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_of(origin: Origin, remote: RemoteFile) -> bool:
    """Return whether a file was made from a row's published file."""
    if remote.known_hash is None:
        return origin.url == remote.url
    return remote.sha256 == origin.sha256 or origin.checked == ":".join(remote.known_hash)


def _read_note(path: Path) -> dict[str, Any] | None:  # Any: JSON
    """Return the note beside a file that has not changed since, or None."""
    try:
        note = json.loads(note_path(path).read_text(encoding="utf-8"))
        same = (note["size"], note["mtime_ns"]) == _stamp(path) and isinstance(note["sha256"], str)
        return dict(note) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and modification time in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _digest(path: Path, algorithm: str, *, size: int, mtime: int) -> str:
    """Return a file's hash; size and time are part of the key, so that a changed file is read again."""
    digest = _hasher(algorithm)()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())


def _hasher(algorithm: str) -> Callable[[], Any]:  # Any: hashlib's and xxhash's objects share no type
    """Return what makes a new hash object."""
    if algorithm == "xxh128":
        import xxhash

        return xxhash.xxh128
    return lambda: hashlib.new(algorithm, usedforsecurity=False)
