"""One stack followed from the command line: prompts said, frames painted durably, stopped between two frames."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType

import numpy as np
import typer

from napari_segany import __version__
from napari_segany.core.frames import FrameStack, PlanesAhead
from napari_segany.core.masks import LabelSink
from napari_segany.core.types import VideoPredictorLike
from napari_segany.io.stack_prompts import StackPrompt
from napari_segany.session.prompts import ObjectPrompts, PlaneIndex, no_points
from napari_segany.session.records import ObjectTrack
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_signals import Ending

from .progress import ProgressLine


class Interruption:
    """Ctrl+C, made to wait for the frame in work: with `with`, the first one asks to stop, the second one ends at once.

    Outside the main thread, where signals cannot be caught, nothing is changed.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._stop: Callable[[], None] | None = None
        self._before: signal._HANDLER = None

    def calls(self, stop: Callable[[], None] | None) -> None:
        """Say what stops the work; None when there is none."""
        self._stop = stop

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt
        self.is_wanted = True
        typer.echo("\nstopping after this frame; Ctrl+C again stops at once", err=True)
        if self._stop is not None:
            self._stop()


@dataclass(frozen=True, slots=True)
class FoundObject:
    """What came of one object: the frames where it is, its mean area in pixels and score, and doubtful frames."""

    object_id: int
    name: str
    n_frames: int
    first: int
    last: int
    area: float
    score: float
    doubtful: tuple[int, ...]

    @classmethod
    def of(cls, track: ObjectTrack) -> FoundObject:
        """Return the summary of a track."""
        present = track.areas[track.areas > 0]
        first, last = track.frame_range or (-1, -1)
        return cls(
            object_id=track.object_id,
            name=track.name,
            n_frames=len(present),
            first=first,
            last=last,
            area=float(present.mean()) if len(present) else 0.0,
            score=track.mean_score,
            doubtful=tuple(int(i) for i in np.flatnonzero(track.doubtful)),
        )

    @property
    def text(self) -> str:
        """What a person is told."""
        if not self.n_frames:
            return "on no frame"
        doubts = f", doubtful: {_ranges(self.doubtful)}" if self.doubtful else ""
        return (
            f"on {self.n_frames} frames, {self.first} to {self.last}, {self.area:.0f} pixels, "
            f"score {self.score:.2f}{doubts}"
        )


@dataclass(frozen=True, slots=True)
class Followed:
    """What came of one stack; `where` says which one it is, if there are several."""

    where: str
    objects: tuple[FoundObject, ...]


def follow(
    stack: FrameStack,
    said: Sequence[StackPrompt],
    *,
    predictor: VideoPredictorLike,
    store: LabelSink,
    interruption: Interruption,
    frames: range,
    direction: str = "both",
    title: str = "following",
) -> Followed:
    """Follow the prompted objects of one stack, each frame durable in the store before the next one is begun.

    Frames that the store has from an earlier run with the same prompts are not worked out again.

    Raises
    ------
    SegAnyError
        If a frame cannot be read, or the predictor or the store fail; the frames before it are kept.
    """
    with PlanesAhead(stack) as planes:
        session = VolumeSession(
            planes,
            predictor,
            sink=store,
            axis=stack.planes.calibration.axes.index(stack.along),
            at=tuple(index for _, index in stack.at),
            over_time=stack.along == "T",
            versions={"napari-segany": __version__},
        )
        errors: list[Exception] = []
        session.failed.connect(errors.append)
        session.warned.connect(_warn)
        interruption.calls(session.stop)
        try:
            _say(session, said)
            ranges = [] if errors else ranges_of(said, frames, direction=direction)
            _propagate(session, ranges, title=title, interruption=interruption)
        finally:
            interruption.calls(None)
            session.close()
        if errors:
            raise errors[0]
        objects = tuple(FoundObject.of(track) for track in session.object_tracks())
    return Followed(",".join(f"{letter}={i}" for letter, i in stack.at), objects)


