"""`segany demo` with the bundled model: the files are there, and the masks are of what was clicked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from scipy import ndimage
from skimage.io import imread

from napari_segany.cli import demo as demo_module
from napari_segany.cli import main
from napari_segany.core.masks import mask_iou
from napari_segany.io.label_store import LabelStore


def _labels(path: Path) -> np.ndarray:
    with LabelStore.open(path, read_only=True) as store:
        return np.asarray(store.array[:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(out), "--no-window"]) == 0
    return out


def test_the_cell_is_found(folder: Path) -> None:
    image = skimage.data.cell()
    parts, _ = ndimage.label(ndimage.binary_fill_holes(image > 115))
    cell = parts == parts[374, 427]
    assert 10_000 < cell.sum() < 16_000  # the reference itself is the bright disc
    assert mask_iou(_labels(folder / "cell.ome.zarr") == 1, cell) > 0.8


def test_the_gland_and_nuclei_are_found(folder: Path) -> None:
    labels = _labels(folder / "immunohistochemistry.ome.zarr")
    assert labels.shape == (512, 512)
    gland = np.zeros(labels.shape, dtype=bool)
    rows, cols = np.indices(labels.shape)
    gland[((rows - 405) / 103) ** 2 + ((cols - 318) / 62) ** 2 < 1] = True  # about where it is
    assert mask_iou(labels == 1, gland) > 0.6
    nuclei = [int((labels == i).sum()) for i in range(2, labels.max() + 1)]
    assert len(nuclei) >= 4
    assert 30 < np.median(nuclei) < 1500


def test_the_picture_is_grey_with_a_coloured_cell(folder: Path) -> None:
    overlay = imread(folder / "cell-overlay.png").astype(int)
    labels = _labels(folder / "cell.ome.zarr")
    is_coloured = np.ptp(overlay, axis=-1) > 0
    np.testing.assert_array_equal(is_coloured, labels > 0)


def test_it_says_where_and_can_be_run_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(folder), "--no-window"]) == 0
    printed = capsys.readouterr().out
    assert str(folder / "cell-overlay.png") in printed
    assert "napari" not in printed


def test_without_a_display_no_window_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(demo_module.sys, "platform", "linux")
    monkeypatch.setattr(demo_module, "_segment", lambda *_, **__: None)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert "no display" in capsys.readouterr().out


def test_with_a_display_a_window_opens_on_the_first_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[list[str]] = []

    class Done:
        returncode = 0

    def run(words: list[str], **_: object) -> Done:
        calls.append(words)
        return Done()

    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setattr(demo_module, "_segment", lambda *_, **__: None)
    monkeypatch.setattr(demo_module.subprocess, "run", run)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    (words,) = calls
    assert words[1:3] == ["-m", "napari_segany.ui.show"]
    assert words[3:] == [str(tmp_path / "cell.png"), str(tmp_path / "cell.ome.zarr")]
