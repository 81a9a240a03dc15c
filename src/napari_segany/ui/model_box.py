"""The models to choose from: grouped, searchable by typing, with somebody's own weights file as a last entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]  # names that qtpy makes
from qtpy.QtGui import QStandardItemModel, QWheelEvent
from qtpy.QtWidgets import QComboBox, QCompleter, QFileDialog, QSizePolicy, QWidget

from napari_segany.models.download import local_decoder, local_weights
from napari_segany.models.registry import NOT_STATED, ModelSpec

from .buttons import TypedLine

_OWN = "Your own files"
_GROUPS = (
    ("", "Bundled"),
    ("sam_hq_", "HQ-SAM"),
    ("sam2.1_hq", "HQ-SAM"),
    ("mobile_", "SAM and MobileSAM"),
    ("sam_", "SAM and MobileSAM"),
    ("sam2.1_", "SAM 2.1"),
    ("sam2_", "SAM 2"),
    ("edgetam", "EdgeTAM"),
    ("semantic_sam_", "Semantic-SAM"),
    ("microsam_", "micro-sam"),
)
_BYTES_PER_PARAMETER = 4  # of the published files
_OPEN = ""  # no model is called so


def ask_weights_file(parent: QWidget) -> str:
    """Ask for a weights file; empty if none was chosen."""
    chosen, _ = QFileDialog.getOpenFileName(
        parent, "Open weights file", "", "Weights (*.safetensors *.pt *.pth);;All files (*)"
    )
    return str(chosen)


class ModelBox(QComboBox):
    """A combo box of models; `chosen` tells the name, or the path, of one that a person chose.

    Parameters
    ----------
    specs
        The rows to list.
    chosen
        The name or path to begin with.
    ask_file
        Asks for somebody's own weights file.
    """

    chosen = Signal(str)

    def __init__(
        self,
        specs: Iterable[ModelSpec],
        *,
        chosen: str,
        ask_file: Callable[[QWidget], str] = ask_weights_file,
    ) -> None:
        super().__init__()
        self._specs = {spec.name: spec for spec in specs}
        self._ask_file = ask_file
        self._own: list[str] = []
        self._labels: dict[str, str] = {}
        self._name = chosen
        self.setMinimumContentsLength(12)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMaxVisibleItems(24)
        self._rows, self._line = QStandardItemModel(self), TypedLine(self)
        self._make_searchable()
        self.select(chosen)
        self.activated.connect(self._on_activated)

    @property
    def name(self) -> str:
        """The chosen model: the name of a row, or the path of a weights file."""
        return self._name

    @property
    def spec(self) -> ModelSpec | None:
        """The row of the chosen model; None for somebody's own file."""
        return self._specs.get(self._name)

    def lists(self, name: str) -> bool:
        """Say whether a model is among the rows."""
        return name in self._specs

    def select(self, name: str) -> None:
        """Show a model as the chosen one, without telling of it; also what is on this machine by now."""
        self._name = name
        if name not in self._specs and name not in self._own:
            self._own.append(name)
        self._fill()
        self._show_chosen()

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802  # Qt's name
        """Leave the wheel to what scrolls: a model is not changed in passing."""
        event.ignore()

    # ------------------------------------------------------------------ inside

    def _make_searchable(self) -> None:
        self.setModel(self._rows)
        self.setLineEdit(self._line)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._line.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        completer = QCompleter(self._rows, self)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setCompletionMode(QCompleter.CompletionMode.PopupCompletion)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.setCompleter(completer)
        self._line.editingFinished.connect(self._on_typed)
        self._line.dropped.connect(self._show_chosen)

    def _fill(self) -> None:
        """List own files, the bundled rows, and the others by family, where the list is another than before."""
        groups = {_OWN: self._own}
        for group in dict.fromkeys(title for _, title in _GROUPS):
            groups[group] = [name for name, spec in self._specs.items() if group_of(spec) == group]
        labels = {name: self._label(name) for names in groups.values() for name in names}
        if labels == self._labels:
            return
        self._labels = labels
        self.clear()
        for title, names in groups.items():
            if names:
                self.addItem(f"—  {title}  —")
                self._rows.item(self.count() - 1).setFlags(Qt.ItemFlag.NoItemFlags)
            for name in names:
                spec = self._specs.get(name)
                self.addItem(labels[name], name)
                tip = name if spec is None else tip_of(spec)
                self.setItemData(self.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.addItem("Open weights file …", _OPEN)

    def _label(self, name: str) -> str:
        spec = self._specs.get(name)
        return Path(name).name if spec is None else label_of(spec)

    def _show_chosen(self) -> None:
        place = self.findData(self._name)
        self.setCurrentIndex(place)
        self.setEditText(self.itemText(place))  # also in place of what was typed
        self._line.setCursorPosition(0)
        self.setToolTip(self.itemData(place, Qt.ItemDataRole.ToolTipRole))

    def _on_activated(self, place: int) -> None:
        name = self.itemData(place)
        if name == _OPEN:
            name = self._ask_file(self)
        self._choose(name or self._name)

    def _on_typed(self) -> None:
        """Take a name that was typed in full, or what alone fits; else show what was chosen before."""
        text = self._line.text().strip()
        if text == self.itemText(self.findData(self._name)):
            return
        fitting = [name for name in self._specs if text and text.lower() in name.lower()]
        is_one = text in fitting or len(fitting) == 1
        self._choose((text if text in fitting else fitting[0]) if is_one else self._name)

    def _choose(self, name: str) -> None:
        is_new = name != self._name
        self.select(name)
        if is_new:
            self.chosen.emit(name)


def group_of(spec: ModelSpec) -> str:
    """Return the heading that a row stands under."""
    if spec.is_bundled:
        return _GROUPS[0][1]
    return next((title for stem, title in _GROUPS[1:] if spec.name.startswith(stem)), spec.family)


def is_here(spec: ModelSpec) -> bool:
    """Return whether a row needs no download."""
    return local_weights(spec) is not None and (spec.decoder is None or local_decoder(spec) is not None)


def label_of(spec: ModelSpec) -> str:
    """Return a row's name, and what its download weighs if it needs one."""
    if is_here(spec):
        return spec.name
    size = _size_text(spec)
    return f"{spec.name}  (download{f', {size}' if size else ''})"


def tip_of(spec: ModelSpec) -> str:
    """Return what one should know before choosing a row."""
    licence = "not stated" if spec.licence == NOT_STATED else spec.licence
    lines = [spec.title, spec.note, f"Licence: {licence}", spec.licence_note]
    lines += ["Draws fine boundaries." if spec.has_fine else ""]
    lines += ["Finds every object by itself." if spec.decoder is not None else ""]
    return "\n".join(line for line in lines if line)


def _size_text(spec: ModelSpec) -> str:
    """Return the size of a row's download in MB, "~" before an estimate; empty if it is not known."""
    if spec.size_bytes is not None:
        return f"{spec.size_bytes / 1e6:.0f} MB"
    if spec.n_parameters is not None:
        return f"~{spec.n_parameters * _BYTES_PER_PARAMETER / 1e6:.0f} MB"
    return ""
