"""Losses against their formulas, written out slowly; and where their gradients go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_segany.train.losses import (
    DICE_WEIGHT,
    FOCAL_WEIGHT,
    PICK_WEIGHT,
    UNAMBIGUOUS_SHARE,
    dense_loss,
    dice_loss,
    extent_loss,
    focal_loss,
    mask_loss,
    outline_loss,
    pick_loss,
    prompt_loss,
    true_iou,
    unsure_places,
)

SIDE = 6


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def square(*, count: int = 1) -> Tensor:
    truth = torch.zeros(count, 1, SIDE, SIDE)
    truth[:, :, 1:4, 2:5] = 1
    return truth


def slow_focal(logits: Tensor, truth: Tensor, *, alpha: float, gamma: float) -> float:
    terms = []
    for x, t in zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_true = p if t == 1 else 1 - p
        weight = alpha if t == 1 else 1 - alpha
        terms.append(-weight * (1 - p_true) ** gamma * math.log(p_true))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 2.0), (0.25, 2.0), (0.5, 0.0)])
def test_focal_is_its_formula(alpha: float, gamma: float) -> None:
    logits, truth = 3 * noise(2, 1, SIDE, SIDE), square(count=2)
    ours = focal_loss(logits, truth, alpha=alpha, gamma=gamma)
    assert ours.shape == (2, 1)
    for index in range(2):
        slow = slow_focal(logits[index], truth[index], alpha=alpha, gamma=gamma)
        assert float(ours[index, 0]) == pytest.approx(slow, rel=1e-4)


def test_dice_is_its_formula() -> None:
    logits, truth = 3 * noise(2, 1, SIDE, SIDE), square(count=2)
    for index, ours in enumerate(dice_loss(logits, truth)[:, 0].tolist()):
        p = [1 / (1 + math.exp(-x)) for x in logits[index].flatten().tolist()]
        t = truth[index].flatten().tolist()
        both = sum(a * b for a, b in zip(p, t, strict=True))
        assert ours == pytest.approx(1 - (2 * both + 1) / (sum(p) + sum(t) + 1), rel=1e-4)


def test_right_costs_nothing_and_wrong_costs_most() -> None:
    truth = square()
    right, wrong = 40 * (2 * truth - 1), -40 * (2 * truth - 1)
    for loss in (focal_loss, dice_loss):
        assert float(loss(right, truth)) < 1e-4
        assert float(loss(wrong, truth)) > 0.5
    empty = torch.zeros_like(truth)
    assert float(dice_loss(torch.full_like(truth, -40), empty)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_gradients_pull_towards_the_truth(loss: object) -> None:
    truth = square()
    logits = torch.zeros_like(truth, requires_grad=True)
    loss(logits, truth).sum().backward()  # type: ignore[operator]
    assert logits.grad is not None
    assert (logits.grad[truth == 1] < 0).all()  # a step against the gradient raises the logit
    assert (logits.grad[truth == 0] > 0).all()


def test_huge_logits_stay_finite() -> None:
    truth = square()
    logits = torch.full_like(truth, 1e4).requires_grad_()
    loss = mask_loss(logits, truth).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_a_mask_s_loss_is_twenty_to_one() -> None:
    logits, truth = noise(2, 4, SIDE, SIDE), square(count=2)
    ours = mask_loss(logits, truth)
    assert ours.shape == (2, 4)
    assert FOCAL_WEIGHT / DICE_WEIGHT == 20
    wide = truth.expand(-1, 4, -1, -1)
    torch.testing.assert_close(ours, 20 * focal_loss(logits, wide) + dice_loss(logits, wide))


def test_true_iou_counts_pixels() -> None:
    truth = square()
    shifted = torch.full((1, 3, SIDE, SIDE), -1.0)
    shifted[0, 0, 1:4, 2:5] = 1  # the same
    shifted[0, 1, 2:5, 2:5] = 1  # one row further: 6 shared of 12
    assert true_iou(shifted, truth).tolist() == [[1.0, 0.5, 0.0]]


def gradients(*, is_ambiguous: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mask losses, the absolute gradients of masks, and those of scores, of one prompt's four answers."""
    logits = noise(1, 4, SIDE, SIDE, seed=seed).requires_grad_()
    ious = torch.full((1, 4), 0.5, requires_grad=True)
    prompt_loss(logits, ious, square(), is_ambiguous=torch.tensor([is_ambiguous])).backward()
    assert logits.grad is not None
    assert ious.grad is not None
    return mask_loss(logits, square())[0].detach(), logits.grad.abs().sum((2, 3))[0], ious.grad[0]


@pytest.mark.parametrize("seed", range(5))
def test_only_the_best_of_three_learns(seed: int) -> None:
    losses, on_masks, on_scores = gradients(is_ambiguous=True, seed=seed)
    best = 1 + int(losses[1:].argmin())
    for index in (1, 2, 3):
        assert (on_masks[index] > 0) == (index == best)
    assert on_masks[0] > 0  # the single mask always does
    assert (on_scores != 0).all()  # every score learns how good its mask is


