"""The objects of a stack as a list: colour, name, score, frames, lock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import (  # type: ignore[attr-defined]  # names that qtpy makes
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QModelIndex,
    QPersistentModelIndex,
    QSize,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QColorDialog, QHeaderView, QTableView, QWidget

_TITLES = ("", "Object", "Score", "Frames", "Lock")
_COLOUR, _NAME, _SCORE, _FRAMES, _LOCK = range(len(_TITLES))
_ROOT = QModelIndex()
Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object: its colour (`#rrggbb`), mean score (NaN where it is nowhere), first and last frame, doubts, class."""

    object_id: int
    name: str
    colour: str
    score: float
    frames: tuple[int, int] | None
    n_doubtful: int
    is_locked: bool
    class_name: str = ""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or f"{self.class_name or 'Object'} {self.object_id}"

    @property
    def score_text(self) -> str:
        """The score, and an exclamation mark where frames are doubtful."""
        score = "–" if math.isnan(self.score) else f"{self.score:.2f}"
        return f"{score} !" if self.n_doubtful else score

    @property
    def frames_text(self) -> str:
        """The range of frames."""
        return "–" if self.frames is None else f"{self.frames[0]}–{self.frames[1]}"


class _Rows(QAbstractTableModel):
    """The rows, for Qt; only those that differ are drawn again."""

    renamed = Signal(int, str)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[ObjectRow] = []

    def show_rows(self, rows: Sequence[ObjectRow]) -> None:
        if [row.object_id for row in rows] != [row.object_id for row in self.rows]:
            self.beginResetModel()
            self.rows = list(rows)
            self.endResetModel()
            return
        before, self.rows = self.rows, list(rows)
        for place, (old, new) in enumerate(zip(before, rows, strict=True)):
            if old != new:
                self.dataChanged.emit(self.index(place, 0), self.index(place, len(_TITLES) - 1))

    def rowCount(self, parent: Index = _ROOT) -> int:  # noqa: N802  # Qt's name
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = _ROOT) -> int:  # noqa: N802  # Qt's name
        return 0 if parent.isValid() else len(_TITLES)

    def headerData(  # noqa: N802  # Qt's name
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:  # Any: Qt takes what a role needs
        is_title = orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole
        return _TITLES[section] if is_title else None

    def flags(self, index: Index) -> Qt.ItemFlag:
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if index.column() == _NAME:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # Any: as above
        row, column = self.rows[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            lock = "locked" if row.is_locked else "–"
            texts = {_NAME: row.title, _SCORE: row.score_text, _FRAMES: row.frames_text, _LOCK: lock}
            return texts.get(column)
        if role == Qt.ItemDataRole.EditRole and column == _NAME:
            return row.name
        if role == Qt.ItemDataRole.DecorationRole and column == _COLOUR:
            return _swatch(row.colour)
        return _tip(row, column) if role == Qt.ItemDataRole.ToolTipRole else None

    def setData(  # noqa: N802  # Qt's name
        self,
        index: Index,
        value: Any,
        role: int = Qt.ItemDataRole.EditRole,  # Any: as above
    ) -> bool:
        object_id = self.rows[index.row()].object_id
        if role == Qt.ItemDataRole.EditRole and index.column() == _NAME:
            self.renamed.emit(object_id, str(value).strip())
            return True
        return False


def _swatch(colour: str) -> QIcon:
    """Return a square of a colour, that is not dimmed where its row is selected."""
    square = QPixmap(14, 14)
    square.fill(QColor(colour))
    icon = QIcon(square)
    icon.addPixmap(square, QIcon.Mode.Selected)
    return icon


def _tip(row: ObjectRow, column: int) -> str:
    """Return what a cell is."""
    doubts = f"; {row.n_doubtful} doubtful frames (J goes there)" if row.n_doubtful else ""
    return {
        _COLOUR: "Double-click for another colour",
        _NAME: f"Label {row.object_id}{f', {row.class_name}' * bool(row.class_name)}. Double-click to rename",
        _SCORE: f"Mean score over the frames where it is there{doubts}",
        _FRAMES: "First and last frame",
        _LOCK: "Click to lock or release: a locked object keeps its pixels",
    }[column]


class ObjectTable(QTableView):
    """A list of objects; tells of what a person chose and changed."""

    chosen = Signal(int)
    renamed = Signal(int, str)
    locked = Signal(int, bool)
    recoloured = Signal(int, str)

    def __init__(self) -> None:
        super().__init__()
        self._rows = _Rows()
        self._chosen = 0
        self.setModel(self._rows)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setShowGrid(False)
        self.setAlternatingRowColors(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self.setMinimumHeight(110)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
        self.selectionModel().selectionChanged.connect(self._on_selection)
        self.doubleClicked.connect(self._on_double_click)
        self.clicked.connect(self._on_click)
        self._rows.renamed.connect(self.renamed)

    @property
    def rows(self) -> list[ObjectRow]:
        """What is listed."""
        return list(self._rows.rows)

    def show_rows(self, rows: Sequence[ObjectRow], *, chosen: int) -> None:
        """List objects, and select the one in work."""
        self._rows.show_rows(rows)
        self.select(chosen)

    def select(self, object_id: int) -> None:
        """Show which object is in work, without telling of it; none is selected where it is not listed yet."""
        self._chosen = object_id
        place = next((i for i, row in enumerate(self._rows.rows) if row.object_id == object_id), None)
        model = self.selectionModel()
        if place is None:
            model.clearSelection()
            return
        if not model.isRowSelected(place, _ROOT):
            wanted = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            model.select(self._rows.index(place, 0), wanted)
            self.scrollTo(self._rows.index(place, 0))

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size that leaves room for what is below; the list grows where there is more."""
        return QSize(240, self.minimumHeight())

    def ask_colour(self, start: str, parent: QWidget) -> str | None:
        """Ask for a colour; None if none was chosen."""
        colour = QColorDialog.getColor(QColor(start), parent, "Colour of the object")
        return str(colour.name()) if colour.isValid() else None

    def _on_selection(self, selected: QItemSelection, _: QItemSelection) -> None:
        places = selected.indexes()
        if places:
            object_id = self._rows.rows[places[0].row()].object_id
            if object_id != self._chosen:
                self._chosen = object_id
                self.chosen.emit(object_id)

    def _on_click(self, index: QModelIndex) -> None:
        if index.column() == _LOCK:
            row = self._rows.rows[index.row()]
            self.locked.emit(row.object_id, not row.is_locked)

    def _on_double_click(self, index: QModelIndex) -> None:
        if index.column() == _COLOUR:
            row = self._rows.rows[index.row()]
            colour = self.ask_colour(row.colour, self)
            if colour is not None:
                self.recoloured.emit(row.object_id, colour)
