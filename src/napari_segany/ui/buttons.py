"""Buttons that leave the keyboard to the canvas, rows of them that docks share, and lines that keep their keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)


def button(text: str, tip: str, *, clicked: Callable[[], object]) -> QPushButton:
    """Return a push button that leaves the keyboard to the canvas.

    `clicked` is connected as it is: a method then does not keep its widget alive, as a lambda would.
    """
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    made.clicked.connect(clicked)
    return made


def side_by_side(*widgets: QWidget) -> QWidget:
    """Return widgets side by side, equally wide."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget, 1)
    return row


class TypedLine(QLineEdit):
    """Keeps Enter, Escape and arrows to itself: the viewer behind it would commit the object, or forget its clicks."""

    dropped = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802  # Qt's name
        """Type, or end typing."""
        super().keyPressEvent(event)
        if event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            event.accept()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Escape):
            event.accept()
            if event.key() == Qt.Key.Key_Escape:
                self.dropped.emit()
            self.clearFocus()  # what is typed next is for the canvas


class ActionPanel(QWidget):
    """Has buttons that call the actions of what runs, by the names of the key table."""

    _running: Any = None  # Any: each panel has its own

    def action_button(self, text: str, tip: str, action: str) -> QPushButton:
        """Return a button that calls one action."""
        made = button(text, tip, clicked=self._on_action)
        made.setProperty("action", action)
        return made

    def _on_action(self) -> None:
        if self._running is not None:
            getattr(self._running, self.sender().property("action"))()


class SignBox(QWidget):
    """Whether plain clicks add to the object or cut from it; `chosen` tells of a person's choice."""

    chosen = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.positive = _choice("●  Add", "Plain clicks mark the object (T)", "#2bd97c")
        self.negative = _choice("✕  Cut", "Plain clicks mark what does not belong to it (T)", "#ff4d6d")
        group = QButtonGroup(self)
        for one in (self.positive, self.negative):
            group.addButton(one)
        group.buttonClicked.connect(self._on_chosen)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for one in (self.positive, self.negative):
            layout.addWidget(one, 1)

    def show_sign(self, positive: bool) -> None:
        """Show which one holds."""
        (self.positive if positive else self.negative).setChecked(True)

    def _on_chosen(self, chosen: QAbstractButton) -> None:
        self.chosen.emit(chosen is self.positive)


def show_step(one: QAbstractButton, word: str, title: str | None) -> None:
    """Make an undo or redo button say what it would do, or that there is nothing."""
    one.setEnabled(title is not None)
    one.setToolTip(f"{word} {title or ''}".strip())


def _choice(text: str, tip: str, colour: str) -> QToolButton:
    made = QToolButton()
    made.setText(text)
    made.setToolTip(tip)
    made.setCheckable(True)
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    made.setStyleSheet(
        "QToolButton { border: 1px solid #6a7380; border-radius: 2px; padding: 3px; }"
        f"QToolButton:checked {{ border-color: {colour}; color: {colour}; font-weight: bold; }}"
    )
    return made
