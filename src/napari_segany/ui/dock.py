"""What the docks for images and for stacks share: start and stop, models and licences, saving, the end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QFileDialog, QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_segany.core.errors import SegAnyError
from napari_segany.core.types import ModelCard
from napari_segany.session.worker import CancelledError

from .buttons import button
from .consent import LicenceBar
from .loading import Loader, Loading, PredictorType
from .model_box import ModelBox
from .post import MainThread
from .prompting import Prompting
from .saved import save_labels
from .settings import read_settings
from .working import BusyBar, help_text

if TYPE_CHECKING:
    from napari.components import ViewerModel

_logger = logging.getLogger(__name__)


class Choices(Protocol):
    """The upper half of a dock: what to segment, with which model, into which labels."""

    models: ModelBox
    changed: Any  # Any: a Qt signal

    def choice(self) -> Any:  # Any: each dock has its own
        """Return what is chosen, None while it is not enough to start."""

    def hold(self, is_running: bool) -> None:
        """Keep what a running session cannot change from being changed."""

    def close_boxes(self) -> None:
        """Stop following the viewer."""


class Work(Protocol):
    """The lower half of a dock: what a running session is told."""

    busy: BusyBar

    def follow(self, running: Any) -> None:  # Any: each dock has its own
        """Show one running session, or none."""


class LastWill:
    """Ends the session of a widget that Qt destroys; holds the session, and not the widget."""

    def __init__(self) -> None:
        self.running: Any = None  # Any: each dock has its own

    def carry_out(self) -> None:
        """Let the model and its thread go."""
        running, self.running = self.running, None
        if running is not None:
            running.stop(timeout=2.0)


class SessionDock(QWidget):
    """A dock with choices above and a running session below.

    Parameters
    ----------
    viewer
        The widget belongs to this viewer alone.
    load
        Turns a model's name into a predictor, on the worker's thread, and tells of downloads.
    choices, work
        Its two halves.
    kind
        Whose keys the help lists, as in the key table.

    Attributes
    ----------
    is_scrolled
        Whether the dock scrolls, as it is higher than small screens.
    """

    is_scrolled = False

    def __init__(
        self, viewer: ViewerModel, *, load: Loader[PredictorType], choices: Choices, work: Work, kind: str
    ) -> None:
        super().__init__()
        self._viewer: ViewerModel | None = viewer
        self._post = MainThread()
        self._last = LastWill()
        self.destroyed.connect(self._last.carry_out)
        self._choices, self._work = choices, work
        self._answering = self._wanted = choices.models.name
        self.licence = LicenceBar()
        self._loading: Loading[Any] = Loading(load, post=self._post.post, shown=work.busy.show_download)
        work.busy.cancelled.connect(self._loading.call_off)
        self.start_button = button("Start", "Look at the image and wait for clicks", clicked=self.toggle)
        self.saved_text = "Every commit is saved in {path}"
        self.saved_in = QLabel("")
        self.saved_in.setWordWrap(True)
        self.saved_in.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.save_button = button(
            "Save a copy …",
            "Write the labels as OME-Zarr, or a state to go on with later",
            clicked=self.ask_and_save,
        )
        self._layout(help_text(kind))
        choices.changed.connect(self._on_choice)
        choices.models.chosen.connect(self._on_model_chosen)

    @property
    def running(self) -> Any:  # Any: each dock has its own
        """The session that runs, None while none does."""
        return self._last.running

    # ------------------------------------------------------------------ for each dock to say

    def _make(self, viewer: ViewerModel) -> tuple[Prompting, Exception | None]:
        """Put a session together; also return why its labels are in memory only, where they should not be."""
        raise NotImplementedError

    def _write_state(self, path: Path) -> Path:
        """Write a saved state of what runs, and return the file."""
        raise NotImplementedError

    def _show_model(self, card: ModelCard | None = None) -> None:
        """Show what the chosen model can do; `card` is of the one that answers."""

    # ------------------------------------------------------------------ start, stop

    def toggle(self) -> None:
        """Start, or stop what runs."""
        if self.running is not None:
            self.stop()
        else:
            self.start()

    def start(self) -> None:
        """Start with what is chosen, after a licence that restricts use was agreed to."""
        if self._choices.choice() is None or self._viewer is None:
            show_info("Open an image first, then press Start.")
            return
        self.licence.ask(self._choices.models.spec, agreed=self._start, refused=_stay)

    def _start(self) -> None:
        if self._choices.choice() is None or self._viewer is None or self.running is not None:
            return
        try:
            running, problem = self._make(self._viewer)
        except (SegAnyError, OSError) as error:
            show_error(str(error))
            return
        self._answering = self._wanted = self._choices.models.name
        self._last.running = running
        self._listen(running)
        running.stopped.connect(self._on_stopped)
        if problem is not None:
            show_warning(f"Labels are in memory only: {problem}")
        self._show_running()

    def _listen(self, running: Any) -> None:
        """Follow the session of what runs."""
        session = running.session
        session.failed.connect(self._on_failure)
        session.model_changed.connect(self._on_model)
        session.switch_failed.connect(self._on_switch_failed)

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
            path = self._write_state(path) if is_state else save_labels(self.running, path)
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
        self._choices.close_boxes()
        self._viewer = None

    # ------------------------------------------------------------------ inside

    def _layout(self, keys: str) -> None:
        self._help = QCollapsible("Mouse and keys")
        table = QLabel(keys)
        table.setWordWrap(True)
        self._help.addWidget(table)
        upper, lower = cast(QWidget, self._choices), cast(QWidget, self._work)
        layout = QVBoxLayout(self._inside() if self.is_scrolled else self)
        for widget in (upper, self.licence, self.start_button, lower):
            layout.addWidget(widget)
        for widget in (self.saved_in, self.save_button, self._help):
            layout.addWidget(widget)
        layout.addStretch(1)

    def _inside(self) -> QWidget:
        """Return a widget that scrolls where the window is lower than the dock."""
        inside, area = QWidget(), QScrollArea()
        area.setWidget(inside)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        around = QVBoxLayout(self)
        around.setContentsMargins(0, 0, 0, 0)
        around.addWidget(area)
        return inside

    def _show_running(self) -> None:
        """Make everything agree with whether a session runs."""
        is_running = self.running is not None
        self._choices.hold(is_running)
        self._show_model()
        self.start_button.setText("Stop" if is_running else "Start")
        self._work.follow(self.running)
        for widget in (self.saved_in, self.save_button):
            widget.setVisible(is_running)
        if self.running is not None:
            path = self.running.target.path
            self.saved_in.setText(self.saved_text.format(path=path) if path else "Labels are in memory only.")
        self._on_choice()

    def _on_choice(self) -> None:
        self.start_button.setEnabled(self.running is not None or self._choices.choice() is not None)

    # ------------------------------------------------------------------ inside: models

    def _on_model_chosen(self, model: str) -> None:
        self._show_model()
        if self.running is not None:
            self.licence.ask(
                self._choices.models.spec, agreed=lambda: self.switch(model), refused=self._show_answering
            )

    def _on_model(self, card: ModelCard) -> None:
        """Follow the model that answers now; another one may be on its way already."""
        running = self.running
        if running is not None and not getattr(running.session, "is_switching", False):
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
            self._choices.models.select(self._answering)
            self._show_model(self.running.session.card)

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


def explain(error: Exception) -> str:
    """Return what a notification says about an error; ours say what to do, others say what they are."""
    if isinstance(error, SegAnyError):
        return str(error)
    return f"{type(error).__name__}: {error}. Press Start to try again, or choose another model."


def _stay() -> None:
    """Change nothing."""
