"""The timeline under the canvas: what is known of one object in every frame; a click goes there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import (  # type: ignore[attr-defined]  # names that qtpy makes
    QEvent,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from qtpy.QtGui import (
    QBrush,
    QColor,
    QFont,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QPolygonF,
    QResizeEvent,
)
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from .course import Course, FrameScale, bin_course

_SIDE = 10  # pixels left and right of the frames, so that the marks at both ends are whole
_HEADER, _MARKS, _LOCKS, _NUMBERS = 16, 11, 4, 13  # heights of the lanes, top to bottom; bars take the rest
_MARK_ROOM = 9  # pixels between two doubts that are pointed out
_REACH = 5  # pixels from a mark within which a click in its lane takes that very frame
_CONTRAST = 0.3  # in lightness, between bars and what they stand on
_LEAP = 10  # frames, with Shift held


@dataclass(frozen=True, slots=True)
class TimelineColours:
    """`#rrggbb` for each part."""

    background: str
    field: str
    faint: str
    hatch: str
    text: str
    line: str
    prompt: str
    doubt: str
    lock: str


DARK = TimelineColours(
    background="#262930",
    field="#1b1d22",
    faint="#4b515c",
    hatch="#7d8694",
    text="#d6d8db",
    line="#ffffff",
    prompt="#2bd97c",
    doubt="#ffb547",
    lock="#9fb8d4",
)
LIGHT = TimelineColours(
    background="#efebe9",
    field="#ffffff",
    faint="#c3bdb9",
    hatch="#8f8781",
    text="#3b3a39",
    line="#111111",
    prompt="#0d8a49",
    doubt="#c96a00",
    lock="#4d6f94",
)


class Timeline(QWidget):
    """Bars for the scores of one object; marks for prompts and doubts; `frame_chosen` tells of a click or a key.

    Shapes tell everything that colours tell: a diamond is a prompt, a triangle a doubt, a line below is locked, hatched
    is absent, a hollow bar is outdated, nothing is not looked at yet.
    """

    frame_chosen = Signal(int)

    def __init__(self, n_frames: int = 1, *, colours: TimelineColours = DARK) -> None:
        super().__init__()
        self._course = Course.unknown(n_frames)
        self._colours, self._frame = colours, 0
        self._name, self._tint = "", QColor("#5aa9e6")
        self._backdrop: QPixmap | None = None  # all that does not move with the frame in view
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setMinimumSize(120, 80)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName("Timeline")
        self.setAccessibleDescription(
            "Score of the chosen object in every frame; arrow keys move through them"
        )

    # ------------------------------------------------------------------ what is shown

    @property
    def n_frames(self) -> int:
        """How many frames there are."""
        return len(self._course)

    @property
    def frame(self) -> int:
        """The frame in view."""
        return self._frame

    @property
    def course(self) -> Course:
        """What is shown of the object."""
        return self._course

    def show_course(self, course: Course, *, name: str = "", tint: str = "#5aa9e6") -> None:
        """Show what is known of one object, with its name and colour (`#rrggbb`)."""
        self._course, self._name, self._tint = course, name, QColor(tint)
        self._frame = min(self._frame, len(course) - 1)
        self._draw_anew()

    def show_frame(self, frame: int) -> None:
        """Mark the frame in view, without telling of it."""
        frame = min(max(int(frame), 0), self.n_frames - 1)
        if frame != self._frame:
            before, self._frame = self._frame, frame
            for one in (before, frame):
                self.update(self._line_rect(one))
            self.update(QRect(0, 0, self.width(), _HEADER))

    def show_colours(self, colours: TimelineColours) -> None:
        """Follow a theme."""
        self._colours = colours
        self._draw_anew()

    # ------------------------------------------------------------------ where things are

    @property
    def scale(self) -> FrameScale:
        """The map between frames and pixels."""
        return FrameScale(self.n_frames, left=_SIDE, width=max(1, self.width() - 2 * _SIDE))

    @property
    def _bars(self) -> QRect:
        """Where the bars are."""
        top = _HEADER + _MARKS
        return QRect(
            _SIDE, top, max(1, self.width() - 2 * _SIDE), max(4, self.height() - top - _LOCKS - _NUMBERS - 2)
        )

    def frame_at(self, point: QPoint) -> int:
        """Return the frame under a point; near a mark, and in its lane, the frame that is marked."""
        frame = self.scale.frame_at(point.x())
        if _HEADER <= point.y() < _HEADER + _MARKS:
            near = self.scale.near(self._course.marked, x=point.x(), reach=_REACH)
            return frame if near is None else near
        return frame

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size that shows scores well."""
        return QSize(640, 92)

    # ------------------------------------------------------------------ mouse and keys

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802  # Qt's name
        """Go to a frame."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._choose(self.frame_at(event.position().toPoint()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802  # Qt's name
        """Move through the frames while the button is held."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._choose(self.scale.frame_at(event.position().x()))

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802  # Qt's name
        """Move by one frame, with Shift by ten, to an end, or to the next mark; leave other keys to the window."""
        leap = _LEAP if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1
        goals = {
            Qt.Key.Key_Left: self._frame - leap,
            Qt.Key.Key_Right: self._frame + leap,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: self.n_frames - 1,
            Qt.Key.Key_PageDown: self._course.next_marked(self._frame, step=1),
            Qt.Key.Key_PageUp: self._course.next_marked(self._frame, step=-1),
        }
        goal = goals.get(Qt.Key(event.key()))
        if goal is None:
            super().keyPressEvent(event)
        else:
            self._choose(goal)

    def event(self, event: QEvent) -> bool:
        """Say what a frame is while the mouse rests on it."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            QToolTip.showText(event.globalPos(), self._course.describe(self.frame_at(event.pos())), self)
            return True
        handled: bool = super().event(event)
        return handled

    def _choose(self, frame: int) -> None:
        before = self._frame
        self.show_frame(frame)
        if self._frame != before:
            self.frame_chosen.emit(self._frame)

    # ------------------------------------------------------------------ drawing

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802  # Qt's name
        """Draw anew."""
        self._draw_anew()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802  # Qt's name
        """Draw what was kept, and the line of the frame in view over it."""
        if self._backdrop is None or self._backdrop.devicePixelRatio() != self.devicePixelRatioF():
            self._backdrop = self._drawn()
        with QPainter(self) as painter:
            painter.drawPixmap(0, 0, self._backdrop)
            self._draw_line(painter)
            self._draw_header(painter)

    def _draw_anew(self) -> None:
        self._backdrop = None
        self.update()

    def _drawn(self) -> QPixmap:
        """Return everything that stays the same while the frame in view moves."""
        ratio = self.devicePixelRatioF()
        drawn = QPixmap(self.size() * ratio)
        drawn.setDevicePixelRatio(ratio)
        drawn.fill(QColor(self._colours.background))
        with QPainter(drawn) as painter:
            self._draw_ground(painter)
            self._draw_bars(painter)
            self._draw_marks(painter)
            self._draw_numbers(painter)
        return drawn

    def _draw_ground(self, painter: QPainter) -> None:
        """Draw the field of the bars, and a line at one half, below which a score is doubtful at a glance."""
        bars = self._bars
        painter.fillRect(bars, QColor(self._colours.field))
        painter.setPen(QPen(QColor(self._colours.faint), 1, Qt.PenStyle.DotLine))
        middle = bars.top() + bars.height() // 2
        painter.drawLine(bars.left(), middle, bars.right(), middle)

    def _draw_bars(self, painter: QPainter) -> None:
        """Draw one column for each frame, or for as many frames as share a pixel."""
        bars, colours = self._bars, self._colours
        tint = _readable(self._tint, colours)
        gap = 1 if bars.width() / self.n_frames >= 4 else 0
        for one in bin_course(self._course, width=bars.width()):
            x0, x1 = self.scale.left_of(one.first), self.scale.left_of(one.last + 1)
            column = QRectF(x0, bars.top(), max(1.0, x1 - x0 - gap), bars.height())
            if one.is_absent:
                painter.fillRect(column, QBrush(QColor(colours.hatch), Qt.BrushStyle.BDiagPattern))
            elif one.score is not None:
                top = bars.bottom() + 1 - max(2.0, one.score * bars.height())
                column.setTop(top)
                _fill(painter, column, colours.doubt if one.is_doubtful else tint, is_hollow=one.is_stale)
            if one.is_locked:
                painter.fillRect(QRectF(x0, bars.bottom() + 2, x1 - x0, _LOCKS - 1), QColor(colours.lock))

    def _draw_marks(self, painter: QPainter) -> None:
        """Draw the prompts, and doubts where they do not run into each other."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, True)
        last = -1.0e9
        for frame in np.flatnonzero(self._course.doubtful & ~self._course.prompted).tolist():
            x = self.scale.middle_of(frame)
            if x - last >= _MARK_ROOM:
                self._draw_mark(painter, x, is_prompt=False)
                last = x
        for frame in np.flatnonzero(self._course.prompted).tolist():
            self._draw_mark(painter, self.scale.middle_of(frame), is_prompt=True)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing, False)

    def _draw_mark(self, painter: QPainter, x: float, *, is_prompt: bool) -> None:
        """Draw a diamond for a prompt, a triangle that points down for a doubt."""
        y, size = _HEADER + _MARKS / 2, 4.0
        painter.setPen(QPen(QColor(self._colours.background), 1))
        painter.setBrush(QColor(self._colours.prompt if is_prompt else self._colours.doubt))
        diamond = [(x, y - size - 1), (x + size, y), (x, y + size + 1), (x - size, y)]
        triangle = [(x - size, y - size + 1), (x + size, y - size + 1), (x, y + size)]
        painter.drawPolygon(QPolygonF([QPointF(*corner) for corner in (diamond if is_prompt else triangle)]))

    def _draw_numbers(self, painter: QPainter) -> None:
        """Write frame numbers where there is room."""
        painter.setFont(_small(self))
        painter.setPen(QColor(self._colours.text))
        top = self.height() - _NUMBERS
        widest = painter.fontMetrics().horizontalAdvance(str(self.n_frames)) + 14
        for frame in self.scale.ticks(widest):
            middle = (self.scale.left_of(frame) + self.scale.left_of(frame + 1)) / 2
            place = QRectF(middle - widest / 2, top, widest, _NUMBERS)
            place.moveLeft(min(max(place.left(), 0.0), self.width() - place.width()))
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, str(frame))

    def _line_rect(self, frame: int) -> QRect:
        """Return what the line of a frame covers."""
        x0, x1 = self.scale.left_of(frame), self.scale.left_of(frame + 1)
        return QRect(int(x0) - 6, 0, int(x1 - x0) + 14, self.height())

    def _draw_line(self, painter: QPainter) -> None:
        """Draw the frame in view: a line, or a frame around a bar that is wide enough."""
        x0, x1 = self.scale.left_of(self._frame), self.scale.left_of(self._frame + 1)
        bars = self._bars
        painter.setPen(QPen(QColor(self._colours.line), 2 if x1 - x0 < 6 else 1))
        if x1 - x0 < 6:
            middle = round((x0 + x1) / 2)
            painter.drawLine(middle, _HEADER, middle, bars.bottom() + _LOCKS)
            return
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(QRectF(x0 - 1, _HEADER + _MARKS - 1, x1 - x0, bars.height() + 1))

    def _draw_header(self, painter: QPainter) -> None:
        """Write which object it is, and what is known of the frame in view."""
        painter.setFont(_small(self))
        painter.setPen(QColor(self._colours.text))
        place = QRectF(_SIDE, 0, self.width() - 2 * _SIDE, _HEADER)
        if self._name:
            painter.fillRect(QRectF(_SIDE, 4, 9, 9), self._tint)
        painter.drawText(
            place.adjusted(14 if self._name else 0, 0, 0, 0),
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            self._name,
        )
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(place, right, self._course.describe(self._frame))


def _fill(painter: QPainter, column: QRectF, colour: QColor | str, *, is_hollow: bool) -> None:
    """Draw a bar; one that is outdated is an outline, or pale where it is too narrow for one."""
    colour = QColor(colour)
    if not is_hollow:
        painter.fillRect(column, colour)
        return
    pale = QColor(colour)
    pale.setAlpha(90)
    painter.fillRect(column, pale)
    if column.width() >= 4:
        painter.setPen(QPen(colour, 1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawRect(column.adjusted(0, 0, -1, 0))


def _readable(tint: QColor, colours: TimelineColours) -> QColor:
    """Return a colour that is seen on the field: itself, or mixed with the colour of text."""
    field, text = QColor(colours.field), QColor(colours.text)
    if abs(tint.lightnessF() - field.lightnessF()) >= _CONTRAST:
        return tint
    parts = ((tint.red(), text.red()), (tint.green(), text.green()), (tint.blue(), text.blue()))
    return QColor(*((a + b) // 2 for a, b in parts))


def _small(widget: QWidget) -> QFont:
    """Return the widget's font at a size that fits the lanes."""
    font = QFont(widget.font())
    font.setPixelSize(11)
    return font