def test_clear_prompts_teach_the_three_less() -> None:
    _, ambiguous, scores = gradients(is_ambiguous=True)
    _, clear, clear_scores = gradients(is_ambiguous=False)
    torch.testing.assert_close(clear[1:], UNAMBIGUOUS_SHARE * ambiguous[1:])
    torch.testing.assert_close(clear[0], ambiguous[0])
    ious = torch.full((1, 4), 0.5, requires_grad=True)
    pick_loss(ious, true_iou(noise(1, 4, SIDE, SIDE), square())).sum().backward()  # of single clicks alone
    assert ious.grad is not None
    torch.testing.assert_close(
        clear_scores[1:], UNAMBIGUOUS_SHARE * (scores - PICK_WEIGHT * ious.grad[0])[1:]
    )


def test_a_doubtful_click_teaches_only_the_best_of_three() -> None:
    logits, ious = noise(1, 4, SIDE, SIDE).requires_grad_(), torch.full((1, 4), 0.5, requires_grad=True)
    clicked = torch.tensor([True])
    prompt_loss(logits, ious, square(), is_ambiguous=clicked, is_doubtful=clicked).backward()
    assert logits.grad is not None
    learns = logits.grad.abs().sum((2, 3))[0] > 0
    assert learns.tolist() == [
        False,
        *(torch.arange(3) == mask_loss(logits, square())[0, 1:].argmin()).tolist(),
    ]
    assert ious.grad is not None
    assert not ious.grad.any()


def test_a_lower_object_weight_draws_doubtful_outlines_inwards() -> None:
    def pull(object_weight: float) -> float:
        """Return the focal gradient on a pixel that is as often inside as outside, with logit 0."""
        logits = torch.zeros(1, 1, 1, 2, requires_grad=True)
        focal_loss(logits, torch.tensor([[[[0.0, 1.0]]]]), alpha=object_weight).sum().backward()
        assert logits.grad is not None
        return float(logits.grad.sum())

    assert pull(0.75) < pull(0.6) < 0  # a step goes against the gradient: outwards, and less so
    assert pull(0.5) == pytest.approx(0, abs=1e-7)
    logits, truth = noise(1, 4, SIDE, SIDE), square()
    losses = [
        prompt_loss(logits, torch.ones(1, 4), truth, is_ambiguous=torch.tensor([False]), object_weight=weight)
        for weight in (0.6, 0.75)
    ]
    assert losses[0] != losses[1]