def _say(session: VolumeSession, said: Sequence[StackPrompt]) -> None:
    """Tell a session the prompts that it does not know from an earlier run, as one step.

    Of the same objects, those that are not said any more are taken back; other objects stay as they are.
    """
    known = session.state().prompts
    wanted: dict[PlaneIndex, ObjectPrompts] = {(one.object_id, one.frame): _prompts_of(one) for one in said}
    ids = {one.object_id for one in said}
    gone = {key: ObjectPrompts() for key in known if key[0] in ids and key not in wanted}
    new = {key: now for key, now in wanted.items() if not _is_same(known.get(key), now)}
    if gone or new:
        session.set_prompts({**gone, **new})
    for object_id, name in {one.object_id: one.name for one in said if one.name}.items():
        if session.track(object_id).name != name:
            session.rename(object_id, name)


def _prompts_of(one: StackPrompt) -> ObjectPrompts:
    """Return what a session is told."""
    prompt = one.prompt()
    mask = None if prompt.mask is None else prompt.mask.astype(bool, copy=False)
    return ObjectPrompts(points=prompt.points or no_points(), box=prompt.box, mask=mask)


def _is_same(before: ObjectPrompts | None, now: ObjectPrompts) -> bool:
    """Return whether a session was told just this."""
    if before is None or before.box != now.box or (before.mask is None) != (now.mask is None):
        return False
    return (
        np.array_equal(before.points.coords, now.points.coords)
        and np.array_equal(before.points.positive, now.points.positive)
        and (before.mask is None or now.mask is None or np.array_equal(before.mask, now.mask))
    )


def ranges_of(said: Sequence[StackPrompt], frames: range, *, direction: str) -> list[range]:
    """Return the ranges to follow objects through, in their direction: `frames`, and those between them and prompts.

    Objects are followed from frame to frame, never across a gap.
    """
    prompted = [one.frame for one in said]
    onward = range(min(prompted), frames.stop)
    back = range(max(prompted), frames.start - 1, -1)
    chosen = {"forward": [onward], "backward": [back], "both": [onward, back]}[direction]
    return [one for one in chosen if one]


def _propagate(
    session: VolumeSession, ranges: Sequence[range], *, title: str, interruption: Interruption
) -> None:
    """Follow through each range in turn, saying how far it is, until one fails or is interrupted."""
    endings: list[Ending] = []
    session.run_ended.connect(lambda end: endings.append(end.ending))
    for one in ranges:
        if interruption.is_wanted or Ending.FAILED in endings:
            return
        way = "back" if one.step < 0 else "onward"
        line = ProgressLine(f"{title}, {way}" if len(ranges) > 1 else title)
        due, done = _due(session, one), set[int]()

        def show(
            frame: int, _: object, line: ProgressLine = line, due: set[int] = due, done: set[int] = done
        ) -> None:
            done.add(frame)
            line.show(len(done), total=max(len(due), len(done)))
            if interruption.is_wanted:  # it came just before the run that it was meant for
                session.stop()

        session.frame_painted.connect(show)
        try:
            session.propagate(frames=one)
        finally:
            session.frame_painted.disconnect(show)
            line.end()


def _due(session: VolumeSession, frames: range) -> set[int]:
    """Return the frames of a range, past a prompt of an object, on which it has no answer or an outdated one."""
    found: set[int] = set()
    for track in session.object_tracks():
        prompted = np.flatnonzero(track.prompted)
        if len(prompted):
            is_past = np.arange(len(track.scores)) * frames.step >= (prompted * frames.step).min()
            found.update(np.flatnonzero(is_past & (np.isnan(track.scores) | track.stale)).tolist())
    return found.intersection(frames)


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _ranges(frames: Sequence[int]) -> str:
    """Return 3, 7 to 9 for the frames 3, 7, 8 and 9."""
    spans: list[list[int]] = []
    for frame in frames:
        if spans and spans[-1][1] == frame - 1:
            spans[-1][1] = frame
        else:
            spans.append([frame, frame])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)
