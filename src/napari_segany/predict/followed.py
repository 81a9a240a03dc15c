"""One followed object: prompts, compact answers of all frames, and memories of the few frames that are near."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from torch import Tensor

from napari_segany.core.masks import PlaneBox, box_of, slices_of
from napari_segany.core.types import BoolMask, Box, Prompt

FARTHEST = 4
"""How many queues back frames that are sure enough are looked for."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """An (H, W) mask in a few hundred bytes: packed bits of its box, compressed; `box` is None where it is empty."""

    shape: tuple[int, int]
    box: PlaneBox | None
    bits: bytes

    @classmethod
    def of(cls, mask: BoolMask) -> PackedMask:
        """Pack a mask."""
        size = (mask.shape[0], mask.shape[1])
        if not mask.any():
            return cls(size, None, b"")
        box = slices_of(box_of(mask))
        return cls(size, box, zlib.compress(np.packbits(mask[box]).tobytes(), level=1))

    def unpack(self) -> BoolMask:
        """Return the mask."""
        mask = np.zeros(self.shape, dtype=bool)
        if self.box is not None:
            rows, cols = self.box
            size = (rows.stop - rows.start, cols.stop - cols.start)
            bits = np.frombuffer(zlib.decompress(self.bits), dtype=np.uint8)
            mask[self.box] = np.unpackbits(bits, count=size[0] * size[1]).reshape(size)
        return mask


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found of an object on a frame.

    Attributes
    ----------
    mask
        Empty where the object is absent.
    score
        Predicted IoU, 0 to 1; negative where the object is judged absent.
    origin
        The prompted frame that it was followed from, or might have been; None if fed back before any prompt.
    is_told
        Whether `propagate` has yielded it, or need not.
    """

    mask: PackedMask
    score: float
    origin: int | None
    is_told: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """One object on one frame as a follower remembers it: `spatial` is its own business, `pointer` is (1, C)."""

    spatial: object
    pointer: Tensor

    @property
    def is_whole(self) -> bool:
        """Whether more than the pointer is kept."""
        return self.spatial is not None

    def reduced(self) -> Memory:
        """Return the pointer alone."""
        return replace(self, spatial=None)


@dataclass(eq=False)
class Followed:
    """One object of a stack; `corrected` holds what was found on prompted frames before they had a prompt."""

    prompts: dict[int, Prompt] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    memories: dict[int, Memory] = field(default_factory=dict)
    outdated: set[int] = field(default_factory=set)
    corrected: dict[int, PackedMask] = field(default_factory=dict)

    def nearest(self, frame: int) -> int | None:
        """Return the prompted frame nearest to a frame, the earlier of two; None without any."""
        return min(self.prompts, key=lambda p: (abs(p - frame), p), default=None)

    def is_settled(self, frame: int) -> bool:
        """Return whether a frame was answered from where it should be, and the answer was yielded."""
        answer = self.answers.get(frame)
        if answer is None or frame in self.outdated or not answer.is_told:
            return False
        if answer.origin is None:
            return True
        nearest = self.nearest(frame)
        return nearest is not None and abs(answer.origin - frame) <= abs(nearest - frame)

    def source(self, frame: int, *, step: int) -> int | None:
        """Return the prompted frame from which `frame` can be followed in a direction; None if there is no way yet.

        The frame just passed must be answered, from a prompt that lies behind it.
        """
        behind = frame - step
        answer = self.answers.get(behind)
        if answer is None:
            return None
        origin = self.nearest(behind) if answer.origin is None else answer.origin
        if origin is None or (frame - origin) * step <= 0:
            return None
        if behind in self.outdated and behind != origin:
            return None
        return origin

    def is_due(self, frame: int, *, step: int) -> bool:
        """Return whether following in a direction has something to do on a frame."""
        if self.is_settled(frame):
            return False
        if frame in self.prompts:
            return True
        source = self.source(frame, step=step)
        if source is None:
            return False
        answer = self.answers.get(frame)
        if answer is None or frame in self.outdated or answer.origin is None:
            return True
        return abs(source - frame) < abs(answer.origin - frame)

    def forget_answers_of(self, origin: int) -> None:
        """Mark what was followed from a prompt as outdated: the masks stay until there are newer ones."""
        self.outdated |= {t for t, answer in self.answers.items() if answer.origin == origin and t != origin}

    def chain(self, frame: int, *, origin: int, step: int) -> Iterable[int]:
        """Return the frames passed on the way from a prompt to a frame, the last one first, without the prompted."""
        return (t for t in range(frame - step, origin, -step) if t not in self.prompts)

    def extent(self, frame: int, *, origin: int, step: int) -> Box | None:
        """Return where the object was seen last, from `frame` back to its prompt; None if nowhere."""
        for t in range(frame, origin - step, -step):
            answer = self.answers.get(t)
            if answer is not None and answer.mask.box is not None:
                rows, cols = answer.mask.box
                return Box(rows.start, cols.start, rows.stop, cols.stop)
        return None

    def expected(self, frame: int, *, origin: int, step: int) -> Box | None:
        """Return where the object would be if it went on as on the last two frames; as `extent` if not seen there."""
        last = self.extent(frame - step, origin=origin, step=step)
        boxes = [a.mask.box if (a := self.answers.get(frame - far * step)) else None for far in (1, 2)]
        if last is None or None in boxes or (frame - 2 * step - origin) * step < 0:
            return last
        (rows, cols), (rows0, cols0) = boxes  # type: ignore[misc]  # neither is None
        moved = [
            (now.start + now.stop - then.start - then.stop) / 2
            for now, then in ((rows, rows0), (cols, cols0))
        ]
        return Box(last.row0 + moved[0], last.col0 + moved[1], last.row1 + moved[0], last.col1 + moved[1])

    def missed(self, frame: int, *, origin: int, step: int, most: int) -> int:
        """Return on how many frames just passed the object was not found, after one that shows it; 0 beyond `most`."""
        for count, t in enumerate(range(frame - step, origin - step, -step)):
            answer = self.answers.get(t)
            if answer is None or count > most:
                return 0
            if answer.mask.box is not None:
                return count
        return 0

    def chosen(self, frame: int, *, origin: int, step: int, least: float | None, most: int) -> list[int]:
        """Return up to `most` passed frames, the last one first, with a score of at least `least` where one is set."""
        passed = self.chain(frame, origin=origin, step=step)
        if least is None:
            return [t for t in islice(passed, most) if t in self.answers]
        known = ((t, self.answers.get(t)) for t in islice(passed, FARTHEST * most))
        return [t for t, answer in known if answer is not None and answer.score >= least][:most]

    def trim(self, frame: int, *, spatial: int, pointers: int, prompted: int) -> None:
        """Let go of memories that no frame near `frame` is reminded of; they can be made again from the answers."""
        far = sorted(self.prompts, key=lambda p: abs(p - frame))[prompted:]
        for t in [t for t in self.memories if t not in self.prompts or t in far]:
            distance = abs(t - frame)
            if distance > max(spatial, pointers):
                del self.memories[t]
            elif distance > spatial:
                self.memories[t] = self.memories[t].reduced()
