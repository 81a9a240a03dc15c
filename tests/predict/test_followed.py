"""Which frames of an object are due: each belongs to the prompt nearest to it, and nothing settled is done again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.types import Box, Points, Prompt
from napari_segany.predict.followed import Answer, Followed, PackedMask

N = 12
PROMPT = Prompt(points=Points(np.zeros((1, 2), dtype=np.float32), np.array([True])))
EMPTY = PackedMask.of(np.zeros((2, 2), dtype=bool))


def answer(one: Followed, frame: int, *, origin: int | None) -> None:
    one.answers[frame] = Answer(EMPTY, 0.5, origin)
    one.outdated.discard(frame)


def prompted(*frames: int) -> Followed:
    one = Followed()
    for frame in frames:
        one.prompts[frame] = PROMPT
        answer(one, frame, origin=frame)
    return one


def follow(one: Followed, frames: range) -> list[int]:
    """Answer what is due, as a predictor does; return these frames."""
    done = []
    for frame in frames:
        if one.is_due(frame, step=frames.step):
            source = one.source(frame, step=frames.step)
            answer(one, frame, origin=frame if frame in one.prompts else source)
            done.append(frame)
    return done


FORWARD, BACKWARD = range(N), range(N - 1, -1, -1)


def test_forward_goes_on_from_the_prompt_and_backward_does_the_rest() -> None:
    one = prompted(4)
    assert follow(one, FORWARD) == list(range(5, N))
    assert follow(one, BACKWARD) == [3, 2, 1, 0]
    assert follow(one, FORWARD) == follow(one, BACKWARD) == []


def test_frames_between_two_prompts_belong_to_the_nearer() -> None:
    one = prompted(0, 10)
    assert follow(one, FORWARD) == [*range(1, 10), 11]  # nobody else has answered these yet
    assert follow(one, BACKWARD) == [9, 8, 7, 6]  # nearer to the later prompt; 5 is as near to the first
    assert {t: one.answers[t].origin for t in (5, 6)} == {5: 0, 6: 10}


def test_a_correction_makes_only_what_is_nearer_to_it_stale() -> None:
    one = prompted(0)
    follow(one, FORWARD)
    one.prompts[6] = PROMPT
    answer(one, 6, origin=6)
    assert [t for t in range(N) if not one.is_settled(t)] == [4, 5, 7, 8, 9, 10, 11]
    assert follow(one, FORWARD) == [7, 8, 9, 10, 11]
    assert follow(one, BACKWARD) == [5, 4]


def test_answers_from_a_prompt_that_is_gone_are_outdated() -> None:
    one = prompted(0, 6)
    follow(one, FORWARD)
    follow(one, BACKWARD)
    del one.prompts[6]
    one.forget_answers_of(6)
    one.outdated.add(6)
    assert follow(one, FORWARD) == [4, 5, 6, 7, 8, 9, 10, 11]


def test_nothing_can_be_followed_without_the_frame_before() -> None:
    one = prompted(0)
    assert follow(one, range(5, N)) == []
    assert follow(one, range(4)) == [1, 2, 3]
    assert follow(one, range(3, N)) == list(range(4, N))


def test_masks_that_were_fed_back_need_no_prompt_of_theirs_but_one_to_go_on() -> None:
    one = prompted(0)
    for frame in (1, 2, 3):
        answer(one, frame, origin=None)
    assert follow(one, FORWARD) == list(range(4, N))


@given(
    prompts=st.sets(st.integers(0, N - 1), min_size=1, max_size=4),
    runs=st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)), max_size=6),
)
def test_in_the_end_every_frame_comes_from_its_nearest_prompt(
    prompts: set[int], runs: list[tuple[int, int]]
) -> None:
    one = prompted(*prompts)
    for start, stop in runs:
        follow(one, range(start, stop) if start <= stop else range(start, stop, -1))
    follow(one, FORWARD)
    follow(one, BACKWARD)
    follow(one, FORWARD)
    for frame in range(N):
        assert one.is_settled(frame)
        origin = one.answers[frame].origin
        assert origin is not None
        assert abs(origin - frame) == min(abs(p - frame) for p in prompts)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_packed_masks_come_back(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    assert np.array_equal(PackedMask.of(mask).unpack(), mask)


def test_packed_masks_are_small() -> None:
    mask = np.zeros((2048, 2048), dtype=bool)
    mask[500:900, 300:800] = True
    assert len(PackedMask.of(mask).bits) < 2000
    assert PackedMask.of(np.zeros_like(mask)).box is None


@pytest.mark.parametrize("frame", [0, 3])
def test_memories_far_away_are_let_go_of(frame: int) -> None:
    import torch

    from napari_segany.predict.followed import Memory

    one = prompted(0)
    for t in range(N):
        one.memories[t] = Memory("spatial", torch.zeros(1, 4))
    one.trim(frame, spatial=2, pointers=4, prompted=2)
    assert sorted(one.memories) == [t for t in range(N) if abs(t - frame) <= 4 or t == 0]
    assert [t for t in one.memories if one.memories[t].is_whole] == [
        t for t in range(N) if abs(t - frame) <= 2 or t == 0
    ]


def seen(one: Followed, frame: int, *, col: int, score: float = 0.9) -> None:
    mask = np.zeros((20, 60), dtype=bool)
    mask[5:9, col : col + 6] = True
    one.answers[frame] = Answer(PackedMask.of(mask), score, 0)


def test_an_object_is_expected_where_it_was_going() -> None:
    one = prompted(0)
    seen(one, 0, col=4)
    assert one.expected(1, origin=0, step=1) == Box(5, 4, 9, 10)  # nothing is known of its way
    seen(one, 1, col=9)
    assert one.expected(2, origin=0, step=1) == Box(5, 14, 9, 20)
    assert one.extent(1, origin=0, step=1) == Box(5, 9, 9, 15)
    answer(one, 2, origin=0)  # not seen
    assert one.expected(3, origin=0, step=1) == Box(5, 9, 9, 15)


def test_only_sure_frames_are_remembered_and_none_from_too_far() -> None:
    one = prompted(0)
    for frame in range(1, N):
        seen(one, frame, col=frame, score=0.9 if frame % 3 == 0 else 0.4)
    answer(one, 11, origin=0)
    assert one.chosen(11, origin=0, step=1, least=0.5, most=2) == [9, 6]
    assert one.chosen(11, origin=0, step=1, least=0.3, most=3) == [10, 9, 8]
    assert one.chosen(11, origin=0, step=1, least=0.95, most=2) == []
    assert one.chosen(11, origin=0, step=1, least=0.5, most=1) == [9]  # 7 to 10 are looked at
    assert one.chosen(11, origin=0, step=1, least=None, most=3) == [10, 9, 8]


@given(
    found=st.lists(st.booleans(), min_size=1, max_size=N - 1),
    most=st.integers(0, 4),
    step=st.sampled_from((1, -1)),
)
def test_what_was_missed_counts_back_to_the_last_mask_and_not_further_than_asked(
    found: list[bool], most: int, step: int
) -> None:
    one = Followed()
    for away, is_found in enumerate([True, *found]):
        if is_found:
            seen(one, 20 + away * step, col=2)
        else:
            answer(one, 20 + away * step, origin=20)
    at_end = [True, *found][::-1].index(True)
    frame = 20 + (len(found) + 1) * step
    assert one.missed(frame, origin=20, step=step, most=most) == (at_end if at_end <= most else 0)


def test_nothing_is_missed_of_what_a_person_said_is_not_there() -> None:
    one = prompted(0)  # an empty mask
    answer(one, 1, origin=0)
    assert one.missed(2, origin=0, step=1, most=4) == 0
