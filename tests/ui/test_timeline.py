"""The timeline as a widget: real mouse and key events, and what is painted."""

import numpy as np
import pytest
from test_course import course_of

pytestmark = pytest.mark.canvas


@pytest.fixture
def timeline(qtbot):
    from napari_segany.ui.timeline import Timeline

    made = Timeline(64)
    qtbot.addWidget(made)
    made.resize(660, 92)
    made.show()
    qtbot.waitExposed(made)
    return made


def point(timeline, frame, *, y=50):
    from qtpy.QtCore import QPoint

    return QPoint(round(timeline.scale.middle_of(frame)), y)


def pixels(timeline) -> np.ndarray:
    """(H, W, 3) uint8: what the widget shows."""
    shown = timeline.grab().toImage().convertToFormat(_rgb())
    rows = np.frombuffer(shown.constBits(), np.uint8).reshape(shown.height(), shown.bytesPerLine())
    return rows[:, : 3 * shown.width()].reshape(shown.height(), shown.width(), 3).copy()


def _rgb():
    from qtpy.QtGui import QImage

    return QImage.Format.Format_RGB888


def has_colour(shown: np.ndarray, colour: str) -> bool:
    """Screens may show fewer colours than asked for."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(shown.astype(int) - wanted).max(axis=-1) <= 8).any())


def press(timeline, frame, *, y=50) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(
        timeline, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point(timeline, frame, y=y)
    )


def test_clicks_and_drags_go_to_frames(timeline, qtbot) -> None:
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    seen = []
    timeline.frame_chosen.connect(seen.append)
    press(timeline, 20)
    press(timeline, 20)  # nothing new
    assert seen == [20] and timeline.frame == 20
    qtbot.mousePress(timeline, Qt.MouseButton.LeftButton, pos=point(timeline, 30))
    for frame in (31, 35, 33):
        where = QPointF(point(timeline, frame))
        held = Qt.MouseButton.NoButton, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(
            timeline,
            QMouseEvent(QEvent.Type.MouseMove, where, QPointF(timeline.mapToGlobal(where.toPoint())), *held),
        )
    qtbot.mouseRelease(timeline, Qt.MouseButton.LeftButton, pos=point(timeline, 33))
    assert seen == [20, 30, 31, 35, 33]


def test_keys_move_by_one_by_ten_to_the_ends_and_to_marks(timeline, qtbot) -> None:
    from qtpy.QtCore import Qt

    timeline.show_course(course_of([0.9] * 64, prompted=[5], doubtful=[40]))
    steps = (
        ("Right", False, 1),
        ("Right", True, 11),
        ("Left", False, 10),
        ("PageDown", False, 40),
        ("PageUp", False, 5),
        ("End", False, 63),
        ("Right", False, 63),
        ("Home", False, 0),
        ("Left", True, 0),
    )
    for key, shift, goal in steps:
        held = Qt.KeyboardModifier.ShiftModifier if shift else Qt.KeyboardModifier.NoModifier
        qtbot.keyClick(timeline, getattr(Qt.Key, f"Key_{key}"), held)
        assert timeline.frame == goal


def test_a_click_on_a_mark_takes_that_very_frame_among_thousands(timeline) -> None:
    timeline.show_course(course_of(np.full(10_000, 0.9), doubtful=[4321]))
    press(timeline, 4321 + 20, y=20)
    assert timeline.frame == 4321
    press(timeline, 6000)
    assert abs(timeline.frame - 6000) <= 8


def test_every_state_is_drawn_and_is_told_apart(timeline) -> None:
    colours, tint = timeline._colours, "#5aa9e6"
    plain = pixels(timeline)
    assert not has_colour(plain, tint)
    scores = np.full(64, 0.9)
    scores[40:50], scores[50:] = -0.5, np.nan
    timeline.show_course(
        course_of(scores, prompted=[3], doubtful=[20], locked=range(5, 9), stale=range(30, 40)), tint=tint
    )
    shown = pixels(timeline)
    for colour in (tint, colours.prompt, colours.doubt, colours.lock):
        assert has_colour(shown, colour), colour

    def bar(frame: int) -> np.ndarray:
        x0, x1 = timeline.scale.left_of(frame), timeline.scale.left_of(frame + 1)
        return shown[40:70, int(x0) + 2 : int(x1) - 2]

    assert has_colour(bar(10), tint) and not has_colour(bar(35), tint)  # an outdated bar is hollow
    assert len(np.unique(bar(45).reshape(-1, 3), axis=0)) > 1 and not has_colour(bar(45), tint)  # hatched
    assert not has_colour(bar(60), tint)


@pytest.mark.parametrize("n_frames", [1, 2, 64, 1000, 10_000])
def test_any_number_of_frames_is_drawn(timeline, n_frames: int) -> None:
    rng = np.random.default_rng(0)
    timeline.show_course(course_of(rng.uniform(0.5, 1, n_frames), prompted=[0, n_frames - 1]))
    assert has_colour(pixels(timeline), "#5aa9e6")
    for frame in {0, n_frames // 2, n_frames - 1}:
        timeline.show_frame(frame)
        assert has_colour(pixels(timeline), timeline._colours.line)


def test_moving_the_frame_draws_no_bar_again(timeline) -> None:
    timeline.show_course(course_of(np.full(10_000, 0.9)))
    pixels(timeline)
    kept = timeline._backdrop
    for frame in range(0, 10_000, 100):
        timeline.show_frame(frame)
        pixels(timeline)
    assert timeline._backdrop is kept


def test_light_and_dark(timeline) -> None:
    from napari_segany.ui.timeline import DARK, LIGHT

    for colours in (LIGHT, DARK):
        timeline.show_colours(colours)
        assert has_colour(pixels(timeline)[:, :5], colours.background)


def test_a_shorter_stack_keeps_the_frame_inside(timeline) -> None:
    timeline.show_frame(60)
    timeline.show_course(course_of([0.5] * 10))
    assert timeline.frame == 9 and timeline.n_frames == 10


def test_tooltips_say_frame_and_score(timeline, qtbot) -> None:
    from qtpy.QtCore import QEvent
    from qtpy.QtGui import QHelpEvent
    from qtpy.QtWidgets import QApplication, QToolTip

    timeline.show_course(course_of(np.linspace(0, 1, 64)))
    where = point(timeline, 32)
    QApplication.sendEvent(timeline, QHelpEvent(QEvent.Type.ToolTip, where, timeline.mapToGlobal(where)))
    assert QToolTip.text() == "frame 32 · score 0.51"
    QToolTip.hideText()
    qtbot.waitUntil(lambda: not QToolTip.isVisible(), timeout=5000)


def test_bars_are_seen_whatever_the_colour_of_the_object(timeline) -> None:
    from napari_segany.ui.timeline import DARK, LIGHT

    for colours, tint in ((DARK, "#202028"), (LIGHT, "#fafaff")):
        timeline.show_colours(colours)
        timeline.show_course(course_of(np.full(64, 0.9)), tint=tint)
        shown = pixels(timeline).astype(int).mean(axis=-1)
        x = round(timeline.scale.middle_of(40))
        assert abs(shown[60, x] - shown[29, x]) > 60
