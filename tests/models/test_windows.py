"""Windows of frames: exact where they lie, alike at any scale, and logits find their way from one to another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.models.windows import OUTSIDE_LOGIT, Places, carried, corner_around, cut


def places(*corners: tuple[float, float], scale: float = 1.0) -> Places:
    return Places(torch.tensor(corners, dtype=torch.float32), torch.full((len(corners),), scale))


def ramp(height: int, width: int) -> torch.Tensor:
    """An image whose values tell x and y of each pixel's centre, edges at integers."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x, y))[None].float()


def test_whole_pixels_are_copied() -> None:
    image = torch.rand(1, 3, 20, 30)
    shown = cut(image, places((5, 2), (0, 0)), side=12)
    assert torch.allclose(shown[0], image[0, :, 2:14, 5:17], atol=1e-5)
    assert torch.allclose(shown[1], image[0, :, :12, :12], atol=1e-5)


@given(
    x=st.floats(3, 20),
    y=st.floats(3, 20),
    scale=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
    side=st.sampled_from([8, 16]),
)
def test_every_pixel_shows_its_place(x: float, y: float, scale: float, side: int) -> None:
    where = places((x, y), scale=scale)
    shown = cut(ramp(48, 48), where, side=side)[0].flatten(1).T
    assert torch.allclose(shown, where.centres((side, side), stride=1.0)[0], atol=1e-3)


def test_small_windows_of_large_images_are_averaged() -> None:
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    shown = cut(checks[None, None].float(), places((0, 0), scale=0.25), side=16)
    assert torch.allclose(shown, torch.full_like(shown, 0.5), atol=1e-5)


def test_edges_go_on_outside() -> None:
    shown = cut(ramp(10, 10), places((-4, 0)), side=10)
    assert torch.allclose(shown[0, 0, :, :4], torch.full((10, 4), 0.5))


@given(dx=st.integers(-3, 3), dy=st.integers(-3, 3))
def test_logits_keep_their_place_in_the_image(dx: int, dy: int) -> None:
    logits = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-5, 5)
    moved = carried(logits, source=places((10, 10)), target=places((10 + 2 * dx, 10 + 2 * dy)), cell=2.0)
    rows, cols = (slice(max(0, -d), 16 - max(0, d)) for d in (dy, dx))
    there_rows, there_cols = (slice(max(0, d), 16 - max(0, -d)) for d in (dy, dx))
    assert torch.allclose(moved[0, 0, rows, cols], logits[0, 0, there_rows, there_cols], atol=1e-4)
    new = torch.ones(16, 16, dtype=torch.bool)
    new[rows, cols] = False
    assert (moved[0, 0][new] == OUTSIDE_LOGIT).all()


def test_logits_go_into_windows_of_another_size() -> None:
    logits = torch.zeros(1, 1, 16, 16)
    moved = carried(logits, source=places((0, 0)), target=places((-16, -16)), cell=2.0, size=32)
    assert moved.shape == (1, 1, 32, 32)
    assert (moved[0, 0, 8:24, 8:24] == 0).all()
    assert (moved == 0).sum() == 256


@pytest.mark.parametrize(
    ("centre", "corner"), [((50, 40), (40, 30)), ((3, 40), (0, 30)), ((99, 79), (80, 60))]
)
def test_windows_are_moved_into_the_image(centre: tuple[int, int], corner: tuple[int, int]) -> None:
    assert corner_around(np.array(centre, dtype=float), 20, size=(80, 100)).tolist() == list(corner)


def test_windows_larger_than_the_image_are_centred() -> None:
    assert corner_around(np.array([3.0, 3.0]), 40, size=(20, 100)).tolist() == [0, -10]


def test_cells_undo_centres() -> None:
    where = places((7.3, -2.1), scale=1.7)
    cells = where.cells(where.centres((4, 4), stride=8.0), stride=8.0)
    x, y = np.meshgrid(np.arange(4), np.arange(4))
    assert torch.allclose(cells[0], torch.from_numpy(np.stack((x, y), -1).reshape(-1, 2)).float(), atol=1e-4)
