"""Fixtures for windows; the predictor is the sessions' fake."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "session"))

from session_fakes import FakePredictor


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep labels, features and wishes of tests out of the user's directories."""
    from napari_segany.ui import settings

    monkeypatch.setattr(settings, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setenv("SEGANY_CACHE", str(tmp_path / "cache"))
    settings.remember_fine(True)
    settings.remember_classes("")
    settings.remember_class_colours(False)
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
