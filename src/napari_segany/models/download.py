"""Where a named model's weights file is: in the package, in the cache, or downloaded into the cache once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from napari_segany.core.errors import DownloadError, MissingExtraError, WeightsError

from .registry import ModelSpec

_logger = logging.getLogger(__name__)

CACHE_VARIABLE = "SEGANY_CACHE"
OFFLINE_VARIABLE = "SEGANY_OFFLINE"
_CHUNK = 1 << 20  # bytes
_TRIES = 3
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte


class Progress(Protocol):
    """Told how far a download is: bytes done, bytes in total (0 if unknown), what is going on."""

    def __call__(self, done: int, total: int, message: str) -> None:
        """Show it; to cancel, raise anything but an OSError or a ValueError, which look like failures."""


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


def local_weights(spec: ModelSpec, *, cache_dir: Path | None = None) -> Path | None:
    """Return where the row's file is on this machine, or None if it is not; checks no hash."""
    path = _bundled(spec) if spec.is_bundled else weights_dir(cache_dir) / spec.file
    return path if path.is_file() else None


def find_weights(spec: ModelSpec, *, cache_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the path of a row's weights file, downloading it first if it is not on this machine.

    Parameters
    ----------
    spec
        A row of the registry.
    cache_dir
        The file goes to `cache_dir/weights`; by default to $SEGANY_CACHE/weights or the user's cache.
    progress
        Called about once per MiB while downloading, on the calling thread.

    Raises
    ------
    WeightsError
        If the row is bundled and the installation lacks its file.
    DownloadError
        If the file cannot be downloaded or has another hash; nothing is left behind then.
    """
    if spec.is_bundled:
        path = _bundled(spec)
        if not path.is_file():
            raise WeightsError(
                f"{spec.name} should be bundled but {path} is missing; install napari-segany again"
            )
        return path
    path = weights_dir(cache_dir) / spec.file
    if path.is_file():
        if _is_intact(spec, path):
            return path
        if is_offline():
            raise DownloadError(f"{path} is not the file it should be; {_by_hand(spec, path)}")
        _logger.warning("%s does not have the hash of %s; downloading it again", path, spec.name)
    elif is_offline():
        raise DownloadError(
            f"{spec.name} is not on this machine and ${OFFLINE_VARIABLE} is set; {_by_hand(spec, path)}"
        )
    _download(spec, path=path, progress=progress)
    _remember(path)
    return path


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits; a file of the same size and time is not read twice."""
    path = Path(path)
    size, mtime = _stamp(path)
    known = _remembered(path)
    if known is not None:
        return known
    return _digest(path, "sha256", size=size, mtime=mtime)


def _bundled(spec: ModelSpec) -> Path:
    """Return where a bundled file is, or should be."""
    from importlib.resources import files

    return Path(str(files("napari_segany") / "weights" / spec.file))


def _by_hand(spec: ModelSpec, path: Path) -> str:
    """Return what to do without a network."""
    algorithm, digest = spec.known_hash or ("", "")
    return f"download {spec.url} elsewhere and copy it to {path} ({algorithm} {digest})"


def _is_intact(spec: ModelSpec, path: Path) -> bool:
    """Return whether a cached file has the row's hash; a file found intact before is not read again."""
    known = _remembered(path)
    if known is not None and spec.sha256 in (None, known):
        return True
    algorithm, expected = spec.known_hash or ("", "")
    size, mtime = _stamp(path)
    if _digest(path, algorithm, size=size, mtime=mtime) != expected:
        return False
    _remember(path)
    return True


def _stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and modification time in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _digest(path: Path, algorithm: str, *, size: int, mtime: int) -> str:
    """Return a file's hash; size and time are part of the key, so that a changed file is read again."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified.json")


def _remember(path: Path) -> None:
    """Note beside a cached file that its hash was right, so that gigabytes are not read at every start."""
    size, mtime = _stamp(path)
    note = {"size": size, "mtime_ns": mtime, "sha256": _digest(path, "sha256", size=size, mtime=mtime)}
    try:
        _sidecar(path).write_text(json.dumps(note))
    except OSError as error:  # a read-only cache: hashed again next time
        _logger.debug("cannot write %s: %s", _sidecar(path), error)


def _remembered(path: Path) -> str | None:
    """Return the sha256 noted beside a file that has not changed since, or None."""
    try:
        note = json.loads(_sidecar(path).read_text())
        same = (note["size"], note["mtime_ns"]) == _stamp(path)
        return str(note["sha256"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _download(spec: ModelSpec, *, path: Path, progress: Progress | None) -> None:
    """Bring a row's file to `path`, checked and whole, or raise and leave nothing new there."""
    try:
        import pooch
    except ImportError:
        raise MissingExtraError(
            f"downloading needs pooch: `pip install pooch`, or {_by_hand(spec, path)}"
        ) from None
    algorithm, digest = spec.known_hash or ("", "")
    pooch.get_logger().setLevel(logging.WARNING)
    path.unlink(missing_ok=True)
    try:
        pooch.retrieve(
            spec.url,
            known_hash=f"{algorithm}:{digest}",
            fname=path.name,
            path=path.parent,
            downloader=_resuming_downloader(spec, progress=progress),
        )
    except ValueError as error:  # pooch raises it for a wrong hash
        raise DownloadError(
            f"what {spec.url} sent is not {spec.file} (expected {algorithm} {digest}): a proxy or login page "
            f"in between, or a changed file; {_by_hand(spec, path)}"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"cannot download {spec.url} to {path}: {error}; try again, or {_by_hand(spec, path)}"
        ) from error


def _resuming_downloader(
    spec: ModelSpec, *, progress: Progress | None
) -> Callable[[str, str, Any], None]:  # Any: pooch's own class, which only it needs
    """Return a downloader for pooch that goes on where a cut connection stopped, a few times."""
    import requests

    report = progress or (lambda done, total, message: None)

    def download(url: str, output_file: str, _pooch: object) -> None:
        with Path(output_file).open("wb") as stream:
            for attempt in range(1, _TRIES + 1):
                try:
                    _fetch(
                        url,
                        stream=stream,
                        report=lambda done, total: report(done, total, f"downloading {spec.file}"),
                    )
                    return
                except (
                    requests.ConnectionError,
                    requests.Timeout,
                    requests.exceptions.ChunkedEncodingError,
                ) as error:
                    if attempt == _TRIES:
                        raise
                    _logger.warning("%s after %d bytes of %s; going on from there", error, stream.tell(), url)

    return download


def _fetch(url: str, *, stream: Any, report: Callable[[int, int], None]) -> None:  # Any: a binary file
    """Append the rest of a file to a stream, starting over if the server cannot send parts."""
    import requests

    headers = {"Range": f"bytes={stream.tell()}-"} if stream.tell() else {}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            stream.seek(0)
            stream.truncate()
        total = stream.tell() + int(response.headers.get("Content-Length", 0))
        report(stream.tell(), total)
        for chunk in response.iter_content(_CHUNK):
            stream.write(chunk)
            report(stream.tell(), total)
