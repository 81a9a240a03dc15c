"""How a session chooses among the masks of an answer: a level that stays, the next larger one, names."""

from __future__ import annotations

from collections.abc import Sequence

from napari_segany.core.errors import PromptError
from napari_segany.core.granularity import LEVELS, check_level
from napari_segany.core.types import Namer

from .answers import PlaneModel, Preview
from .asking import ModelSession
from .prompts import PlaneIndex, PromptStore
from .worker import Worker

_BETWEEN = 3.5  # where steps begin while nothing is shown and no level is chosen


class ChoosingSession(ModelSession):
    """The side of a session that shows one of the masks of each answer.

    A level stays for the next prompt and the next object; a step to the next larger mask is about the object in work
    on one plane. Answers hold all their masks: neither asks the model again, and neither is a step of the history.

    Parameters
    ----------
    model
        Answers, on the worker's thread.
    worker
        Runs one task at a time.
    """

    def __init__(self, model: PlaneModel, *, worker: Worker) -> None:
        super().__init__(model, worker=worker)
        self._prompts = PromptStore()
        self._previews: dict[PlaneIndex, Preview] = {}
        self._level: int | None = None
        self._steps: dict[PlaneIndex, int] = {}  # levels that were stepped to, of the object in work
        self._classes_told: tuple[str, ...] = ()

    # ------------------------------------------------------------------ levels

    @property
    def level(self) -> int | None:
        """The granularity to show, 1 (finest) to 6 (coarsest); None shows the best answer."""
        return self._level

    def preview(self, index: PlaneIndex) -> Preview | None:
        """Return what is shown on one plane."""
        return self._previews.get(index)

    def choose_level(self, level: int | None) -> None:
        """Show the candidate nearest to a granularity, for this object and the next ones; None the best one.

        Raises
        ------
        SettingsError
            If it is not 1 to 6.
        """
        before, self._level = self._level, check_level(level)
        self._steps.clear()
        for index, preview in list(self._previews.items()):
            chosen = preview.with_level(level)
            if chosen is not preview:
                self._show(index, chosen)
        if before != level:
            self.level_changed.emit(level)

    def step_level(self, index: PlaneIndex, *, step: int = 1) -> None:
        """Choose the next coarser (or with -1 finer) level at which a plane shows another mask.

        While nothing is shown there, the next level at all.
        """
        shown = self._previews.get(index)
        if shown is not None:
            level = shown.ladder.stop_beyond(shown.chosen, step=step)
        else:
            start = _BETWEEN if self._level is None else self._level
            ahead = [one for one in LEVELS if (one - start) * step > 0]
            level = min(ahead, key=lambda one: abs(one - start), default=None)
        if level is not None:
            self.choose_level(level)

    def choose_next(self, index: PlaneIndex, *, step: int = 1) -> None:
        """Show the next larger (or with -1 smaller) candidate on one plane, for the object in work."""
        shown = self._previews.get(index)
        if shown is not None and len(shown.prediction) > 1:
            chosen = shown.with_next(step)
            self._steps[index] = chosen.level
            self._show(index, chosen)

    def _as_chosen(self, index: PlaneIndex, preview: Preview) -> Preview:
        """Return a new answer with the mask shown that was chosen for its plane."""
        return preview.with_level(self._steps.get(index, self._level))

    def _show(self, index: PlaneIndex, preview: Preview) -> None:
        self._previews[index] = preview
        self.preview_changed.emit(index, preview)

    # ------------------------------------------------------------------ names

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that masks are told apart by; none for the model's own list."""
        return self._model.classes

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The model's own list, once it was loaded; none if it knows no words."""
        predictor = self._model.predictor
        if predictor is None or not predictor.card.has_words or not isinstance(predictor, Namer):
            return ()
        return tuple(predictor.classes)

    def set_classes(self, names: Sequence[str]) -> None:
        """Tell masks apart by these class names from now on, none for the model's own list.

        What is shown is asked for again. A model without words takes no notice; one that follows it may.

        Raises
        ------
        PromptError
            If a name is empty, or named twice.
        """
        classes = tuple(name.strip() for name in names)
        if not all(classes) or len(set(classes)) != len(classes):
            raise PromptError(f"class names must differ and not be empty, got {list(names)}")
        if classes == self._model.classes:
            return
        self._model.classes = classes
        self._tell_classes()
        if len(self._prompts) and (self.card is None or self.card.has_words):
            self._ask_again()

    def _tell_classes(self) -> None:
        if self._model.classes != self._classes_told:
            self._classes_told = self._model.classes
            self.classes_changed.emit(self._classes_told)

    def _on_failure(self, error: Exception) -> None:
        self._tell_classes()  # a list that was refused is given up
        super()._on_failure(error)
