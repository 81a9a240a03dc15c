from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from ome_zarr_models import open_ome_zarr as models_open
from ome_zarr_models.v05.image_label import ImageLabel
from tests.strategies import calibrations

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import AxesError, StoreError
from napari_segany.core.masks import LabelPatch, paint_object
from napari_segany.io import ledger as ledger_module
from napari_segany.io.label_store import LabelStore
from napari_segany.io.ome_zarr import open_ome_zarr, read_labels, write_labels_ome_zarr

SHAPE = (4, 600, 700)
STACK = Calibration("TYX", (30, 0.25, 0.25), (0, 5, 7), ("second", "micrometer", "micrometer"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cells.ome.zarr"


@pytest.fixture
def store(path: Path) -> LabelStore:
    return LabelStore.create(path, shape=SHAPE, calibration=STACK, source={"path": "movie.tif"})


def patch_of(label_id: int, *, index: tuple[int, ...] = (0,), row0: int = 10, side: int = 20) -> LabelPatch:
    before = np.zeros((side, side), dtype=np.uint32)
    return LabelPatch(index=index, row0=row0, col0=row0, before=before, after=before + np.uint32(label_id))


def shards_of(path: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in (path / "0" / "c").rglob("*") if file.is_file()]
    return {
        file.relative_to(path / "0").as_posix(): (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in files
    }


class TestLayout:
    def test_two_validators_accept_it(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(1))
        store.build_pyramid(levels=3)
        yaozarrs.validate_zarr_store(str(path))
        assert isinstance(models_open(zarr.open_group(str(path), mode="r")), ImageLabel)

    def test_shards_are_planes(self, store: LabelStore) -> None:
        array = store.array
        assert array.dtype == np.uint32 and array.fill_value == 0
        assert array.chunks == (1, 512, 512) and array.shards == (1, 1024, 1024)
        assert array.metadata.dimension_names == ("t", "y", "x")

    def test_small_and_huge_planes(self, tmp_path: Path) -> None:
        small = LabelStore.create(tmp_path / "small", shape=(30, 40), calibration=Calibration("YX"))
        assert small.array.chunks == small.array.shards == (30, 40)
        huge = LabelStore.create(tmp_path / "huge", shape=(20000, 100), calibration=Calibration("YX"))
        assert huge.array.chunks == (512, 100) and huge.array.shards == (8192, 100)
        huge.write(patch_of(3, index=(), row0=0, side=50))
        tall = paint_object(huge, np.ones((20000, 100), dtype=bool), label_id=9)
        assert tall is not None
        huge.write(tall)
        assert sorted(shards_of(huge.path)) == ["c/0/0", "c/1/0", "c/2/0"]
        assert (np.asarray(huge.array) == 9).all()

    @settings(max_examples=25, deadline=None)
    @given(calibration=calibrations())
    def test_calibration_comes_back(
        self, calibration: Calibration, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("calibration") / "s"
        shape = tuple(range(3, 3 + len(calibration.axes)))
        LabelStore.create(path, shape=shape, calibration=calibration).close()
        opened = LabelStore.open(path, read_only=True)
        assert opened.calibration == calibration and opened.shape == shape

    def test_axes_that_the_format_cannot_hold(self, path: Path) -> None:
        with pytest.raises(AxesError, match=r"'ZTYX'.*reorder"):
            LabelStore.create(path, shape=(2, 2, 8, 8), calibration=Calibration("ZTYX"))
        assert list(path.parent.iterdir()) == []
        with pytest.raises(AxesError, match="do not fit"):
            LabelStore.create(path, shape=(8, 8), calibration=STACK)
        with pytest.raises(StoreError, match="at least one pixel"):
            LabelStore.create(path, shape=(0, 8, 8), calibration=STACK)

    def test_a_single_plane_is_stored_as_such(self, path: Path) -> None:
        with LabelStore.create(path, shape=(30, 40), calibration=Calibration("YX")) as flat:
            flat.write(patch_of(2, index=(), row0=5))
            assert flat.array.shape == (30, 40)
        assert open_ome_zarr(path).axes == "YX"

    def test_provenance(self, store: LabelStore) -> None:
        kept = store.provenance
        assert kept["source"] == {"path": "movie.tif"} and kept["schema"] == 1
        assert kept["versions"]["zarr"] == zarr.__version__


class TestCommits:
    def test_only_the_shard_of_the_plane_is_written(self, store: LabelStore, path: Path) -> None:
        for plane in range(3):
            store.write(patch_of(plane + 1, index=(plane,)))
        before = shards_of(path)
        store.write(patch_of(9, index=(1,), row0=300))
        after = shards_of(path)
        assert set(before) == set(after) == {"c/0/0/0", "c/1/0/0", "c/2/0/0"}
        assert {key for key in before if before[key] != after[key]} == {"c/1/0/0"}

    def test_the_ledger_says_how(self, store: LabelStore) -> None:
        note = {"model": "m", "sha256": "ab", "window": np.float32([0, 1]), "at": Path("x"), "n": np.int64(3)}
        store.write(patch_of(5, index=(2,)), note=note)
        store.write(patch_of(5, index=(2,)).reversed())
        first, second = store.records()
        assert (first.number, first.index, first.box, first.labels) == (1, (2,), (10, 10, 30, 30), (5,))
        assert first.note == {"model": "m", "sha256": "ab", "window": [0, 1], "at": "x", "n": 3}
        assert (second.number, second.labels, second.highest) == (2, (), 5)

    def test_a_note_that_is_no_json_changes_nothing(self, store: LabelStore) -> None:
        with pytest.raises(StoreError, match="note of a commit must be JSON"):
            store.write(patch_of(5), note={"model": object()})
        assert not np.asarray(store.array[0]).any() and store.records() == []

    def test_reopened_it_is_the_same(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(5))
        store.close()
        with LabelStore.open(path) as again:
            assert again.read((0,), (slice(10, 12), slice(10, 11))).tolist() == [[5], [5]]
            again.write(patch_of(6, index=(3,)))
            assert [commit.number for commit in again.records()] == [1, 2]

    def test_labels_painted_by_hand_count_too(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(5))
        store.array[0, :3, :3] = 70  # napari's brush writes to the array itself
        assert store.next_label() == 71
        store.array[0, :3, :3] = 90
        store.write(patch_of(6))  # the same shard
        store.array[2, :3, :3] = 80
        store.close()
        assert LabelStore.open(path, read_only=True).next_label() == 91

    def test_undone_ids_are_not_used_again(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(5))
        store.write(patch_of(5).reversed())
        store.close()
        assert LabelStore.open(path, read_only=True).next_label() == 6

    def test_two_threads(self, store: LabelStore) -> None:
        def work(offset: int) -> None:
            for step in range(8):
                store.write(patch_of(offset + step, row0=offset + 20 * step, side=10))

        threads = [threading.Thread(target=work, args=(offset,)) for offset in (1, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.records()) == 16
        assert len(np.unique(store.array[0])) == 17  # one shard, and no write lost


class TestPyramid:
    def test_every_second_pixel(self, store: LabelStore, path: Path) -> None:
        rng = np.random.default_rng(3)
        full = rng.integers(0, 2**32, SHAPE, dtype=np.uint32)
        full[1] = 0
        store.array[:] = full
        store.build_pyramid(levels=4)
        opened = open_ome_zarr(path)
        assert len(opened.levels) == 4 and opened.calibration == STACK
        for level, array in enumerate(opened.levels):
            assert np.array_equal(np.asarray(array), full[:, :: 2**level, :: 2**level])

    def test_as_many_as_are_useful(self, store: LabelStore, path: Path) -> None:
        store.build_pyramid()
        assert [array.shape for array in open_ome_zarr(path).levels] == [SHAPE, (4, 300, 350)]

    def test_a_commit_drops_levels_that_would_lie(self, store: LabelStore, path: Path) -> None:
        store.build_pyramid(levels=3)
        store.write(patch_of(1))
        assert len(open_ome_zarr(path).levels) == 1 and not (path / "1").exists()
        assert store.provenance["source"] == {"path": "movie.tif"}
        store.build_pyramid(levels=2)
        assert np.asarray(open_ome_zarr(path).levels[1]).max() == 1


class TestInsideAnImage:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        from yaozarrs import DimSpec, v05
        from yaozarrs.write.v05 import write_image

        path = tmp_path / "image.ome.zarr"
        dims = [DimSpec(name=name, size=40) for name in "yx"]
        metadata = v05.Image(multiscales=[v05.Multiscale.from_dims(dims)])
        write_image(path, metadata, np.zeros((40, 40), dtype=np.uint16))
        return path

    def test_labels_join_those_that_are_there(self, image: Path) -> None:
        for name in ("cells", "nuclei"):
            with LabelStore.create(image, shape=(40, 40), calibration=Calibration("YX"), name=name) as store:
                store.write(patch_of(len(name), index=()))
                assert store.path == image / "labels" / name
        yaozarrs.validate_zarr_store(str(image))
        listed = json.loads((image / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"]
        assert listed == ["cells", "nuclei"]
        assert open_ome_zarr(image).dtype == np.uint16  # the image is as it was
        assert LabelStore.open(image, name="nuclei", read_only=True).max_label() == 6
        assert np.asarray(read_labels(image, name="cells").data).max() == 5
        with pytest.raises(StoreError, match=r"\['cells', 'nuclei'\]"):
            LabelStore.open(image)
        with pytest.raises(StoreError, match="exists"):
            LabelStore.create(image, shape=(40, 40), calibration=Calibration("YX"), name="cells")

    def test_the_only_one_needs_no_name(self, image: Path) -> None:
        LabelStore.create(image, shape=(40, 40), calibration=Calibration("YX"), name="cells").close()
        assert LabelStore.open(image, read_only=True).path.name == "cells"

    def test_not_in_an_image_of_the_older_format(self, tmp_path: Path) -> None:
        zarr.open_group(str(tmp_path / "old.zarr"), mode="w", zarr_format=2)
        with pytest.raises(StoreError, match=r"is OME-Zarr 0\.4"):
            LabelStore.create(tmp_path / "old.zarr", shape=(4, 4), calibration=Calibration("YX"))


class TestNothingIsOverwritten:
    def test_folders_of_others(self, path: Path) -> None:
        path.mkdir()
        (path / "thesis.docx").write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="never replaced"):
                LabelStore.create(path, shape=SHAPE, calibration=STACK, overwrite=overwrite)
        assert (path / "thesis.docx").read_text() == "years of work"

    def test_files(self, path: Path) -> None:
        path.write_text("not a folder")
        with pytest.raises(StoreError, match="never replaced"):
            LabelStore.create(path, shape=SHAPE, calibration=STACK, overwrite=True)

    def test_stores_only_when_asked(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(1))
        store.close()
        with pytest.raises(StoreError, match="overwrite=True"):
            LabelStore.create(path, shape=SHAPE, calibration=STACK)
        with LabelStore.create(path, shape=(8, 9), calibration=Calibration("YX"), overwrite=True) as new:
            assert new.shape == (8, 9) and new.max_label() == 0 and new.records() == []
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_an_empty_folder_is_free(self, path: Path) -> None:
        path.mkdir()
        with LabelStore.create(path, shape=SHAPE, calibration=STACK) as store:
            assert store.array.shape == SHAPE


class TestTrouble:
    def test_a_torn_last_line_is_ignored_and_repaired(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(1))
        store.close()
        ledger = path / "segany" / "ledger.jsonl"
        whole = ledger.read_bytes()
        ledger.write_bytes(whole + whole[: len(whole) // 2])
        assert len(LabelStore.open(path, read_only=True).records()) == 1
        with LabelStore.open(path) as again:
            again.write(patch_of(2))
            assert [commit.labels for commit in again.records()] == [(1,), (2,)]

    def test_a_damaged_line_in_the_middle(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(1))
        store.close()
        ledger = path / "segany" / "ledger.jsonl"
        ledger.write_bytes(b'{"number": 1}\n' + ledger.read_bytes())
        with pytest.raises(StoreError, match=r"line 1 of .*ledger\.jsonl is damaged"):
            LabelStore.open(path)

    @pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json"])
    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"{}", b'{"zarr_format": 3, "node_type": "group"}', b"\xff"]
    )
    def test_damaged_metadata(self, store: LabelStore, path: Path, file: str, content: bytes) -> None:
        store.close()
        (path / file).write_bytes(content)
        with pytest.raises(StoreError, match="restore"):
            LabelStore.open(path)
        (path / file).unlink()
        with pytest.raises(StoreError, match="restore"):
            LabelStore.open(path)

    def test_no_store(self, tmp_path: Path, path: Path) -> None:
        with pytest.raises(StoreError, match="there is no"):
            LabelStore.open(tmp_path / "nowhere")
        with pytest.raises(StoreError, match="not made by this package"):
            LabelStore.open(tmp_path)

    def test_leftovers_are_swept(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(1))
        store.close()
        leftover = path / "0" / "c" / "0" / "0" / "0.abc.partial"
        leftover.write_bytes(b"half a shard")
        assert LabelStore.open(path, read_only=True).max_label() == 1
        assert leftover.exists()
        LabelStore.open(path).close()
        assert not leftover.exists()

    def test_a_disk_that_fills_up(self, store: LabelStore) -> None:
        resource = pytest.importorskip("resource", reason="limits on file sizes are POSIX")
        store.write(patch_of(1))
        noise = np.random.default_rng(0).integers(1, 2**32, SHAPE[1:], dtype=np.uint32)
        big = LabelPatch(index=(0,), row0=0, col0=0, before=np.zeros_like(noise), after=noise)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(StoreError, match=r"commit 2 .* the 1 before it are kept"):
                store.write(big)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert np.asarray(store.array[0]).sum() == 400
        store.write(big)
        assert np.array_equal(store.array[0], noise)

    def test_a_full_disk_is_named(self, store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(ledger_module.Ledger, "append", full)
        with pytest.raises(StoreError, match="disk is full; free some space"):
            store.write(patch_of(1))
        monkeypatch.undo()
        assert not np.asarray(store.array[0]).any()  # a commit is in both, or in neither
        assert store.records() == []
        store.write(patch_of(1))

    @pytest.mark.parametrize("times", [3, 50])
    def test_files_that_others_hold_for_a_moment(
        self, store: LabelStore, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        real, calls = store.array, []

        class Held:
            shards, shape = real.shards, real.shape

            def __getitem__(self, key: object) -> object:
                return real[key]

            def __setitem__(self, key: object, value: object) -> None:
                calls.append(key)
                if len(calls) <= times:
                    raise PermissionError(errno.EACCES, "held by a virus scanner")
                real[key] = value

        monkeypatch.setattr(store, "array", Held())
        monkeypatch.setattr("napari_segany.io.label_store._FIRST_WAIT", 0.001)
        if times == 3:
            store.write(patch_of(1))
            assert len(calls) == 4 and np.asarray(real[0]).sum() == 400
        else:
            with pytest.raises(StoreError, match="no permission to write"):
                store.write(patch_of(1))
            assert store.records() == []

    def test_a_folder_that_may_only_be_read(
        self, store: LabelStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write(patch_of(4))
        store.close()
        real = os.open

        def refuse(file: str | Path, flags: int, *rest: int) -> int:  # chmod does not stop root
            if flags & (os.O_RDWR | os.O_WRONLY):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return real(file, flags, *rest)

        monkeypatch.setattr(ledger_module.os, "open", refuse)
        with pytest.raises(StoreError, match="read_only=True"):
            LabelStore.open(path)
        seen = LabelStore.open(path, read_only=True)
        assert seen.max_label() == 4 and not seen.is_writable
        with pytest.raises(StoreError, match="opened with read_only=True"):
            seen.write(patch_of(5))
        with pytest.raises(ValueError, match="read-only"):
            seen.array[0, 0, 0] = 1

    def test_one_writer_at_a_time(self, store: LabelStore, path: Path) -> None:
        with pytest.raises(StoreError, match=f"being written by process {os.getpid()}"):
            LabelStore.open(path)
        with pytest.raises(StoreError, match="being written"):
            LabelStore.create(path, shape=SHAPE, calibration=STACK, overwrite=True)
        store.close()
        with pytest.raises(StoreError, match="was closed"):
            store.write(patch_of(1))
        LabelStore.open(path).close()

    def test_a_store_that_was_moved_away(self, store: LabelStore, path: Path) -> None:
        store.write(patch_of(1))
        path.rename(path.with_name("moved"))
        with pytest.raises(StoreError, match="moved or deleted"):
            store.write(patch_of(2))
        assert not path.exists()
        store.close()
        assert LabelStore.open(path.with_name("moved"), read_only=True).max_label() == 1


class TestExport:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.uint32])
    def test_labels_of_every_kind(self, path: Path, dtype: type) -> None:
        labels = np.zeros((2, 30, 40), dtype=dtype)
        labels[1, 3:9, 5:7] = 1
        assert write_labels_ome_zarr(path, labels, calibration=STACK) == path
        opened = read_labels(path)
        assert opened.dtype == np.uint32 and opened.calibration == STACK
        assert np.array_equal(np.asarray(opened.data), labels)
        yaozarrs.validate_zarr_store(str(path))
        with LabelStore.open(path) as store:
            assert store.next_label() == 2

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.full((3, 4), -1), "got -1 to -1"),
            (np.full((3, 4), 2**32), "4294967296"),
            (np.ones((3, 4)), "float64"),
        ],
    )
    def test_what_are_no_labels(self, path: Path, labels: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            write_labels_ome_zarr(path, labels, calibration=Calibration("YX"))
