"""The window that `segany demo` ends in: a picture, its labels over it, and the dock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManager, PluginManifest
from skimage.io import imsave

import napari_segany
from napari_segany.core.axes import Calibration
from napari_segany.core.masks import LabelPatch
from napari_segany.io.label_store import LabelStore
from napari_segany.ui import show


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    image, labels = tmp_path / "cell.png", tmp_path / "cell.ome.zarr"
    imsave(image, np.zeros((40, 50), np.uint8), check_contrast=False)
    with LabelStore.create(labels, shape=(40, 50), calibration=Calibration("YX")) as store:
        before = np.zeros((5, 5), np.uint32)
        store.write(LabelPatch(row0=10, col0=20, before=before, after=before + 3))
    return str(image), str(labels)


@pytest.fixture
def plugin() -> Iterator[str]:
    """Make napari know the plugin where it is not installed, for this test only."""
    manager = PluginManager.instance()
    manager.discover(include_npe1=True)
    if show.PLUGIN in manager:
        yield show.PLUGIN
        return
    manifest = Path(str(napari_segany.__file__)).with_name("napari.yaml")
    # Viewers of earlier tests still listen and would all add it to one menu; the next viewer asks by itself.
    with manager.events.plugins_registered.blocked():
        manager.register(PluginManifest.from_file(manifest))
    yield show.PLUGIN
    manager.unregister(show.PLUGIN)


@pytest.mark.canvas
def test_picture_labels_and_dock(
    files: tuple[str, str],
    plugin: str,
    make_napari_viewer: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(show.napari, "Viewer", make_napari_viewer)
    viewer = show.show(*files)
    image, labels = viewer.layers
    assert image.data.shape == labels.data.shape == (40, 50)
    assert np.asarray(labels.data)[12, 22] == 3
    assert any(show.WIDGET in name for name in viewer.window.dock_widgets)
