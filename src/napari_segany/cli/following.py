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
from napari_segany.session.prompts import ObjectPrompts
from napari_segany.session.records import ObjectTrack
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_signals import Progress

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
            versions={"napari-segany": __version__},
        )
        errors: list[Exception] = []
        session.failed.connect(errors.append)
        session.warned.connect(_warn)
        interruption.calls(session.stop)
        try:
            _say(session, said)
            _propagate(session, ranges_of(said, frames, direction=direction), title, errors, interruption)
        finally:
            interruption.calls(None)
            session.close()
        if errors:
            raise errors[0]
        objects = tuple(FoundObject.of(track) for track in session.object_tracks())
    return Followed(",".join(f"{letter}={i}" for letter, i in stack.at), objects)


def _say(session: VolumeSession, said: Sequence[StackPrompt]) -> None:
    """Tell a session the prompts that it does not know from an earlier run.

    Of the same objects, those that are not said any more are taken back; other objects stay as they are.
    """
    wanted = {(one.object_id, one.frame): one for one in said}
    ids = {one.object_id for one in said}
    known = session.state().prompts
    for object_id, frame in known:
        if object_id in ids and (object_id, frame) not in wanted:
            session.clear(frame, object_id=object_id)
    for (object_id, frame), one in wanted.items():
        prompt = one.prompt()
        before = known.get((object_id, frame))
        if before is not None and _is_same(before, one):
            continue
        if before is not None:
            session.clear(frame, object_id=object_id)
        if prompt.mask is not None:
            session.set_mask(frame, prompt.mask.astype(bool), object_id=object_id)
        if prompt.box is not None:
            session.set_box(frame, prompt.box, object_id=object_id)
        if prompt.points is not None:
            session.set_points(frame, prompt.points, object_id=object_id)
        if one.name:
            session.rename(object_id, one.name)


def _is_same(before: ObjectPrompts, one: StackPrompt) -> bool:
    """Return whether a session was told just this."""
    now = one.prompt()
    if before.box != now.box or (before.mask is None) != (now.mask is None):
        return False
    if now.mask is not None and not np.array_equal(before.mask, now.mask):  # type: ignore[arg-type]  # neither is None
        return False
    points = [(row, col) for row, col, _ in one.said.points]
    signs = [sign for _, _, sign in one.said.points]
    return np.array_equal(
        before.points.coords, np.array(points, dtype=np.float32).reshape(-1, 2)
    ) and np.array_equal(before.points.positive, np.array(signs, dtype=bool))


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
    session: VolumeSession,
    ranges: Sequence[range],
    title: str,
    errors: list[Exception],
    interruption: Interruption,
) -> None:
    """Follow through each range in turn, saying how far it is."""
    for one in ranges:
        if errors or interruption.is_wanted:
            return
        way = "back" if one.step < 0 else "onward"
        line = ProgressLine(f"{title}, {way}" if len(ranges) > 1 else title)

        def show(progress: Progress, line: ProgressLine = line) -> None:
            line.show(progress.done, total=progress.total)
            if interruption.is_wanted:  # it came just before the run that it was meant for
                session.stop()

        session.progress_changed.connect(show)
        try:
            session.propagate(frames=one)
        finally:
            session.progress_changed.disconnect(show)
            line.end()


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
