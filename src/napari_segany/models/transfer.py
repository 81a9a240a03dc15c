"""One file brought over HTTP: whole and checked, or not at all; what a cut connection leaves is gone on with.

The bytes go to `<file>.part`. Beside it, `<file>.part.json` says which version of which address they are of, so that a
later call, or another process, asks only for the rest. Imports no torch.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from napari_segany.core.errors import DownloadError, MissingExtraError

from .cache import by_hand, digest_of, write_durably
from .spec import RemoteFile

if TYPE_CHECKING:
    from requests import Response

_logger = logging.getLogger(__name__)

_CHUNK = 1 << 16  # bytes read at once; what of it has come is lost when the connection is cut
_REPORTED = 1 << 20  # bytes between two reports
_TRIES = 3
_PAUSE = 0.2  # seconds before the second try, twice that before the third
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
_BUSY = (429, 502, 503, 504)  # answers of a server that may do better soon
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PAGE = (b"<!doctype html", b"<html")


class Progress(Protocol):
    """Told how far a download is: bytes done, bytes in total (0 if unknown), what is going on."""

    def __call__(self, done: int, total: int, message: str) -> None:
        """Show it; whatever it raises cancels the download."""


class _CutError(Exception):
    """The connection ended before the file did."""


class Transfer:
    """The download of one file to one path; nobody else may write there meanwhile.

    Parameters
    ----------
    remote
        What to download.
    path
        Where it goes; its folder is made.
    progress
        Called about once per MiB, on the calling thread.
    """

    def __init__(self, remote: RemoteFile, path: Path, *, progress: Progress) -> None:
        self.remote, self.path, self._progress = remote, path, progress
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        self._known_hash = remote.known_hash
        self._is_resumed = False

    def run(self) -> None:
        """Bring the file.

        Raises
        ------
        DownloadError
            If it cannot be had. Nothing is left then, but for what came before a cut connection.
        """
        try:
            self._make_folder()
            self._is_resumed = bool(self._resumable())
            self._bring()
            if not self._is_right() and self._is_resumed:  # the old bytes may be of another version
                self._discard()
                self._is_resumed = False
                self._bring()
            if not self._is_right():
                raise DownloadError(self._wrong())
            self._part.replace(self.path)
            self._note.unlink(missing_ok=True)
        except _CutError as cut:
            raise self._kept(cut) from cut
        except BaseException:
            self._discard()
            raise

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DownloadError(f"cannot make the folder {self.path.parent}: {error}") from error

    def _bring(self) -> None:
        """Fill the part file, going on where a cut connection stopped, a few times."""
        for attempt in range(1, _TRIES + 1):
            try:
                self._fetch()
                return
            except _CutError as cut:
                if attempt == _TRIES:
                    raise
                _logger.warning("%s: %s; trying again", self.remote.url, cut)
            time.sleep(_PAUSE * attempt)

    def _fetch(self) -> None:
        """Ask for what is missing of the part file, and append it; or start over if the server has another file."""
        note = self._resumable()
        start = self._part.stat().st_size if note else 0
        with self._answer(start, note) as response:
            if (
                response.status_code == 416
                and note
                and response.headers.get("Content-Range") == f"bytes */{start}"
            ):
                return  # all of it had come
            if response.status_code == 416:
                self._discard()
                raise _CutError("the server has fewer bytes than came before")
            self._refuse_errors(response)
            if response.status_code != 206:
                start = 0
            elif not self._goes_on(response, start, note):
                self._discard()
                raise _CutError("the server sent another part than asked for")
            length = int(response.headers.get("Content-Length", 0))
            self._check_space(length)
            self._append(response, start=start, total=start + length if length else 0)

    def _answer(self, start: int, note: dict[str, Any]) -> Response:  # Any: JSON
        """Return the server's answer, of which only the header has been read."""
        try:
            import requests
        except ImportError:
            raise MissingExtraError(
                f"downloading needs requests: `pip install requests`, or {by_hand(self.remote, self.path)}"
            ) from None
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version := note["version"]:
                headers["If-Range"] = version
        try:
            return requests.get(self.remote.url, headers=headers, stream=True, timeout=_TIMEOUT)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _CutError(f"no connection ({error})") from error
        except (requests.RequestException, ValueError) as error:
            raise DownloadError(
                f"cannot download {self.remote.url}: {error}; {by_hand(self.remote, self.path)}"
            ) from error

    def _refuse_errors(self, response: Response) -> None:
        """Raise if the answer is not the file."""
        answer = f"{response.status_code} {response.reason}"
        if response.status_code in _BUSY:
            raise _CutError(f"the server answered {answer}")
        if response.status_code not in (200, 206):
            raise DownloadError(
                f"cannot download {self.remote.url}: the server answered {answer}; try again later, or "
                f"{by_hand(self.remote, self.path)}"
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(self._page())
        for hop in response.history:  # Hugging Face says the hash of the file that it redirects to
            linked = hop.headers.get("X-Linked-Etag", "").strip('"')
            if self._known_hash is None and re.fullmatch(r"[0-9a-f]{64}", linked):
                self._known_hash = ("sha256", linked)

    def _goes_on(self, response: Response, start: int, note: dict[str, Any]) -> bool:  # Any: JSON
        """Return whether a partial answer starts where the part file ends, and is of the same file."""
        found = re.match(
            r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", f"bytes {start}-0/*")
        )
        if found is None or int(found[1]) != start:
            return False
        return found[2] == "*" or not note["total"] or int(found[2]) == note["total"]

    def _append(self, response: Response, *, start: int, total: int) -> None:
        """Write the answer's body to the part file, from `start` on."""
        try:
            stream = self._part.open("r+b" if start else "wb", buffering=0)
        except OSError as error:
            raise DownloadError(f"cannot write {self._part}: {error}") from error
        message, done, reported = f"downloading {self.remote.file}", start, start
        with stream:
            stream.seek(start)
            if not start:
                self._remember(response, total)
            self._progress(done, total, message)
            for chunk in self._chunks(response):
                if not done and chunk.lstrip().lower().startswith(_PAGE):
                    raise DownloadError(self._page())
                self._write(stream, chunk)
                done += len(chunk)
                if done - reported >= _REPORTED:
                    reported = done
                    self._progress(done, total, message)
            os.fsync(stream.fileno())
        if done < total:
            raise _CutError(f"the connection ended after {done} of {total} bytes")
        if reported < done:
            self._progress(done, total, message)

    def _chunks(self, response: Response) -> Iterator[bytes]:
        """Yield the body, piece by piece."""
        import requests

        pieces = response.iter_content(_CHUNK)
        while True:
            try:
                piece = next(pieces, b"")
            except requests.RequestException as error:
                raise _CutError(f"the connection was cut ({error})") from error
            if not piece:
                return
            yield piece

    def _write(self, stream: Any, chunk: bytes) -> None:  # Any: a raw file
        """Write all of a chunk: a disk that is nearly full takes a part of it first."""
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError as error:
            if error.errno in _FULL:
                raise DownloadError(self._no_space(len(rest))) from error
            raise DownloadError(f"cannot write {self._part}: {error}") from error

    def _resumable(self) -> dict[str, Any]:  # Any: JSON
        """Return the note about the part file, empty if there is nothing to go on with."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            is_same = (note["url"], note["hash"]) == (self.remote.url, self._hash_text())
            is_whole = isinstance(note["version"], str) and isinstance(note["total"], int)
            return dict(note) if is_same and is_whole and self._part.stat().st_size else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _remember(self, response: Response, total: int) -> None:
        """Note which version of the file the part file is of, before its first byte is written."""
        tag = response.headers.get("ETag", "")
        version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
        note = {"url": self.remote.url, "hash": self._hash_text(), "version": version, "total": total}
        try:
            write_durably(self._note, json.dumps(note).encode())
        except OSError as error:
            what = self._no_space(total) if error.errno in _FULL else f"cannot write {self._note}: {error}"
            raise DownloadError(what) from error

    def _hash_text(self) -> str:
        return ":".join(self.remote.known_hash or ())

    def _check_space(self, needed: int) -> None:
        """Refuse a file that the disk has no room for, before its first byte."""
        folder = self.path.parent
        if needed > shutil.disk_usage(folder).free:
            raise DownloadError(self._no_space(needed))

    def _is_right(self) -> bool:
        """Return whether what came is what was expected: by its hash, else by its size."""
        size = self._part.stat().st_size
        if self._known_hash is None:
            return self.remote.size_bytes in (None, size)
        self._progress(size, size, f"checking {self.remote.file}")
        return digest_of(self._part, self._known_hash[0]) == self._known_hash[1]

    def _discard(self) -> None:
        for path in (self._part, self._note):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _kept(self, cut: _CutError) -> DownloadError:
        """Return the error for a connection that was cut for good; an empty part file is not kept."""
        size = self._part.stat().st_size if self._part.is_file() else 0
        if not size:
            self._discard()
        kept = f"{size} bytes are kept in {self._part}, and the next call goes on from there: try again"
        return DownloadError(
            f"cannot download {self.remote.url}: {cut}; {kept if size else 'try again'}, or "
            f"{by_hand(self.remote, self.path)}"
        )

    def _wrong(self) -> str:
        algorithm, expected = self._known_hash or ("size", str(self.remote.size_bytes))
        found = self._part.stat().st_size if self._known_hash is None else digest_of(self._part, algorithm)
        return (
            f"what {self.remote.url} sent is not {self.remote.file} (expected {algorithm} {expected}, got {found}): "
            f"cut short or changed on the way, or a new version; {by_hand(self.remote, self.path)}"
        )

    def _page(self) -> str:
        return (
            f"{self.remote.url} answered with a web page instead of {self.remote.file}: a login page or a proxy in "
            f"between; sign in to the network and try again, or {by_hand(self.remote, self.path)}"
        )

    def _no_space(self, needed: int) -> str:
        free = shutil.disk_usage(self.path.parent).free
        return (
            f"no space for {self.remote.file} in {self.path.parent}: {needed} bytes more are needed and {free} are "
            "free; delete something, or set $SEGANY_CACHE to a folder on another drive"
        )
