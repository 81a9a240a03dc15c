from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import AxesError, ImageError, StoreError
from napari_segany.core.intensity import Window
from napari_segany.io.exports import colours_of, draw_overlay, outlines_of, save_picture, write_tiff_labels

LABELS = np.zeros((20, 30), dtype=np.uint32)
LABELS[4:10, 5:12] = 1
LABELS[4:10, 12:20] = 2


def test_tint_outline_and_background() -> None:
    image = np.full((20, 30), 100, dtype=np.uint16)
    picture = draw_overlay(image, LABELS, window=Window(0, 200), opacity=0.5)
    red, green = colours_of(np.array([1, 2], dtype=np.uint32)).astype(float)
    assert picture.dtype == np.uint8 and picture.shape == (20, 30, 3)
    assert (picture[LABELS == 0] == 128).all()
    assert np.array_equal(picture[4, 5], red) and np.array_equal(picture[6, 12], green)
    assert picture[6, 8] == pytest.approx((127.5 + red) / 2, abs=1)


def test_outlines_lie_inside_and_part_neighbours() -> None:
    edge = outlines_of(LABELS)
    assert not edge[LABELS == 0].any()
    assert edge[6, 11] and edge[6, 12] and not edge[6, 8]


def test_colours_differ_and_stay() -> None:
    ids = np.arange(1, 60, dtype=np.uint32)
    colours = colours_of(ids).astype(int)
    steps = np.abs(np.diff(colours, axis=0)).sum(axis=1)
    assert steps.min() > 100
    assert np.array_equal(colours_of(ids[7:8])[0], colours[7])


@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (5,)])
def test_any_number_of_channels(channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 4000, (20, 30, *channels)).astype(np.float32)
    picture = draw_overlay(image, np.zeros((20, 30), dtype=np.uint32))
    assert picture.shape == (20, 30, 3)
    assert (np.ptp(picture.astype(int), axis=-1).max() > 0) == (channels == (3,))


def test_planes_must_match() -> None:
    with pytest.raises(ImageError, match=r"image \(4, 5\), labels \(20, 30\)"):
        draw_overlay(np.zeros((4, 5)), LABELS)
    with pytest.raises(ImageError, match="one plane"):
        draw_overlay(np.zeros((2, 20, 30)), np.zeros((2, 20, 30), dtype=np.uint32))


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    picture = draw_overlay(np.zeros((20, 30)), LABELS)
    file = save_picture(tmp_path / "a.png", picture)
    assert np.array_equal(imread(file), picture)
    assert [left.name for left in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(StoreError, match="a folder that exists"):
        save_picture(tmp_path / "no" / "a.png", picture)


def test_labels_need_their_axes(tmp_path: Path) -> None:
    with pytest.raises(AxesError, match="do not fit"):
        write_tiff_labels(tmp_path / "a.tif", LABELS, calibration=Calibration("ZYX"))
