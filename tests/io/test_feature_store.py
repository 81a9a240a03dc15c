from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.io import feature_loop
from tests.io.feature_loop import entry_of, is_whole, key_of

import napari_segany
from napari_segany.core.errors import ImageError, StoreError
from napari_segany.core.identity import FeatureKey, image_fingerprint
from napari_segany.core.types import PackedFeatures
from napari_segany.io.features import FeatureStore

SOURCE = Path(napari_segany.__file__).parents[1]
ON_DISK = settings(max_examples=30, deadline=None)  # every entry waits for the disk, which others use too
ANYTHING = hnp.arrays(
    st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes()),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
_ENDS = st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.builds(
    FeatureKey,
    image=st.text(max_size=3),
    plane=st.lists(st.integers(0, 2), max_size=2).map(tuple),
    window=st.tuples(_ENDS, _ENDS),
    model=st.text(max_size=3),
    weights=st.text(max_size=3),
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "made" / "features")


def files_of(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("*.features"))


def sized(count: int) -> PackedFeatures:
    """An entry that takes `count` bytes and a header of equal length for all."""
    return {"a": np.zeros(count, dtype=np.uint8)}, {}


def keep(store: FeatureStore, n: int, packed: PackedFeatures, *, at: int) -> None:
    """Put an entry and set when it was used last, in seconds: clocks tick too slowly for a test."""
    assert store.put(key_of(n), packed)
    os.utime(store.folder / f"{key_of(n).digest()}.features", (at, at))


class TestKeys:
    @given(KEYS, KEYS)
    def test_names_are_equal_where_keys_are(self, one: FeatureKey, other: FeatureKey) -> None:
        assert (one == other) == (one.digest() == other.digest())

    @given(KEYS, st.sampled_from(["image", "plane", "low", "high", "model", "weights"]))
    def test_every_field_counts(self, key: FeatureKey, field: str) -> None:
        low, high = key.window
        other = {
            "image": lambda: replace(key, image=key.image + "0"),
            "plane": lambda: replace(key, plane=(*key.plane, 0)),
            "low": lambda: replace(key, window=(np.nextafter(low, 0) if low else 5e-324, high)),
            "high": lambda: replace(key, window=(low, np.nextafter(high, 0) if high else 5e-324)),
            "model": lambda: replace(key, model=key.model + "-lm"),
            "weights": lambda: replace(key, weights=key.weights + "0"),
        }[field]()
        assert other != key and other.digest() != key.digest()

    def test_fields_do_not_run_into_each_other(self) -> None:
        one = FeatureKey("a", (1, 2), (0, 1), "bc", "d")
        for other in (
            replace(one, model="b", weights="cd"),
            replace(one, plane=(12,)),
            replace(one, image='a", "model": "bc'),
        ):
            assert other.digest() != one.digest()

    def test_numbers_of_any_type_are_the_same_key(self) -> None:
        one = FeatureKey("a", (1,), (0, 255), "m", "w")
        other = FeatureKey("a", (np.int64(1),), (np.float32(-0.0), np.uint8(255)), "m", "w")  # type: ignore[arg-type]
        assert one == other and one.digest() == other.digest()

    def test_a_window_is_finite(self) -> None:
        with pytest.raises(ImageError, match="finite"):
            FeatureKey("a", (), (0, np.inf), "m", "w")


class TestFingerprints:
    @given(hnp.arrays(st.sampled_from([np.uint8, np.uint16, np.float32]), (3, 4)), st.integers(0, 11))
    def test_every_pixel_counts(self, plane: np.ndarray, at: int) -> None:
        other = plane.copy()
        other.view(f"u{plane.itemsize}").flat[at] ^= 1
        assert image_fingerprint(other) != image_fingerprint(plane)
        assert image_fingerprint(plane.copy()) == image_fingerprint(plane)

    def test_shape_and_dtype_count(self) -> None:
        plane = np.zeros((4, 6), dtype=np.uint16)
        others = (plane.reshape(6, 4), plane.view(np.int16), plane[None], plane.astype(np.uint8).repeat(2))
        assert image_fingerprint(plane) not in {image_fingerprint(other) for other in others}

    def test_memory_order_does_not(self) -> None:
        plane = np.arange(60, dtype=np.float32).reshape(6, 10)
        assert image_fingerprint(np.asfortranarray(plane)) == image_fingerprint(plane)
        assert image_fingerprint(plane[::2, ::3]) == image_fingerprint(plane[::2, ::3].copy())

    def test_objects_have_no_bytes(self) -> None:
        with pytest.raises(ImageError, match="object"):
            image_fingerprint(np.array([[None]]))


