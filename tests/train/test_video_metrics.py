"""Evaluation of video: a predictor that knows the truth, and one whose errors are known by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from napari_segany.core.errors import DataError
from napari_segany.core.intensity import Window
from napari_segany.core.types import BoolMask, FrameMasks, FrameSource, ModelCard, Prompt, VideoPredictorLike
from napari_segany.train.movies import MOVIE_KINDS, Clip
from napari_segany.train.video_metrics import evaluate_video, targets_of, validation_clips
from napari_segany.train.video_results import Followed, drift, summary

Distort = Callable[[BoolMask, int], tuple[BoolMask, float]]
"""Makes an answer, mask and score, of the true mask and of the frames to the nearest prompt."""


@dataclass
class State:
    """What the fake knows of an open clip; `prompts[object][frame]` are those that it was given."""

    images: FrameSource
    labels: np.ndarray
    truth: dict[int, int] = field(default_factory=dict)
    prompts: dict[int, dict[int, Prompt]] = field(default_factory=dict)
    pending: dict[int, set[int]] = field(default_factory=dict)

    @property
    def n_frames(self) -> int:
        return len(self.labels)

    @property
    def frame_shape(self) -> tuple[int, int]:
        return self.labels.shape[1], self.labels.shape[2]

    @property
    def window(self) -> Window:
        raise NotImplementedError("nobody asks")

    @property
    def object_ids(self) -> tuple[int, ...]:
        return tuple(self.truth)

    def prompted(self, object_id: int) -> tuple[int, ...]:
        return tuple(sorted(self.prompts[object_id]))

    def stale(self, object_id: int) -> frozenset[int]:
        return frozenset(self.pending[object_id])


class Knowing:
    """A predictor that looks up what was clicked on in the labels, and answers with known errors."""

    card = ModelCard("knowing", "0")

    def __init__(self, clips: list[Clip], distort: Distort | None = None) -> None:
        self.labels = {id(clip): clip.labels for clip in clips}
        self.distort: Distort = distort or (lambda mask, _: (mask, 1.0 if mask.any() else -1.0))
        self.asked: list[range] = []
        self.states: list[State] = []

    def open(self, frames: FrameSource, *, window: Window | None = None) -> State:
        self.states.append(State(frames, self.labels[id(frames)]))
        return self.states[-1]

    def prompt(self, state: State, prompt: Prompt, *, frame: int, object_id: int) -> FrameMasks:
        assert prompt.points is not None
        if object_id not in state.truth:
            row, col = prompt.points.coords[0].astype(int)
            assert prompt.points.positive[0]
            state.truth[object_id] = int(state.labels[frame, row, col])
        state.prompts.setdefault(object_id, {})[frame] = prompt
        state.pending[object_id] = set(range(state.n_frames)) - {frame}
        return self._answer(state, [object_id], frame)

    def propagate(self, state: State, frames: range) -> Iterator[FrameMasks]:
        self.asked.append(frames)
        for frame in frames:
            ids = [number for number in state.truth if frame in state.pending[number]]
            if ids:
                for number in ids:
                    state.pending[number].discard(frame)
                yield self._answer(state, ids, frame)

    def forget(self, state: State, *, object_id: int, frame: int | None = None) -> None:
        raise NotImplementedError("evaluation does not")

    def recall(self, state: State, *, frame: int, object_id: int, mask: BoolMask, score: float) -> None:
        raise NotImplementedError("evaluation does not")

    def _answer(self, state: State, ids: list[int], frame: int) -> FrameMasks:
        found = []
        for number in ids:
            away = min(abs(frame - at) for at in state.prompts[number])
            found.append(self.distort(state.labels[frame] == state.truth[number], away))
        masks = np.stack([mask for mask, _ in found])
        return FrameMasks(frame, np.array(ids), masks, np.array([s for _, s in found], dtype=np.float32))


def clip_of(frames: list[dict[int, tuple[slice, slice]]], *, axis: str = "t", **parents: int) -> Clip:
    """Return a clip of boxes: for each frame, where each object lies; `d3=1` says that 3 is a daughter of 1."""
    labels = np.zeros((len(frames), 64, 64), dtype=np.uint32)
    for frame, boxes in enumerate(frames):
        for number, box in boxes.items():
            labels[frame][box] = number
    images = (labels > 0).astype(np.uint8)
    return Clip(
        images,
        labels,
        {int(k[1:]): v for k, v in parents.items()},
        axis,
        "nuclei" if axis == "t" else "blobs",
    )


BOX = slice(10, 20), slice(10, 20)
OTHER = slice(40, 50), slice(40, 50)


def half(mask: BoolMask, away: int) -> tuple[BoolMask, float]:
    """Return the upper half of a mask wherever there is no prompt: IoU one half."""
    if away == 0 or not mask.any():
        return mask, 1.0 if mask.any() else -1.0
    cut = mask.copy()
    rows = np.flatnonzero(mask.any(axis=1))
    cut[rows[0] + len(rows) // 2 :] = False
    return cut, 1.0


def test_fake_is_a_video_predictor() -> None:
    assert isinstance(Knowing([]), VideoPredictorLike)


def test_predictors_can_ask_whether_frames_are_times() -> None:
    clips = [clip_of([{1: BOX}, {1: BOX}], axis=axis) for axis in "tz"]
    knowing = Knowing(clips)
    evaluate_video(knowing, clips)
    assert [getattr(state.images, "over_time", None) for state in knowing.states] == [True, False]
    assert all(
        (state.images[1] == clip.images[1]).all() for state, clip in zip(knowing.states, clips, strict=True)
    )


def test_the_truth_is_perfect() -> None:
    clips = list(validation_clips(8, frames=(12, 16), size=(96, 96)))
    result = evaluate_video(Knowing(clips), clips, corrections=1).as_dict()
    assert result["iou"] == 1.0
    assert result["absent"] == 1.0
    assert result["swallowed"] in (0.0, None)
    assert set(result["drift"].values()) <= {1.0, None}  # type: ignore[attr-defined]  # a mapping
    assert result["clips"] == 8
    assert result["frames"] == sum(len(clip) for clip in clips)
    assert result["model"] == "knowing"


def test_mean_over_object_frames_where_the_object_is() -> None:
    clip = clip_of([{1: BOX}, {1: BOX}, {}, {1: BOX}])
    result = evaluate_video(Knowing([clip], half), [clip])
    assert result.as_dict()["iou"] == round((1 + 0.5 + 0.5) / 3, 4)
    assert result.as_dict()["object_frames"] == 3
    assert result.as_dict()["absent_frames"] == 1


class TestAbsence:
    @pytest.mark.parametrize(
        ("score", "is_empty", "share"),
        [(-1.0, False, 1.0), (1.0, True, 1.0), (1.0, False, 0.0), (-1.0, True, 1.0)],
    )
    def test_called_by_score_or_by_mask(self, score: float, is_empty: bool, share: float) -> None:
        def ghost(mask: BoolMask, away: int) -> tuple[BoolMask, float]:
            if mask.any():
                return mask, 1.0
            return np.full(mask.shape, not is_empty), score

        clip = clip_of([{1: BOX}, {}, {1: BOX}, {}])
        result = evaluate_video(Knowing([clip], ghost), [clip]).as_dict()
        assert result["absent"] == share
        assert result["iou"] == 1.0

    def test_a_mask_that_is_judged_absent_is_no_mask(self) -> None:
        clip = clip_of([{1: BOX}] * 4)
        denied = Knowing([clip], lambda mask, away: (mask, -1.0 if away else 1.0))
        result = evaluate_video(denied, [clip]).as_dict()
        assert result["iou"] == 0.25
        assert result["absent"] is None

    def test_none_where_nothing_is_absent(self) -> None:
        clip = clip_of([{1: BOX}] * 2)
        assert evaluate_video(Knowing([clip]), [clip]).as_dict()["absent"] is None


class TestPrompts:
    def test_movies_are_clicked_on_where_an_object_first_appears(self) -> None:
        clip = clip_of([{}, {1: BOX}, {1: BOX, 2: OTHER}, {1: BOX, 2: OTHER}])
        assert [(t.number, t.frame) for t in targets_of(clip, most=6)] == [(1, 1), (2, 2)]

    def test_stacks_are_clicked_on_where_an_object_is_largest(self) -> None:
        small, large = (slice(10, 16), slice(10, 16)), (slice(8, 20), slice(8, 20))
        clip = clip_of([{}, {1: small}, {1: large}, {1: BOX}], axis="z")
        assert [(t.number, t.frame) for t in targets_of(clip, most=6)] == [(1, 2)]

    def test_objects_that_show_too_little_are_left_out(self) -> None:
        enters = clip_of([{1: (slice(0, 2), slice(0, 14)), 2: OTHER}, {1: BOX, 2: OTHER}])
        assert [t.number for t in targets_of(enters, most=6)] == [2], "28 pixels on its first frame"
        with pytest.raises(DataError, match="30 pixels"):
            evaluate_video(Knowing([]), [clip_of([{}, {1: (slice(0, 5), slice(0, 5))}])])

    def test_a_fixed_choice_of_many(self) -> None:
        boxes = {
            n + 1: (slice(8 * (n // 8), 8 * (n // 8) + 6), slice(8 * (n % 8), 8 * (n % 8) + 6))
            for n in range(24)
        }
        clip = clip_of([boxes])
        first, second = ([t.number for t in targets_of(clip, most=6)] for _ in range(2))
        assert first == second == sorted(first)
        assert len(first) == 6
        assert first != [1, 2, 3, 4, 5, 6]

    def test_the_first_click_is_the_deepest_point(self) -> None:
        clip = clip_of([{1: (slice(10, 21), slice(30, 41))}])
        knowing = Knowing([clip])
        evaluate_video(knowing, [clip])
        points = knowing.states[0].prompts[1][0].points
        assert points is not None
        np.testing.assert_array_equal(points.coords, [[15, 35]])

    def test_all_are_followed_forwards_then_backwards_over_the_whole_clip(self) -> None:
        clip = clip_of([{1: BOX}] * 3 + [{1: BOX, 2: OTHER}] * 4)
        knowing = Knowing([clip])
        evaluate_video(knowing, [clip])
        assert knowing.asked == [range(3), range(3, 7), range(6, -1, -1)]
        assert not any(knowing.states[0].pending.values()), "no frame was left out"


class TestCorrections:
    def test_the_worst_frame_gets_a_click_on_the_larger_error(self) -> None:
        def worse_at_two(mask: BoolMask, away: int) -> tuple[BoolMask, float]:
            cut = mask.copy()
            if away == 2:
                cut[12:, :] = False
            elif away:
                cut[15:, :] = False
            return cut, 1.0

        clip = clip_of([{1: BOX}] * 3)
        knowing = Knowing([clip], worse_at_two)
        result = evaluate_video(knowing, [clip], corrections=1, clicks=1)
        prompts = knowing.states[0].prompts[1]
        assert sorted(prompts) == [0, 2], "the second frame from the prompt was the worst"
        points = prompts[2].points
        assert points is not None
        assert points.positive.tolist() == [True]
        assert 12 <= points.coords[0, 0] < 20
        assert [round(float(o.ious.mean()), 4) for part in result.rounds for o in part] == [
            round((1 + 0.5 + 0.2) / 3, 4),
            round((1 + 0.5 + 1) / 3, 4),
        ]
        assert result.rounds[1][0].prompted == (0, 2)

    def test_later_clicks_on_a_frame_join_the_earlier_ones(self) -> None:
        def always_half(mask: BoolMask, away: int) -> tuple[BoolMask, float]:
            return half(mask, 1)

        clip = clip_of([{1: BOX}])
        knowing = Knowing([clip], always_half)
        result = evaluate_video(knowing, [clip], corrections=3, clicks=1)
        points = knowing.states[0].prompts[1][0].points
        assert points is not None
        assert len(points) == 4
        assert points.positive.all()
        assert len(result.rounds) == 4
        assert result.as_dict()["corrections"] == 3

    def test_too_much_is_clicked_away(self) -> None:
        def spills(mask: BoolMask, away: int) -> tuple[BoolMask, float]:
            grown = mask.copy()
            grown[:, 30:50] |= bool(away)
            return grown, 1.0

        clip = clip_of([{1: BOX}] * 2)
        knowing = Knowing([clip], spills)
        evaluate_video(knowing, [clip], corrections=1, clicks=1)
        points = knowing.states[0].prompts[1][1].points
        assert points is not None
        assert points.positive.tolist() == [False]
        assert 30 <= points.coords[0, 1] < 50

    def test_what_is_right_is_left_alone(self) -> None:
        clip = clip_of([{1: BOX}] * 3)
        knowing = Knowing([clip])
        result = evaluate_video(knowing, [clip], corrections=3, clicks=1)
        assert list(knowing.states[0].prompts[1]) == [0]
        assert len(knowing.asked) == 2
        assert [summary(part)["iou"] for part in result.rounds] == [1.0] * 4

    @pytest.mark.parametrize(("enough", "expected"), [(1, 1), (2, 2), (9, 3)])
    def test_a_person_clicks_on_a_frame_until_it_is_good(self, enough: int, expected: int) -> None:
        """Each click sees what the last one brought; three at most."""

        def seen(mask: BoolMask, away: int) -> tuple[BoolMask, float]:
            clicked = knowing.states[0].prompts[1].get(1)
            is_good = not away and (clicked is None or len(clicked.points or ()) >= enough)
            return (mask, 1.0) if is_good else half(mask, 1)

        clip = clip_of([{1: BOX}] * 2)
        knowing = Knowing([clip], seen)
        result = evaluate_video(knowing, [clip], corrections=1)
        points = knowing.states[0].prompts[1][1].points
        assert points is not None
        assert len(points) == expected
        assert result.as_dict()["clicks_per_correction"] == 3


LEFT, RIGHT = (slice(10, 20), slice(10, 20)), (slice(10, 20), slice(24, 34))
MOTHER = slice(10, 20), slice(14, 28)


class TestDivisions:
    def clip(self) -> Clip:
        """Return ten frames: a mother that divides at the fifth, and a body far away."""
        before, after = {1: MOTHER, 4: OTHER}, {2: LEFT, 3: RIGHT, 4: OTHER}
        return clip_of([before] * 4 + [after] * 6, d2=1, d3=1)

    def test_a_mother_counts_until_then_and_daughters_from_then(self) -> None:
        targets = {t.number: t for t in targets_of(self.clip(), most=6)}
        assert np.flatnonzero(targets[1].counted).tolist() == [0, 1, 2, 3]
        assert np.flatnonzero(targets[2].counted).tolist() == list(range(4, 10))
        assert targets[4].counted.all()

    def test_a_mask_that_stays_with_a_daughter_is_not_held_against_the_mother(self) -> None:
        clip = self.clip()

        class Clinging(Knowing):
            def _answer(self, state: State, ids: list[int], frame: int) -> FrameMasks:
                found = super()._answer(state, ids, frame)
                for place, number in enumerate(ids):
                    if state.truth[number] == 1 and frame >= 4:
                        found.masks[place] = state.labels[frame] == 2
                        found.scores[place] = 1.0
                return found

        result = evaluate_video(Clinging([clip]), [clip]).as_dict()
        assert result["iou"] == 1.0
        assert result["absent"] is None
        assert result["swallowed"] == 0.0
        assert result["object_frames"] == 4 + 6 + 6 + 10

    def test_a_daughter_that_takes_her_sister_swallows(self) -> None:
        clip = self.clip()

        class Greedy(Knowing):
            def _answer(self, state: State, ids: list[int], frame: int) -> FrameMasks:
                found = super()._answer(state, ids, frame)
                for place, number in enumerate(ids):
                    if state.truth[number] == 2 and frame in (5, 6):
                        found.masks[place] |= state.labels[frame] == 3
                return found

        result = evaluate_video(Greedy([clip]), [clip])
        by_number = {o.number: o for o in result.rounds[0]}
        assert np.flatnonzero(by_number[1].at_division).tolist() == [2, 3]
        assert np.flatnonzero(by_number[2].at_division).tolist() == [4, 5, 6, 7, 8]
        assert not by_number[4].at_division.any(), "far away"
        assert np.flatnonzero(by_number[2].swallowed).tolist() == [5, 6]
        assert result.as_dict()["swallowed"] == round(2 / 12, 4)

    def test_less_than_half_of_a_neighbour_is_no_swallowing(self) -> None:
        clip = self.clip()
        nibbled = Knowing([clip], lambda mask, _: (np.roll(mask, 4, axis=1) | mask, 1.0))
        assert evaluate_video(nibbled, [clip]).as_dict()["swallowed"] == 0.0

    def test_a_neighbour_counts_where_it_lies_close(self) -> None:
        near = slice(24, 34), slice(14, 28)
        clip = clip_of([{1: MOTHER, 4: near}] * 4 + [{2: LEFT, 3: RIGHT, 4: near}] * 3, d2=1, d3=1)
        targets = {t.number: t for t in targets_of(clip, most=6)}
        assert np.flatnonzero(targets[4].at_division).tolist() == [2, 3, 4, 5, 6]


def followed(ious: list[float], *, prompted: tuple[int, ...] = (0,), kind: str = "nuclei") -> Followed:
    """Return an object that was always there."""
    count = len(ious)
    none, every = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    return Followed(kind, "t", 1, prompted, every, every, np.array(ious), none, none, none)


def test_drift_by_the_nearest_named_distance() -> None:
    one = followed([float(frame) for frame in range(60)])
    found = drift([one])
    assert found["0"] == 0.0
    assert found["1"] == np.mean([1, 2, 3, 4])
    assert found["8"] == np.mean(np.arange(5, 13))
    assert found["16"] == np.mean(np.arange(13, 25))
    assert found["32"] == np.mean(np.arange(25, 41))
    assert found["48"] == np.mean(np.arange(41, 60))
    later = drift([followed([0.5, 1.0, 0.5], prompted=(1,))])
    assert (later["0"], later["1"], later["8"]) == (1.0, 0.5, None)


def test_by_kind_and_axis() -> None:
    movie = clip_of([{1: BOX}] * 4)
    stack = clip_of([{1: BOX}] * 2, axis="z")
    result = evaluate_video(Knowing([movie, stack], half), [movie, stack], corrections=1).as_dict()
    kinds, axes = result["by_kind"], result["by_axis"]
    assert set(kinds) == {"nuclei", "blobs"}  # type: ignore[call-overload]  # a mapping
    assert axes["t"]["iou_of_one_click"] == (1 + 3 * 0.5) / 4  # type: ignore[index]  # a mapping
    assert axes["t"]["iou"] == (2 + 2 * 0.5) / 4  # type: ignore[index]  # a mapping
    assert axes["z"] == {**kinds["blobs"]}  # type: ignore[index]  # a mapping


def test_validation_clips_are_movies_and_stacks_by_turns() -> None:
    clips = list(validation_clips(16, seed=3, frames=(2, 5), size=(64, 64)))
    assert [clip.axis for clip in clips] == ["t", "z"] * 8
    assert {clip.kind for clip in clips} >= set(MOVIE_KINDS)
    assert {len(clip) for clip in clips} <= {2, 3, 4, 5}
    assert len({len(clip) for clip in clips}) > 1
    again = next(validation_clips(1, seed=3, frames=(2, 5), size=(64, 64)))
    np.testing.assert_array_equal(again.images, clips[0].images)
    only = list(validation_clips(3, frames=(1, 1), size=(64, 64), kinds=("tubes",)))
    assert {clip.kind for clip in only} == {"tubes"}


def test_seeds_that_training_may_use_are_refused() -> None:
    with pytest.raises(DataError, match="validation seeds must be"):
        next(validation_clips(2, seed=2**32 - 1))


@pytest.mark.parametrize("wrong", [{"corrections": -1}, {"most_objects": 0}])
def test_numbers_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="or more"):
        evaluate_video(Knowing([]), [], **wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_progress_is_told() -> None:
    clips = [clip_of([{1: BOX}]), clip_of([{1: BOX}], axis="z")]
    told: list[tuple[int, str]] = []
    evaluate_video(Knowing(clips), clips, progress=lambda done, kind: told.append((done, kind)))
    assert told == [(1, "nuclei"), (2, "blobs")]
