"""Fixtures for windows; the predictor is the sessions' fake."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "session"))

from session_fakes import FakePredictor

if sys.version_info < (3, 12):
    # PySide6 6.12.0 gives back references to None that it never took, four with every round of the event loop, until
    # the interpreter dies ("deallocating None"). Python 3.12 and later never count them; here we take some in advance.
    ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep labels of tests out of the user's data directory."""
    from napari_segany.ui import settings

    monkeypatch.setattr(settings, "data_folder", lambda: tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (96, 128), dtype=np.uint8)


@pytest.fixture
def desk(make_napari_viewer, qtbot, predictor, image) -> Iterator[object]:
    """A viewer with one image, shown."""
    from desks import open_desk

    desk = open_desk(make_napari_viewer, qtbot, predictor, image)
    yield desk
    desk.leave()
