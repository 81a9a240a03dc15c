"""The predictor of a stack, kept in step with prompts and results: the part of a session on the worker's thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field

from napari_segany.core.errors import PromptError
from napari_segany.core.types import (
    FrameMasks,
    Labels,
    ModelCard,
    VideoPredictorLike,
    VideoStateLike,
)

from .answers import Stage
from .prompts import ObjectPrompts, PlaneIndex
from .records import FramePromptMap, ObjectRecord, Records
from .stack_frames import StackFrames
from .volume_signals import FramePreview
from .worker import CancelledError, Ticket

_logger = logging.getLogger(__name__)
_MOST_WAITING = 2  # frames that were worked out and are not painted yet
_PATIENCE = 0.05  # seconds between two looks whether anybody still waits


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a predictor is to know, as it was when it was asked.

    Attributes
    ----------
    prompts
        By (object_id, frame).
    records
        What follows from the prompts that were told before.
    epochs
        By object, how often its record was put back; a predictor of another epoch is brought to the record first.
    unanswered
        Prompts whose answer the owner lacks.
    """

    prompts: Mapping[PlaneIndex, ObjectPrompts]
    records: Records
    epochs: Mapping[int, int]
    unanswered: frozenset[PlaneIndex] = frozenset()

    def by_object(self) -> dict[int, dict[int, ObjectPrompts]]:
        """Return the prompts of each object that may be followed, by frame."""
        found: dict[int, dict[int, ObjectPrompts]] = {}
        for (object_id, frame), prompts in sorted(self.prompts.items()):
            if object_id not in self.records.locked_ids:
                found.setdefault(object_id, {})[frame] = prompts
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What became of an object when the predictor was told of it.

    Attributes
    ----------
    told
        All that it was told so far, by frame.
    stale
        The frames that following would work out; None while the predictor is on its way back to the object's record,
        which stands.
    epoch
        Of the object, when this was asked.
    preview
        The answer on a frame, if there is a new one.
    """

    object_id: int
    told: FramePromptMap
    stale: frozenset[int] | None
    epoch: int
    preview: FramePreview | None = None


@dataclass(eq=False)
class Run:
    """One propagation, shared by owner and worker.

    Attributes
    ----------
    ranges
        Followed one after another.
    wanted
        What it started from.
    halt
        Set to end it after the frame in work.
    painted, total
        Frames that are in the labels, and the most there may be.
    title
        Of the step that it is for undo.
    """

    ranges: tuple[range, ...]
    wanted: Wanted
    halt: threading.Event = field(default_factory=threading.Event)
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_MOST_WAITING))
    painted: list[int] = field(default_factory=list)
    total: int = 0
    title: str = "propagate"

    @property
    def span(self) -> frozenset[int]:
        """Every frame of the ranges."""
        return frozenset(frame for frames in self.ranges for frame in frames)


@dataclass(frozen=True, slots=True)
class Reports:
    """Called on the owner's thread, in the order in which things happen on the worker's."""

    stage: Callable[[Stage], None]
    told: Callable[[Told], None]
    ready: Callable[[Run, Mapping[int, frozenset[int]]], None]
    frame: Callable[[Run, FrameMasks], None]


class StackModel:
    """Loads the predictor once, opens the stack once, and tells it what changed; asked on one thread at a time.

    Locked objects and objects without prompts are not told of: they are not followed.

    Parameters
    ----------
    load
        Returns the predictor; called on the worker's thread, when first needed.
    frames
        The stack.
    read
        Returns the (H, W) labels of a frame: results that the predictor lacks are fed back to it from there.

    Attributes
    ----------
    state
        The open stack, once it was.
    """

    def __init__(
        self,
        load: Callable[[], VideoPredictorLike],
        *,
        frames: StackFrames,
        read: Callable[[int], Labels],
    ) -> None:
        self._load: Callable[[], VideoPredictorLike] | None = load
        self._predictor: VideoPredictorLike | None = None
        self._frames, self._read = frames, read
        self.state: VideoStateLike | None = None
        self._told: dict[int, dict[int, ObjectPrompts]] = {}
        self._answers: dict[PlaneIndex, FramePreview] = {}
        self._epochs: dict[int, int] = {}

    @property
    def card(self) -> ModelCard | None:
        """Who answers, once the predictor was loaded."""
        return self._predictor.card if self._predictor is not None else None

    def switch(self, load: Callable[[], VideoPredictorLike]) -> None:
        """Answer with another predictor from the next question on; the present one stays if that cannot be loaded."""
        self._load = load

    def forget(self) -> None:
        """Let go of the predictor and of the stack."""
        self._predictor, self._load = None, None
        self._drop()

    def sync(self, wanted: Wanted, *, ticket: Ticket, reports: Reports) -> None:
        """Tell the predictor what is wanted and it does not know; answers and staleness are reported one by one."""
        predictor, state = self._opened(ticket, reports)
        ticket.tell(lambda: reports.stage(Stage.PREDICTING))
        try:
            self._bring(_Talk(predictor, state, wanted, ticket, reports))
        except (CancelledError, PromptError):
            raise
        except (
            Exception
        ):  # whatever a model raises: its state may be half changed, so it is built anew next time
            self._drop()
            raise

    def follow(self, run: Run, *, ticket: Ticket, reports: Reports) -> None:
        """Follow all objects through the ranges of a run; each frame is reported, and waits until it is painted."""
        self.sync(run.wanted, ticket=ticket, reports=reports)
        predictor, state = self._opened(ticket, reports)
        ticket.check()
        stale = {object_id: state.stale(object_id) for object_id in self._told}
        run.total = len(run.span.intersection(frozenset().union(*stale.values())))
        ticket.tell(lambda: reports.stage(Stage.FOLLOWING))
        ticket.tell_anyway(lambda: reports.ready(run, stale))
        talk = _Talk(predictor, state, run.wanted, ticket, reports)
        try:
            for frames in run.ranges:
                self._pass_through(predictor.propagate(state, frames), run, ticket=ticket, reports=reports)
        except CancelledError:
            self._report_all(talk)
            raise
        except Exception:  # as above
            self._drop()
            raise
        self._report_all(talk)

    # ------------------------------------------------------------------ inside

    def _opened(self, ticket: Ticket, reports: Reports) -> tuple[VideoPredictorLike, VideoStateLike]:
        """Return the predictor that is to answer, and the stack opened in it."""
        if self._load is not None:
            ticket.tell(lambda: reports.stage(Stage.LOADING))
            load, self._load = self._load, None if self._predictor is not None else self._load
            self._predictor = load()
            self._load = None
            self._drop()
        if self._predictor is None:
            raise CancelledError("the session is closed; make a new one")
        if self.state is None:
            ticket.check()
            ticket.tell(lambda: reports.stage(Stage.READING))
            self.state = self._predictor.open(self._frames, window=self._frames.source.window())
        return self._predictor, self.state

    def _drop(self) -> None:
        """Let go of the open stack: all that it knew will be told again."""
        self.state = None
        self._told, self._answers, self._epochs = {}, {}, {}

    def _bring(self, talk: _Talk) -> None:
        """Bring the state to what is wanted: first back to the records where they were put back, then ahead."""
        wanted = talk.wanted.by_object()
        for object_id in [i for i in self._told if i not in wanted]:
            self._forget(talk, object_id)
            if object_id not in talk.wanted.records.locked_ids:
                talk.tell(Told(object_id, {}, frozenset(), talk.epoch(object_id)))
        others = [i for i in wanted if self._epochs.get(i) != talk.epoch(i)]
        missing = {object_id: self._rebase(talk, object_id) for object_id in others}
        self._recall(talk, missing)
        self._epochs.update({object_id: talk.epoch(object_id) for object_id in others})
        for object_id, prompts in wanted.items():
            self._say(talk, object_id, prompts, unanswered=talk.wanted.unanswered)

    def _rebase(self, talk: _Talk, object_id: int) -> frozenset[int]:
        """Tell what an object's results follow from, and return the frames with results that must be recalled.

        What was painted on prompted frames is among them: an answer depends on what was known of other frames then.
        Results without a prompt that they follow from are not recalled: a new prompt begins anew.
        """
        record = talk.wanted.records.objects.get(object_id, ObjectRecord())
        known = self._say_again(talk, object_id, record)
        answered = frozenset(range(len(self._frames))) - known
        if record.told and not answered <= record.valid | record.told.keys():
            self._forget(talk, object_id)
            known = self._say_again(talk, object_id, record)
        return record.valid & (known | record.told.keys()) if record.told else frozenset()

    def _say_again(self, talk: _Talk, object_id: int, record: ObjectRecord) -> frozenset[int]:
        """Tell what results follow from, each correction on top of the mask that it corrects; return stale frames."""
        told = self._told.get(object_id, {})
        for frame, prompts in record.told.items():
            result = record.results.get(frame)
            if result is not None and result.is_stale and told.get(frame) is not prompts:
                mask = self._read(frame) == object_id
                talk.predictor.recall(
                    talk.state, frame=frame, object_id=object_id, mask=mask, score=result.score
                )
        return self._say(talk, object_id, record.told)

    def _recall(self, talk: _Talk, missing: Mapping[int, frozenset[int]]) -> None:
        """Feed the masks that are in the labels back to the predictor, frame by frame."""
        frames = sorted(frozenset().union(*missing.values()))
        if frames:
            talk.ticket.tell(lambda: talk.reports.stage(Stage.RECALLING))
        for frame in frames:
            talk.ticket.check()
            labels = self._read(frame)
            for object_id in (i for i, wanted in missing.items() if frame in wanted):
                score = talk.wanted.records[object_id].results[frame].score
                mask = labels == object_id
                talk.predictor.recall(talk.state, frame=frame, object_id=object_id, mask=mask, score=score)

    def _say(
        self,
        talk: _Talk,
        object_id: int,
        prompts: FramePromptMap,
        *,
        unanswered: frozenset[PlaneIndex] = frozenset(),
    ) -> frozenset[int]:
        """Make `prompts` all that the predictor was told of an object; return the frames that are stale then."""
        told = self._told.get(object_id, {})
        for frame, prompt in prompts.items():
            if told.get(frame) is not prompt:
                talk.ticket.check()
                self._prompt(talk, object_id, frame=frame, prompts=prompt)
            elif (object_id, frame) in unanswered and (object_id, frame) in self._answers:
                self._report(talk, object_id, preview=self._answers[object_id, frame])
        told = self._told.get(object_id, {})
        for frame in [frame for frame in told if frame not in prompts]:
            self._take_back(talk, object_id, frame=frame)
        return self._stale(talk, object_id)

    def _prompt(self, talk: _Talk, object_id: int, *, frame: int, prompts: ObjectPrompts) -> None:
        """Tell of one object on one frame, and report the answer."""
        card = talk.predictor.card
        answer = talk.predictor.prompt(talk.state, prompts.prompt(card), frame=frame, object_id=object_id)
        preview = FramePreview.of(answer, prompts=prompts, card=card)
        self._told.setdefault(object_id, {})[frame] = prompts
        self._answers[object_id, frame] = preview
        self._report(talk, object_id, preview=preview)

    def _take_back(self, talk: _Talk, object_id: int, *, frame: int) -> None:
        """Take one prompt back, the last one with the object."""
        if len(self._told[object_id]) == 1:
            self._forget(talk, object_id)
        else:
            talk.predictor.forget(talk.state, object_id=object_id, frame=frame)
            del self._told[object_id][frame]
            self._answers.pop((object_id, frame), None)
        self._report(talk, object_id)

    def _forget(self, talk: _Talk, object_id: int) -> None:
        """Take an object back altogether."""
        talk.predictor.forget(talk.state, object_id=object_id)
        for frame in self._told.pop(object_id, {}):
            self._answers.pop((object_id, frame), None)
        self._epochs.pop(object_id, None)

    def _stale(self, talk: _Talk, object_id: int) -> frozenset[int]:
        """Return the frames of an object that following would work out; all frames of one that was not told of."""
        if not self._told.get(object_id):
            return frozenset(range(len(self._frames)))
        return talk.state.stale(object_id)

    def _report(self, talk: _Talk, object_id: int, *, preview: FramePreview | None = None) -> None:
        """Report an object as it is now."""
        told = dict(self._told.get(object_id, {}))
        is_settled = self._epochs.get(object_id) == talk.epoch(object_id)
        stale = talk.state.stale(object_id) if is_settled and told else None
        talk.tell(Told(object_id, told, stale, talk.epoch(object_id), preview))

    def _report_all(self, talk: _Talk) -> None:
        """Report which frames are stale after following: some may be settled without having been yielded."""
        for object_id in self._told:
            self._report(talk, object_id)

    @staticmethod
    def _pass_through(answers: Iterator[FrameMasks], run: Run, *, ticket: Ticket, reports: Reports) -> None:
        """Report frames as they come, never more than a few ahead of what is painted; leave between two frames."""
        try:
            for masks in answers:
                _hand_over(masks, run, ticket=ticket, reports=reports)
        finally:
            if isinstance(answers, Generator):
                answers.close()  # now: the next question must not find the last one half done


def _hand_over(masks: FrameMasks, run: Run, *, ticket: Ticket, reports: Reports) -> None:
    """Report one frame, as soon as few enough wait to be painted; leave if the run is to end."""
    while not (run.halt.is_set() or ticket.is_cancelled or run.room.acquire(timeout=_PATIENCE)):
        pass
    ticket.tell_anyway(lambda: reports.frame(run, masks))
    _logger.debug("frame %s was followed", masks.frame)
    if run.halt.is_set():
        raise CancelledError("the propagation was stopped")
    ticket.check()


@dataclass(frozen=True, slots=True)
class _Talk:
    """One conversation with a predictor: who, over which stack, about what, for whom."""

    predictor: VideoPredictorLike
    state: VideoStateLike
    wanted: Wanted
    ticket: Ticket
    reports: Reports

    def epoch(self, object_id: int) -> int:
        """Return which epoch of an object is wanted."""
        return self.wanted.epochs.get(object_id, 0)

    def tell(self, told: Told) -> None:
        """Report on the owner's thread, also when the answer is not waited for any more."""
        self.ticket.tell_anyway(lambda: self.reports.told(told))
