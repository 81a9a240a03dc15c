"""The ladder in a session: a level that stays, masks that are switched without asking, and what is committed."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ladder_fakes import BEST_FIRST, LadderPredictor, six_masks
from session_fakes import FakePredictor

from napari_segany.core.errors import SettingsError
from napari_segany.core.granularity import nearest
from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.session.image import ImageSession
from napari_segany.session.source import ArraySource

SHAPE = (2, 32, 40)
PLANE = (1,)


def open_session(predictor, labels: ArrayLabels | None = None) -> ImageSession:
    labels = labels or ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))
    return ImageSession(ArraySource(np.zeros(SHAPE, dtype=np.float32)), predictor, sink=labels)


@pytest.fixture
def predictor() -> LadderPredictor:
    return LadderPredictor()


@pytest.fixture
def session(predictor: LadderPredictor) -> ImageSession:
    return open_session(predictor)


def test_every_level_is_shown_without_asking_again(session: ImageSession, predictor: LadderPredictor) -> None:
    session.click(PLANE, (15, 18))
    assert session.level is None and session.preview(PLANE).level == 1 + BEST_FIRST[0]
    shown = []
    session.preview_changed.connect(lambda index, preview: shown.append(preview.level))
    for level in (1, 2, 3, 4, 5, 6, None):
        session.choose_level(level)
    assert shown == [1, 2, 3, 4, 5, 6, 4] and len(predictor.asked) == 1
    assert session.undo_title == "click"


def test_the_level_stays_for_corrections_and_for_the_next_object(session: ImageSession) -> None:
    told = []
    session.level_changed.connect(told.append)
    session.choose_level(6)
    session.choose_level(6)
    session.click(PLANE, (15, 18))
    session.click(PLANE, (15, 20), positive=False)
    assert len(session.preview(PLANE).prediction) == 6 and session.preview(PLANE).level == 6
    session.commit()
    session.click(PLANE, (20, 22))
    assert session.preview(PLANE).level == 6 and told == [6]


def test_boxes_have_levels_too_where_the_model_has_a_ladder(session: ImageSession) -> None:
    session.choose_level(2)
    session.set_box(PLANE, Box(2, 3, 18, 29))
    assert session.preview(PLANE).level == 2 and session.preview(PLANE).ladder.stops == (1, 2, 3, 4, 5, 6)


def test_three_masks_stand_at_two_four_and_six() -> None:
    session = open_session(FakePredictor())
    session.click(PLANE, (10, 12))
    levels = []
    for level in (1, 2, 3, 4, 5, 6):
        session.choose_level(level)
        levels.append(session.preview(PLANE).level)
    assert levels == [2, 2, 4, 4, 4, 6]  # of two that are as near, the one that scores better
    session.set_box(PLANE, Box(2, 3, 8, 9))
    assert len(session.preview(PLANE).prediction) == 1 and session.level == 6


def test_wrong_levels_are_refused(session: ImageSession) -> None:
    for level in (0, 7, 2.5, "fine"):
        with pytest.raises(SettingsError, match="ladder"):
            session.choose_level(level)
    assert session.level is None


def test_a_step_to_the_next_mask_is_for_the_object_in_work(session: ImageSession) -> None:
    session.choose_level(2)
    session.click(PLANE, (15, 18))
    session.choose_next(PLANE)
    assert session.preview(PLANE).level == 3 and session.level == 2
    session.click(PLANE, (15, 19))
    assert session.preview(PLANE).level == 3  # a correction stays with what it corrects
    session.commit()
    session.click(PLANE, (20, 18))
    assert session.preview(PLANE).level == 2
    session.choose_next(PLANE)
    session.choose_level(5)
    session.click(PLANE, (21, 18))
    assert session.preview(PLANE).level == 5


class TestSteps:
    def test_go_to_masks_that_differ(self) -> None:
        session = open_session(LadderPredictor(radii=(3, 3, 6, 6, 6, 12)))
        session.click(PLANE, (15, 18))
        assert session.preview(PLANE).ladder.stops == (1, 3, 6)
        levels = []
        for step in (1, 1, -1, -1, -1):
            session.step_level(PLANE, step=step)
            levels.append(session.level)
        assert levels == [6, 6, 3, 1, 1]
        session.choose_level(4)  # the same mask as at 3
        session.step_level(PLANE, step=1)
        assert session.level == 6
        session.choose_level(4)
        session.step_level(PLANE, step=-1)
        assert session.level == 1

    def test_one_mask_leaves_nothing_to_step_to(self) -> None:
        session = open_session(FakePredictor())
        session.set_box(PLANE, Box(2, 3, 8, 9))
        session.step_level(PLANE, step=1)
        assert session.level is None and session.preview(PLANE).ladder.stops == (4,)

    def test_begin_in_the_middle_while_nothing_is_shown(self, session: ImageSession) -> None:
        session.step_level(PLANE, step=-1)
        assert session.level == 3
        for _ in range(5):
            session.step_level(PLANE, step=1)
        assert session.level == 6


def test_what_is_left_open_is_the_same_in_another_session(session: ImageSession, predictor) -> None:
    session.choose_level(5)
    session.click(PLANE, (15, 18))
    other = open_session(predictor)
    other.restore(session.state())
    assert other.level == 5 and np.array_equal(other.preview(PLANE).mask, session.preview(PLANE).mask)


def replay(note: dict, predictor: LadderPredictor) -> np.ndarray:
    """Make the mask of a note again from the note alone."""
    features = predictor.embed(np.zeros(SHAPE[1:], dtype=np.float32))
    answer, mask = None, None
    for asked in note["rounds"]:
        coords = np.array([point[:2] for point in asked["points"]], dtype=np.float32)
        points = Points(coords, np.array([point[2] for point in asked["points"]]))
        refined = asked["refines_candidate"]
        prompt = Prompt(points=points, mask=None if refined is None else answer.logits[refined])
        answer = predictor.predict(features, prompt)
        mask = answer.masks[note["candidate"]]
    return mask


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("level"), st.sampled_from([None, 1, 2, 3, 4, 5, 6])),
        st.tuples(st.just("click"), st.tuples(st.integers(4, 27), st.integers(4, 35), st.booleans())),
        st.tuples(st.just("commit"), st.none()),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS, radii=st.lists(st.integers(1, 9), min_size=6, max_size=6).map(sorted))
def test_the_nearest_mask_is_what_is_committed(actions, radii) -> None:
    """Whatever is clicked and chosen in whatever order; and the note of a commit makes the same mask again."""
    labels = ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))
    predictor = LadderPredictor(radii=radii)
    session = open_session(predictor, labels)
    session.keep_existing = False
    notes = []
    session.committed.connect(lambda _, note: notes.append(json.loads(json.dumps(note))))
    level, clicks = None, []
    for kind, value in [*actions, ("commit", None)]:
        if kind == "level":
            level = value
            session.choose_level(level)
        elif kind == "click":
            row, col, positive = value
            clicks.append((row, col, positive or not clicks))
            session.click(PLANE, (row, col), positive=clicks[-1][2])
        elif clicks:
            coords = np.array([click[:2] for click in clicks], dtype=np.float32)
            points = Points(coords, np.array([click[2] for click in clicks]))
            masks = six_masks(SHAPE[1:], Prompt(points=points), radii=radii)[list(BEST_FIRST)]
            levels = session.preview(PLANE).prediction.levels
            expected = masks[0 if level is None else nearest(levels, level)]
            before, label = labels.array[PLANE].copy(), session.object_id
            if session.commit():
                assert np.array_equal(labels.array[PLANE] == label, expected)
                assert np.array_equal(replay(notes[-1], predictor), expected)
                assert session.objects.rows[label].level == notes[-1]["level"]
            else:
                assert not expected.any()
                session.clear()
            clicks = []
            assert np.array_equal(before[~expected], labels.array[PLANE][~expected])
