"""Downloads from a local server: checked, atomic, resumed, and refused with what to do by hand."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from napari_segany.core.errors import DownloadError, WeightsError
from napari_segany.models import download
from napari_segany.models.download import find_weights, local_weights, sha256_of, weights_dir
from napari_segany.models.registry import ModelSpec, spec_of

CONTENT = bytes(range(256)) * 12_000  # 3 MB


@dataclass
class Server:
    """A web server with one file; `cuts` says after how many bytes it hangs up, request by request."""

    url: str = ""
    cuts: list[int] = field(default_factory=list)
    content: bytes = CONTENT
    has_ranges: bool = True
    starts: list[int] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self.path.endswith("/model.pt"):
                self.send_error(404)
                return
            asked = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            start = asked if state.has_ranges else 0
            state.starts.append(start)
            part = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            keep = state.cuts.pop(0) if state.cuts else len(part)
            self.wfile.write(part[:keep])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_address[1]}/model.pt"
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGANY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEGANY_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "weights"


def spec_for(server: Server, **changes: object) -> ModelSpec:
    row = replace(
        spec_of("sam2.1_hiera_tiny"),
        file="model.pt",
        url=server.url,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        md5=hashlib.md5(CONTENT).hexdigest(),
    )
    return replace(row, **changes)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("hashes", [{}, {"sha256": None}], ids=["sha256", "md5"])
def test_a_file_is_downloaded_once_and_checked(
    server: Server, own_cache: Path, hashes: dict[str, None]
) -> None:
    spec = spec_for(server, **hashes)
    assert local_weights(spec) is None
    seen: list[tuple[int, int]] = []
    path = find_weights(spec, progress=lambda done, total, message: seen.append((done, total)))
    assert path == own_cache / "model.pt"
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) < 10, "progress should come about once per MiB"
    assert find_weights(spec) == local_weights(spec) == path
    assert server.starts == [0]
    assert sha256_of(path) == hashlib.sha256(CONTENT).hexdigest()


def test_a_verified_file_is_not_read_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_weights(spec_for(server))
    monkeypatch.setattr(download, "_digest", lambda *_, **__: pytest.fail("the file was hashed again"))
    assert find_weights(spec_for(server)) == path
    assert sha256_of(path) == hashlib.sha256(CONTENT).hexdigest()


def test_a_damaged_cached_file_is_replaced(server: Server, own_cache: Path) -> None:
    spec = spec_for(server)
    find_weights(spec).write_bytes(b"damaged")
    assert find_weights(spec).read_bytes() == CONTENT


def test_a_cut_connection_goes_on_where_it_stopped(server: Server) -> None:
    server.cuts = [2_000_000]
    assert find_weights(spec_for(server)).read_bytes() == CONTENT
    assert len(server.starts) == 2
    assert 0 < server.starts[1] <= 2_000_000


def test_a_server_without_ranges_is_asked_from_the_start(server: Server) -> None:
    server.cuts, server.has_ranges = [2_000_000], False
    assert find_weights(spec_for(server)).read_bytes() == CONTENT
    assert server.starts == [0, 0]


def test_a_connection_cut_again_and_again_leaves_nothing(server: Server, own_cache: Path) -> None:
    server.cuts = [1000, 1000, 1000, 1000]
    with pytest.raises(DownloadError, match="try again, or download") as caught:
        find_weights(spec_for(server))
    assert server.url in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert files_in(own_cache) == []


@pytest.mark.parametrize(
    "hashes", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}], ids=["sha256", "md5"]
)
def test_a_wrong_hash_leaves_nothing(server: Server, own_cache: Path, hashes: dict[str, str | None]) -> None:
    with pytest.raises(DownloadError, match=r"is not model\.pt .*0000"):
        find_weights(spec_for(server, **hashes))
    assert files_in(own_cache) == []


def test_an_address_that_is_gone_leaves_nothing(server: Server, own_cache: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        find_weights(spec_for(server, url=server.url + ".gone"))
    assert files_in(own_cache) == []


def test_no_server_at_all_says_what_to_do(own_cache: Path) -> None:
    with pytest.raises(DownloadError, match="copy it to"):
        find_weights(spec_for(Server(url="http://127.0.0.1:9/model.pt")))
    assert files_in(own_cache) == []


def test_cancelling_from_the_progress_leaves_nothing(server: Server, own_cache: Path) -> None:
    def cancel(done: int, total: int, message: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_weights(spec_for(server), progress=cancel)
    assert files_in(own_cache) == []


def test_offline_gives_path_address_and_hash(
    server: Server, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGANY_OFFLINE", "1")
    spec = spec_for(server)
    with pytest.raises(DownloadError) as caught:
        find_weights(spec)
    for part in ("SEGANY_OFFLINE", str(own_cache / "model.pt"), server.url, spec.sha256):
        assert part in str(caught.value)
    assert server.starts == []


def test_offline_uses_a_file_copied_by_hand_if_it_is_the_right_one(
    server: Server, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGANY_OFFLINE", "1")
    own_cache.mkdir(parents=True)
    (own_cache / "model.pt").write_bytes(CONTENT)
    assert find_weights(spec_for(server)).read_bytes() == CONTENT
    (own_cache / "model.pt").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="not the file it should be"):
        find_weights(spec_for(server))
    assert (own_cache / "model.pt").read_bytes() == b"something else"


def test_the_cache_can_be_chosen(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights(spec_for(server), cache_dir=tmp_path / "mine").parent == tmp_path / "mine" / "weights"
    monkeypatch.delenv("SEGANY_CACHE")
    assert weights_dir().parts[-2:] == ("napari-segany", "weights")


def test_a_bundled_file_that_is_missing_means_a_broken_installation() -> None:
    spec = replace(spec_of("sam2-nano"), file="not-there.safetensors")
    with pytest.raises(WeightsError, match="install napari-segany again"):
        find_weights(spec)
