"""What a timeline shows, without a window."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.errors import PromptError
from napari_segany.ui.course import Course, FrameScale, bin_course


def course_of(scores, **marks) -> Course:
    scores = np.asarray(scores, dtype=np.float32)
    flags = {}
    for name in ("prompted", "doubtful", "locked", "stale"):
        flags[name] = np.zeros(len(scores), dtype=bool)
        flags[name][list(marks.get(name, []))] = True
    return Course(scores, **flags)


@given(n=st.integers(1, 3000), width=st.integers(1, 700), seed=st.integers(0, 99))
def test_bars_hold_every_frame_once_and_lose_no_mark(n: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random(n) < 0.2, np.nan, rng.uniform(-1, 1, n)).astype(np.float32)
    course = Course(scores, *(rng.random((4, n)) < 0.1))
    bars = list(bin_course(course, width=width))
    assert [f for bar in bars for f in range(bar.first, bar.last + 1)] == list(range(n))
    assert len(bars) <= max(width, 1)
    for bar in bars:
        part = slice(bar.first, bar.last + 1)
        inside = scores[part]
        present = inside[inside >= 0]
        assert (bar.score is None) == (len(present) == 0)
        assert bar.score is None or bar.score == pytest.approx(present.min())
        assert bar.is_absent == (bool((inside < 0).any()) and len(present) == 0)
        assert bar.is_prompted == course.prompted[part].any()
        assert bar.is_doubtful == course.doubtful[part].any()
        assert bar.is_locked == course.locked[part].any()


@given(n=st.integers(1, 10_000), width=st.integers(1, 2000), share=st.floats(0, 1))
def test_a_frame_is_found_where_it_is_drawn(n: int, width: int, share: float) -> None:
    scale, frame = FrameScale(n, left=10, width=width), int(share * (n - 1))
    assert scale.frame_at(scale.middle_of(frame)) == frame
    assert scale.frame_at(-50) == 0 and scale.frame_at(10_000_000) == n - 1


@given(n=st.integers(1, 10_000), width=st.integers(50, 2000), room=st.integers(5, 80))
def test_numbers_have_room(n: int, width: int, room: int) -> None:
    scale = FrameScale(n, left=0, width=width)
    ticks = list(scale.ticks(room))
    assert ticks[0] == 0 and ticks[-1] < n
    assert all(scale.left_of(b) - scale.left_of(a) >= room - 1e-6 for a, b in pairwise(ticks))


def test_words_for_a_frame() -> None:
    course = course_of([0.93, -0.2, np.nan, 0.4], prompted=[0], doubtful=[3], locked=[1], stale=[2, 3])
    assert course.describe(0) == "frame 0 · score 0.93 · prompted"
    assert course.describe(1) == "frame 1 · absent · locked"
    assert course.describe(2) == "frame 2 · not looked at yet"
    assert course.describe(3) == "frame 3 · score 0.40 · doubtful · outdated"


def test_the_next_mark_in_each_direction() -> None:
    course = course_of([0.9] * 10, prompted=[2], doubtful=[7])
    assert course.next_marked(0, step=1) == 2 and course.next_marked(2, step=1) == 7
    assert course.next_marked(7, step=1) == 7 and course.next_marked(7, step=-1) == 2


def test_a_click_near_a_mark_takes_the_nearest_one() -> None:
    scale = FrameScale(10_000, left=0, width=500)
    frames = np.array([4000, 4100])
    assert scale.near(frames, x=201, reach=5) == 4000 and scale.near(frames, x=204, reach=5) == 4100
    assert scale.near(frames, x=220, reach=5) is None
    assert scale.near(frames[:0], x=220, reach=5) is None


def test_a_course_without_frames_or_with_missing_values_is_refused() -> None:
    with pytest.raises(PromptError, match="no frame"):
        Course.unknown(0)
    flags = np.zeros(3, dtype=bool)
    with pytest.raises(PromptError, match=r"locked.*\(2,\)"):
        Course(np.zeros(3, dtype=np.float32), flags, flags, flags[:2], flags)
