"""Which of a prompt's six masks learns from which true mask.

Paper: Li et al. 2023, "Semantic-SAM" (section 3.2): a click has one true mask for every object that it lies in, and all
of them teach, "many to many"; SAM's way, the best of the masks learns from one true mask, is "one to one". Levels are
told by their order: true masks are handed out along the ladder, finer ones to finer levels, so that a level never
shows less than the one below it, and a true mask goes to its own level unless another's mask fits it much better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_segany.models.query_decoder import TOKENS

LEVEL_WEIGHT = 0.5
"""What a step of the ladder between a mask and its level costs, beside a mask's cost of 0 (perfect) to 1."""

Costs = NDArray[np.float64]
Indices = NDArray[np.int64]


def many_to_many(costs: Costs, levels: Indices) -> Indices:
    """Return the true mask of each of the six levels, all of them handed out at least once.

    Parameters
    ----------
    costs : (6, G)
        Of each answer as each true mask, 0 to 1; true masks in order of their size, at most six.
    levels : (G,)
        The step of the ladder of each true mask, 1 to 6; 0 where it is not known.

    Returns
    -------
    array
        (6,) indices of true masks, never falling.
    """
    total = costs + level_costs(levels)
    count = total.shape[1]
    best = np.full((TOKENS, count), np.inf)
    came = np.zeros((TOKENS, count), dtype=np.int64)
    best[0, 0] = total[0, 0]
    for token in range(1, TOKENS):
        for mask in range(count):
            before = (best[token - 1, mask], best[token - 1, mask - 1] if mask else np.inf)
            came[token, mask] = int(before[1] < before[0])
            best[token, mask] = total[token, mask] + min(before)
    chosen = np.zeros(TOKENS, dtype=np.int64)
    chosen[-1] = count - 1
    for token in range(TOKENS - 1, 0, -1):
        chosen[token - 1] = chosen[token] - came[token, chosen[token]]
    return chosen


def spare(costs: Costs, chosen: Indices) -> NDArray[np.bool_]:
    """Return which of the six answers are not the best one at the true mask that they were handed.

    `costs` (6, G) and `chosen` (6,) as in `many_to_many`.
    """
    own = costs[np.arange(TOKENS), chosen]
    is_spare = np.ones(TOKENS, dtype=np.bool_)
    for mask in np.unique(chosen):
        (tokens,) = np.nonzero(chosen == mask)
        is_spare[tokens[np.argmin(own[tokens])]] = False
    return is_spare


def one_to_one(costs: Costs) -> int:
    """Return which of the six answers, (6,) costs, learns from the one true mask."""
    return int(np.argmin(costs))


def level_costs(levels: Indices) -> Costs:
    """Return the (6, G) costs of showing true masks at each of the six levels; none where a level is not known."""
    away = np.abs(np.arange(1, TOKENS + 1)[:, None] - levels[None])
    return np.where(levels[None] > 0, LEVEL_WEIGHT * away, 0.0)


def at_most_six(sizes: NDArray[np.float64], rng: np.random.Generator) -> Indices:
    """Return the indices of true masks in order of their sizes, six at most: the ends stay, of the others any."""
    order = np.argsort(sizes, kind="stable")
    if len(order) <= TOKENS:
        return order
    inner = np.sort(rng.permutation(len(order) - 2)[: TOKENS - 2]) + 1
    return order[np.concatenate(([0], inner, [len(order) - 1]))]
