"""A stack that is open in a predictor: frames, one window for all of them, objects, and what is kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_segany.core.errors import ImageError, PromptError
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import AnyArray, FrameSource

from .followed import Followed
from .follower import Follower

_SAMPLED = 16  # frames that the intensity window is sampled from


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """How objects are followed.

    Attributes
    ----------
    memory
        How many passed frames are remembered, at most what the model knows; None for that.
    prompted
        The most prompted frames that a frame is reminded of, the nearest ones.
    patience
        After how many absent frames in a row an object is not sought any further; None for never.
    least_score
        For hard scenes: only passed frames with at least this score are remembered, further back if need be, and none
        on which the object was absent; None for the frames just passed, whatever their score.
    foresees
        For fast objects: look where an object would be if it went on as over the last two frames. Of use to models
        that look at windows.
    cache_bytes
        Memory for what frames look like, beside the one in work.
    """

    memory: int | None = None
    prompted: int = 4
    patience: int | None = 16
    least_score: float | None = None
    foresees: bool = False
    cache_bytes: int = 1 << 27

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 1:
            raise PromptError(f"memory is {self.memory}; at least one passed frame must be remembered")
        if self.prompted < 2:
            raise PromptError(f"prompted is {self.prompted}; at least 2 prompted frames are needed")
        if self.patience is not None and self.patience < 1:
            raise PromptError(f"patience is {self.patience}; it must be at least 1, or None")
        if self.least_score is not None and not 0 <= self.least_score <= 1:
            raise PromptError(f"least_score is {self.least_score}; scores are 0 to 1")


class ArrayFrames:
    """Frames of an array that has a shape but no length, as zarr's."""

    def __init__(self, array: Any) -> None:  # Any: array libraries disagree
        if not getattr(array, "shape", ()):
            raise ImageError(f"frames must have a length or a shape, got {type(array).__name__}")
        self._array = array

    def __len__(self) -> int:
        return int(self._array.shape[0])

    def __getitem__(self, index: int) -> AnyArray:
        return np.asarray(self._array[index])


@dataclass(eq=False)
class VideoState:
    """A stack that is open in a predictor; for one thread at a time.

    Attributes
    ----------
    over_time
        Whether frames are times and not planes.
    steps
        How many object-frames were worked out without a prompt, ever: what a correction costs.
    """

    frames: FrameSource
    window: Window
    frame_shape: tuple[int, int]
    options: FollowOptions
    follower: Follower
    over_time: bool = False
    objects: dict[int, Followed] = field(default_factory=dict)
    looks: OrderedDict[int, object] = field(default_factory=OrderedDict)
    steps: int = 0

    @property
    def n_frames(self) -> int:
        """How many frames there are."""
        return len(self.frames)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Objects with a prompt, in the order they came."""
        return tuple(number for number, one in self.objects.items() if one.prompts)

    @property
    def repeats(self) -> int:
        """On how many frames after it was seen last an object is looked for as on the first of them."""
        if not (self.over_time and self.follower.looks_again):
            return 0
        return self.n_frames if self.options.patience is None else self.options.patience

    def prompted(self, object_id: int) -> tuple[int, ...]:
        """Return the frames on which an object has a prompt, in order."""
        return tuple(sorted(self.known(object_id).prompts))

    def stale(self, object_id: int) -> frozenset[int]:
        """Return the frames that `propagate` would work out for an object: never answered, or outdated."""
        one = self.known(object_id)
        return frozenset(t for t in range(self.n_frames) if not one.is_settled(t))

    def score(self, object_id: int, frame: int) -> float | None:
        """Return the score of an object on a frame; None where it was not answered."""
        answer = self.known(object_id).answers.get(frame)
        return None if answer is None else answer.score

    def look(self, frame: int) -> object:
        """Return what a frame looks like to the model; the last few are kept."""
        if frame in self.looks:
            self.looks.move_to_end(frame)
            return self.looks[frame]
        image = np.asarray(self.frames[frame])
        if image.shape[:2] != self.frame_shape:
            raise ImageError(f"frame {frame} has shape {image.shape}; the first one has {self.frame_shape}")
        self.looks[frame] = self.follower.look(image)
        while len(self.looks) > 1 and self._looks_nbytes() > self.options.cache_bytes:
            self.looks.popitem(last=False)
        return self.looks[frame]

    def _looks_nbytes(self) -> int:
        """Return the memory that kept looks hold."""
        return sum(self.follower.nbytes(look) for look in self.looks.values())

    def known(self, object_id: int) -> Followed:
        """Return an object; PromptError if there is none of that number."""
        try:
            return self.objects[object_id]
        except KeyError:
            known = ", ".join(map(str, self.objects)) or "none yet"
            raise PromptError(f"there is no object {object_id} in this stack; there are {known}") from None


def sampled_window(frames: FrameSource) -> Window:
    """Return the intensity window of a stack, from frames spread over it."""
    picked = np.unique(np.linspace(0, len(frames) - 1, num=min(len(frames), _SAMPLED)).astype(int))
    sampled: list[AnyArray] = [np.asarray(frames[int(t)]) for t in picked]
    for t, image in zip(picked, sampled, strict=True):
        if image.shape != sampled[0].shape:
            raise ImageError(f"frame {t} has shape {image.shape}; the first one has {sampled[0].shape}")
    step = max(1, int(np.sqrt(sampled[0].size * len(sampled) / (1 << 20))))
    return sample_window(np.stack([image[::step, ::step] for image in sampled]))
