"""Drawn masks changed by what lies around: from what they begin, how far they hear, and what stays apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_segany.models.cells import gathered, nested
from napari_segany.models.layers import REACHES
from napari_segany.models.mask_spread import CELL, CELL_DEPTH, MaskSpread

MASKS, TOLD, SEEN, INNER = 3, 8, 5, 6


def spread(*, is_asked: bool = True, is_new: bool = False) -> MaskSpread:
    """Return one that has learnt something, or not yet."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = MaskSpread(masks=MASKS, told=TOLD, seen=SEEN, inner=INNER, is_asked=is_asked)
        if not is_new:
            nn.init.normal_(made.change.weight)
    return made.eval()


def given(*, images: int = 1, prompts: int = 2, cells: tuple[int, int] = (5, 7)) -> tuple[Tensor, ...]:
    """Return masks, what tells them, what is to be seen, and where the prompts are."""
    generator = torch.Generator().manual_seed(6)
    size = (CELL * cells[0], CELL * cells[1])
    return (
        4 * torch.randn(images, prompts * MASKS, *size, generator=generator),
        torch.randn(images, prompts * MASKS, TOLD, generator=generator),
        nested(torch.randn(images, SEEN, *size, generator=generator), CELL_DEPTH),
        torch.rand(images, prompts, 2, generator=generator),
    )


@torch.no_grad()
def test_it_begins_as_if_it_were_not_there() -> None:
    logits, *rest = given()
    assert torch.equal(spread(is_new=True)(logits, *rest), logits)


@torch.no_grad()
def test_prompts_and_images_do_not_change_each_other() -> None:
    made = spread()
    logits, told, seen, asked = given(images=2)
    together = made(logits, told, seen, asked)
    second, own = slice(MASKS, None), slice(1, None)
    alone = made(logits[own, second], told[own, second], seen[own], asked[own, 1:])
    torch.testing.assert_close(together[own, second], alone)


@torch.no_grad()
def test_masks_of_one_prompt_hear_of_each_other() -> None:
    made = spread()
    logits, told, seen, asked = given()
    changed = logits.clone()
    changed[0, 0] += 3
    moved = (made(changed, told, seen, asked) - made(logits, told, seen, asked)).abs().amax((0, 2, 3))
    assert bool((moved[:MASKS] > 1e-4).all())
    assert float(moved[MASKS:].max()) == 0


@torch.no_grad()
def test_a_place_hears_so_far_and_no_further() -> None:
    made, reach = spread(is_asked=False), sum(REACHES)
    side = 2 * reach + 5
    logits, told, seen, _ = given(prompts=1, cells=(side, side))
    changed = seen.clone()
    middle = side // 2
    changed[:, middle * side + middle] += 2
    moved = (made(logits, told, changed) - made(logits, told, seen)).abs().amax((0, 1)) > 1e-5
    rows = moved.any(1).nonzero()[:, 0] // CELL
    assert (int(rows.min()), int(rows.max())) == (middle - reach, middle + reach)


@torch.no_grad()
def test_where_the_prompt_is_makes_a_difference_only_where_it_is_told() -> None:
    logits, told, seen, asked = given()
    elsewhere = (asked + 0.4) % 1.0
    told_so = spread()
    assert not torch.equal(told_so(logits, told, seen, asked), told_so(logits, told, seen, elsewhere))
    without = spread(is_asked=False)
    assert torch.equal(without(logits, told, seen), without(logits, told, seen, elsewhere))


def test_gradients_reach_all_of_it() -> None:
    made = spread()
    made(*given()).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in made.parameters())


@torch.no_grad()
def test_matrix_products_of_cells_are_the_convolutions_that_they_stand_for() -> None:
    made = spread(is_asked=False)
    logits, told, _, _ = given(images=2)
    image = torch.randn(2, SEEN, *logits.shape[2:], generator=torch.Generator().manual_seed(7))
    convolved = made.seen(image)
    torch.testing.assert_close(
        gathered(made.seen, nested(image, CELL_DEPTH)), convolved.flatten(2).transpose(1, 2)
    )
    masks = F.pixel_unshuffle(logits.unflatten(1, (-1, MASKS)).flatten(0, 1) / 5, CELL)
    drawn = made.drawn(masks).unflatten(0, (2, -1))
    meant = made.told(told.unflatten(1, (-1, MASKS)).flatten(2))[..., None, None]
    change = made.change(F.gelu(made.steps((drawn + convolved[:, None] + meant).flatten(0, 1))))
    expected = logits + 5 * F.pixel_shuffle(change, CELL).unflatten(0, (2, -1)).flatten(1, 2)
    torch.testing.assert_close(made(logits, told, nested(image, CELL_DEPTH)), expected)
