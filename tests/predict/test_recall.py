"""Which frames are looked at: the queue, strides, both directions, limits on prompted frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.errors import SettingsError
from napari_segany.predict.recall import RecallRules, nearest_prompted, recall

SMALL = RecallRules(frames=4, pointers=5)


def test_the_frame_before_is_the_newest_of_the_queue() -> None:
    recalled = recall(10, [0], passed=range(1, 20), n_frames=20, rules=SMALL)
    assert recalled.memories == ((0, 0), (7, 3), (8, 2), (9, 1))
    assert recalled.pointers == ((0, 10), (9, 1), (8, 2), (7, 3), (6, 4))
    assert recalled.span == 4


def test_backwards_the_queue_is_ahead_and_so_are_the_pointers() -> None:
    recalled = recall(10, [0, 15], passed=range(1, 15), n_frames=20, rules=SMALL, is_reverse=True)
    assert recalled.memories == ((0, 0), (15, 0), (13, 3), (12, 2), (11, 1))
    assert recalled.pointers == ((15, 5), (11, 1), (12, 2), (13, 3), (14, 4))


def test_missing_frames_are_skipped() -> None:
    recalled = recall(2, [0], passed={1}, n_frames=20, rules=SMALL)
    assert recalled.memories == ((0, 0), (1, 1))
    assert recalled.pointers == ((0, 2), (1, 1))


def test_prompted_frames_to_come_give_memories_but_no_pointers() -> None:
    recalled = recall(5, [9], passed=(), n_frames=20, rules=SMALL)
    assert recalled.memories == ((9, 0),)
    assert recalled.pointers == ()


@pytest.mark.parametrize(
    ("frame", "is_reverse", "memories"),
    [
        (9, False, ((4, 3), (6, 2), (8, 1))),
        (10, False, ((6, 3), (8, 2), (9, 1))),
        (9, True, ((14, 3), (12, 2), (10, 1))),
        (10, True, ((14, 3), (12, 2), (11, 1))),
    ],
)
def test_strides_take_every_second_frame_but_always_the_last(
    frame: int, is_reverse: bool, memories: tuple[tuple[int, int], ...]
) -> None:
    rules = RecallRules(frames=4, pointers=5, stride=2)
    recalled = recall(frame, [], passed=range(30), n_frames=30, rules=rules, is_reverse=is_reverse)
    assert recalled.memories == memories


def test_left_over_prompted_frames_stand_in_for_the_queue() -> None:
    rules = RecallRules(frames=4, pointers=5, prompted=2)
    recalled = recall(8, [2, 5, 6, 9], passed={7}, n_frames=12, rules=rules)
    assert recalled.memories == ((6, 0), (9, 0), (5, 3), (7, 1))
    assert recalled.pointers == ((6, 2), (7, 1), (5, 3))


def test_the_nearest_before_and_after_come_first() -> None:
    assert nearest_prompted(10, [1, 8, 9, 30], most=3) == ([9, 30, 8], frozenset({1}))
    assert nearest_prompted(10, [1, 8], most=2) == ([1, 8], frozenset())
    assert nearest_prompted(10, [10, 12, 13], most=2) == ([10, 12], frozenset({13}))


@given(
    frame=st.integers(0, 40),
    prompted=st.lists(st.integers(0, 40), unique=True),
    passed=st.sets(st.integers(0, 40)),
    rules=st.builds(
        RecallRules,
        frames=st.just(4),
        pointers=st.just(5),
        stride=st.integers(1, 4),
        prompted=st.none() | st.integers(2, 5),
    ),
    is_reverse=st.booleans(),
)
def test_only_kept_frames_are_named_within_the_models_ages(
    frame: int, prompted: list[int], passed: set[int], rules: RecallRules, is_reverse: bool
) -> None:
    passed -= set(prompted)
    recalled = recall(frame, prompted, passed=passed, n_frames=41, rules=rules, is_reverse=is_reverse)
    assert {t for t, _ in recalled.memories + recalled.pointers} <= set(prompted) | passed
    queue = [(t, age) for t, age in recalled.memories if age]
    assert all((t > frame) == is_reverse and t != frame and 1 <= age <= 3 for t, age in queue)
    assert len({age for _, age in queue}) == len(queue)
    assert all(distance == abs(t - frame) for t, distance in recalled.pointers)
    assert sum(age == 0 for _, age in recalled.memories) == min(len(prompted), rules.prompted or 41)


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        RecallRules(stride=0)
    with pytest.raises(SettingsError, match="prompted is 1"):
        RecallRules(prompted=1)
