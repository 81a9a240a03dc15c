"""Downloads from a local server: checked, resumed across calls and processes, and refused without leftovers."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash
from file_server import LAYOUT, Server

from napari_segany.core.errors import DownloadError, WeightsError
from napari_segany.models import cache, transfer
from napari_segany.models.download import (
    find_decoder,
    find_weights,
    local_decoder,
    local_weights,
    origin_sha256,
    sha256_of,
    weights_dir,
)
from napari_segany.models.registry import ModelSpec, RemoteFile, spec_of
from napari_segany.models.weights import read_metadata, read_weights

Row = Callable[..., ModelSpec]
DONE = ["model.safetensors", "model.safetensors.json"]
PART = ["model.pt.part", "model.pt.part.json"]

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAUSE", 0.0)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def hashes_of(content: bytes) -> dict[str, str]:
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "xxh128": xxhash.xxh128(content).hexdigest(),
        "md5": hashlib.md5(content).hexdigest(),
    }


def only(kind: str, digest: str) -> dict[str, str | None]:
    return {"sha256": None, "xxh128": None, "md5": None, kind: digest}


@pytest.mark.parametrize("kind", ["sha256", "xxh128", "md5"])
def test_a_file_is_downloaded_once_checked_and_converted(
    server: Server, row: Row, own_cache: Path, checkpoint: bytes, kind: str
) -> None:
    spec = row(**only(kind, hashes_of(checkpoint)[kind]))
    assert local_weights(spec) is None
    seen: list[tuple[int, int, str]] = []
    path = find_weights(spec, progress=lambda done, total, message: seen.append((done, total, message)))
    assert path == own_cache / "model.safetensors"
    assert files_in(own_cache) == DONE
    weights = read_weights(path)
    assert {key: tuple(value.shape) for key, value in weights.items()} == dict(LAYOUT.shapes)
    downloading = [(done, total) for done, total, message in seen if message == "downloading model.pt"]
    assert downloading[0] == (0, len(checkpoint))
    assert downloading[-1] == (len(checkpoint), len(checkpoint))
    assert len(downloading) < 10, "progress should come about once per MiB"
    assert find_weights(spec) == local_weights(spec) == path
    assert server.starts == [0]
    assert origin_sha256(path) == hashes_of(checkpoint)["sha256"]
    assert read_metadata(path)["origin_sha256"] == hashes_of(checkpoint)["sha256"]
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_verified_file_is_not_read_again(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_weights(row())
    monkeypatch.setattr(cache, "_digest", lambda *_, **__: pytest.fail("the file was hashed again"))
    assert find_weights(row()) == path
    assert len({sha256_of(path), origin_sha256(path)}) == 2


def test_a_copied_cache_is_used_without_a_network(
    row: Row, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_weights(row())
    shutil.copytree(own_cache, tmp_path / "copied" / "weights", copy_function=shutil.copyfile)
    monkeypatch.setenv("SEGANY_OFFLINE", "1")
    path = find_weights(row(), cache_dir=tmp_path / "copied")
    assert path == tmp_path / "copied" / "weights" / "model.safetensors"


def test_a_damaged_cached_file_is_replaced(server: Server, row: Row) -> None:
    find_weights(row()).write_bytes(b"damaged")
    assert read_weights(find_weights(row()))
    assert server.starts == [0, 0]


def test_a_row_whose_hash_has_changed_is_downloaded_again(server: Server, row: Row) -> None:
    find_weights(row())
    server.content = server.content[:-22] + server.content[-22:-2] + b"\x01\x00x"  # a comment at a zip's end
    server.etag = '"two"'
    assert origin_sha256(find_weights(row())) == hashes_of(server.content)["sha256"]
    assert server.starts == [0, 0]


def test_a_file_whose_hash_nobody_published_is_taken_by_its_size_and_layout(
    row: Row, own_cache: Path
) -> None:
    spec = row(sha256=None, md5=None)
    assert find_weights(spec) == find_weights(spec) == own_cache / "model.safetensors"
    (own_cache / "model.safetensors").unlink()
    with pytest.raises(DownloadError, match=r"expected size 3\d{6}, got 3\d{6}"):
        find_weights(replace(spec, size_bytes=spec.size_bytes + 1))
    assert files_in(own_cache) == ["model.safetensors.json"]


def test_a_cut_connection_goes_on_where_it_stopped(server: Server, row: Row) -> None:
    server.cuts = [2_000_000]
    find_weights(row())
    assert len(server.starts) == 2
    assert 1_900_000 < server.starts[1] <= 2_000_000
    assert server.versions == [None, '"one"']


def test_the_next_call_goes_on_where_the_last_stopped(server: Server, row: Row, own_cache: Path) -> None:
    server.cuts = [1_000_000, 500_000, 500_000]
    with pytest.raises(DownloadError, match="try again, or download") as caught:
        find_weights(row())
    assert files_in(own_cache) == PART
    kept = (own_cache / "model.pt.part").stat().st_size
    assert f"{kept} bytes are kept" in str(caught.value)
    assert "goes on from there" in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert 1_800_000 < kept <= 2_000_000
    assert (own_cache / "model.pt.part").read_bytes() == server.content[:kept]
    find_weights(row())
    assert server.starts[3:] == [kept]
    assert server.sent[3:] == [len(server.content) - kept]
    assert files_in(own_cache) == DONE


def test_a_server_without_ranges_is_asked_from_the_start(server: Server, row: Row, own_cache: Path) -> None:
    server.cuts, server.has_ranges = [2_000_000], False
    find_weights(row())
    assert server.starts == [0, 0]
    assert files_in(own_cache) == DONE


@pytest.mark.parametrize("is_told", [True, False], ids=["new ETag", "same ETag"])
def test_a_file_that_changed_meanwhile_is_brought_from_the_start(
    server: Server, row: Row, own_cache: Path, is_told: bool
) -> None:
    server.cuts = [1_000_000] * 3
    spec, content = row(), server.content
    server.content = bytes(len(content))
    with pytest.raises(DownloadError, match="are kept"):
        find_weights(spec)
    server.content, server.etag = content, '"two"' if is_told else '"one"'
    find_weights(spec)
    assert server.starts[3:] == ([0] if is_told else [server.starts[3], 0])
    assert files_in(own_cache) == DONE


def test_a_part_of_another_row_s_file_is_not_gone_on_with(server: Server, row: Row) -> None:
    server.cuts = [1_000_000] * 3
    with pytest.raises(DownloadError, match="are kept"):
        find_weights(row(**only("md5", "0" * 32)))
    find_weights(row())
    assert server.starts[3] == 0


def test_a_part_that_is_whole_already_is_only_checked(server: Server, row: Row, own_cache: Path) -> None:
    server.cuts = [1_000_000] * 3
    with pytest.raises(DownloadError, match="are kept"):
        find_weights(row())
    (own_cache / "model.pt.part").write_bytes(server.content)
    find_weights(row())
    assert server.starts[3:] == [len(server.content)]
    assert len(server.sent) == 3


@pytest.mark.parametrize("note", [b"", b"{}", b"[1]", b'{"url": 3}', b"\xff"])
def test_a_part_with_a_damaged_note_is_not_gone_on_with(
    server: Server, row: Row, own_cache: Path, note: bytes
) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "model.pt.part").write_bytes(b"whatever")
    (own_cache / "model.pt.part.json").write_bytes(note)
    find_weights(row())
    assert server.starts == [0]


def test_a_declared_length_that_never_comes_is_a_cut_connection(
    server: Server, row: Row, own_cache: Path
) -> None:
    server.declared = len(server.content) + 1000
    with pytest.raises(DownloadError, match="bytes are kept"):
        find_weights(row())
    assert files_in(own_cache) == PART


def test_a_connection_cut_before_the_first_byte_leaves_nothing(
    server: Server, row: Row, own_cache: Path
) -> None:
    server.cuts = [0, 0, 0]
    with pytest.raises(DownloadError, match="try again, or download"):
        find_weights(row())
    assert files_in(own_cache) == []


@pytest.mark.parametrize("kind", ["sha256", "xxh128", "md5"])
def test_a_wrong_hash_leaves_nothing(row: Row, own_cache: Path, kind: str) -> None:
    digest = "0" * (64 if kind == "sha256" else 32)
    with pytest.raises(DownloadError, match=rf"is not model\.pt \(expected {kind} 0000.*got [0-9a-f]"):
        find_weights(row(**only(kind, digest)))
    assert files_in(own_cache) == []


def test_a_truncated_file_of_the_declared_length_leaves_nothing(
    server: Server, row: Row, own_cache: Path
) -> None:
    spec = row()
    server.content = server.content[:2_000_000]
    with pytest.raises(DownloadError, match="cut short or changed"):
        find_weights(spec)
    assert files_in(own_cache) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500])
def test_an_error_of_the_server_leaves_nothing(
    server: Server, row: Row, own_cache: Path, status: int
) -> None:
    server.cuts = [1_000_000] * 3
    with pytest.raises(DownloadError):
        find_weights(row())
    server.status = status
    with pytest.raises(DownloadError, match=rf"answered {status} .*copy it to") as caught:
        find_weights(row())
    assert server.url in str(caught.value)
    assert files_in(own_cache) == []


def test_a_busy_server_costs_no_bytes(server: Server, row: Row, own_cache: Path) -> None:
    server.cuts = [1_000_000] * 3
    with pytest.raises(DownloadError):
        find_weights(row())
    server.status = 503
    with pytest.raises(DownloadError, match=r"503 .*bytes are kept"):
        find_weights(row())
    assert files_in(own_cache) == PART


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_login_page_is_named_and_leaves_nothing(
    server: Server, row: Row, own_cache: Path, content_type: str
) -> None:
    spec = row()
    server.content, server.content_type = b"\n<!DOCTYPE html><html>Sign in</html>", content_type
    with pytest.raises(DownloadError, match="answered with a web page"):
        find_weights(spec)
    assert files_in(own_cache) == []


def test_no_server_at_all_says_what_to_do(row: Row, own_cache: Path) -> None:
    with pytest.raises(DownloadError, match="copy it to"):
        find_weights(row(url="http://127.0.0.1:9/model.pt"))
    with pytest.raises(DownloadError, match="copy it to"):
        find_weights(row(url="nonsense://nowhere/model.pt"))
    assert files_in(own_cache) == []


def test_a_disk_without_room_is_refused_before_the_first_byte(
    server: Server, row: Row, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=f"{len(server.content)} bytes more are needed and 1234 are free"):
        find_weights(row())
    assert files_in(own_cache) == []


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, r"no space .*bytes more are needed"), (errno.EIO, "cannot write")]
)
def test_a_disk_that_fills_up_leaves_nothing(
    row: Row, own_cache: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    class Full:
        """A file on a disk with room for 100,000 bytes more."""

        def __init__(self, stream: object) -> None:
            self.stream, self.room = stream, 100_000

        def write(self, content: memoryview) -> int:
            if self.room < 0:
                raise OSError(number, os.strerror(number))
            self.room -= len(content)
            return self.stream.write(content[: len(content) // 2])

    write = transfer.Transfer._write
    full: list[Full] = []

    def filling(self: transfer.Transfer, stream: object, chunk: bytes) -> None:
        full[:] = full or [Full(stream)]
        write(self, full[0], chunk)

    monkeypatch.setattr(transfer.Transfer, "_write", filling)
    with pytest.raises(DownloadError, match=says):
        find_weights(row())
    assert full[0].room < 0
    assert files_in(own_cache) == []


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError, OSError, RuntimeError])
def test_cancelling_from_the_progress_leaves_nothing(
    row: Row, own_cache: Path, reason: type[BaseException]
) -> None:
    def cancel(done: int, total: int, message: str) -> None:
        if done:
            raise reason("enough")

    with pytest.raises(reason, match="enough"):
        find_weights(row(), progress=cancel)
    assert files_in(own_cache) == []


_CHILD = """
import sys
from dataclasses import replace
from napari_segany.models.download import find_weights
from napari_segany.models.registry import Layout, spec_of
url, sha256 = sys.argv[1:]
layout = Layout(2, (("image_encoder.weight", (768, 1024)),))
spec = replace(spec_of("sam2.1_hiera_tiny"), file="model.pt", url=url, sha256=sha256, md5=None, size_bytes=None,
               layout=layout)
