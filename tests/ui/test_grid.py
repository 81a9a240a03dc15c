import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import AxesError
from napari_segany.ui.grid import channel_count, grid_of, is_inside, locate, picked_level, source_of

PLACED = {"scale": (2, 0.5, 0.25), "translate": (1, -2, 3), "rotate": 20, "units": ("um",) * 3}


def test_labels_lie_where_the_image_lies() -> None:
    image = Image(np.zeros((4, 20, 30)), axis_labels=("z", "y", "x"), shear=[0.1, 0, 0.2], **PLACED)
    grid = grid_of(image)
    labels = Labels(np.zeros(grid.shape, dtype=np.uint32), **grid.placement)
    for corner in np.ndindex(2, 2, 2):
        assert np.allclose(image.data_to_world(corner), labels.data_to_world(corner))
    index, coord = locate(labels, image.data_to_world((2, 7.25, 11.5)), shape=grid.shape)
    assert index == (2,) and np.allclose(coord, (7.25, 11.5))
    assert (
        labels.axis_labels == ("z", "y", "x") and [str(unit) for unit in labels.units] == ["micrometer"] * 3
    )


def test_a_store_learns_names_scale_and_units() -> None:
    image = Image(
        np.zeros((4, 20, 30)), axis_labels=("t", "y", "x"), scale=(5, 0.5, 0.5), units=("s", "um", "um")
    )
    expected = Calibration("TYX", (5, 0.5, 0.5), (0, 0, 0), ("second", "micrometer", "micrometer"))
    assert grid_of(image).calibration() == expected
    unnamed = grid_of(Image(np.zeros((2, 4, 20, 30))))
    assert unnamed.calibration().axes == "TZYX"


def test_coarse_levels_of_large_pyramids_cover_the_same_ground() -> None:
    levels = [np.broadcast_to(np.float32(0), (side, side)) for side in (16384, 4096, 1024)]
    image = Image(levels, multiscale=True, scale=(0.5, 0.5))
    assert picked_level(image) == 1
    grid = grid_of(image)
    assert grid.shape == (4096, 4096) and np.allclose(grid.placement["scale"], (2, 2))
    assert source_of(image).shape == (4096, 4096)


def test_colour_and_channels_are_no_planes() -> None:
    colour = Image(np.zeros((2, 20, 30, 3), dtype=np.uint8), rgb=True)
    assert grid_of(colour).shape == (2, 20, 30) and source_of(colour).read((1,)).shape == (20, 30, 3)
    data = np.arange(3 * 4 * 20 * 30).reshape(3, 4, 20, 30)
    channels = Image(data, axis_labels=("c", "z", "y", "x"), scale=(1, 2, 0.5, 0.5))
    assert channel_count(channels) == 3 and channel_count(colour) is None
    assert grid_of(channels).shape == (4, 20, 30)
    assert np.array_equal(source_of(channels, channel=2).read((1,)), data[2, 1])
    labels = Labels(np.zeros((4, 20, 30), dtype=np.uint32), **grid_of(channels).placement)
    assert np.allclose(labels.data_to_world((1, 2, 3)), channels.data_to_world((0, 1, 2, 3))[1:])


def test_channels_may_not_be_rotated_into_space() -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.5
    with pytest.raises(AxesError, match="channel"):
        grid_of(Image(np.zeros((3, 20, 30)), axis_labels=("c", "y", "x"), affine=affine))


@pytest.mark.parametrize(
    ("coord", "inside"), [((-0.5, 0), True), ((-0.51, 0), False), ((19.49, 29.4), True), ((19.5, 3), False)]
)
def test_pixels_reach_half_a_pixel_around_their_centres(coord: tuple[float, float], inside: bool) -> None:
    assert is_inside(coord, (20, 30)) is inside
