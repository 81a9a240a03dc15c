"""The dock widget to segment images by clicks, boxes and outlines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_segany.core.types import ImagePredictorLike, ModelCard

from .annotation import Annotation
from .choosing import ChoicePanel
from .class_box import join_classes
from .dock import SessionDock
from .loading import Loader, load_predictor
from .saved import save_session
from .settings import read_settings, remember_class_colours, remember_classes, remember_fine
from .shortcuts import PLANES
from .start import start
from .working import WorkPanel

if TYPE_CHECKING:
    from napari.components import ViewerModel


class AnnotateWidget(SessionDock):
    """Choose an image and a model, press Start, click.

    Parameters
    ----------
    napari_viewer
        The widget belongs to this viewer alone.
    load
        Turns a model's name into a predictor, on the worker's thread, and tells of downloads.
    """

    def __init__(
        self, napari_viewer: ViewerModel, *, load: Loader[ImagePredictorLike] = load_predictor
    ) -> None:
        self._is_fine = read_settings().fine
        self._level: int | None = None
        self.choices = ChoicePanel(napari_viewer, model=read_settings().model)
        self.work = WorkPanel()
        super().__init__(napari_viewer, load=load, choices=self.choices, work=self.work, kind=PLANES)
        self.choices.fine.clicked.connect(self._on_fine)
        self.work.classes.named.connect(_remember_names)
        self.work.classes.coloured.connect(remember_class_colours)
        self.choices.labels.hide_where(self._is_preview)
        self._show_running()

    def _make(self, viewer: ViewerModel) -> tuple[Annotation, Exception | None]:
        choice = self.choices.choice()
        assert choice is not None, "only what is chosen is started"
        running, problem = start(
            viewer, choice, settings=read_settings(), post=self._post, loading=self._loading
        )
        running.session.fine = None if self._is_fine else False
        if self._level is not None:
            running.session.choose_level(self._level)
        running.session.level_changed.connect(self._on_level)
        return running, problem

    def _write_state(self, path: Path) -> Path:
        return save_session(self.running, path)

    def _on_level(self, level: int | None) -> None:
        """Keep the level for what is started next."""
        self._level = level

    # ------------------------------------------------------------------ inside: fine boundaries

    def _show_model(self, card: ModelCard | None = None) -> None:
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

    def _is_preview(self, layer: object) -> bool:
        return self.running is not None and layer is self.running.layers.preview


def _remember_names(names: tuple[str, ...]) -> None:
    remember_classes(join_classes(names))
