import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_segany.core.granularity import Ladder, distinct, levels_of
from napari_segany.core.masks import mask_iou
from napari_segany.core.types import MaskPrediction

MASKS = hnp.arrays(
    np.bool_,
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 5, 8, 16])),
    elements=st.booleans(),
)


def answer(masks: np.ndarray) -> MaskPrediction:
    return MaskPrediction(masks, np.ones(len(masks), np.float32), np.zeros((1, 1, 1)), levels_of(masks))


def squares(*sides: int) -> np.ndarray:
    masks = np.zeros((len(sides), 24, 24), dtype=bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[2 : 2 + side, 3 : 3 + side] = True
    return masks


@given(masks=MASKS, same_iou=st.sampled_from([0.3, 0.5, 0.9]))
def test_masks_are_told_apart_as_if_each_pair_was_compared_in_full(
    masks: np.ndarray, same_iou: float
) -> None:
    kept: list[int] = []
    for index, mask in enumerate(masks):
        if mask.any() and all(mask_iou(mask, masks[other]) <= same_iou for other in kept):
            kept.append(index)
    assert distinct(masks, same_iou=same_iou) == kept
    assert Ladder.of(answer(masks), same_iou=same_iou).distinct == tuple(kept)


@given(masks=MASKS)
def test_areas_and_boxes_are_those_of_the_masks(masks: np.ndarray) -> None:
    ladder = Ladder.of(answer(masks))
    assert ladder.areas == tuple(int(mask.sum()) for mask in masks)
    for mask, (top, left, bottom, right) in zip(masks, ladder.boxes, strict=True):
        assert mask[top:bottom, left:right].sum() == mask.sum()
        inside = mask[top:bottom, left:right]
        assert not mask.any() or all(
            side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1])
        )


@given(masks=MASKS, step=st.sampled_from([1, -1]))
def test_steps_reach_every_different_mask_and_end(masks: np.ndarray, step: int) -> None:
    ladder = Ladder.of(answer(masks))
    seen, level = [], ladder.stops[0 if step > 0 else -1] if ladder.stops else None
    while level is not None:
        seen.append(level)
        level = ladder.stop_beyond(ladder.levels.index(level), step=step)
    assert tuple(seen) == ladder.stops[::step]


def test_masks_that_look_the_same_are_one_stop() -> None:
    ladder = Ladder.of(answer(squares(10, 4, 20, 11, 4, 20)))
    assert ladder.likes == (0, 1, 2, 3, 1, 2) and ladder.distinct == (0, 1, 2, 3)
    near = Ladder.of(answer(squares(20, 19)), same_iou=0.85)
    assert near.likes == (0, 0) and near.stops == (5,)
    assert near.stop_beyond(1, step=1) is None and near.stop_beyond(1, step=-1) is None


def test_empty_masks_are_no_stop() -> None:
    ladder = Ladder.of(answer(squares(0, 5, 9)))
    assert ladder.distinct == (1, 2) and ladder.likes[0] == -1 and ladder.boxes[0] == (0, 0, 0, 0)
    assert ladder.stops == (4, 6) and ladder.stop_beyond(0, step=1) == 4


@pytest.mark.parametrize("sides", [(0,), (7,)])
def test_one_mask_is_one_level(sides: tuple[int, ...]) -> None:
    assert Ladder.of(answer(squares(*sides))).levels == (4,)
