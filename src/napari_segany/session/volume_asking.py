"""How the session of a stack asks its predictor, and what it does with answers: previews, records, epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from napari_segany.core.intensity import Window
from napari_segany.core.masks import LabelSink
from napari_segany.core.types import FrameMasks, Labels, ModelCard, VideoPredictorLike

from .answers import Stage
from .prompts import PlaneIndex, PromptStore
from .records import Records
from .stack_frames import StackFrames
from .volume_model import Reports, Run, StackModel, Told, Wanted
from .volume_signals import Ending, FollowingError, FramePreview, RunEnd, VolumeSignals
from .warned import heard_by
from .worker import Task, Ticket, Worker


class AskingSession(VolumeSignals):
    """The side of a volume session that faces predictor and worker.

    Parameters
    ----------
    frames
        The stack.
    load
        Returns the predictor; runs on the worker.
    sink
        Where the labels are.
    worker
        Runs one task at a time.
    """

    def __init__(
        self,
        frames: StackFrames,
        load: Callable[[], VideoPredictorLike],
        *,
        sink: LabelSink,
        worker: Worker,
    ) -> None:
        self._frames, self._sink, self._worker = frames, sink, worker
        self._model = StackModel(load, frames=frames, read=self._labels_on)
        self._reports = Reports(self._set_stage, self._on_told, self._on_ready, self._on_frame)
        self._prompts = PromptStore()
        self._records = Records()
        self._previews: dict[PlaneIndex, FramePreview] = {}
        self._epochs: dict[int, int] = {}
        self._owed: set[int] = set()  # objects to be renewed when the predictor is asked next
        self._run: Run | None = None
        self._is_inside = False  # a task that runs on this very thread
        self._told_card: ModelCard | None = None

    @property
    def card(self) -> ModelCard | None:
        """Who answers, once the predictor was loaded."""
        return self._model.card

    @property
    def window(self) -> Window | None:
        """The intensity window of the stack, once it was opened."""
        return self._model.state.window if self._model.state is not None else None

    @property
    def is_running(self) -> bool:
        """True while objects are being followed."""
        return self._run is not None

    def preview(self, object_id: int, frame: int) -> FramePreview | None:
        """Return the answer that is shown for an object on a frame, None once it is painted."""
        return self._previews.get((object_id, frame))

    def stop(self) -> None:
        """End the propagation after the frame that is being worked on; what is painted stays."""
        if self._run is None:
            return
        self._run.halt.set()
        if not self._is_inside:
            self._halt()
            self._idle()

    def set_predictor(self, load: Callable[[], VideoPredictorLike]) -> None:
        """Answer with another model from now on; it is fed with the results that are there.

        The present one stays if the other cannot be loaded; `failed` says why.
        """
        self._model.switch(load)
        self._ask()

    # ------------------------------------------------------------------ for the session to say

    def _on_ready(self, run: Run, stale: Mapping[int, frozenset[int]]) -> None:
        """Begin a propagation: the predictor knows all prompts, and which frames of each object are stale."""
        raise NotImplementedError

    def _on_frame(self, run: Run, masks: FrameMasks) -> None:
        """Take in one frame of a propagation."""
        raise NotImplementedError

    def _on_end(self, ending: Ending) -> None:
        """Take in that a propagation ended."""
        raise NotImplementedError

    # ------------------------------------------------------------------ asking

    def _ask(self) -> None:
        """Tell the predictor of the prompts as they are; ends a propagation."""
        self._halt()
        wanted = self._wanted()
        self._submit(
            lambda ticket: self._model.sync(wanted, ticket=ticket, reports=self._reports),
            lambda _: self._idle(),
        )

    def _follow(self, run: Run) -> None:
        """Follow all objects through the ranges of a run."""
        self._halt()
        self._run = run
        self.run_started.emit(run.ranges)
        self._submit(
            lambda ticket: self._model.follow(run, ticket=ticket, reports=self._reports),
            lambda _: self._finish(run),
        )
        if self._run is run and run.halt.is_set():  # stopped from inside
            self._end(Ending.STOPPED)
            self._idle()

    def _wanted(self) -> Wanted:
        """Return what the predictor is to know now."""
        self._renew(self._owed)
        self._owed.clear()
        return Wanted(
            self._prompts.snapshot(), self._records, dict(self._epochs), frozenset(self._unanswered())
        )

    def _unanswered(self) -> list[PlaneIndex]:
        """Return the prompts whose answer is neither shown nor painted."""
        return [key for key in self._prompts if not self._is_shown(key) and not self._is_painted(key)]

    def _is_shown(self, key: PlaneIndex) -> bool:
        shown = self._previews.get(key)
        return shown is not None and shown.prompts is self._prompts[key]

    def _is_painted(self, key: PlaneIndex) -> bool:
        record = self._records.objects.get(key[0])
        if record is None or record.told.get(key[1]) is not self._prompts[key]:
            return False
        result = record.results.get(key[1])
        return result is not None and not result.is_stale

    def _submit(self, task: Task, done: Callable[[Any], None]) -> None:  # Any: see Task
        if self._stage is Stage.IDLE:
            self._set_stage(Stage.WAITING)
        was_inside, self._is_inside = self._is_inside, True
        try:
            self._worker.submit(self._hearing(task), done=done, failed=self._on_failure)
        finally:
            self._is_inside = was_inside

    def _hearing(self, task: Task) -> Task:
        """Return a task whose warnings are told."""
        warned = self.warned
        if not len(warned):
            return task

        def run(ticket: Ticket) -> object:
            with heard_by(lambda text: ticket.tell_anyway(lambda: warned.emit(text))):
                return task(ticket)

        return run

    # ------------------------------------------------------------------ answers

    def _on_told(self, told: Told) -> None:
        """Take in what the predictor made of the prompts of one object."""
        object_id = told.object_id
        self._follow_card()
        if object_id not in self._records or told.epoch != self._epochs.get(object_id, 0):
            return
        preview = told.preview
        if preview is not None and self._prompts[object_id, preview.frame] is preview.prompts:
            self._take_preview(preview, is_new=told.stale is not None)
        if told.stale is not None:
            open_frames = {frame for i, frame in self._previews if i == object_id}
            stale = (told.stale | open_frames) - self._records.locked_frames
            record = self._records[object_id].with_stale(stale, told=told.told)
            self._records = self._records.put(object_id, record)
        self.track_changed.emit(object_id)

    def _take_preview(self, preview: FramePreview, *, is_new: bool) -> None:
        """Show an answer, unless it is painted already: `is_new` says that a prompt changed since."""
        key = (preview.object_id, preview.frame)
        if is_new or not self._is_painted(key):
            self._previews[key] = preview
            self.preview_changed.emit(key, preview)

    def _drop_previews(self, keys: Iterable[PlaneIndex]) -> None:
        for key in list(keys):
            if self._previews.pop(key, None) is not None:
                self.preview_changed.emit(key, None)

    def _drop_painted(self) -> None:
        """Drop the answers of prompts whose results are taken as right: painted, or on a frame that was locked."""
        self._drop_previews([key for key in self._previews if self._is_painted(key)])

    def _labels_on(self, frame: int) -> Labels:
        """Read the (H, W) labels of a frame; also called on the worker's thread."""
        height, width = self._frames.frame_shape
        return self._sink.read(self._frames.index(frame), (slice(0, height), slice(0, width)))

    def _renew(self, object_ids: Iterable[int]) -> None:
        """Have the predictor brought back to the records of some objects before anything else is asked."""
        for object_id in object_ids:
            self._epochs[object_id] = self._epochs.get(object_id, 0) + 1

    # ------------------------------------------------------------------ how it ends

    def _halt(self) -> None:
        """End a propagation that runs; a frame that is on its way is still taken in."""
        if self._run is not None:
            self._worker.cancel()
            self._end(Ending.STOPPED)

    def _finish(self, run: Run) -> None:
        if self._run is run:
            self._end(Ending.FINISHED)
        self._idle()

    def _end(self, ending: Ending) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        run.halt.set()
        self._on_end(ending)
        self.run_ended.emit(RunEnd(ending, tuple(run.painted)))

    def _on_failure(self, error: Exception) -> None:
        """Say what went wrong on the worker; what is painted stays."""
        run = self._run
        if run is not None:
            error = _explained(error, run, n_frames=len(self._frames))
            self._end(Ending.FAILED)
        self._idle()
        self.failed.emit(error)

    def _idle(self) -> None:
        self._follow_card()
        super()._idle()

    def _follow_card(self) -> None:
        """Tell of a predictor that was loaded since."""
        if self.card is not None and self.card != self._told_card:
            self._told_card = self.card
            self.model_changed.emit(self.card)


def _explained(error: Exception, run: Run, *, n_frames: int) -> Exception:
    """Return an error that says where following ended."""
    where = f"after frame {run.painted[-1]}" if run.painted else "before the first frame"
    problem = FollowingError(
        f"following stopped {where} of {n_frames} frames: {type(error).__name__}: {error}. "
        f"The {len(run.painted)} frames that were painted stay; propagate again to go on"
    )
    problem.__cause__ = error
    return problem
