"""A web server on this machine with one file, which it sends whole, in parts, badly or not at all."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from napari_segany.models.registry import Layout

LAYOUT = Layout(2, (("image_encoder.weight", (768, 1024)), ("image_encoder.bias", (768,))))
"""Of the small checkpoint that the tests serve."""


@dataclass
class Server:
    """What the server does, and what it was asked.

    Attributes
    ----------
    cuts
        After how many bytes it hangs up, request by request.
    declared
        The length that it says a whole answer has; None for the truth.
    starts, sent
        From which byte on each request asked, and how many bytes were sent.
    versions
        If-Range of each request.
    pauses
        Set once the first bytes of an answer are out; the answer then waits for `goes_on`.
    """

    content: bytes = b""
    url: str = ""
    cuts: list[int] = field(default_factory=list)
    has_ranges: bool = True
    status: int = 200
    etag: str = '"one"'
    content_type: str = "application/octet-stream"
    declared: int | None = None
    starts: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)
    first_bytes: int = 0
    pauses: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        state, self.close_connection = self.state, True
        if not self.path.endswith("/model.pt"):
            self.send_error(404)
            return
        if state.status != 200:
            self.send_error(state.status)
            return
        start = self._start()
        state.starts.append(start)
        part = state.content[start:]
        if start and not part:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(state.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            total = len(state.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("ETag", state.etag)
        self.send_header("Content-Type", state.content_type)
        self.send_header("Content-Length", str(state.declared or len(part)))
        self.end_headers()
        self._send(part[: state.cuts.pop(0)] if state.cuts else part)

    def _start(self) -> int:
        """Return from which byte on to send: from the first if the client's version is another one."""
        version = self.headers.get("If-Range")
        self.state.versions.append(version)
        if not self.state.has_ranges or version not in (None, self.state.etag):
            return 0
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def _send(self, part: bytes) -> None:
        state = self.state
        state.sent.append(len(part))
        try:
            if state.first_bytes:
                self.wfile.write(part[: state.first_bytes])
                part = part[state.first_bytes :]
                state.pauses.set()
                assert state.goes_on.wait(30)
            self.wfile.write(part)
        except ConnectionError:  # the client was killed
            pass

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    """Serve one file at `Server.url` while the block runs."""
    state = Server(content)
    handler = type("Handler", (_Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_address[1]}/model.pt"
        yield state
        state.goes_on.set()
        running.shutdown()
        thread.join()
