"""Which of four judged masks are shown, and what the best of them takes over from those like it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_segany.models.judge import SHARPNESS
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.outline import OutlineContext
from napari_segany.models.picking import FAVOUR, SAME, best_one, three_apart
from napari_segany.models.ways import AS_IT_IS, EXTENDED, OUTLINED

SIDE = 16
COLUMNS = torch.arange(float(SIDE))[None, :].expand(SIDE, SIDE)


def answer(logits: Tensor, ious: list[float], *, way: int | None = None) -> MaskOutput:
    """Return one prompt's answer, whose tokens tell the masks apart; finished in a way, where one is given."""
    nothing = torch.zeros(1)
    context = None if way is None else OutlineContext(*(4 * (nothing,)), ways=torch.tensor([way]))
    return MaskOutput(
        logits[None], torch.tensor([ious]), None, torch.arange(4.0)[None, :, None], context=context
    )


def always(logits: Tensor) -> Tensor:
    """Return that masks obey all clicks."""
    return torch.ones(logits.shape[:2])


def up_to(*ends: float) -> Tensor:
    """Return masks of the first columns, one for each number of them."""
    return torch.stack([(end > COLUMNS).float() - 0.5 for end in ends])


@pytest.mark.parametrize(
    ("ious", "shown"),
    [
        ([0.7, 0.7 + 0.9 * FAVOUR, 0.2, 0.1], 0),
        ([0.7, 0.1, 0.7 + 1.1 * FAVOUR, 0.1], 2),
        ([0.0, 0.0, 0.0, 0.0], 0),
    ],
)
def test_the_single_mask_is_the_best_one_and_mask_0_in_doubt(ious: list[float], shown: int) -> None:
    single = best_one(answer(up_to(16, 8, 4, 2), ious), obeyed=always)
    assert single.tokens.flatten().tolist() == [shown]
    assert single.ious.tolist() == [[pytest.approx(ious[shown])]]  # the score is told without the favour


@pytest.mark.parametrize(
    ("ends", "ious", "left"),
    [
        ([8, 10, 4, 14], [0.9, 0.8, 0.7, 0.6], 1),
        ([8, 10, 4, 14], [0.7, 0.6, 0.9, 0.5], 0),
        ([8, 9, 0, 14], [0.9, 0.8, 0.7, 0.6], 2),  # nothing is no answer
        ([8, 9, 4, 14], [0.9, 0.8, 0.7, 0.0], 3),  # it obeys no click
    ],
)
def test_of_four_masks_the_one_most_like_the_best_is_left_out(
    ends: list[float], ious: list[float], left: int
) -> None:
    shown = three_apart(answer(up_to(*ends), ious), obeyed=always)
    assert shown.tokens.flatten().tolist() == [index for index in range(4) if index != left]
    assert shown.ious[0].tolist() == pytest.approx([iou for index, iou in enumerate(ious) if index != left])


def test_the_best_mask_is_where_those_like_it_see_an_even_chance() -> None:
    """A ramp from left to right, cut in the 6th, 8th and 10th column; another object; and the chances added up."""
    ramps = [(column - COLUMNS) / 2 for column in (6, 8, 10)]
    logits, ious = torch.stack([*ramps, COLUMNS - 12.5]), [0.6, 0.8, 0.7, 0.1]
    shown = best_one(answer(logits, ious), obeyed=always)
    share = torch.softmax(SHARPNESS * torch.tensor(ious[:3]), 0)
    expected = sum(weight * ramp.sigmoid() for weight, ramp in zip(share, ramps, strict=True))
    torch.testing.assert_close(shown.logits[0, 0].sigmoid(), expected)
    assert shown.tokens.flatten().tolist() == [1.0]
    three = three_apart(answer(logits, ious), obeyed=always)
    torch.testing.assert_close(
        three.logits[0, three.tokens.flatten().tolist().index(1.0)], shown.logits[0, 0]
    )
    for way, plain in ((AS_IT_IS, True), (OUTLINED, False), (EXTENDED, False)):
        finished = three_apart(answer(logits, ious, way=way), obeyed=always)
        assert torch.equal(finished.tokens, three.tokens)
        expected = three.logits[0] if plain else logits[finished.tokens.flatten().long()]
        assert torch.equal(finished.logits[0], expected)
    others = [index for index, token in enumerate(three.tokens.flatten().tolist()) if token != 1]
    for index in others:  # stay as they are
        assert torch.equal(three.logits[0, index], logits[int(three.tokens[0, index, 0])])


def test_masks_of_other_objects_have_no_say() -> None:
    logits = up_to(8, 8 * SAME - 2, 1, 0)
    shown = best_one(answer(logits, [0.9, 0.8, 0.8, 0.8]), obeyed=always)
    assert torch.equal(shown.logits[0, 0], logits[0])


def test_no_click_that_the_best_mask_obeys_is_given_up() -> None:
    logits = 8 * up_to(10, 8, 8, 8)
    mixed = best_one(answer(logits, [0.5, 0.5, 0.5, 0.5]), obeyed=always)
    assert (mixed.logits[0, 0] > 0).sum() == 8 * SIDE  # three against one

    def in_the_ninth_column(logits: Tensor) -> Tensor:
        return (logits[:, :, 3, 9] > 0).float()

    own = best_one(answer(logits, [0.5, 0.5, 0.5, 0.5]), obeyed=in_the_ninth_column)
    assert torch.equal(own.logits[0, 0], logits[0])
    elsewhere = best_one(
        answer(logits, [0.5, 0.5, 0.5, 0.5]), obeyed=lambda logits: (logits[:, :, 3, 2] > 0).float()
    )
    assert torch.equal(elsewhere.logits, mixed.logits)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 20), count=st.integers(1, 5), several=st.booleans())
def test_many_answers_are_chosen_from_as_one_by_one(seed: int, count: int, several: bool) -> None:
    """Where all masks agree nothing changes, and clicks that were obeyed still are."""
    generator = torch.Generator().manual_seed(seed)
    common = 3 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    logits = common + 2 * torch.randn(count, 4, SIDE, SIDE, generator=generator)
    ious = torch.rand(count, 4, generator=generator)
    output = MaskOutput(logits, ious, None, torch.arange(4.0)[None, :, None].expand(count, -1, -1))
    choose = three_apart if several else best_one
    places = torch.randint(SIDE, (count, 3, 2), generator=generator)

    def obeyed(logits: Tensor, places: Tensor = places) -> Tensor:
        at = [
            each[:, rows, cols] > 0
            for each, rows, cols in zip(logits, *places.unbind(-1), strict=True)  # (M, 3) each
        ]
        return torch.stack(at).float().mean(-1)

    together = choose(output, obeyed=obeyed)
    for index in range(count):
        alone = choose(
            output.row(index), obeyed=lambda logits, at=places[index : index + 1]: obeyed(logits, at)
        )
        assert torch.equal(together.tokens[index], alone.tokens[0])
        torch.testing.assert_close(together.logits[index], alone.logits[0])
    inside, outside = (logits > 0).all(1), (logits <= 0).all(1)
    assert (together.logits > 0)[inside[:, None].expand_as(together.logits)].all()
    assert not (together.logits > 0)[outside[:, None].expand_as(together.logits)].any()
    shown = together.tokens[..., 0].long()
    assert (obeyed(together.logits) >= obeyed(logits).gather(1, shown)).all()
