"""VolumeSession against a plain model that keeps whole copies: labels, prompts, locks, undo and redo."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from video_fakes import FakeVideo, nearest, shifted

from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box
from napari_segany.session.source import ArraySource
from napari_segany.session.volume import VolumeSession

FRAMES, HEIGHT, WIDTH = 5, 6, 9
IDS = (1, 2, 3)
frames = st.integers(0, FRAMES - 1)
ids = st.sampled_from(IDS)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    row0, col0 = draw(st.integers(0, HEIGHT - 2)), draw(st.integers(0, WIDTH - 2))
    return row0, col0, draw(st.integers(row0 + 1, HEIGHT)), draw(st.integers(col0 + 1, WIDTH))


@dataclass
class Said:
    """A box, and when it was said: two equal boxes are two prompts."""

    box: tuple[int, int, int, int]
    turn: int

    def mask(self, shift: int) -> np.ndarray:
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        row0, col0, row1, col1 = self.box
        mask[row0:row1, col0:col1] = True
        return shifted(mask, shift)


@dataclass
class Plain:
    """What a session should hold; every step works on a copy."""

    labels: np.ndarray = field(default_factory=lambda: np.zeros((FRAMES, HEIGHT, WIDTH), dtype=np.uint32))
    said: dict[int, dict[int, Said]] = field(default_factory=dict)
    done: dict[int, dict[int, int | None]] = field(default_factory=dict)  # object: frame: turn of the prompt
    locked_frames: set[int] = field(default_factory=set)
    locked_ids: set[int] = field(default_factory=set)

    def turn(self, object_id: int, frame: int) -> int | None:
        said = self.said[object_id]
        return said[nearest(list(said), frame)].turn if said else None

    def is_stale(self, object_id: int, frame: int) -> bool:
        done = self.done[object_id]
        return bool(self.said[object_id]) and (
            frame not in done or done[frame] != self.turn(object_id, frame)
        )

    def paint(self, frame: int, wanted: list[int], *, keep: bool) -> None:
        """Paint objects as the predictor answers them together."""
        plane = self.labels[frame]
        taken = np.zeros(plane.shape, dtype=bool)
        answers = {}
        for i in wanted:
            origin = nearest(list(self.said[i]), frame)
            answers[i] = self.said[i][origin].mask(frame - origin) & ~taken
            taken |= answers[i]
        for i in answers:
            if i not in self.locked_ids and frame not in self.locked_frames:
                plane[plane == i] = 0
        for i, mask in answers.items():
            if i in self.locked_ids or frame in self.locked_frames:
                continue
            for place in np.argwhere(mask):
                there = plane[tuple(place)]
                mine = there in (0, i) or (not keep and there not in (*self.locked_ids, *answers))
                if mine:
                    plane[tuple(place)] = i
            self.done[i][frame] = self.turn(i, frame)

    def propagate(self, span: range, *, keep: bool) -> None:
        followed = [i for i in sorted(self.said) if self.said[i] and i not in self.locked_ids]
        for frame in span:
            here = [i for i in followed if self.is_stale(i, frame)]
            self.paint_previews(frame, [i for i in here if frame in self.said[i]], keep=keep)
        for frame in span:
            here = [i for i in followed if self.is_stale(i, frame)]
            if here:
                self.paint(frame, here, keep=keep)

    def paint_previews(self, frame: int, wanted: list[int], *, keep: bool) -> None:
        """Paint answers that know nothing of each other."""
        if not wanted or frame in self.locked_frames:
            return
        plane = self.labels[frame]
        for i in wanted:
            plane[plane == i] = 0
        for i in wanted:
            for place in np.argwhere(self.said[i][frame].mask(0)):
                there = plane[tuple(place)]
                if there in (0, i) or (not keep and there not in (*self.locked_ids, *wanted)):
                    plane[tuple(place)] = i
            self.done[i][frame] = self.turn(i, frame)


class Work(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.labels = ArrayLabels(np.zeros((FRAMES, HEIGHT, WIDTH), dtype=np.uint32))
        self.predictor = FakeVideo()
        source = ArraySource(np.random.default_rng(0).normal(size=self.labels.shape).astype(np.float32))
        self.session = VolumeSession(source, self.predictor, sink=self.labels)
        self.errors: list[Exception] = []
        self.session.failed.connect(self.errors.append)
        self.past: list[Plain] = []
        self.plain, self.future = Plain(), list[Plain]()
        self.turns = 0
        self.went_back = False

    def step(self) -> None:
        """Begin a step that undo takes back."""
        self.past.append(deepcopy(self.plain))
        self.future.clear()

    @rule(object_id=ids, frame=frames, box=boxes())
    def say(self, object_id: int, frame: int, box: tuple[int, int, int, int]) -> None:
        if frame in self.plain.locked_frames or object_id in self.plain.locked_ids:
            return
        self.step()
        self.turns += 1
        self.plain.said.setdefault(object_id, {})[frame] = Said(box, self.turns)
        self.plain.done.setdefault(object_id, {})
        self.session.set_box(frame, Box(*box), object_id=object_id)
        preview = self.session.preview(object_id, frame)
        assert preview is not None and np.array_equal(preview.mask, self.plain.said[object_id][frame].mask(0))

    @precondition(lambda self: any(self.plain.said.values()))
    @rule(object_id=ids, frame=st.one_of(st.none(), frames))
    def unsay(self, object_id: int, frame: int | None) -> None:
        said = self.plain.said.get(object_id, {})
        gone = [f for f in said if frame in (None, f)]
        if not gone or object_id in self.plain.locked_ids:
            return
        self.step()
        for f in gone:
            del self.plain.said[object_id][f]
            if (
                f in self.plain.done[object_id]
            ):  # the answer to what is taken back took the place of the older one
                self.plain.done[object_id][f] = None
        self.session.clear(frame, object_id=object_id)

    @precondition(lambda self: any(self.plain.said.values()))
    @rule(first=frames, last=frames, keep=st.booleans())
    def propagate(self, first: int, last: int, keep: bool) -> None:
        span = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        self.agree_on_stale()
        before = deepcopy(self.plain)
        self.plain.propagate(span, keep=keep)
        if self.plain.done != before.done:
            self.past.append(before)
            self.future.clear()
        self.session.keep_existing = keep
        was = len(self.predictor.followed)
        self.session.propagate(frames=span)
        followed = self.predictor.followed[was:]
        assert len(followed) == len(set(followed))
        free = [key for key in followed if key[1] not in self.plain.locked_frames]
        assert all(before.is_stale(*key) for key in free), "only what is stale is worked out"

    def agree_on_stale(self) -> None:
        """What is stale is known to be; after undo, more may be held so: what an older result followed from is lost."""
        for object_id in set(self.plain.said) - self.plain.locked_ids:
            done = self.plain.done[object_id]
            held, stale = set(np.flatnonzero(self.session.track(object_id).stale).tolist()), set[int]()
            if self.plain.said[object_id]:
                free = set(done) - self.plain.locked_frames
                stale = {frame for frame in free if self.plain.is_stale(object_id, frame)}
                assert stale <= held and (self.went_back or stale == held), (stale, held)
            # What is stale as it should be may be right again, once what was said last is taken back.
            done.update(dict.fromkeys(held - stale))

    @precondition(lambda self: any(self.plain.said.values()))
    @rule()
    def propagate_all(self) -> None:
        self.propagate(0, FRAMES - 1, True)

    @precondition(lambda self: self.past)
    @rule(times=st.integers(1, 4))
    def undo(self, times: int) -> None:
        self.went_back = True
        for _ in range(times):
            assert self.session.undo() == bool(self.past)
            if self.past:
                self.future.append(self.plain)
                self.plain = self.past.pop()

    @precondition(lambda self: self.future)
    @rule(times=st.integers(1, 4))
    def redo(self, times: int) -> None:
        for _ in range(times):
            assert self.session.redo() == bool(self.future)
            if self.future:
                self.past.append(self.plain)
                self.plain = self.future.pop()

    @precondition(lambda self: any(self.plain.said.values()))
    @rule(data=st.data(), frame=frames, what=st.sampled_from(["lock frame", "lock", "delete", "rename"]))
    def alter(self, data: st.DataObject, frame: int, what: str) -> None:
        if what == "lock frame":
            self.lock_frame(frame)
        elif self.plain.said:
            object_id = data.draw(st.sampled_from(sorted(self.plain.said)))
            {"lock": self.lock_object, "delete": self.delete, "rename": self.rename}[what](object_id)

    def lock_frame(self, frame: int) -> None:
        self.step()
        is_locked = frame not in self.plain.locked_frames
        (self.plain.locked_frames.add if is_locked else self.plain.locked_frames.remove)(frame)
        if not is_locked:
            self.settle(frame)
        self.session.lock_frames([frame], is_locked=is_locked)

    def settle(self, frame: int) -> None:
        """What was on a locked frame is right, whatever was said since."""
        for i, done in self.plain.done.items():
            if frame in done:
                done[frame] = self.plain.turn(i, frame)

    def lock_object(self, object_id: int) -> None:
        self.step()
        is_locked = object_id not in self.plain.locked_ids
        (self.plain.locked_ids.add if is_locked else self.plain.locked_ids.remove)(object_id)
        self.session.lock_object(object_id, is_locked=is_locked)

    def delete(self, object_id: int) -> None:
        if object_id in self.plain.locked_ids:
            return
        self.step()
        # Pixels that a lock kept when an earlier object of that number was deleted are nobody's.
        for frame in set(self.plain.done[object_id]) - self.plain.locked_frames:
            plane = self.plain.labels[frame]
            plane[plane == object_id] = 0
        del self.plain.said[object_id], self.plain.done[object_id]
        self.session.delete(object_id)

    def rename(self, object_id: int) -> None:
        self.step()
        name = self.session.track(object_id).name + "a"
        self.session.rename(object_id, name)
        assert self.session.track(object_id).name == name

    @invariant()
    def labels_agree(self) -> None:
        assert not self.errors, self.errors
        assert np.array_equal(self.labels.array, self.plain.labels)

    @invariant()
    def objects_agree(self) -> None:
        assert self.session.object_ids == tuple(sorted(self.plain.said))
        assert self.session.locked_frames == self.plain.locked_frames
        for object_id, said in self.plain.said.items():
            assert self.session.prompted(object_id) == frozenset(said)
            track = self.session.track(object_id)
            areas = [int((plane == object_id).sum()) for plane in self.plain.labels]
            done = self.plain.done[object_id]
            assert np.flatnonzero(~np.isnan(track.scores)).tolist() == sorted(done)
            assert all(track.areas[frame] == areas[frame] for frame in done)


Work.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestWork = Work.TestCase
