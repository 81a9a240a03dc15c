"""A slider with six stops, fine to coarse, and Auto: which of the masks of an answer is shown."""

from __future__ import annotations

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen, QWheelEvent
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSizePolicy, QSlider, QWidget

from napari_segany.core.granularity import LEVELS
from napari_segany.session.answers import Preview

_TIP = "How much one click means, from a part of a part to a group (Up, Down); it stays for the next objects"
_NOTHING = (
    "Nothing to choose: this answer is a single mask. One click gives several, unless the model gives one for each "
    "prompt; boxes, drawn masks and corrections may mean one thing only"
)
_WAITING = "Click on an object to see its sizes."
_MIDDLE = 4
_HIGHLIGHT = "#ffe45c"  # the colour of the preview
_RADIUS, _HANDLE = 3.5, 7.0  # of stops and of the handle, in pixels of the screen
_MARGIN, _LINE_AT, _HEIGHT = 12, 11, 38


class LevelSlider(QSlider):
    """A slider from 1 to 6 that leaves the keys to the canvas. Stops with a mask of their own are filled."""

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setRange(LEVELS[0], LEVELS[-1])
        self.setPageStep(1)
        self.setValue(_MIDDLE)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.stops: tuple[int, ...] = ()
        self.is_auto = True

    def show_stops(self, stops: tuple[int, ...], *, is_auto: bool) -> None:
        """Mark the levels that have a mask of their own; in Auto, the handle is hollow."""
        if (stops, is_auto) != (self.stops, self.is_auto):
            self.stops, self.is_auto = stops, is_auto
            self.update()

    def place_of(self, level: int) -> QPointF:
        """Return where a stop is, in pixels of the widget."""
        step = (self.width() - 2 * _MARGIN) / (LEVELS[-1] - LEVELS[0])
        return QPointF(_MARGIN + step * (level - LEVELS[0]), _LINE_AT)

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size that leaves room for the words below the stops."""
        return QSize(150, _HEIGHT)

    def minimumSizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return the smallest size at which stops can be told apart."""
        return QSize(110, _HEIGHT)

    # ------------------------------------------------------------------ Qt's events

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802  # Qt's name
        """Go to the stop under the mouse."""
        if event.button() == Qt.MouseButton.LeftButton:
            self.setSliderDown(True)
            self._go_to(event.position().x())
        event.accept()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802  # Qt's name
        """Follow the mouse from stop to stop."""
        if self.isSliderDown():
            self._go_to(event.position().x())

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:  # noqa: N802  # Qt's name
        """Stay where it is."""
        self.setSliderDown(False)

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802  # Qt's name
        """Leave the wheel to the dock around it."""
        event.ignore()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802  # Qt's name
        """Draw line, stops, handle and words."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colour = QColor(self.palette().color(QPalette.ColorRole.WindowText))
        colour.setAlphaF(1.0 if self.isEnabled() else 0.35)
        painter.setPen(QPen(colour, 1.0))
        painter.drawLine(self.place_of(LEVELS[0]), self.place_of(LEVELS[-1]))
        for level in LEVELS:
            self._draw_stop(painter, level, colour)
        self._draw_handle(painter, colour)
        below = QRectF(0, _LINE_AT + _HANDLE, self.width(), _HEIGHT - _LINE_AT - _HANDLE)
        painter.setPen(colour)
        for text, side in (("fine", Qt.AlignmentFlag.AlignLeft), ("coarse", Qt.AlignmentFlag.AlignRight)):
            painter.drawText(below, int(side | Qt.AlignmentFlag.AlignVCenter), text)
        painter.end()

    # ------------------------------------------------------------------ inside

    def _draw_stop(self, painter: QPainter, level: int, colour: QColor) -> None:
        has_own = level in self.stops
        painter.setPen(QPen(colour, 1.0))
        painter.setBrush(colour if has_own else self.palette().color(QPalette.ColorRole.Window))
        radius = _RADIUS if has_own else _RADIUS - 1.5
        painter.drawEllipse(self.place_of(level), radius, radius)

    def _draw_handle(self, painter: QPainter, colour: QColor) -> None:
        tint = QColor(_HIGHLIGHT) if self.isEnabled() else colour
        painter.setPen(QPen(tint, 2.0))
        filling = QColor(tint)
        filling.setAlphaF(0.0 if self.is_auto else 0.55)
        painter.setBrush(filling)
        painter.drawEllipse(self.place_of(self.value()), _HANDLE, _HANDLE)

    def _go_to(self, x: float) -> None:
        self.setValue(min(LEVELS, key=lambda level: abs(self.place_of(level).x() - x)))


class LadderBox(QWidget):
    """The slider, Auto, and how many masks there are to choose from; `chosen` tells of a person's choice.

    It carries a level, 1 (finest) to 6 (coarsest), or None for whichever mask scores best.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.slider = LevelSlider()
        self.auto = QCheckBox("Auto")
        self.auto.setToolTip("Show whichever mask the model is surest of")
        self.auto.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.auto.setChecked(True)
        self.count = QLabel(_WAITING)
        self.count.setWordWrap(True)
        self.count.setMinimumHeight(2 * self.fontMetrics().height())  # so that nothing below it jumps
        self.count.setAlignment(Qt.AlignmentFlag.AlignTop)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(0)
        layout.setColumnStretch(0, 1)
        layout.addWidget(self.slider, 0, 0)
        layout.addWidget(self.auto, 0, 1, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.count, 1, 0, 1, 2)
        self.slider.setToolTip(_TIP)
        self.slider.valueChanged.connect(self._on_slid)
        self.auto.clicked.connect(self._on_auto)

    def show_choice(self, level: int | None, preview: Preview | None) -> None:
        """Show the chosen level, and what there is to choose on the plane in view."""
        stops = () if preview is None else preview.ladder.stops
        can_choose = preview is None or len(stops) > 1
        self.auto.setChecked(level is None)
        self.slider.setEnabled(can_choose)
        self.slider.setToolTip(_TIP if can_choose else _NOTHING)
        self.slider.show_stops(stops, is_auto=level is None)
        at = level if level is not None else preview.level if preview is not None else self.slider.value()
        if at != self.slider.value():
            was_blocked = self.slider.blockSignals(True)
            self.slider.setValue(at)
            self.slider.blockSignals(was_blocked)
        text = _described(level, preview)
        if text != self.count.text():
            self.count.setText(text)

    def _on_slid(self, level: int) -> None:
        self.chosen.emit(level)

    def _on_auto(self, is_on: bool) -> None:
        self.chosen.emit(None if is_on else self.slider.value())


def _described(level: int | None, preview: Preview | None) -> str:
    """Return how many masks there are to choose from, and what is shown in place of one that is not there."""
    if preview is None:
        return _WAITING
    count = len(preview.ladder.distinct)
    if count < 2:
        return "One mask, nothing to choose." if count else "The mask is empty."
    what = f"{count} different masks"
    if level is not None and preview.level != level:
        return f"{what}. None at level {level}, so level {preview.level} is shown."
    return f"{what}. Level {preview.level} is shown."