class TestRoundTrip:
    @ON_DISK
    @given(st.dictionaries(st.text(max_size=4), ANYTHING, max_size=3))
    def test_any_arrays_come_back(self, arrays: dict[str, np.ndarray]) -> None:
        description: dict[str, object] = {"source": [3, 4.5], "none": None, "name": "é"}
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureStore(folder)
            assert store.put(key_of(1), (arrays, description))
            found = FeatureStore(folder).get(key_of(1))
        assert found is not None and found[1] == description and found[0].keys() == arrays.keys()
        for name, array in arrays.items():
            got = found[0][name]
            assert got.dtype == array.dtype and got.shape == array.shape and got.flags.writeable
            assert_rounded(got, array)

    def test_floats_take_half_the_space_unless_they_are_too_large(self, store: FeatureStore) -> None:
        values = np.linspace(-60000, 60000, 10_000, dtype=np.float32)
        store.put(key_of(1), ({"a": values}, {}))
        assert 20_000 < store.nbytes < 21_000
        values[0] = 7e4
        store.put(key_of(1), ({"a": values}, {}))
        assert 40_000 < store.nbytes < 41_000
        found = store.get(key_of(1))
        assert found is not None and np.array_equal(found[0]["a"], values)

    def test_what_is_no_number_is_refused(self, store: FeatureStore) -> None:
        with pytest.raises(StoreError, match="'a' has dtype object"):
            store.put(key_of(1), ({"a": np.array([None])}, {}))
        with pytest.raises(StoreError, match="JSON"):
            store.put(key_of(1), ({}, {"a": object()}))
        assert store.is_writing and len(store) == 0

    def test_other_keys_are_absent(self, store: FeatureStore) -> None:
        store.put(key_of(1), entry_of(1))
        assert key_of(1) in store and key_of(2) not in store
        assert store.get(replace(key_of(1), weights="1" * 64)) is None

    def test_the_last_put_counts(self, store: FeatureStore) -> None:
        store.put(key_of(1), entry_of(2))
        store.put(key_of(1), entry_of(1))
        found = store.get(key_of(1))
        assert found is not None and is_whole(1, found) and len(store) == 1


def assert_rounded(got: np.ndarray, array: np.ndarray) -> None:
    """Floats within half a step of float16 (11 bits, 2**-24 near zero); everything else equal."""
    if array.dtype.kind != "f" or array.itemsize == 2:
        assert got.tobytes() == np.ascontiguousarray(array).tobytes()
        return
    assert np.array_equal(np.isnan(got), np.isnan(array)) and np.array_equal(np.isinf(got), np.isinf(array))
    finite = np.isfinite(array)
    bound = np.maximum(np.abs(array[finite]) * 2.0**-11, 2.0**-25)
    assert (np.abs(got[finite] - array[finite]) <= bound).all()
    assert (np.sign(got[np.isinf(got)]) == np.sign(array[np.isinf(array)])).all()


