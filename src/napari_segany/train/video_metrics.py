"""How well a predictor follows objects through movies and stacks: one click on one frame, then corrections.

Protocol: each object gets one click, its deepest point, on one frame: the first that shows it in a movie, the one
that shows most of it in a stack. All are followed forwards, each joining at its frame, and then backwards over the
whole clip. A correction is up to `clicks` clicks on the frame with an object's worst IoU: one on the object if it is
mostly missed, else and from then on at the deepest point of the larger error, until the mask is good. They are added to
what was clicked on that frame before; then all are followed again. Three clicks a frame are the protocol of Ravi et al.
2024, section 6.1. A mother counts until she divides, a daughter from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_segany.core.errors import DataError
from napari_segany.core.types import (
    BoolMask,
    FrameMasks,
    Points,
    Prompt,
    VideoPredictorLike,
    VideoStateLike,
)

from .clicks import corrective_click, deepest_point, first_correction
from .movies import CLIP_KINDS, MOVIE_KINDS, Clip, render_clip
from .video_results import Followed, VideoEvaluation

LEAST_AREA = 30
"""Pixels that an object must show on the frame that it is clicked on."""

TRAINING_SEEDS = 2**32
"""Training renders clips of seeds from here on, validation of seeds below."""

GOOD = 0.9
"""IoU from which on a person clicks no more on a frame."""

_BEFORE, _AFTER = 2, 5  # frames beside a division
_NEAR = 8  # pixels between neighbours of a division


def validation_clips(
    count: int,
    *,
    seed: int = 0,
    frames: tuple[int, int] = (32, 64),
    size: tuple[int, int] = (256, 256),
    kinds: Sequence[str] = CLIP_KINDS,
) -> Iterator[Clip]:
    """Yield clips that training never sees: movies and stacks by turns, each kind in turn, in a range of lengths.

    Raises
    ------
    DataError
        If a seed would be one that training may use.
    """
    if seed < 0 or seed + count > TRAINING_SEEDS:
        raise DataError(f"validation seeds must be 0 to {TRAINING_SEEDS - count}, got {seed}")
    pools = [[k for k in kinds if k in MOVIE_KINDS], [k for k in kinds if k not in MOVIE_KINDS]]
    pools = [pool for pool in pools if pool]
    for index in range(count):
        pool = pools[index % len(pools)]
        length = int(np.random.default_rng(seed + index).integers(frames[0], frames[1] + 1))
        kind = pool[index // len(pools) % len(pool)]
        yield render_clip(seed + index, kind=kind, frames=length, size=size)


def evaluate_video(
    predictor: VideoPredictorLike,
    clips: Iterable[Clip],
    *,
    corrections: int = 0,
    clicks: int = 3,
    most_objects: int = 6,
    progress: Callable[[int, str], None] | None = None,
) -> VideoEvaluation:
    """Run the protocol on the objects of clips.

    Parameters
    ----------
    corrections
        How often each object is corrected; there are results after each time.
    clicks
        The most clicks of one correction.
    most_objects
        Per clip; where there are more, a fixed random choice of them.
    progress
        Called with (clips done, kind) after each clip.

    Raises
    ------
    DataError
        If no object is large enough on the frame that it is clicked on, or one of the numbers is too small.
    """
    if corrections < 0 or min(most_objects, clicks) < 1:
        raise DataError(
            "corrections must be 0 or more, clicks and most_objects 1 or more, "
            f"got {corrections}, {clicks} and {most_objects}"
        )
    rounds: list[list[Followed]] = [[] for _ in range(corrections + 1)]
    done = frames = 0
    for clip in clips:
        targets = targets_of(clip, most=most_objects)
        if targets:
            for results, found in zip(
                rounds,
                _rounds(predictor, clip, targets=targets, corrections=corrections, most_clicks=clicks),
                strict=True,
            ):
                results.extend(found)
        done, frames = done + 1, frames + len(clip)
        if progress is not None:
            progress(done, clip.kind)
    if not rounds[0]:
        raise DataError(f"none of the {done} clips shows an object of {LEAST_AREA} pixels to click on")
    return VideoEvaluation(predictor.card.name, done, frames, tuple(tuple(part) for part in rounds), clicks)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """An object to follow: its `number`, the `frame` that is clicked on, and what counts of its T frames."""

    number: int
    frame: int
    counted: BoolMask
    present: BoolMask
    at_division: BoolMask

    def truth(self, clip: Clip, frame: int) -> BoolMask:
        """Return the (H, W) mask of the object on a frame."""
        mask: BoolMask = clip.labels[frame] == self.number
        return mask


def targets_of(clip: Clip, *, most: int) -> list[Target]:
    """Return the objects of a clip that are followed, in the order of their numbers."""
    areas = _areas(clip)
    frames = {
        number: int(np.argmax(area > 0) if clip.over_time else np.argmax(area))
        for number, area in enumerate(areas.T)
        if number > 0
    }
    numbers = [number for number, frame in frames.items() if areas[frame, number] >= LEAST_AREA]
    if len(numbers) > most:
        picked = np.random.default_rng(len(numbers)).permutation(len(numbers))[:most]
        numbers = [numbers[place] for place in np.sort(picked)]
    counted = _counted(clip, areas)
    beside = _beside_divisions(clip, areas, numbers)
    return [Target(n, frames[n], counted[:, n], areas[:, n] > 0, beside[n]) for n in numbers]


def _areas(clip: Clip) -> NDArray[np.int_]:
    """Return (T, N + 1) pixels that each frame shows of each number."""
    count = int(clip.labels.max()) + 1
    return np.stack([np.bincount(frame.ravel(), minlength=count) for frame in clip.labels])


def _births(clip: Clip, areas: NDArray[np.int_]) -> dict[int, tuple[int, int]]:
    """Return {mother: (her last frame, her daughters' first)}."""
    births = {}
    for mother in sorted(set(clip.parents.values())):
        daughters = [d for d, m in clip.parents.items() if m == mother]
        last = int(np.flatnonzero(areas[:, mother])[-1])
        births[mother] = last, int(np.flatnonzero(areas[:, daughters].any(1))[0])
    return births


def _counted(clip: Clip, areas: NDArray[np.int_]) -> BoolMask:
    """Return (T, N + 1), whether a frame counts for an object."""
    counted = np.ones(areas.shape, dtype=bool)
    for mother, (last, first) in _births(clip, areas).items():
        counted[first:, mother] = False
        for daughter in (d for d, m in clip.parents.items() if m == mother):
            counted[: last + 1, daughter] = False
    return counted


def _beside_divisions(clip: Clip, areas: NDArray[np.int_], numbers: Sequence[int]) -> dict[int, BoolMask]:
    """Return by object its (T,) frames beside a division of itself, its mother or a neighbour."""
    beside = {number: np.zeros(len(clip), dtype=bool) for number in numbers}
    counted = _counted(clip, areas)
    for mother, (last, first) in _births(clip, areas).items():
        if first - last > _BEFORE:  # out of sight
            continue
        family = [mother, *(d for d, m in clip.parents.items() if m == mother)]
        for frame in range(max(first - _BEFORE, 0), min(first + _AFTER, len(clip))):
            labels = clip.labels[frame]
            near = np.isin(labels, family)
            rows, cols = _around(near, margin=_NEAR)
            grown = ndimage.binary_dilation(near[rows, cols], iterations=_NEAR)
            for number in np.unique(labels[rows, cols][grown]):
                if int(number) in beside and counted[frame, number]:
                    beside[int(number)][frame] = True
    return beside


def _around(mask: BoolMask, *, margin: int) -> tuple[slice, slice]:
    """Return rows and columns of a mask and a margin; nothing for an empty one."""
    if not mask.any():
        return slice(0, 0), slice(0, 0)
    ends = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    rows, cols = (slice(max(int(e[0]) - margin, 0), int(e[-1]) + margin + 1) for e in ends)
    return rows, cols


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    """The latest answers: `masks` (K, T, H, W), empty where judged absent or never answered."""

    masks: BoolMask

    def take(self, found: FrameMasks) -> None:
        """Put one frame's masks in place; object K has the id K + 1."""
        for number, mask, score in zip(found.object_ids, found.masks, found.scores, strict=True):
            self.masks[int(number) - 1, found.frame] = mask & bool(score >= 0)


def _rounds(
    predictor: VideoPredictorLike,
    clip: Clip,
    *,
    targets: Sequence[Target],
    corrections: int,
    most_clicks: int,
) -> Iterator[list[Followed]]:
    """Yield how the objects of a clip were followed after their first clicks, and after each correction."""
    state = predictor.open(clip)
    answers = _Answers(np.zeros((len(targets), *clip.labels.shape), dtype=bool))
    clicks: dict[tuple[int, int], Points] = {}
    for place, target in enumerate(targets):
        row, col = deepest_point(target.truth(clip, target.frame))
        clicks[target.frame, place] = Points(np.array([[row, col]], dtype=np.float32), np.array([True]))
    new = clicks
    for turn in range(corrections + 1):
        if turn:
            new = _corrections(clip, targets, answers=answers, clicks=clicks)
        if new:
            game = _Game(predictor, state, clip, targets, answers)
            clicks |= game.play(new, most_clicks=most_clicks if turn else 1)
        yield [
            _followed(clip, t, masks=answers.masks[k], prompted=[f for f, p in clicks if p == k])
            for k, t in enumerate(targets)
        ]


def _corrections(
    clip: Clip, targets: Sequence[Target], *, answers: _Answers, clicks: dict[tuple[int, int], Points]
) -> dict[tuple[int, int], Points]:
    """Return, by frame and object, all clicks of the frames with the worst masks, with one more each."""
    new = {}
    for place, target in enumerate(targets):
        frames = np.flatnonzero(target.counted & target.present).tolist()
        ious = [_iou(target.truth(clip, f), answers.masks[place, f]) for f in frames]
        frame = frames[int(np.argmin(ious))]
        click = first_correction(target.truth(clip, frame), answers.masks[place, frame])
        if click is not None:
            none = Points(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=bool))
            before = clicks.get((frame, place), none)
            new[frame, place] = before.with_click(click.row, click.col, positive=click.is_positive)
    return new


@dataclass(frozen=True, slots=True, eq=False)
class _Game:
    """A simulated person at a stack."""

    predictor: VideoPredictorLike
    state: VideoStateLike
    clip: Clip
    targets: Sequence[Target]
    answers: _Answers

    def play(
        self, clicks: dict[tuple[int, int], Points], *, most_clicks: int
    ) -> dict[tuple[int, int], Points]:
        """Click on objects and follow all of them forwards, from where each is clicked on, and then backwards.

        `clicks` are by frame and object; returned are all that were made there.
        """
        made = {}
        order = sorted(clicks)
        ends = [frame for frame, _ in order[1:]] + [self.state.n_frames]
        for (frame, place), end in zip(order, ends, strict=True):
            made[frame, place] = self._click(frame, place, clicks[frame, place], most_clicks=most_clicks)
            if end > frame:
                self._follow(range(frame, end))
        self._follow(range(self.state.n_frames - 1, -1, -1))
        return made

    def _click(self, frame: int, place: int, points: Points, *, most_clicks: int) -> Points:
        """Click on one object, again while its mask is not good; return all clicks."""
        truth = self.targets[place].truth(self.clip, frame)
        for count in range(1, most_clicks + 1):
            prompt = Prompt(points=points)
            self.answers.take(self.predictor.prompt(self.state, prompt, frame=frame, object_id=place + 1))
            shown = self.answers.masks[place, frame]
            click = corrective_click(truth, shown)
            if count == most_clicks or click is None or _iou(truth, shown) >= GOOD:
                break
            points = points.with_click(click.row, click.col, positive=click.is_positive)
        return points

    def _follow(self, frames: range) -> None:
        """Follow all objects through a range."""
        for found in self.predictor.propagate(self.state, frames):
            self.answers.take(found)


def _followed(clip: Clip, target: Target, *, masks: BoolMask, prompted: Sequence[int]) -> Followed:
    """Return how well (T, H, W) masks fit an object."""
    ious, swallowed = np.zeros(len(clip)), np.zeros(len(clip), dtype=bool)
    for frame in np.flatnonzero(target.present).tolist():
        ious[frame] = _iou(target.truth(clip, frame), masks[frame])
    for frame in np.flatnonzero(target.at_division).tolist():
        swallowed[frame] = _swallows(masks[frame], clip.labels[frame], number=target.number)
    return Followed(
        kind=clip.kind,
        axis=clip.axis,
        number=target.number,
        prompted=tuple(sorted(prompted)),
        counted=target.counted,
        present=target.present,
        ious=ious,
        called_absent=np.array([not mask.any() for mask in masks]),
        at_division=target.at_division,
        swallowed=swallowed,
    )


def _swallows(mask: BoolMask, labels: NDArray[np.uint32], *, number: int) -> bool:
    """Tell whether an object's mask covers more than half of another object of a label image."""
    covered = np.bincount(labels[mask], minlength=int(labels.max()) + 1)
    whole = np.maximum(np.bincount(labels.ravel(), minlength=len(covered)), 1)
    share = covered / whole
    share[[0, *([number] if number < len(share) else [])]] = 0
    return bool((share > 0.5).any())


def _iou(truth: BoolMask, guess: BoolMask) -> float:
    """Return the IoU of two masks, the first not empty."""
    return float(np.count_nonzero(truth & guess) / np.count_nonzero(truth | guess))
