"""Work that was cut short, offered to be gone on with."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout

from .buttons import button

_COLOUR = "#5aa9e6"


class ResumeBar(QFrame):
    """A note with Resume and Not now."""

    agreed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("resume")
        self.setStyleSheet(f"#resume {{ border: 1px solid {_COLOUR}; border-radius: 3px; }}")
        self.note = QLabel("")
        self.note.setWordWrap(True)
        self.agree = button(
            "Resume", "Go on where it stopped; frames that are done stay", clicked=self._on_agree
        )
        self.refuse = button(
            "Not now", "Leave it as it is; Follow works out what is missing later", clicked=self.hide
        )
        buttons = QHBoxLayout()
        for one in (self.agree, self.refuse):
            buttons.addWidget(one)
        layout = QVBoxLayout(self)
        layout.addWidget(self.note)
        layout.addLayout(buttons)
        self.hide()

    def offer(self, ranges: Sequence[range], *, n_objects: int) -> None:
        """Offer to go on with ranges of frames; nothing is shown where there are none."""
        spans = [part for part in ranges if len(part)]
        if spans:
            first, last = min(min(part) for part in spans), max(max(part) for part in spans)
            objects = f"{n_objects} object{'s' if n_objects != 1 else ''}"
            self.note.setText(
                f"Following {objects} through frames {first} to {last} was cut short. Resume works out what is "
                "missing; or correct first, then follow again."
            )
        self.setVisible(bool(spans))

    def _on_agree(self) -> None:
        self.hide()
        self.agreed.emit()