print(find_weights(spec))
"""


def start_child(spec: ModelSpec) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, spec.url, spec.sha256],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_a_killed_process_leaves_what_came_and_no_lock(server: Server, row: Row, own_cache: Path) -> None:
    server.first_bytes = 1_000_000
    with start_child(row()) as child:
        assert server.pauses.wait(60)
        part = own_cache / "model.pt.part"
        while not part.exists() or part.stat().st_size < 900_000:
            assert child.poll() is None, child.stderr.read()
        child.send_signal(signal.SIGKILL)
        child.wait()
    server.goes_on.set()
    kept = part.stat().st_size
    server.first_bytes = 0
    find_weights(row())
    assert server.starts == [0, kept]
    assert files_in(own_cache) == DONE


def test_two_processes_download_a_file_once(server: Server, row: Row, own_cache: Path) -> None:
    server.first_bytes = 1_000_000
    messages: list[str] = []

    def watch(done: int, total: int, message: str) -> None:
        messages.append(message)
        server.goes_on.set()

    with start_child(row()) as child:
        assert server.pauses.wait(60)
        path = find_weights(row(), progress=watch)
        assert child.wait(60) == 0, child.stderr.read()
        assert child.stdout.read().strip() == str(path)
    assert set(messages) == {"another process is downloading model.pt"}
    assert server.starts == [0]
    assert files_in(own_cache) == DONE


def test_threads_that_want_one_file_wait_for_each_other(server: Server, row: Row, own_cache: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(find_weights(row()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert paths == [own_cache / "model.safetensors"] * 4
    assert server.starts == [0]
    assert files_in(own_cache) == DONE


def test_offline_gives_path_address_and_hash(
    server: Server, row: Row, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGANY_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        find_weights(row())
    for part in ("SEGANY_OFFLINE", str(own_cache / "model.pt"), server.url, row().sha256):
        assert part in str(caught.value)
    assert server.starts == []
    assert files_in(own_cache) == []


def test_offline_a_file_copied_by_hand_is_checked_and_converted(
    server: Server, row: Row, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGANY_OFFLINE", "1")
    own_cache.mkdir(parents=True)
    (own_cache / "model.pt").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="not the file it should be"):
        find_weights(row())
    assert (own_cache / "model.pt").read_bytes() == b"something else"
    (own_cache / "model.pt").write_bytes(server.content)
    assert local_weights(row()) == own_cache / "model.pt"
    assert find_weights(row()) == local_weights(row()) == own_cache / "model.safetensors"
    assert files_in(own_cache) == DONE
    assert server.starts == []


def test_a_wrong_file_in_the_cache_is_replaced(server: Server, row: Row, own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "model.pt").write_bytes(b"something else")
    find_weights(row())
    assert files_in(own_cache) == DONE


def test_without_room_to_convert_the_file_is_used_as_it_is(
    server: Server,
    row: Row,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = namedtuple("usage", "total used free")
    free = iter([len(server.content) + 1, 1000, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room(0, 0, next(free)))
    path = find_weights(row())
    assert path == find_weights(row()) == own_cache / "model.pt"
    assert "is used as it is" in caplog.text
    assert files_in(own_cache) == ["model.pt", "model.pt.json"]
    monkeypatch.undo()
    monkeypatch.setenv("SEGANY_CACHE", str(own_cache.parent))
    assert find_weights(row()) == own_cache / "model.safetensors"
    assert files_in(own_cache) == DONE
    assert server.starts == [0]


def test_a_conversion_that_fails_half_way_leaves_the_original(
    row: Row, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(weights: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fill)
    assert find_weights(row()) == own_cache / "model.pt"
    assert files_in(own_cache) == ["model.pt", "model.pt.json"]


def test_a_second_file_is_found_the_same_way(server: Server, row: Row, own_cache: Path) -> None:
    spec = row()
    assert find_decoder(spec) is None
    assert local_decoder(spec) is None
    digest = hashes_of(server.content)["xxh128"]
    spec = replace(spec, decoder=RemoteFile("second.pt", server.url, LAYOUT, xxh128=digest))
    assert find_decoder(spec) == local_decoder(spec) == own_cache / "second.safetensors"
    assert local_weights(spec) is None


def test_what_restricts_use_is_said_before_the_download(
    server: Server, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    spec = row(licence_note="Ask the authors first.")
    seen: list[tuple[str, int]] = []
    with caplog.at_level(logging.INFO):
        find_weights(spec, progress=lambda done, total, message: seen.append((message, len(server.starts))))
    assert seen[0] == (f"{spec.name}: Ask the authors first.", 0)
    assert "Ask the authors first." in caplog.text
    seen.clear()
    find_weights(spec, progress=lambda done, total, message: seen.append((message, 0)))
    assert seen == []


def test_the_cache_can_be_chosen(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights(row(), cache_dir=tmp_path / "mine").parent == tmp_path / "mine" / "weights"
    monkeypatch.delenv("SEGANY_CACHE")
    assert weights_dir().parts[-2:] == ("napari-segany", "weights")


def test_a_cache_that_cannot_be_made_is_an_error(row: Row, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="SEGANY_CACHE"):
        find_weights(row(), cache_dir=tmp_path / "file")


def test_a_note_that_is_damaged_is_ignored(server: Server, row: Row, own_cache: Path) -> None:
    path = find_weights(row())
    note = own_cache / "model.safetensors.json"
    for content in ("", "[]", json.dumps({"size": 3}), json.dumps({"origin": []})):
        note.write_text(content)
        assert origin_sha256(path) == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bundled_file_that_is_missing_means_a_broken_installation() -> None:
    spec = replace(spec_of("sam2-nano"), file="not-there.safetensors")
    with pytest.raises(WeightsError, match="install napari-segany again"):
        find_weights(spec)
