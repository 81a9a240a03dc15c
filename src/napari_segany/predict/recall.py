"""What a frame is reminded of: which of the kept frames and pointers, by the published rules.

Paper: Ravi et al. 2024, section 4 ("Memory bank"). Frame numbers only, so that the rules can be read and tested alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from napari_segany.core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class RecallRules:
    """Which memories a frame is reminded of.

    Attributes
    ----------
    frames
        Ages of memories that the model knows: prompted frames, and `frames - 1` places in the queue.
    pointers
        The most frames that pointers are taken from, beside further prompted ones.
    stride
        From how many frames one is taken into the queue; the frame just before always is.
    prompted
        The most prompted frames; None for all of them.
    """

    frames: int = 7
    pointers: int = 16
    stride: int = 1
    prompted: int | None = None

    def __post_init__(self) -> None:
        if min(self.frames, self.pointers, self.stride) < 1:
            raise SettingsError(f"frames, pointers and stride must be at least 1, got {self}")
        if self.prompted is not None and self.prompted < 2:
            raise SettingsError(
                f"prompted is {self.prompted}; at least 2 frames (or None, for all) are needed"
            )


@dataclass(frozen=True, slots=True)
class Recalled:
    """Frames to take memories from, with their ages, and frames to take pointers from, with their distances."""

    memories: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]
    span: int


def recall(
    frame: int,
    prompted: Iterable[int],
    *,
    passed: Container[int],
    n_frames: int,
    rules: RecallRules,
    is_reverse: bool = False,
) -> Recalled:
    """Return what `frame` is reminded of.

    Parameters
    ----------
    frame
        Which frame is to be worked out.
    prompted
        Frames whose memories come from prompts.
    passed
        Frames whose memories come from following the object.
    n_frames
        How many frames there are in all.
    rules
        What to take.
    is_reverse
        Whether the object is being followed backwards.
    """
    back = 1 if is_reverse else -1  # what one step into the past is, as followed
    near, far = nearest_prompted(frame, list(prompted), most=rules.prompted)
    ages = [(t, 0) for t in near]
    for age in range(rules.frames - 1, 0, -1):
        t = _place(frame, age, stride=rules.stride, back=back)
        if t in passed or t in far:
            ages.append((t, age))
    most = min(n_frames, rules.pointers)
    distances = [(t, (t - frame) * back) for t in near if (t - frame) * back >= 0]
    for distance in range(1, most):
        t = frame + distance * back
        if 0 <= t < n_frames and (t in passed or t in far):
            distances.append((t, distance))
    return Recalled(tuple(ages), tuple(distances), span=max(most - 1, 1))


def nearest_prompted(
    frame: int, prompted: list[int], *, most: int | None
) -> tuple[list[int], frozenset[int]]:
    """Return the prompted frames to look at, and those left over: nearest before, from here on, closest."""
    if most is None or len(prompted) <= most:
        return prompted, frozenset()
    before, after = [t for t in prompted if t < frame], [t for t in prompted if t >= frame]
    near = ([max(before)] if before else []) + ([min(after)] if after else [])
    rest = sorted((t for t in prompted if t not in near), key=lambda t: abs(t - frame))
    near += rest[: most - len(near)]
    return near, frozenset(prompted) - frozenset(near)


def _place(frame: int, age: int, *, stride: int, back: int) -> int:
    """Return which frame is `age` places back in the queue: the one before, then every `stride`-th."""
    if age == 1:
        return frame + back
    second = -(-(frame + 2) // stride) * stride if back == 1 else (frame - 2) // stride * stride
    return second + (age - 2) * stride * back
