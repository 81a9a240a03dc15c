"""What happens to the current object: the lower half of the annotation widget."""

from __future__ import annotations

from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]  # a name that qtpy makes
from qtpy.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QGridLayout,
    QLabel,
    QProgressBar,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_segany.core.types import ModelCard
from napari_segany.session.answers import Preview, Stage
from napari_segany.session.image import ImageSession

from .annotation import Annotation
from .buttons import ActionPanel, SignBox, button, show_step, side_by_side
from .class_box import ClassBox
from .ladder_box import LadderBox
from .shortcuts import MOUSE, PLANES, keys_of

_PATIENCE_MS = 200  # work that takes longer than this gets a progress bar
_FINDS = "Add every object of this plane to the labels, as one step; what is there stays"
_FINDS_NOT = "This model needs clicks; micro-sam's models find objects by themselves"
_INVITATION = "Click on an object. Right-click what does not belong to it."
_LARGEST_ID = (1 << 31) - 1  # of a spin box


class BusyBar(QWidget):
    """A progress bar with Cancel, shown only when work takes longer than a moment."""

    cancelled = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._bar = QProgressBar()
        self._bar.setRange(0, 0)
        self._bar.setTextVisible(False)
        self._bar.setMaximumHeight(12)
        self._title = QLabel("")
        cancel = button("Cancel", "Drop what is running; your clicks stay", clicked=self.cancelled)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._title, 0, 0)
        layout.addWidget(cancel, 0, 1, 2, 1)
        layout.addWidget(self._bar, 1, 0)
        keep = self.sizePolicy()
        keep.setRetainSizeWhenHidden(True)  # so that nothing below it jumps
        self.setSizePolicy(keep)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.show)
        self.hide()

    def follow(self, stage: Stage) -> None:
        """Show what a session is busy with."""
        if stage is Stage.IDLE:
            self._timer.stop()
            self.hide()
            return
        self._bar.setRange(0, 0)
        self._title.setText(stage.value + " …")
        if not self.isVisible() and not self._timer.isActive():
            self._timer.start(_PATIENCE_MS)

    def show_download(self, done: int, total: int, what: str) -> None:
        """Show how many bytes of a download have come."""
        self._bar.setRange(0, total // 1024)  # Qt counts up to 2**31, and there are larger files
        self._bar.setValue(done // 1024)
        self._title.setText(f"{what}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")


class WorkPanel(ActionPanel):
    """Sign of clicks, levels, candidates, classes, object id, commit and undo, for the running session."""

    def __init__(self) -> None:
        super().__init__()
        self.ladder, self.classes = LadderBox(), ClassBox()
        self.signs = SignBox()
        self.busy = BusyBar()
        self.status = QLabel("")
        self.status.setWordWrap(True)
        self.object_id = QSpinBox()
        self.object_id.setRange(1, _LARGEST_ID)
        self.object_id.setToolTip("The label that the next commit writes")
        self.protect = QCheckBox("Keep objects that are already there")
        self.protect.setToolTip("When off, a new object paints over older ones")
        self.protect.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._layout()
        self.object_id.valueChanged.connect(self._on_id_typed)
        self.protect.toggled.connect(self._on_protect)
        self.signs.chosen.connect(self._on_sign_chosen)
        self.busy.cancelled.connect(self._cancel)
        self.ladder.chosen.connect(self._on_level_chosen)
        self.classes.named.connect(self._on_classes_given)
        self.classes.coloured.connect(self._on_coloured)

    def follow(self, running: Annotation | None) -> None:
        """Show one running session, or none."""
        self._running = running
        self.setVisible(running is not None)
        if running is None:
            self.busy.follow(Stage.IDLE)
            return
        session = running.session
        session.stage_changed.connect(self.busy.follow)
        session.preview_changed.connect(self._on_preview)
        session.object_changed.connect(self._on_object)
        session.history_changed.connect(self._on_history)
        session.model_changed.connect(self._on_model)
        session.level_changed.connect(self._show_choice)
        session.classes_changed.connect(self.classes.show_classes)
        session.objects_changed.connect(self._on_objects)
        running.plane_changed.connect(self._on_plane)
        running.sign_changed.connect(self._on_sign)
        self.protect.setChecked(session.keep_existing)
        self.object_id.setValue(session.object_id)
        self.classes.show_classes(session.classes)
        self.classes.colours.setChecked(running.is_coloured_by_class)
        self._on_objects()
        self._on_plane()
        self._on_history()
        self._on_model(session.card)
        self._on_sign(True)
        self.busy.follow(session.stage)

    # ------------------------------------------------------------------ layout

    def _layout(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.status)
        layout.addWidget(self.busy)
        form = QFormLayout()
        form.addRow("Clicks", self.signs)
        form.addRow("Granularity", self.ladder)
        form.addRow("Mask", self._candidates())
        form.addRow("Object", self._objects())
        self.classes.add_to(form)
        layout.addLayout(form)
        layout.addWidget(self.protect)
        layout.addLayout(self._actions())

    def _candidates(self) -> QWidget:
        self._smaller = self.action_button("◂  Smaller", "The next smaller mask (,)", "show_smaller")
        self._larger = self.action_button("Larger  ▸", "The next larger mask (.)", "show_larger")
        for one in (self._smaller, self._larger):
            one.setEnabled(False)
        return side_by_side(self._smaller, self._larger)

    def _objects(self) -> QWidget:
        next_one = self.action_button("Next", "Another object, without committing (N)", "next_object")
        return side_by_side(self.object_id, next_one)

    def _actions(self) -> QGridLayout:
        self._commit = self.action_button("Commit", "Write the object into the labels (Enter)", "commit")
        self._clear = self.action_button("Clear", "Forget the clicks (Esc)", "clear")
        self._undo = self.action_button("Undo", "Ctrl+Z", "undo")
        self._redo = self.action_button("Redo", "Ctrl+Shift+Z", "redo")
        self.find_all = self.action_button("Find all objects", "", "find_all")
        grid = QGridLayout()
        for place, one in enumerate((self._commit, self._clear, self._undo, self._redo)):
            grid.addWidget(one, place // 2, place % 2)
        grid.addWidget(self.find_all, 2, 0, 1, 2)
        return grid

    # ------------------------------------------------------------------ actions

    def _cancel(self) -> None:
        if self._running is not None:
            self._running.session.cancel()

    def _on_sign_chosen(self, is_positive: bool) -> None:
        if self._running is not None:
            self._running.set_positive(is_positive)

    def _on_id_typed(self, value: int) -> None:
        if self._running is not None:
            self._running.session.object_id = value

    def _on_protect(self, is_on: bool) -> None:
        if self._running is not None:
            self._running.session.keep_existing = is_on

    def _on_level_chosen(self, level: int | None) -> None:
        if self._running is not None:
            self._running.session.choose_level(level)

    def _on_classes_given(self, names: tuple[str, ...]) -> None:
        if self._running is not None:
            self._running.session.set_classes(names)

    def _on_coloured(self, is_on: bool) -> None:
        if self._running is not None:
            self._running.colour_by_class(is_on)
            self._on_objects()

    # ------------------------------------------------------------------ following the session

    def _on_preview(self, index: tuple[int, ...], preview: Preview | None) -> None:
        if self._running is not None and index == self._running.plane:
            self._show_preview(preview)

    def _on_plane(self) -> None:
        if self._running is not None:
            self._show_preview(self._running.session.preview(self._running.plane))

    def _show_preview(self, preview: Preview | None) -> None:
        """Show what is known of the mask on the plane in view."""
        for one in (self._smaller, self._larger):
            one.setEnabled(preview is not None and len(preview.prediction) > 1)
        self._show_choice()
        if preview is None:
            self.status.setText(_INVITATION)
            return
        area = f"{preview.area:,}".replace(",", "\u2009")
        name = f"{preview.name}, " if preview.name else ""
        self.status.setText(f"{name}{area} pixels, confidence {preview.score:.0%}. Enter commits.")

    def _show_choice(self, _: object = None) -> None:
        """Show the level that is chosen, and the masks of the plane in view."""
        if self._running is not None:
            session = self._running.session
            self.ladder.show_choice(session.level, session.preview(self._running.plane))

    def _on_objects(self) -> None:
        if self._running is not None:
            self.classes.show_objects(self._running.session.objects)

    def _on_model(self, card: ModelCard | None) -> None:
        can_find = card is not None and card.finds_instances
        self.find_all.setEnabled(can_find)
        self.find_all.setToolTip(_FINDS if can_find else _FINDS_NOT)
        own = self._running.session.own_classes if self._running is not None else ()
        self.classes.show_model(has_words=card is not None and card.has_words, own=own)

    def _on_object(self, object_id: int) -> None:
        self.object_id.blockSignals(True)
        self.object_id.setValue(object_id)
        self.object_id.blockSignals(False)

    def _on_history(self) -> None:
        session: ImageSession | None = self._running.session if self._running is not None else None
        show_step(self._undo, "Undo", session.undo_title if session else None)
        show_step(self._redo, "Redo", session.redo_title if session else None)

    def _on_sign(self, positive: bool) -> None:
        self.signs.show_sign(positive)


def help_text(kind: str = PLANES) -> str:
    """Return keys and mouse as a small table."""
    rows = [*MOUSE, *((shortcut.shown, shortcut.title) for shortcut in keys_of(kind))]
    cells = "".join(
        f"<tr><td style='padding-right:10px'><b>{keys}</b></td><td>{title}</td></tr>" for keys, title in rows
    )
    return f"<table>{cells}</table>"
