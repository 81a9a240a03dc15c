"""The dock widget to segment images by clicks, boxes and outlines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QFileDialog, QLabel, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_segany.core.errors import SegAnyError
from napari_segany.core.types import ModelCard
from napari_segany.session.worker import CancelledError

from .annotation import Annotation, explain
from .choosing import ChoicePanel
from .consent import LicenceBar
from .loading import Loader, Loading, load_predictor
from .post import MainThread
from .saved import save_labels, save_session
from .settings import read_settings, remember_fine
from .start import start
from .working import WorkPanel, button, help_text

if TYPE_CHECKING:
    from napari.components import ViewerModel

_logger = logging.getLogger(__name__)


class _LastWill:
    """Ends the session of a widget that Qt destroys; holds the session, and not the widget."""

    def __init__(self) -> None:
        self.running: Annotation | None = None

    def carry_out(self) -> None:
        """Let the model and its thread go."""
        running, self.running = self.running, None
        if running is not None:
            running.stop(timeout=2.0)


class AnnotateWidget(QWidget):
    """Choose an image and a model, press Start, click.

    Parameters
    ----------
    napari_viewer
        The widget belongs to this viewer alone.
    load
        Turns a model's name into a predictor, on the worker's thread, and tells of downloads.
    """

    def __init__(self, napari_viewer: ViewerModel, *, load: Loader = load_predictor) -> None:
        super().__init__()
        self._viewer: ViewerModel | None = napari_viewer
        self._post = MainThread()
        self._is_fine = read_settings().fine
        self._last = _LastWill()
        self.destroyed.connect(self._last.carry_out)
        self.choices = ChoicePanel(napari_viewer, model=read_settings().model)
        self._answering = self._wanted = self.choices.models.name
        self.licence = LicenceBar()
        self.work = WorkPanel()
        self._loading = Loading(load, post=self._post.post, shown=self.work.busy.show_download)
        self.work.busy.cancelled.connect(self._loading.call_off)
        self.start_button = button("Start", "Look at the image and wait for clicks", clicked=self.toggle)
        self.saved_in = QLabel("")
        self.saved_in.setWordWrap(True)
        self.saved_in.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.save_button = button(
            "Save a copy …",
            "Write the labels as OME-Zarr, or a state to go on with later",
            clicked=self.ask_and_save,
        )
        self._layout()
        self.choices.changed.connect(self._on_choice)
        self.choices.models.chosen.connect(self._on_model_chosen)
        self.choices.fine.clicked.connect(self._on_fine)
        self.choices.labels.hide_where(self._is_preview)
        self._show_running()

    @property
    def running(self) -> Annotation | None:
        """The session that runs."""
        return self._last.running

    # ------------------------------------------------------------------ start, stop

    def toggle(self) -> None:
        """Start, or stop what runs."""
        if self.running is not None:
            self.stop()
        else:
            self.start()

    def start(self) -> None:
        """Start with what is chosen, after a licence that restricts use was agreed to."""
        if self.choices.choice() is None or self._viewer is None:
            show_info("Open an image first, then press Start.")
            return
        self.licence.ask(self.choices.models.spec, agreed=self._start, refused=_stay)

    def _start(self) -> None:
        choice, viewer = self.choices.choice(), self._viewer
        if choice is None or viewer is None or self.running is not None:
            return
        try:
            running, problem = start(
                viewer, choice, settings=read_settings(), post=self._post, loading=self._loading
            )
        except (SegAnyError, OSError) as error:
            show_error(str(error))
            return
        self._answering = self._wanted = choice.model
        self._last.running = running
        running.session.fine = None if self._is_fine else False
        running.session.failed.connect(self._on_failure)
        running.session.model_changed.connect(self._on_model)
        running.session.switch_failed.connect(self._on_switch_failed)
        running.stopped.connect(self._on_stopped)
        if problem is not None:
            show_warning(f"Labels are in memory only: {problem}")
        self._show_running()

    def switch(self, model: str) -> None:
        """Answer with another model; prompts and labels stay. What is downloaded for the last one is called off."""
        if self.running is not None:
            self._loading.call_off()
            self._wanted = model
            self.running.session.set_predictor(self._loading.of(model, settings=read_settings()))

    def stop(self, *, timeout: float = 0.0) -> None:
        """Stop what runs; the labels stay."""
        if self.running is not None:
            self.running.stop(timeout=timeout)

    def ask_and_save(self) -> None:
        """Ask for a folder and write the labels there."""
        chosen, _ = QFileDialog.getSaveFileName(
            self, "Save labels", "labels.ome.zarr", "OME-Zarr (*.ome.zarr)"
        )
        if chosen:
            self.save(Path(chosen))

    def save(self, path: Path) -> None:
        """Write the labels to a new OME-Zarr label image, or prompts and all to a saved state."""
        if self.running is None:
            return
        try:
            is_state = path.name.endswith(".json")
            path = save_session(self.running, path) if is_state else save_labels(self.running, path)
        except (SegAnyError, OSError) as error:
            show_error(f"The labels were not saved: {error}")
            return
        show_info(f"Saved {path}")

    # ------------------------------------------------------------------ the end of the window

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802  # Qt's name
        """End the session with the widget."""
        self.release()
        super().closeEvent(event)

    def release(self, *, timeout: float = 2.0) -> None:
        """Let the model, its thread and the viewer go."""
        self.stop(timeout=timeout)
        self._post.close()
        self.choices.close_boxes()
        self._viewer = None

    # ------------------------------------------------------------------ inside

    def _layout(self) -> None:
        self._help = QCollapsible("Mouse and keys")
        table = QLabel(help_text())
        table.setWordWrap(True)
        self._help.addWidget(table)
        layout = QVBoxLayout(self)
        for widget in (
            self.choices,
            self.licence,
            self.start_button,
            self.work,
            self.saved_in,
            self.save_button,
            self._help,
        ):
            layout.addWidget(widget)
        layout.addStretch(1)

    def _show_running(self) -> None:
        """Make everything agree with whether a session runs."""
        is_running = self.running is not None
        self.choices.hold(is_running)
        self._show_fine()
        self.start_button.setText("Stop" if is_running else "Start")
        self.work.follow(self.running)
        for widget in (self.saved_in, self.save_button):
            widget.setVisible(is_running)
        if self.running is not None:
            path = self.running.target.path
            self.saved_in.setText(
                f"Every commit is saved in {path}" if path else "Labels are in memory only."
            )
        self._on_choice()

    def _on_choice(self) -> None:
        self.start_button.setEnabled(self.running is not None or self.choices.choice() is not None)

    # ------------------------------------------------------------------ inside: models

    def _on_model_chosen(self, model: str) -> None:
        self._show_fine()
        if self.running is not None:
            self.licence.ask(
                self.choices.models.spec, agreed=lambda: self.switch(model), refused=self._show_answering
            )

    def _on_model(self, card: ModelCard) -> None:
        """Follow the model that answers now; another one may be on its way already."""
        running = self.running
        if running is not None and not running.session.is_switching:
            self._answering = self._wanted
            if not self.licence.is_open:
                self._show_answering()

    def _on_switch_failed(self, error: Exception) -> None:
        self._show_answering()
        if not isinstance(error, CancelledError):
            self._on_failure(error)
            show_info(f"{Path(self._answering).name} goes on; your clicks and labels are as they were.")

    def _show_answering(self) -> None:
        """Show the model that answers as the chosen one."""
        if self.running is not None:
            self.choices.models.select(self._answering)
            self._show_fine(self.running.session.card)

    def _show_fine(self, card: ModelCard | None = None) -> None:
        spec = self.choices.models.spec
        has_fine = spec.has_fine if spec is not None else card is not None and card.has_fine
        name = spec.name if spec is not None else Path(self.choices.models.name).name
        self.choices.fine.follow(name, has_fine=has_fine, is_on=self._is_fine)

    def _on_fine(self, is_on: bool) -> None:
        """Draw fine boundaries or not; a model without them gives way to its sibling that has them."""
        models = self.choices.models
        self._is_fine = is_on
        remember_fine(is_on)
        if self.running is not None:
            self.running.session.fine = None if is_on else False
        sibling = self.choices.fine.sibling_of(models.name)
        if is_on and sibling is not None:
            models.select(sibling)
            self._on_model_chosen(sibling)

    # ------------------------------------------------------------------ inside: the end

    def _on_failure(self, error: Exception) -> None:
        if not isinstance(error, SegAnyError):
            _logger.error("the session's worker failed", exc_info=error)
        show_error(explain(error))

    def _on_stopped(self, reason: str) -> None:
        self._last.running = None
        self._loading.call_off()
        self.licence.dismiss()
        if reason:
            show_info(reason)
        self._show_running()

    def _is_preview(self, layer: object) -> bool:
        return self.running is not None and layer is self.running.layers.preview


def _stay() -> None:
    """Change nothing."""
