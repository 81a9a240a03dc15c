"""What a killed process leaves behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.io import commit_loop

import napari_segany
from napari_segany.core.axes import Calibration
from napari_segany.core.errors import StoreError
from napari_segany.core.masks import slices_of
from napari_segany.io.label_store import LabelStore

SOURCE = Path(napari_segany.__file__).parents[1]
KILLS = 5


def start(store: Path) -> subprocess.Popen[str]:
    """Start the committing process and wait for its first commit."""
    process = subprocess.Popen(
        [sys.executable, commit_loop.__file__, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )
    return process


def replay(numbers: list[int]) -> np.ndarray:
    """Return what the commits leave when they are made one after another in memory."""
    labels = np.zeros(commit_loop.SHAPE, dtype=np.uint32)
    for n in numbers:
        index, box = commit_loop.place_of(n)
        labels[index + slices_of(box)] = n
    return labels


def test_kill_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "labels.ome.zarr"
    LabelStore.create(path, shape=commit_loop.SHAPE, calibration=Calibration("TYX")).close()
    pause = random.Random(11)
    noted: list[int] = []
    for _ in range(KILLS):
        process = start(path)
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        assert first, process.stderr.read()
        time.sleep(pause.uniform(0, 0.15))
        process.kill()
        said = [int(line) for line in (first + process.stdout.read()).splitlines()]
        process.wait()
        process.stdout.close()
        process.stderr.close()
        with LabelStore.open(path) as store:
            noted = [commit.note["n"] for commit in store.records()]
            assert set(said) <= set(noted)
            assert noted == list(range(1, len(noted) + 1))
            _check(store, noted)
            assert not list(path.rglob("*.partial"))
            commit_loop.commit(store, len(noted) + 1)  # work goes on where it stopped
            _check(store, [*noted, len(noted) + 1])
    assert len(noted) > KILLS


def _check(store: LabelStore, numbers: list[int]) -> None:
    """Compare the array with the ledger; pixels of the one commit that was cut short may be there, whole."""
    found = np.asarray(store.array)
    if not np.array_equal(found, replay(numbers)):
        assert np.array_equal(found, replay([*numbers, numbers[-1] + 1]))


def test_one_writer_at_a_time_in_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "labels.ome.zarr"
    LabelStore.create(path, shape=commit_loop.SHAPE, calibration=Calibration("TYX")).close()
    process = start(path)
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline()
        with pytest.raises(StoreError, match=f"being written by process {process.pid} on"):
            LabelStore.open(path)
        assert LabelStore.open(path, read_only=True).max_label() > 0
    finally:
        process.kill()
        process.communicate()
    LabelStore.open(path).close()
