"""A propagation that is killed, whose disk is full, or whose store is read-only: nothing that was painted is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.io import propagation_loop as loop

import napari_segany
from napari_segany.core.axes import Calibration
from napari_segany.core.errors import StoreError
from napari_segany.core.masks import ArrayLabels
from napari_segany.io.label_store import LabelStore
from napari_segany.session.volume import VolumeSession

SOURCE = Path(napari_segany.__file__).parents[1]
MOST_KILLS = 8


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    """The labels of a run that nobody interrupted."""
    labels = ArrayLabels(np.zeros(loop.SHAPE, dtype=np.uint32))
    session = VolumeSession(loop.source(), loop.Drifting(seconds=0), sink=labels)
    loop.begin(session)
    assert all((labels.array == i).any(axis=(1, 2)).all() for i in loop.BOXES)
    return labels.array


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "labels.ome.zarr"
    LabelStore.create(folder, shape=loop.SHAPE, calibration=Calibration("TYX")).close()
    return folder


def start(store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, loop.__file__, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )


def killed(store: Path, *, after: float) -> list[str]:
    """Run until a first frame is painted and some seconds more, kill, and return what was said to be painted."""
    process = start(store)
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.readline()
    assert first, process.stderr.read()
    time.sleep(after)
    process.kill()
    said = (first + process.stdout.read()).split()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    return said


def test_resumed_after_kills_it_ends_as_if_never_interrupted(path: Path, whole: np.ndarray) -> None:
    pause = random.Random(7)
    painted: set[int] = set()
    kills = 0
    for _ in range(MOST_KILLS):
        said = killed(path, after=pause.uniform(0.05, 0.3))
        kills += said[-1] != "end"
        painted |= {int(word) for word in said if word != "end"}
        with LabelStore.open(path, read_only=True) as store:
            found = np.asarray(store.array)
        for frame in range(len(whole)):
            is_whole, is_empty = np.array_equal(found[frame], whole[frame]), not found[frame].any()
            assert is_whole or (is_empty and frame not in painted), f"frame {frame} is torn"
        if said[-1] == "end":
            break
    assert kills >= 2
    predictor = loop.Drifting(seconds=0)
    with LabelStore.open(path) as store:
        session = VolumeSession(loop.source(), predictor, sink=store)
        known = {int(f) for f in np.flatnonzero(~np.isnan(session.track(1).scores))}
        assert painted <= known
        assert session.object_ids == tuple(loop.BOXES) and session.prompted(2) == {4}
        session.resume()
        assert np.array_equal(np.asarray(store.array), whole)
        assert predictor.worked_out == len(whole) - len(known)
        assert session.interrupted == () and not session.track(3).stale.any()


def test_a_frame_without_its_line_in_the_ledger_is_worked_out_again(path: Path, whole: np.ndarray) -> None:
    killed(path, after=0.1)
    ledger = next(path.rglob("ledger.jsonl"))
    *kept, _last, _ = ledger.read_bytes().split(b"\n")
    ledger.write_bytes(b"\n".join(kept) + b'\n{"torn')
    with LabelStore.open(path) as store:
        session = VolumeSession(loop.source(), loop.Drifting(seconds=0), sink=store)
        assert session.resume()
        assert np.array_equal(np.asarray(store.array), whole)


def test_undo_after_a_restart_is_not_offered_but_work_goes_on(path: Path, whole: np.ndarray) -> None:
    killed(path, after=0.05)
    with LabelStore.open(path) as store:
        session = VolumeSession(loop.source(), loop.Drifting(seconds=0), sink=store)
        assert session.undo_title is None and session.resume()
        assert session.undo_title == "propagate"


@pytest.mark.parametrize("n", [1, 7])
def test_a_full_disk_stops_with_a_clear_error_and_keeps_the_frames_before(
    path: Path, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    with LabelStore.open(path) as store:
        session = VolumeSession(loop.source(), loop.Drifting(seconds=0), sink=store)
        errors: list[Exception] = []
        session.failed.connect(errors.append)
        real, written = store._put, []

        def put(patch, labels):
            if len(written) == n:
                raise OSError(28, "No space left on device")
            written.append(patch.index)
            real(patch, labels)

        with monkeypatch.context() as full:
            full.setattr(store, "_put", put)
            loop.begin(session)
        (error,) = errors
        assert isinstance(error, StoreError) and "the disk is full" in str(error)
        found = np.asarray(store.array)
        for (frame,) in written:
            assert np.array_equal(found[frame], whole[frame])
        assert int(found.any(axis=(1, 2)).sum()) == n
        assert session.interrupted and session.resume()
        assert np.array_equal(np.asarray(store.array), whole) and len(errors) == 1
        assert session.undo() and session.undo()
        assert not np.asarray(store.array).any()


def test_a_read_only_store_says_so(path: Path) -> None:
    with LabelStore.open(path, read_only=True) as store:
        session = VolumeSession(loop.source(), loop.Drifting(seconds=0), sink=store)
        errors: list[Exception] = []
        session.failed.connect(errors.append)
        loop.begin(session)
        assert errors and all(isinstance(error, StoreError) for error in errors)
        assert "read_only" in str(errors[0]) and not np.asarray(store.array).any()


def test_undo_is_in_the_ledger_too(path: Path) -> None:
    with LabelStore.open(path) as store:
        session = VolumeSession(loop.source(), loop.Drifting(seconds=0), sink=store)
        loop.begin(session)
        session.rename(2, "two")
        session.undo()
        session.undo()
    predictor = loop.Drifting(seconds=0)
    with LabelStore.open(path) as store:
        session = VolumeSession(loop.source(), predictor, sink=store)
        assert np.isnan(session.track(1).scores).all() and session.track(2).name == ""
        assert session.prompted(1) == {4} and session.interrupted == ()
        session.propagate()
        assert predictor.worked_out == len(np.asarray(store.array)) - 1