class TestLimit:
    def test_the_one_unused_for_longest_goes(self, tmp_path: Path) -> None:
        store = FeatureStore(tmp_path, max_bytes=35_000)
        for n in range(3):
            keep(store, n, sized(10_000), at=100 + n)
        assert store.get(key_of(0)) is not None  # used now
        assert store.put(key_of(3), sized(10_000))
        assert [key_of(n) in store for n in range(4)] == [True, False, True, True]
        assert store.nbytes <= 35_000 and len(store) == 3

    def test_replacing_an_entry_drops_no_other(self, tmp_path: Path) -> None:
        store = FeatureStore(tmp_path, max_bytes=25_000)
        keep(store, 0, sized(10_000), at=100)
        keep(store, 1, sized(10_000), at=101)
        assert store.put(key_of(1), sized(11_000)) and key_of(0) in store

    def test_what_is_larger_than_the_limit_is_not_kept(self, tmp_path: Path) -> None:
        store = FeatureStore(tmp_path, max_bytes=10_000)
        keep(store, 0, sized(5_000), at=100)
        assert not store.put(key_of(1), sized(10_000))
        assert key_of(0) in store and store.is_writing

    @ON_DISK
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4000)), max_size=12))
    def test_never_above(self, puts: list[tuple[int, int]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureStore(folder, max_bytes=6000)
            for n, size in puts:
                assert store.put(key_of(n), sized(size)) and key_of(n) in store
                assert store.nbytes <= 6000

    def test_a_smaller_limit_than_before(self, tmp_path: Path) -> None:
        for n in range(5):
            keep(FeatureStore(tmp_path), n, sized(1000), at=100 + n)
        assert FeatureStore(tmp_path, max_bytes=3000).put(key_of(9), sized(1000))
        assert FeatureStore(tmp_path).nbytes <= 3000

    def test_nonsense(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="max_bytes"):
            FeatureStore(tmp_path, max_bytes=-1)

    def test_clear_leaves_other_files(self, store: FeatureStore) -> None:
        for n in range(3):
            store.put(key_of(n), entry_of(n))
        (store.folder / "notes.txt").write_text("mine")
        (store.folder / "half.features.1-ab.partial").write_bytes(b"half")
        store.clear()
        assert len(store) == 0 and store.nbytes == 0 and store.get(key_of(1)) is None
        assert [file.name for file in store.folder.iterdir()] == ["notes.txt"]

    def test_nothing_is_made_before_the_first_write(self, store: FeatureStore) -> None:
        assert store.get(key_of(1)) is None and len(store) == 0 and store.nbytes == 0
        store.clear()
        assert not store.folder.exists()


class TestDamage:
    @pytest.mark.parametrize(
        "harm",
        [
            lambda content: b"",
            lambda content: content[:5],
            lambda content: content[: len(content) // 2],
            lambda content: content[:-1],
            lambda content: content + b"\0",
            lambda content: b"segany0\n" + content[8:],
            lambda content: bytes(len(content)),
        ],
        ids=["empty", "magic", "half", "last byte", "longer", "version", "zeros"],
    )
    def test_is_absent_removed_and_told(
        self, store: FeatureStore, harm: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        store.put(key_of(1), entry_of(1))
        (file,) = files_of(store)
        file.write_bytes(harm(file.read_bytes()))
        with caplog.at_level(logging.WARNING):
            assert store.get(key_of(1)) is None
        assert file.name in caplog.text and not file.exists()
        assert store.put(key_of(1), entry_of(1)) and store.get(key_of(1)) is not None

    def test_any_flipped_bit_is_found(self, store: FeatureStore) -> None:
        store.put(key_of(1), ({"a": np.arange(9, dtype=np.int16)}, {"b": 1}))
        (file,) = files_of(store)
        whole = file.read_bytes()
        for at in range(len(whole)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            assert store.get(key_of(1)) is None, at

    def test_a_file_under_another_name_is_not_believed(self, store: FeatureStore) -> None:
        store.put(key_of(1), entry_of(1))
        (file,) = files_of(store)
        file.rename(store.folder / f"{key_of(2).digest()}.features")
        assert store.get(key_of(2)) is None and len(store) == 0


class TestTrouble:
    def test_a_full_disk_ends_writing_with_one_warning(
        self, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.put(key_of(1), entry_of(1))

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with caplog.at_level(logging.WARNING):
            assert not any(store.put(key_of(n), entry_of(n)) for n in range(2, 5))
        assert len(caplog.records) == 1 and "No space left" in caplog.text
        assert not store.is_writing and store.get(key_of(1)) is not None
        assert len(list(store.folder.iterdir())) == 1  # nothing half
        monkeypatch.undo()
        store.clear()
        assert store.put(key_of(2), entry_of(2))

    def test_a_file_size_limit_of_the_system(self, store: FeatureStore) -> None:
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            assert not store.put(key_of(1), entry_of(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not store.is_writing and list(store.folder.iterdir()) == []

    def test_a_folder_that_cannot_be(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")
        store = FeatureStore(tmp_path / "file" / "features")
        with caplog.at_level(logging.WARNING):
            assert not store.put(key_of(1), entry_of(1)) and not store.put(key_of(1), entry_of(1))
        assert len(caplog.records) == 1 and len(store) == 0
        assert store.get(key_of(1)) is None

    def test_a_folder_that_one_may_only_read(self, store: FeatureStore) -> None:
        store.put(key_of(1), entry_of(1))
        store.folder.chmod(0o500)
        try:
            if os.access(store.folder, os.W_OK):
                pytest.skip("this user may write anywhere")
            assert not store.put(key_of(2), entry_of(2))
            found = store.get(key_of(1))
            assert found is not None and is_whole(1, found)
            with pytest.raises(StoreError, match="cannot remove"):
                store.clear()
        finally:
            store.folder.chmod(0o700)

    def test_an_entry_that_cannot_be_read_is_told_once(
        self, store: FeatureStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        for n in range(3):
            store.put(key_of(n), entry_of(n))
        for file in files_of(store):
            file.unlink()
            file.mkdir()  # reading a folder is an error also for those who may read anything
        with caplog.at_level(logging.WARNING):
            assert [store.get(key_of(n)) for n in range(3)] == [None] * 3
        assert len(caplog.records) == 1 and "cannot read" in caplog.text

    def test_a_folder_that_disappears_is_made_again(self, store: FeatureStore) -> None:
        store.put(key_of(1), entry_of(1))
        for file in files_of(store):
            file.unlink()
        store.folder.rmdir()
        assert store.put(key_of(2), entry_of(2)) and len(store) == 1


def start(store: Path, *, limit: int, first: int, stop: int) -> subprocess.Popen[str]:
    """Start a process that stores the entries from `first` to `stop`."""
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.io.feature_loop",
            store,
            str(limit),
            str(first),
            str(stop),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(feature_loop.__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )


class TestProcesses:
    def test_two_write_at_once_the_same_entries(self, tmp_path: Path) -> None:
        limit, stop = 2_000_000, 40
        both = [start(tmp_path, limit=limit, first=0, stop=stop) for _ in range(2)]
        reader, seen = FeatureStore(tmp_path, max_bytes=limit), 0
        while any(process.poll() is None for process in both):
            for n in range(stop):
                found = reader.get(key_of(n))
                assert found is None or is_whole(n, found)
                seen += found is not None
        for process in both:
            said, problems = process.communicate()
            assert process.returncode == 0 and not problems
            assert [line.split()[1] for line in said.splitlines()] == ["1"] * stop
        assert seen > 0 and 0 < reader.nbytes <= limit
        assert not list(tmp_path.glob("*.partial"))

    def test_kill_leaves_whole_entries_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        pause, first = random.Random(3), 0
        for _ in range(8):
            process = start(tmp_path, limit=10**9, first=first, stop=first + 300)
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line, process.stderr.read()
            time.sleep(pause.uniform(0, 0.08))
            process.kill()
            said = [int(each.split()[0]) for each in (line + process.stdout.read()).splitlines()]
            process.communicate()
            store = FeatureStore(tmp_path, max_bytes=10**9)
            for n in said:  # on disk when it was said
                found = store.get(key_of(n))
                assert found is not None and is_whole(n, found)
            cut = store.get(key_of(said[-1] + 1))
            assert cut is None or is_whole(said[-1] + 1, cut)
            assert len(store) == said[-1] + 1 + (cut is not None)
            first = said[-1] + 1
        assert not caplog.records  # nothing was found damaged
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)  # what the killed ones left is old by then
        assert store.put(key_of(0), entry_of(0))
        assert not list(tmp_path.glob("*.partial"))

    def test_a_young_partial_file_is_left_to_its_writer(self, store: FeatureStore) -> None:
        store.put(key_of(1), entry_of(1))
        partial = store.folder / "half.features.1-ab.partial"
        partial.write_bytes(b"half")
        store.put(key_of(2), entry_of(2))
        assert partial.exists() and len(store) == 2

    def test_threads_share_one_store(self, store: FeatureStore) -> None:
        problems: list[int] = []

        def work(seed: int) -> None:
            for n in np.random.default_rng(seed).integers(0, 4, 12):
                store.put(key_of(int(n)), entry_of(int(n)))
                found = store.get(key_of(int(n)))
                if found is None or not is_whole(int(n), found):
                    problems.append(int(n))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems and store.is_writing and len(store) <= 4
