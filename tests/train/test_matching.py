"""Handing out true masks to levels: against every way there is, and in the cases that a person can check."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_segany.train.matching import (
    LEVEL_WEIGHT,
    at_most_six,
    level_costs,
    many_to_many,
    one_to_one,
    spare,
)


@given(
    count=st.integers(1, 6),
    data=st.data(),
)
@settings(deadline=None, max_examples=80)
def test_nothing_that_keeps_the_order_and_leaves_nothing_out_is_cheaper(
    count: int, data: st.DataObject
) -> None:
    costs = np.array(
        data.draw(st.lists(st.floats(0, 1), min_size=6 * count, max_size=6 * count)), dtype=np.float64
    ).reshape(6, count)
    levels = np.array(sorted(data.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))))
    total = costs + level_costs(levels)
    chosen = many_to_many(costs, levels)
    assert (np.diff(chosen) >= 0).all()
    assert set(chosen) == set(range(count))
    ways = (way for way in combinations_with_replacement(range(count), 6) if len(set(way)) == count)
    best = min(sum(total[token, mask] for token, mask in enumerate(way)) for way in ways)
    assert sum(total[token, mask] for token, mask in enumerate(chosen)) == pytest.approx(best)


def test_levels_get_their_own_masks_and_what_is_left_goes_to_the_nearest() -> None:
    fits_nothing = np.ones((6, 2))
    assert many_to_many(fits_nothing, np.array([3, 4])).tolist() == [0, 0, 0, 1, 1, 1]  # nucleus in cell
    assert many_to_many(fits_nothing, np.array([1, 6])).tolist() == [0, 0, 0, 1, 1, 1]
    assert many_to_many(np.ones((6, 1)), np.array([3])).tolist() == [0] * 6
    assert many_to_many(np.ones((6, 6)), np.arange(1, 7)).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_mask_that_fits_much_better_moves_a_level() -> None:
    costs = np.ones((6, 2))
    levels = np.array([3, 4])
    assert many_to_many(costs, levels)[2] == 0
    costs[2, 1] = 0.0  # the third answer shows the cell already
    costs[2, 0] = 1.0 + 2 * LEVEL_WEIGHT
    assert many_to_many(costs, levels)[2] == 1


def test_masks_whose_level_nobody_knows_cost_nothing_but_their_misfit() -> None:
    assert not level_costs(np.array([0])).any()
    costs = np.linspace(1, 0, 6)[:, None]
    assert one_to_one(costs[:, 0]) == 5


def test_of_more_than_six_masks_the_ends_stay() -> None:
    sizes = np.array([5.0, 1, 9, 3, 7, 2, 8, 6])
    kept = at_most_six(sizes, np.random.default_rng(0))
    assert len(kept) == 6
    assert (np.diff(sizes[kept]) > 0).all()
    assert {1.0, 9.0} <= set(sizes[kept])
    assert at_most_six(np.array([3.0, 1, 2]), np.random.default_rng(0)).tolist() == [1, 2, 0]


@given(handed=st.lists(st.integers(0, 5), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_each_true_mask_has_one_answer_that_is_not_spare(handed: list[int], seed: int) -> None:
    costs, chosen = np.random.default_rng(seed).random((6, 6)), np.array(sorted(handed))
    is_spare = spare(costs, chosen)
    assert sorted(chosen[~is_spare]) == sorted(set(handed))
    for mask in set(handed):
        (tokens,) = np.nonzero(chosen == mask)
        kept = next(token for token in tokens if not is_spare[token])
        assert costs[kept, mask] == costs[tokens, mask].min()