def test_scores_are_pulled_to_the_real_iou() -> None:
    truth = square()
    logits = (20 * (2 * truth - 1)).expand(-1, 4, -1, -1).clone()
    perfect = prompt_loss(logits, torch.ones(1, 4), truth, is_ambiguous=torch.tensor([True]))
    assert float(perfect) == pytest.approx(0, abs=1e-3)
    ious = torch.full((1, 4), 0.6, requires_grad=True)
    loss = prompt_loss(logits, ious, truth, is_ambiguous=torch.tensor([True]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2 * -math.log(0.6), abs=1e-3)
    assert (ious.grad < 0).all()


def test_picking_costs_what_the_best_answer_is_better_than_the_picked_one() -> None:
    true = torch.tensor([[0.9, 0.5, 0.5, 0.5], [0.2, 0.8, 0.8, 0.8]])
    right, wrong = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(pick_loss(right, true[:1]), torch.zeros(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(pick_loss(wrong, true[:1]), torch.tensor([0.4]), atol=1e-6, rtol=0)
    alike = torch.full((2, 4), 0.7)
    torch.testing.assert_close(pick_loss(alike, true), torch.tensor([0.9 - 0.6, 0.8 - 0.65]))


def test_close_scores_are_pulled_apart_towards_the_better_answer() -> None:
    truth = square()
    logits = 20 * (2 * truth.repeat(1, 4, 1, 1) - 1)
    logits[:, 0] = -20  # answers 1 to 3 fit, 0 is empty
    pulls = []
    for is_ambiguous in (True, False):
        ious = torch.full((1, 4), 0.6, requires_grad=True)
        prompt_loss(logits, ious, truth, is_ambiguous=torch.tensor([is_ambiguous])).backward()
        assert ious.grad is not None
        pulls.append(ious.grad[0])
    alone = 1 / (1 - 0.6)  # of the cross-entropy of the empty answer
    assert pulls[0][0] > 1.5 * alone
    assert pulls[1][0] == pytest.approx(alone, rel=1e-3)
    assert pulls[0][1] < pulls[1][1] < 0


def test_a_batch_is_the_mean_of_its_prompts() -> None:
    logits, ious, truth = noise(3, 4, SIDE, SIDE), torch.rand(3, 4), square(count=3)
    ambiguous = torch.tensor([True, False, True])
    each = [
        prompt_loss(logits[i : i + 1], ious[i : i + 1], truth[:1], is_ambiguous=ambiguous[i : i + 1])
        for i in range(3)
    ]
    torch.testing.assert_close(
        prompt_loss(logits, ious, truth, is_ambiguous=ambiguous), torch.stack(each).mean()
    )


def test_dense_maps_weigh_rare_pixels_up() -> None:
    zeros, ones = torch.zeros(1, 2, SIDE, SIDE), torch.ones(1, 2, SIDE, SIDE)
    on_ones, on_zeros = dense_loss(zeros, ones), dense_loss(zeros, zeros)
    assert float(on_zeros) == pytest.approx(math.log(2))
    assert float(on_ones) == pytest.approx(3 * math.log(2))  # 2 for objects and 4 for borders
    assert float(dense_loss(40 * (2 * ones - 1), ones)) == pytest.approx(0, abs=1e-4)


def test_places_are_those_near_zero() -> None:
    logits = torch.full((2, 1, 16, 16), 9.0)
    logits[0, 0, 3, 4:9], logits[1, 0, 10:15, 2] = 0.1, -0.1
    places = unsure_places(logits, 5, rng=np.random.default_rng(0))
    assert sorted(places[0, 0].tolist()) == [3 * 16 + c for c in range(4, 9)]
    assert sorted(places[1, 0].tolist()) == [r * 16 + 2 for r in range(10, 15)]
    assert unsure_places(logits, 1000, rng=np.random.default_rng(0)).shape == (2, 1, 256)


@given(seed=st.integers(0, 1000))
def test_places_are_one_stretch_of_an_outline(seed: int) -> None:
    logits = torch.full((1, 1, 32, 32), 9.0)
    logits[..., 16, :] = 0.5
    (places,) = unsure_places(logits, 7, rng=np.random.default_rng(seed))[0]
    assert set((places // 32).tolist()) == {16}
    cols = sorted((places % 32).tolist())
    assert cols == list(range(cols[0], cols[0] + 7))


def test_places_that_the_base_is_sure_of_and_masks_of_other_things_hardly_count() -> None:
    base = torch.tensor([[[0.5, -50.0], [0.5, 0.5]]])
    truth = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])[..., None].expand(-1, -1, -1, 4)
    logits = base[..., None].repeat(1, 1, 1, 4).requires_grad_()
    ious, one_click = torch.tensor([[0.9, 0.1]]), torch.tensor([True])
    outline_loss(logits, truth, base=base, ious=ious, is_ambiguous=one_click).backward()
    assert logits.grad is not None
    pull = logits.grad[0, ..., 0]
    assert pull[0, 0] < 0 < pull[1, 0]
    assert pull[0, 1] == 0
    assert abs(pull[1, 0]) < 0.02 * abs(pull[0, 0])


def test_poor_masks_count_where_the_prompt_leaves_no_doubt() -> None:
    base, truth = torch.full((1, 2, 1), 0.5), torch.ones(1, 2, 1, 4)
    pulls = []
    for is_ambiguous in (True, False):
        logits = base[..., None].repeat(1, 1, 1, 4).requires_grad_()
        ious = torch.tensor([[0.9, 0.3]])
        outline_loss(
            logits, truth, base=base, ious=ious, is_ambiguous=torch.tensor([is_ambiguous])
        ).backward()
        assert logits.grad is not None
        pulls.append(float(logits.grad[0, 1].abs().sum() / logits.grad[0, 0].abs().sum()))
    assert pulls[0] < 0.02
    assert abs(pulls[1] - 0.3 / 0.9) < 1e-4


def _pulls(ious: list[float], *, is_ambiguous: bool) -> list[float]:
    """Return how strongly `extent_loss` pulls at each of some masks."""
    logits = torch.zeros(1, len(ious), 8, 8, requires_grad=True)
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4] = 1.0
    loss = extent_loss(
        logits,
        truth,
        ious=torch.tensor([ious]),
        is_ambiguous=torch.tensor([is_ambiguous]),
        object_weight=0.5,
    )
    loss.backward()
    assert logits.grad is not None
    pulls: list[float] = logits.grad[0].abs().sum((1, 2)).tolist()
    return pulls


def test_the_best_of_whole_masks_learns_and_others_that_are_near() -> None:
    best, near, far = _pulls([0.8, 0.6, 0.3], is_ambiguous=True)
    assert best > near > 0
    assert near / best == pytest.approx(0.6)
    assert far == 0
    best, _, far = _pulls([0.8, 0.6, 0.3], is_ambiguous=False)
    assert far / best == pytest.approx(0.3)


def test_the_best_learns_even_where_little_of_the_object_was_found() -> None:
    best, other = _pulls([0.2, 0.1], is_ambiguous=True)
    assert best > 0
    assert other == 0
