"""Corrections of an earlier answer: what a click touches is the new answer's, the rest is shared by both."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_segany.core.types import Points, Prompt
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, POSITIVE
from napari_segany.predict.corrections import ALIKE, REACH, corrected
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.prompts import Encoded, encode_prompt

SIDE, STEP = 48, 2.0


def _square(logit: float, *, low: int = 12, high: int = 36) -> torch.Tensor:
    logits = torch.full((SIDE, SIDE), -abs(logit))
    logits[low:high, low:high] = abs(logit)
    return logits


def _answer(*logits: torch.Tensor) -> MaskOutput:
    stack = torch.stack(logits)[None]
    return MaskOutput(stack, torch.full((1, len(logits)), 0.9), None, torch.zeros(1, len(logits), 8))


def _click(row: int, col: int, earlier: torch.Tensor | None, *, sign: int = POSITIVE) -> Encoded:
    """Return a click in the middle of a cell, on top of an earlier answer."""
    xy = torch.tensor([[(col + 0.5) * STEP - 0.5, (row + 0.5) * STEP - 0.5]])
    mask = None if earlier is None else earlier[None]
    return Encoded(xy, torch.tensor([sign]), mask, has_answer=mask is not None)


def _bumps() -> torch.Tensor:
    """Return the square with two parts more: above it, and below it."""
    logits = _square(5.0)
    logits[6:12, 20:28] = 5.0
    logits[36:42, 20:28] = 5.0
    return logits


def test_a_part_that_was_clicked_on_is_taken_and_another_is_not() -> None:
    shown = corrected(_answer(_bumps()), _click(8, 24, _square(5.0)), step=STEP).logits[0, 0] > 0
    assert shown[6:12, 20:28].all()
    assert not shown[36:42, 20:28].any()
    assert shown[12:36, 12:36].all()


@settings(max_examples=60, deadline=None)
@given(row=st.integers(0, SIDE - 1), col=st.integers(0, SIDE - 1))
def test_a_click_touches_what_changed_a_few_cells_away_wherever_it_lies(row: int, col: int) -> None:
    new = _square(5.0)
    new[6:12, 20:28] = 5.0
    shown = corrected(_answer(new), _click(row, col, _square(5.0)), step=STEP).logits[0, 0] > 0
    away = max(6 - row, row - 11, 20 - col, col - 27)
    assert shown[6:12, 20:28].all() == (away <= REACH)
    assert shown[6:12, 20:28].any() == (away <= REACH)


def test_a_new_answer_that_is_sure_overrules_an_earlier_one_that_was_not() -> None:
    shown = corrected(_answer(_bumps() * 2), _click(8, 24, _square(1.0)), step=STEP).logits[0, 0] > 0
    assert shown[36:42, 20:28].all()


def test_a_negative_click_takes_the_whole_part_away() -> None:
    earlier, prompt = _bumps(), _click(38, 24, _bumps(), sign=NEGATIVE)
    shown = corrected(_answer(_square(0.5)), prompt, step=STEP).logits[0, 0] > 0
    assert not shown[36:42, 20:28].any()
    assert torch.equal(shown[:36], earlier[:36] > 0)


def test_every_click_that_was_not_obeyed_is() -> None:
    first, last = _click(38, 24, None), _click(8, 24, None)
    both = Encoded(
        torch.cat((first.xy, last.xy)), torch.cat((first.labels, last.labels)), _square(5.0)[None], True
    )
    answer = _answer(_bumps())
    shown = corrected(answer, both, step=STEP).logits[0, 0] > 0
    assert torch.equal(shown, answer.logits[0, 0] > 0)


def test_another_object_replaces_the_earlier_one() -> None:
    answer = _answer(_square(5.0, low=18, high=30))  # a nucleus in place of its cell
    assert ALIKE > 12**2 / 24**2
    kept = corrected(answer, _click(14, 14, _square(5.0), sign=NEGATIVE), step=STEP)
    assert torch.equal(kept.logits, answer.logits)


def test_each_mask_of_an_answer_is_compared_by_itself() -> None:
    answer = _answer(_bumps(), _square(5.0, low=18, high=30))
    kept = corrected(answer, _click(8, 24, _square(5.0)), step=STEP).logits
    assert not torch.equal(kept[0, 0], answer.logits[0, 0])
    assert torch.equal(kept[0, 1], answer.logits[0, 1])


def test_without_a_click_or_an_earlier_answer_nothing_changes() -> None:
    answer = _answer(_bumps())
    box = Encoded(
        torch.tensor([[20.0, 20.0], [80.0, 80.0]]), torch.tensor([BOX_START, BOX_END]), _square(5.0)[None]
    )
    for prompt in (_click(8, 24, None), box):
        assert corrected(answer, prompt, step=STEP) is answer


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    row=st.integers(0, SIDE - 1),
    col=st.integers(0, SIDE - 1),
    is_positive=st.booleans(),
)
def test_where_both_agree_nothing_flips_and_at_the_click_the_new_answer_stands(
    seed: int, row: int, col: int, is_positive: bool
) -> None:
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.normal(size=(2, SIDE, SIDE))).float() * 4
    earlier, new = _square(3.0) + noise[0], _square(3.0) + noise[1]
    sign = POSITIVE if is_positive else NEGATIVE
    kept = corrected(_answer(new), _click(row, col, earlier, sign=sign), step=STEP).logits[0, 0]
    agreed = (earlier > 0) == (new > 0)
    assert torch.equal((kept > 0)[agreed], (new > 0)[agreed])
    near = slice(max(0, row - REACH), row + REACH + 1), slice(max(0, col - REACH), col + REACH + 1)
    assert torch.equal((kept > 0)[near], (new > 0)[near])


def test_only_logits_of_an_answer_are_kept_to(nano: ImagePredictor) -> None:
    features = nano.embed(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    points = Points(np.array([[30.0, 30.0]], dtype=np.float32), np.array([True]))
    answer = nano.predict(features, Prompt(points=points))
    again = encode_prompt(Prompt(points=points, mask=answer.logits[0]), features)
    drawn = encode_prompt(Prompt(points=points, mask=answer.masks[0]), features)
    assert again.has_answer and not drawn.has_answer
    assert not encode_prompt(Prompt(points=points), features).has_answer
