"""What a prompt says, handed on from place to place: how far, from what it begins, and only where a row asks for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_segany.models.layers import REACHES
from napari_segany.models.sam2 import build_sam2
from napari_segany.models.two_way import Spread

WIDTH, INNER, SIDE = 8, 4, 40


def spread() -> Spread:
    """Return one that has learnt something."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = Spread(WIDTH, INNER)
        nn.init.normal_(made.widen.weight)
    return made.eval()


def image(*, batch: int = 1, side: int = SIDE) -> Tensor:
    return torch.randn(batch, side * side, WIDTH, generator=torch.Generator().manual_seed(6))


@torch.no_grad()
def test_it_begins_as_if_it_were_not_there() -> None:
    given = image()
    assert torch.equal(Spread(WIDTH, INNER)(given, (SIDE, SIDE)), given)


@torch.no_grad()
def test_what_one_place_knows_reaches_so_far_and_no_further() -> None:
    made, told = spread(), image()
    changed = told.clone()
    row = col = SIDE // 2
    changed[0, row * SIDE + col] += 1
    moved = (made(changed, (SIDE, SIDE)) - made(told, (SIDE, SIDE))).abs().amax(-1).reshape(SIDE, SIDE) > 1e-6
    rows, cols = torch.nonzero(moved, as_tuple=True)
    reach = sum(REACHES)
    assert (int(rows.min()), int(rows.max())) == (row - reach, row + reach)
    assert (int(cols.min()), int(cols.max())) == (col - reach, col + reach)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other_and_need_not_be_square() -> None:
    made, both = spread(), image(batch=2)
    size = (SIDE // 2, 2 * SIDE)
    together = made(both, size)
    assert together.shape == both.shape
    torch.testing.assert_close(together[1:], made(both[1:], size))


def test_gradients_reach_all_of_it_once_it_has_learnt_something() -> None:
    made = spread()
    made(image(side=12), (12, 12)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in made.parameters())


def test_released_decoders_have_none() -> None:
    assert len(build_sam2("sam2-nano").decoder.transformer.spreads) == 2
    with torch.device("meta"):
        assert not any("spreads" in name for name in build_sam2("sam2.1_hiera_tiny").state_dict())
