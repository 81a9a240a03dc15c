"""What a session tells the window, or whoever listens: its signals, and what it is busy with."""

from __future__ import annotations

from psygnal import Signal

from .answers import Stage
from .prompts import PlaneIndex


class SessionSignals:
    """The signals of a session, emitted on the thread that owns it, and its stage.

    `model_changed` tells the card of the model that answers from now on; `switch_failed` why a model that was asked
    for does not (a `CancelledError` if it was called off); `warned` what a predictor warned of on the worker;
    `level_changed` the level that is chosen, None for the best mask; `classes_changed` the class names to tell apart.
    """

    prompts_changed = Signal(tuple)
    preview_changed = Signal(tuple, object)
    committed = Signal(tuple, dict)
    labels_changed = Signal(tuple)
    object_changed = Signal(int)
    history_changed = Signal()
    fine_changed = Signal(object)
    level_changed = Signal(object)
    classes_changed = Signal(tuple)
    model_changed = Signal(object)
    switch_failed = Signal(Exception)
    stage_changed = Signal(Stage)
    embedding_started = Signal(tuple)
    embedding_finished = Signal(tuple)
    busy_changed = Signal(bool)
    warned = Signal(str)
    failed = Signal(Exception)

    _stage = Stage.IDLE

    @property
    def stage(self) -> Stage:
        """What the session is busy with."""
        return self._stage

    def _on_stage(self, stage: Stage, index: PlaneIndex) -> None:
        """Follow the worker."""
        if self._stage is Stage.EMBEDDING and stage is not Stage.EMBEDDING:
            self.embedding_finished.emit(index)
        self._set_stage(stage)
        if stage is Stage.EMBEDDING:
            self.embedding_started.emit(index)

    def _idle(self) -> None:
        self._set_stage(Stage.IDLE)

    def _set_stage(self, stage: Stage) -> None:
        if stage is self._stage:
            return
        was_idle, self._stage = self._stage is Stage.IDLE, stage
        self.stage_changed.emit(stage)
        if was_idle != (stage is Stage.IDLE):
            self.busy_changed.emit(stage is not Stage.IDLE)
