"""How a session asks its model: one task at a time on the worker, and another model when one is wanted."""

from __future__ import annotations

from collections.abc import Callable

from napari_segany.core.types import ImagePredictorLike, ModelCard

from .answers import PlaneModel, Stage
from .prompts import PlaneIndex
from .signals import SessionSignals
from .warned import heard_by
from .worker import CancelledError, Task, Ticket, Worker


class ModelSession(SessionSignals):
    """The side of a session that faces model and worker.

    Parameters
    ----------
    model
        Answers, on the worker's thread.
    worker
        Runs one task at a time.
    """

    def __init__(self, model: PlaneModel, *, worker: Worker) -> None:
        self._model, self._worker = model, worker
        self._looked_at: PlaneIndex | None = None
        self._told = self._switches_told = 0  # of the models that were loaded
        self._is_switching = False

    @property
    def card(self) -> ModelCard | None:
        """Who answers, once the model was loaded."""
        return self._model.predictor.card if self._model.predictor is not None else None

    @property
    def is_switching(self) -> bool:
        """True while another model was asked for and does not answer yet."""
        return self._is_switching

    def prepare(self, index: PlaneIndex) -> None:
        """Embed one plane ahead of the first click, unless something more urgent runs."""
        self._looked_at = index
        if not self._model.has(index) and not self._worker.is_busy:
            self._prepare()

    def set_predictor(self, load: Callable[[], ImagePredictorLike]) -> None:
        """Answer with another model from now on; prompts, labels and history stay.

        `load` runs on the worker. What is shown is asked for again; answers that the old model gave are not refined
        further, as they belong to its features. If the model cannot be loaded, the old one stays, and `switch_failed`
        says why; asked for another one meanwhile, only the newest counts.
        """
        self._model.switch(load)
        self._is_switching = True
        self._ask_again()

    def cancel(self) -> None:
        """Drop the awaited answer, or the model that is being loaded; prompts and previews stay."""
        self._worker.cancel()
        self._interrupt()
        self._model.keep()
        self._follow_model()
        if self._is_switching:
            self._refuse(CancelledError("the switch to another model was called off"))
        self._idle()

    # ------------------------------------------------------------------ for the session to say

    def _ask_again(self) -> None:
        """Ask anew for everything that is shown."""
        self._prepare()

    def _go_on(self) -> None:
        """Go on with the model that there was, after a switch that did not come about."""

    def _interrupt(self) -> None:
        """Forget what waits for an answer."""

    # ------------------------------------------------------------------ inside

    def _prepare(self) -> None:
        """Have the model loaded, and its features of the plane that was last looked at."""
        model, index, report = self._model, self._looked_at, self._on_stage

        def task(ticket: Ticket) -> None:
            if index is None:
                model.load((), ticket=ticket, report=report)
            else:
                model.features(index, ticket=ticket, report=report)

        self._submit(task, lambda _: self._idle())

    def _submit(self, task: Task, done: Callable[..., None]) -> None:
        if self._stage is Stage.IDLE:
            self._set_stage(Stage.WAITING)
        heard = self._hearing(task) if len(self.warned) else task
        self._worker.submit(heard, done=done, failed=self._on_failure)

    def _hearing(self, task: Task) -> Task:
        """Return a task whose warnings are told, also those of a task that nobody waits for any more."""
        warned = self.warned

        def run(ticket: Ticket) -> object:
            with heard_by(lambda text: ticket.tell_anyway(lambda: warned.emit(text))):
                return task(ticket)

        return run

    def _on_failure(self, error: Exception) -> None:
        self._interrupt()
        is_of_switch = self._is_switching and error is self._model.refusal
        self._idle()
        if not is_of_switch:
            self.failed.emit(error)

    def _refuse(self, error: Exception) -> None:
        """Go on with the model that there is."""
        self._is_switching = False
        self._interrupt()
        self.switch_failed.emit(error)
        self._go_on()

    def _follow_model(self) -> None:
        """Tell of a model that was loaded since, or could not be."""
        model = self._model
        if model.switched != self._switches_told and not model.is_switching:
            self._switches_told, self._is_switching = model.switched, False
        if model.loaded != self._told:
            self._told = model.loaded
            self.model_changed.emit(self.card)
        if self._is_switching and not model.is_switching and model.refusal is not None:
            self._refuse(model.refusal)

    def _idle(self) -> None:
        self._follow_model()
        super()._idle()

    def _on_stage(self, stage: Stage, index: PlaneIndex) -> None:
        self._follow_model()
        super()._on_stage(stage, index)
