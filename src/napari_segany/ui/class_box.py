"""Which classes masks are told apart by, as a line of text, and whether labels are coloured by them."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QObject, Qt, Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtWidgets import QCheckBox, QFormLayout, QLabel

from napari_segany.session.objects import ObjectTable

from .buttons import TypedLine
from .class_colours import legend

_TIP = "What masks are told apart by: names with commas between them; empty for the model's own list"
_OWN = "The model's own: {names}"


def parse_classes(text: str) -> tuple[str, ...]:
    """Return the names of a line with commas, each once, in their order."""
    names = (" ".join(name.split()) for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def join_classes(names: Sequence[str]) -> str:
    """Return names as a line with commas."""
    return ", ".join(names)


class ClassBox(QObject):
    """Rows of a form: class names, seen with models that know words, and a check box for colours.

    `named` tells of a list that a person gave, `coloured` of a wish for colours by class.
    """

    named = Signal(tuple)
    coloured = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.line, self.title = TypedLine(), QLabel("Classes")
        self.line.setToolTip(_TIP)
        self.line.setClearButtonEnabled(True)
        self.colours = QCheckBox("Colour by class")
        self.colours.setToolTip(
            "Each class has one colour, which is always the same; off, each label has its own"
        )
        self.colours.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.legend = QLabel("")
        self.legend.setWordWrap(True)
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self._has_words = self._has_names = False
        self._told: tuple[str, ...] = ()
        self.line.dropped.connect(self._on_dropped)
        self.line.editingFinished.connect(self._on_edited)
        self.colours.clicked.connect(self._on_coloured)

    def add_to(self, form: QFormLayout) -> None:
        """Put everything into a form."""
        form.addRow(self.title, self.line)
        form.addRow("", self.colours)
        form.addRow("", self.legend)

    def show_model(self, *, has_words: bool, own: Sequence[str]) -> None:
        """Show the line where the model knows words; `own` is its own list."""
        self._has_words = has_words
        for widget in (self.line, self.title):
            widget.setVisible(has_words)
        names = join_classes(own)
        self.line.setPlaceholderText(_OWN.format(names=names) if names else "The model's own list")
        self.line.setToolTip(f"{_TIP} ({names})" if names else _TIP)
        self._show_colours()

    def show_classes(self, names: Sequence[str]) -> None:
        """Show the list that holds."""
        self._told = tuple(names)
        self.line.setText(join_classes(names))

    def show_objects(self, table: ObjectTable) -> None:
        """Show which classes there are."""
        self._has_names = table.has_names
        self.legend.setText(legend(table) if self.colours.isChecked() else "")
        self._show_colours()

    def _show_colours(self) -> None:
        is_seen = self._has_words or self._has_names
        self.colours.setVisible(is_seen)
        self.legend.setVisible(is_seen and bool(self.legend.text()))

    def _on_edited(self) -> None:
        names = parse_classes(self.line.text())
        self.line.setText(join_classes(names))
        if names != self._told:
            self._told = names
            self.named.emit(names)

    def _on_dropped(self) -> None:
        self.line.setText(join_classes(self._told))

    def _on_coloured(self, is_on: bool) -> None:
        self.coloured.emit(is_on)
