"""Objects from distance maps: exact maps of drawn objects give the drawn objects back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from napari_segany.core.errors import ImageError, SettingsError
from napari_segany.core.masks import mask_iou
from napari_segany.predict.distances import (
    PRESETS,
    DistanceSettings,
    labels_of_distances,
    settings_of,
)

SHAPE = (96, 128)
TOUCHING = {1: (40, 40, 18), 2: (40, 74, 18), 3: (70, 57, 17)}
"""Discs (row, col, radius): all three touch, the first two overlap."""


def discs(where: dict[int, tuple[int, int, int]]) -> np.ndarray:
    """Return labels of discs; a pixel in two of them goes to the nearer centre."""
    rows, cols = np.indices(SHAPE)
    ids = np.array([0, *where])
    depth = np.stack([np.zeros(SHAPE), *(r - np.hypot(rows - y, cols - x) for y, x, r in where.values())])
    return ids[depth.argmax(axis=0)].astype(np.uint32)


def maps_of(labels: np.ndarray) -> np.ndarray:
    """Return the exact maps of labels: inverted distances to the boundary and from the centre, 1 outside."""
    maps = np.ones((3, *labels.shape), dtype=np.float32)
    maps[0] = labels > 0
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        rows, cols = np.nonzero(mask)
        away = np.hypot(rows - rows.mean(), cols - cols.mean())
        maps[1][mask] = away / away.max()
        maps[2][mask] = 1 - depth[mask] / depth.max()
    return maps


def match(found: np.ndarray, drawn: np.ndarray) -> list[float]:
    """Return for each drawn object the best IoU with a found one."""
    ids = np.unique(found[found > 0])
    return [
        max((mask_iou(found == i, drawn == label) for i in ids), default=0.0)
        for label in np.unique(drawn[drawn > 0])
    ]


def test_touching_discs_are_parted() -> None:
    drawn = discs(TOUCHING)
    assert ndimage.label(drawn > 0)[1] == 1  # the foreground alone does not part them
    found = labels_of_distances(maps_of(drawn))
    assert found.dtype == np.uint32
    assert sorted(np.unique(found)) == [0, 1, 2, 3]
    assert min(match(found, drawn)) > 0.95


def test_noise_is_smoothed_away() -> None:
    drawn = discs(TOUCHING)
    maps = maps_of(drawn) + np.random.default_rng(0).normal(0, 0.15, (3, *SHAPE)).astype(np.float32)
    found = labels_of_distances(maps, settings=DistanceSettings(smoothing=2.0))
    assert found.max() == 3
    assert min(match(found, drawn)) > 0.9
    unsmoothed = DistanceSettings(smoothing=0, foreground_smoothing=0)
    assert labels_of_distances(maps, settings=unsmoothed).max() > 20


def test_seeds_need_both_distances_and_foreground() -> None:
    drawn = discs({1: (40, 40, 18)})
    for channel, value in ((0, 0.0), (1, 1.0), (2, 1.0)):
        maps = maps_of(drawn)
        maps[channel] = value
        assert not labels_of_distances(maps).any(), channel


def test_small_objects_are_dropped_and_the_rest_is_counted_anew() -> None:
    drawn = discs({1: (20, 20, 6), 2: (50, 70, 20), 3: (80, 110, 12)})
    everything = labels_of_distances(maps_of(drawn))
    assert everything.max() == 3
    smallest, middle, _ = np.sort(np.bincount(everything.ravel())[1:])
    for min_size, count in ((int(smallest), 3), (int(smallest) + 1, 2), (int(middle) + 1, 1)):
        found = labels_of_distances(maps_of(drawn), settings=DistanceSettings(min_size=min_size))
        assert sorted(np.unique(found)) == list(range(count + 1))


def test_a_lower_centre_threshold_parts_more() -> None:
    maps = np.ones((3, *SHAPE), dtype=np.float32)
    bar = np.s_[40:60, 20:100]
    maps[0][bar], maps[2][bar] = 1, 0.2
    maps[1][bar] = 0.45 * np.cos(np.linspace(-np.pi, np.pi, 80)) ** 2  # 0.45 at the ends and in the middle
    for centre, count in ((0.5, 1), (0.3, 2)):
        assert labels_of_distances(maps, settings=DistanceSettings(centre=centre)).max() == count


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_maps(value: float) -> None:
    maps = np.full((3, *SHAPE), value, dtype=np.float32)
    assert not labels_of_distances(maps).any()
    maps[1:] = 0
    assert (labels_of_distances(maps) == (1 if value else 0)).all()


@pytest.mark.parametrize("shape", [SHAPE, (2, *SHAPE), (1, 3, *SHAPE)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"\(3, H, W\)"):
        labels_of_distances(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"centre": 0.0},
        {"boundary": 1.5},
        {"centre": math.nan},
        {"smoothing": -1.0},
        {"foreground_smoothing": math.inf},
        {"min_size": -5},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(SettingsError, match=rf"{name}.*{value}"):
        DistanceSettings(**wrong)  # type: ignore[arg-type]  # one of either type


def test_settings_go_by_the_model() -> None:
    assert settings_of("microsam_vit_b_lm") == DistanceSettings(centre=0.4, smoothing=2.0, min_size=100)
    assert settings_of("microsam_vit_l_lm") == DistanceSettings()
    from napari_segany.models.registry import list_models

    assert set(PRESETS) <= {spec.name for spec in list_models() if spec.decoder is not None}
