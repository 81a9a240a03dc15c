"""Where a named model's weights file is: in the package, in the cache, or downloaded into the cache once.

What is downloaded is checked by its hash and kept as safetensors. Torch is imported for that conversion only.
"""

from __future__ import annotations

import logging
from pathlib import Path

from napari_segany.core.errors import DownloadError, WeightsError

from .cache import (
    CACHE_VARIABLE,
    OFFLINE_VARIABLE,
    by_hand,
    converted_path,
    is_converted,
    is_offline,
    is_original,
    origin_sha256,
    sha256_of,
    weights_dir,
)
from .locks import held
from .registry import ModelSpec, RemoteFile
from .transfer import Progress, Transfer

__all__ = [
    "CACHE_VARIABLE",
    "OFFLINE_VARIABLE",
    "Progress",
    "find_decoder",
    "find_weights",
    "is_offline",
    "local_decoder",
    "local_weights",
    "origin_sha256",
    "sha256_of",
    "weights_dir",
]

_logger = logging.getLogger(__name__)


def local_weights(spec: ModelSpec, *, cache_dir: Path | None = None) -> Path | None:
    """Return where the row's file is on this machine, or None if it is not; checks no hash."""
    if spec.remote is None:
        path = _bundled(spec)
        return path if path.is_file() else None
    return _local(spec.remote, weights_dir(cache_dir))


def local_decoder(spec: ModelSpec, *, cache_dir: Path | None = None) -> Path | None:
    """Return where the row's second file is on this machine, or None if it is not or has none; checks no hash."""
    return _local(spec.decoder, weights_dir(cache_dir)) if spec.decoder is not None else None


def find_weights(spec: ModelSpec, *, cache_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Return the path of a row's weights file, downloading it first if it is not on this machine.

    Parameters
    ----------
    spec
        A row of the registry.
    cache_dir
        The file goes to `cache_dir/weights`; by default to $SEGANY_CACHE/weights or the user's cache.
    progress
        Called about once per MiB while downloading, on the calling thread. What restricts the use of the weights
        is its first message. Whatever it raises cancels the download.

    Raises
    ------
    WeightsError
        If the row is bundled and the installation lacks its file, or the file holds something else.
    DownloadError
        If the file cannot be downloaded or has another hash. Nothing is left behind then, but for what came before
        the connection was cut: the next call goes on from there.
    """
    if spec.remote is None:
        path = _bundled(spec)
        if not path.is_file():
            raise WeightsError(
                f"{spec.name} should be bundled but {path} is missing; install napari-segany again"
            )
        return path
    return _find(spec.remote, spec=spec, folder=weights_dir(cache_dir), progress=progress or _silent)


def find_decoder(
    spec: ModelSpec, *, cache_dir: Path | None = None, progress: Progress | None = None
) -> Path | None:
    """Return the path of a row's second file, the decoder that finds every object; None if the row has none.

    Parameters and errors are those of `find_weights`.
    """
    if spec.decoder is None:
        return None
    return _find(spec.decoder, spec=spec, folder=weights_dir(cache_dir), progress=progress or _silent)


def _silent(done: int, total: int, message: str) -> None:
    """Show nothing."""


def _bundled(spec: ModelSpec) -> Path:
    """Return where a bundled file is, or should be."""
    from importlib.resources import files

    return Path(str(files("napari_segany") / "weights" / spec.file))


def _local(remote: RemoteFile, folder: Path) -> Path | None:
    """Return where a file is in the cache, converted or as it was published."""
    original = folder / remote.file
    return next((path for path in (converted_path(original), original) if path.is_file()), None)


def _find(remote: RemoteFile, *, spec: ModelSpec, folder: Path, progress: Progress) -> Path:
    """Return where a file is in the cache, after bringing and converting it where needed."""
    original = folder / remote.file
    target = converted_path(original)
    if is_converted(remote, target):
        return target
    if is_offline() and not original.is_file():
        raise DownloadError(_absent(remote, spec=spec, original=original, target=target))
    if not folder.is_dir():
        _make(folder)
    with held(original, waiting=lambda: progress(0, 0, f"another process is downloading {remote.file}")):
        if is_converted(remote, target):
            return target
        if original.is_file() and _is_right(remote, original):
            return _converted(remote, original)  # copied there by hand, or never converted
        _announce(spec, progress=progress)
        Transfer(remote, original, progress=progress).run()
        try:
            return _converted(remote, original)
        except WeightsError:
            original.unlink(missing_ok=True)
            raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"cannot make the folder {folder}: {error}; set ${CACHE_VARIABLE} to a folder that you may write to"
        ) from error


def _converted(remote: RemoteFile, original: Path) -> Path:
    """Return what a checked file was converted to."""
    from .convert import converted

    return converted(remote, original)


def _is_right(remote: RemoteFile, original: Path) -> bool:
    """Return whether a file that was found in the cache is the published one."""
    if is_original(remote, original):
        return True
    if is_offline():
        raise DownloadError(f"{original} is not the file it should be; {by_hand(remote, original)}")
    _logger.warning("%s does not have the hash of %s; downloading it again", original, remote.file)
    return False


def _absent(remote: RemoteFile, *, spec: ModelSpec, original: Path, target: Path) -> str:
    """Return what is missing, and what to do without a network."""
    what = (
        f"{target} is not the file it should be"
        if target.is_file()
        else f"{spec.name} is not on this machine"
    )
    return f"{what} and ${OFFLINE_VARIABLE} is set; {by_hand(remote, original)}"


def _announce(spec: ModelSpec, *, progress: Progress) -> None:
    """Say what restricts the use of the weights, before they are downloaded."""
    if spec.licence_note:
        _logger.info("%s: %s", spec.name, spec.licence_note)
        progress(0, 0, f"{spec.name}: {spec.licence_note}")
