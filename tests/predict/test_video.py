"""Following through stacks with small random models: order, batches, corrections, bounds; not how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import seeded_network
from tests.contracts.shrink import shrunken

from napari_segany.core.errors import CapabilityError, ImageError, PromptError
from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, FrameMasks, ModelCard, Points, Prompt, VideoPredictorLike
from napari_segany.models.close_memory import CloseMemoryConfig
from napari_segany.models.sam2 import SAM2, Sam2
from napari_segany.predict import window_follower
from napari_segany.predict.follower import Ask, Found, Reminder, emptied
from napari_segany.predict.loading import Model, _prepare
from napari_segany.predict.precision import place
from napari_segany.predict.video import VideoPredictor
from napari_segany.predict.video_state import FollowOptions, VideoState
from napari_segany.train.movies import render_clip

ROWS = ("sam2-nano", "sam2.1_hiera_tiny", "edgetam")
N_FRAMES = 14


def network_of(row: str) -> Sam2:
    """A shrunken row with seeded weights, to which every object seems to be there."""
    if row == "sam2-nano":
        torch.manual_seed(3)
        config = replace(shrunken(SAM2[row]), memory=CloseMemoryConfig(width=16, layers=1, mlp_width=32))
        network = Sam2(config).eval()
    else:
        network = seeded_network(row)
    with torch.no_grad():
        head(network).weight.zero_()
        head(network).bias.fill_(2.0)
    return network


def head(network: Sam2) -> torch.nn.Linear:
    """The last layer of what says whether an object is there."""
    decoder = network.memory.decoder if "nano" in network.config.name else network.sam_mask_decoder
    return decoder.pred_obj_score_head.layers[-1]


def predictor_of(row: str, **options: int | None) -> VideoPredictor:
    placement = place("cpu", "float32")
    card = ModelCard(row, "0" * 64)
    model = Model(card, _prepare(network_of(row), placement), placement)
    return VideoPredictor(model, options=FollowOptions(**options))


@pytest.fixture(params=ROWS)
def predictor(request: pytest.FixtureRequest) -> VideoPredictor:
    return predictor_of(request.param)


@pytest.fixture(scope="module")
def movie() -> np.ndarray:
    return render_clip(1, kind="nuclei", frames=N_FRAMES, size=(96, 80)).images


def click(row: float, col: float) -> Prompt:
    return Prompt(points=Points(np.array([[row, col]], dtype=np.float32), np.array([True])))


def run(predictor: VideoPredictor, state: VideoState, frames: range) -> dict[int, FrameMasks]:
    return {one.frame: one for one in predictor.propagate(state, frames)}


def opened(predictor: VideoPredictor, movie: np.ndarray, *, frame: int = 0) -> VideoState:
    state = predictor.open(movie)
    predictor.prompt(state, Prompt(box=Box(20, 20, 50, 45)), frame=frame, object_id=1)
    return state


def test_it_is_what_sessions_expect(predictor: VideoPredictor) -> None:
    assert isinstance(predictor, VideoPredictorLike)


def test_forward_then_backward_answers_every_frame_once(predictor: VideoPredictor, movie: np.ndarray) -> None:
    state = opened(predictor, movie, frame=4)
    forward = run(predictor, state, range(N_FRAMES))
    assert list(forward) == list(range(4, N_FRAMES))
    backward = run(predictor, state, range(N_FRAMES - 1, -1, -1))
    assert list(backward) == [3, 2, 1, 0]
    assert not state.stale(1)
    assert state.steps == N_FRAMES - 1
    for one in (*forward.values(), *backward.values()):
        assert one.object_ids.tolist() == [1]
        assert one.masks.shape == (1, 96, 80)
        assert one.masks.dtype == bool
        assert np.isfinite(one.scores).all()
        assert one.masks.any() == (one.scores[0] >= 0)
    assert run(predictor, state, range(N_FRAMES)) == {}


def test_the_prompted_frame_is_told_as_it_was_answered(predictor: VideoPredictor, movie: np.ndarray) -> None:
    state = predictor.open(movie)
    told = predictor.prompt(state, Prompt(box=Box(20, 20, 50, 45)), frame=2, object_id=7)
    assert (told.frame, told.object_ids.tolist()) == (2, [7])
    first = next(predictor.propagate(state, range(2, 5)))
    assert np.array_equal(first.masks, told.masks)


def test_runs_are_the_same_and_may_be_stopped(predictor: VideoPredictor, movie: np.ndarray) -> None:
    whole = run(predictor, opened(predictor, movie), range(N_FRAMES))
    state = opened(predictor, movie)
    going = predictor.propagate(state, range(N_FRAMES))
    first = [next(going) for _ in range(5)]
    going.close()
    rest = run(predictor, state, range(N_FRAMES))
    assert list(rest) == list(range(5, N_FRAMES))
    for one in (*first, *rest.values()):
        assert np.array_equal(one.masks, whole[one.frame].masks)


def test_objects_do_not_see_each_other(
    predictor: VideoPredictor, movie: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found of an object in a batch is what is found of it alone; only then are overlaps resolved.

    Networks of random weights have masks of crumbs: whether one is an island hangs on the last bit, so all may stay.
    """
    monkeypatch.setattr(window_follower, "_without_islands", lambda answer: answer)
    state = opened(predictor, movie)
    for number, row in ((2, 60), (3, 80)):
        predictor.prompt(state, click(row, 30), frame=0, object_id=number)
    follow, compared = state.follower.follow, 0

    def noted(look: object, asks: Sequence[Ask]) -> list[Found]:
        nonlocal compared
        found = follow(look, asks)
        for ask, one in zip(asks, found, strict=True):
            (alone,) = follow(look, [ask])
            assert alone.drawn.score == pytest.approx(one.drawn.score, abs=1e-4)
            assert alone.drawn.region == one.drawn.region
            np.testing.assert_allclose(alone.drawn.logits, one.drawn.logits, atol=2e-2)
            compared += 1
        return found

    state.follower.follow = noted  # type: ignore[method-assign]
    for one in predictor.propagate(state, range(5)):
        assert one.object_ids.tolist() == [1, 2, 3]
        assert (one.masks.sum(axis=0) <= 1).all()  # a pixel belongs to one
    assert compared == 12


def test_arrays_without_a_length_will_do(movie: np.ndarray) -> None:
    """zarr's arrays have a shape only."""

    class Shaped:
        shape = movie.shape

        def __getitem__(self, index: int) -> np.ndarray:
            return movie[index]

    predictor = predictor_of("sam2-nano")
    found = run(predictor, opened(predictor, Shaped()), range(3))  # type: ignore[arg-type]
    expected = run(predictor, opened(predictor, movie), range(3))
    assert all(np.array_equal(found[t].masks, expected[t].masks) for t in expected)
    with pytest.raises(ImageError, match="a length or a shape"):
        predictor.open(iter(movie))  # type: ignore[arg-type]


def test_objects_may_come_later(predictor: VideoPredictor, movie: np.ndarray) -> None:
    state = opened(predictor, movie)
    run(predictor, state, range(N_FRAMES))
    predictor.prompt(state, click(70, 40), frame=5, object_id=2)
    late = run(predictor, state, range(N_FRAMES))
    assert list(late) == list(range(5, N_FRAMES))
    assert all(one.object_ids.tolist() == [2] for one in late.values())


def test_a_correction_that_changes_nothing_stops_soon(movie: np.ndarray) -> None:
    predictor = predictor_of("sam2-nano")
    state = opened(predictor, movie)
    answers = run(predictor, state, range(N_FRAMES))
    before = state.steps
    predictor.recall(state, frame=7, object_id=1, mask=answers[7].masks[0], score=0.9)
    assert not state.stale(1)
    assert run(predictor, state, range(N_FRAMES)) == {}
    assert state.steps == before


def test_a_changed_prompt_makes_what_came_of_it_stale(predictor: VideoPredictor, movie: np.ndarray) -> None:
    state = opened(predictor, movie)
    run(predictor, state, range(N_FRAMES))
    predictor.prompt(state, Prompt(box=Box(30, 10, 70, 60)), frame=0, object_id=1)
    assert state.stale(1) == frozenset(range(N_FRAMES))
    fresh = predictor.open(movie)
    predictor.prompt(fresh, Prompt(box=Box(30, 10, 70, 60)), frame=0, object_id=1)
    again, expected = run(predictor, state, range(4)), run(predictor, fresh, range(4))
    assert {0, 1, 2} <= set(again)  # it may come out as before, and stop
    assert all(np.array_equal(again[t].masks, expected[t].masks) for t in again)


def test_masks_fed_back_go_on_as_if_nothing_had_happened(movie: np.ndarray) -> None:
    predictor = predictor_of("sam2-nano")
    whole = run(predictor, opened(predictor, movie), range(N_FRAMES))
    state = opened(predictor, movie)
    for t in range(1, 8):
        predictor.recall(state, frame=t, object_id=1, mask=whole[t].masks[0], score=float(whole[t].scores[0]))
    rest = run(predictor, state, range(N_FRAMES))
    assert list(rest) == [0, *range(8, N_FRAMES)]  # the prompted frame was not told yet
    predictor.prompt(state, click(50, 40), frame=5, object_id=1)
    assert state.stale(1) == frozenset(range(3, N_FRAMES))  # what was fed back can be corrected


def test_further_clicks_correct_the_same_answer(movie: np.ndarray) -> None:
    """A prompt on a frame that was followed is understood beside what was found there, however often it is changed."""
    predictor = predictor_of("sam2-nano")
    asked: list[object] = []
    state = opened(predictor, movie)
    run(predictor, state, range(8))
    prompt = state.follower.prompt

    def noted(look: object, prompt_: Prompt, *, earlier: np.ndarray | None, reminded: Reminder) -> Found:
        asked.append(None if earlier is None else earlier.sum())
        assert (reminded() is None) == (state.prompted(1) == (0,) and prompt_.box is not None)
        return prompt(look, prompt_, earlier=earlier, reminded=reminded)

    state.follower.prompt = noted  # type: ignore[method-assign]
    followed = state.objects[1].answers[5].mask.unpack().sum()
    one, two = np.array([[30, 30]], dtype=np.float32), np.array([[30, 30], [10, 60]], dtype=np.float32)
    predictor.prompt(state, Prompt(points=Points(one, np.array([True]))), frame=5, object_id=1)
    predictor.prompt(state, Prompt(points=Points(two, np.array([True, False]))), frame=5, object_id=1)
    assert asked == [followed, followed]
    predictor.prompt(state, Prompt(box=Box(20, 20, 50, 45)), frame=0, object_id=1)
    assert asked[-1] is None  # a first prompt corrects nothing


def test_memories_are_not_made_again_for_answers_that_do_not_use_them(
    movie: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released models answer a prompt on its frame alone."""
    predictor = predictor_of("sam2.1_hiera_tiny")
    state = opened(predictor, movie)
    run(predictor, state, range(10))
    state.objects[1].memories.clear()
    adopted: list[object] = []
    monkeypatch.setattr(state.follower, "adopt", lambda *_, **__: adopted.append(1))
    predictor.prompt(state, click(30, 30), frame=8, object_id=1)
    assert not adopted


def test_memories_in_windows_are_made_of_masks_alone(movie: np.ndarray) -> None:
    """So work that goes on after a restart ends as if it had never stopped."""
    predictor = predictor_of("sam2-nano")
    state = opened(predictor, movie)
    whole = run(predictor, state, range(N_FRAMES))
    again = opened(predictor, movie)
    for t in range(8):
        mask, score = whole[t].masks[0], float(whole[t].scores[0])
        predictor.recall(again, frame=t, object_id=1, mask=mask, score=score)
    rest = run(predictor, again, range(N_FRAMES))
    assert list(rest)[-6:] == list(range(8, N_FRAMES))
    for t in range(8, N_FRAMES):
        assert np.array_equal(rest[t].masks, whole[t].masks)


def test_forgotten_prompts_and_objects(predictor: VideoPredictor, movie: np.ndarray) -> None:
    state = opened(predictor, movie)
    run(predictor, state, range(N_FRAMES))
    predictor.prompt(state, click(50, 40), frame=10, object_id=1)
    assert state.prompted(1) == (0, 10)
    predictor.forget(state, object_id=1, frame=10)
    assert state.prompted(1) == (0,)
    assert 10 in state.stale(1)
    assert 3 not in state.stale(1)
    with pytest.raises(PromptError, match="no prompt on frame 10"):
        predictor.forget(state, object_id=1, frame=10)
    predictor.forget(state, object_id=1)
    assert state.object_ids == ()
    with pytest.raises(PromptError, match="no object 1"):
        state.stale(1)


def test_memory_is_bounded_by_what_is_remembered() -> None:
    predictor = predictor_of("sam2.1_hiera_tiny", cache_bytes=1 << 20)
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64), dtype=np.uint8)
    state = opened(predictor, np.repeat(frames, 2, axis=1)[:, :96])
    most = 0
    for _ in predictor.propagate(state, range(40)):
        memories = state.objects[1].memories
        most = max(most, sum(m.is_whole for m in memories.values()))
        assert sum(state.follower.nbytes(look) for look in list(state.looks.values())[:-1]) <= 1 << 20
    assert most <= state.follower.queue + 2
    assert len(state.objects[1].answers) == 40


def test_absent_objects_are_not_sought_for_ever(movie: np.ndarray) -> None:
    predictor = predictor_of("sam2-nano", patience=3)
    with torch.no_grad():
        head(predictor.model.network).bias.fill_(-2.0)
    state = opened(predictor, movie)
    told = run(predictor, state, range(N_FRAMES))
    absent = [t for t in told if told[t].scores[0] < 0]
    assert len(absent) == 3 and absent == list(told)[-3:] and len(told) < N_FRAMES
    assert not any(told[t].masks.any() for t in absent)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_the_number_format_of_frames_does_not_matter(movie: np.ndarray, dtype: type) -> None:
    predictor = predictor_of("sam2-nano")
    exact = movie.astype(np.float64)
    other = (exact * 16).astype(dtype) if dtype == np.uint16 else (exact / 255 - 0.25).astype(dtype)
    low, high = exact.min(), exact.max()
    window = (
        Window(low * 16, high * 16) if dtype == np.uint16 else Window(low / 255 - 0.25, high / 255 - 0.25)
    )
    states = predictor.open(movie, window=Window(low, high)), predictor.open(other, window=window)
    for state in states:
        predictor.prompt(state, Prompt(box=Box(20, 20, 50, 45)), frame=0, object_id=1)
    expected, found = (run(predictor, state, range(5)) for state in states)
    for t in expected:
        assert (expected[t].masks != found[t].masks).mean() < 1e-3


def test_one_window_for_all_frames(movie: np.ndarray) -> None:
    dim = movie // np.arange(1, N_FRAMES + 1, dtype=movie.dtype)[:, None, None]
    state = predictor_of("sam2-nano").open(dim)
    assert state.window.high > dim[-1].max()


def test_bad_input_is_refused(predictor: VideoPredictor, movie: np.ndarray) -> None:
    state = predictor.open(movie)
    with pytest.raises(PromptError, match="prompt an object"):
        run(predictor, state, range(3))
    with pytest.raises(PromptError, match="frame 14 is not in the stack"):
        predictor.prompt(state, click(5, 5), frame=14, object_id=1)
    with pytest.raises(PromptError, match="not a label"):
        predictor.prompt(state, click(5, 5), frame=0, object_id=0)
    with pytest.raises(PromptError, match="outside of the image"):
        predictor.prompt(state, click(500, 5), frame=0, object_id=1)
    assert state.object_ids == ()
    predictor.prompt(state, click(50, 40), frame=0, object_id=1)
    with pytest.raises(PromptError, match="leaves out frames"):
        run(predictor, state, range(0, 10, 2))
    with pytest.raises(PromptError, match="leaves the stack"):
        run(predictor, state, range(10, 20))
    with pytest.raises(PromptError, match="shape"):
        predictor.recall(state, frame=1, object_id=1, mask=np.zeros((3, 3), dtype=bool), score=0.5)
    with pytest.raises(ImageError, match="no frame"):
        predictor.open([])
    with pytest.raises(ImageError, match="frame 1 has shape"):
        predictor.open([movie[0], movie[1][:40]])
    ragged = predictor.open([movie[0], movie[1][:40]], window=Window(0, 255))
    predictor.prompt(ragged, click(5, 5), frame=0, object_id=1)
    with pytest.raises(ImageError, match="frame 1 has shape"):
        run(predictor, ragged, range(2))


def test_models_without_a_memory_are_refused() -> None:
    placement = place("cpu", "float32")
    network = seeded_network("sam2-hq-nano")
    if network.config.memory is not None:
        network = Sam2(replace(network.config, memory=None))
    with pytest.raises(CapabilityError, match="has no memory"):
        VideoPredictor(Model(ModelCard("still", "0" * 64), network, placement))


@pytest.mark.parametrize("over_time", [False, True])
@pytest.mark.parametrize("absent", [range(3, 4), range(3, 7), range(3, 11)])
@pytest.mark.parametrize("row", ROWS)
def test_what_is_gone_from_a_movie_is_looked_for_as_if_it_were_the_frame_after_the_last(
    movie: np.ndarray, monkeypatch: pytest.MonkeyPatch, row: str, absent: range, over_time: bool
) -> None:
    """By what follows in windows, while there is patience; not in z-stacks, and not by what remembers whole frames."""
    predictor = predictor_of(row, patience=5)
    state = predictor.open(movie, over_time=over_time)
    predictor.prompt(state, Prompt(box=Box(20, 20, 50, 45)), frame=0, object_id=1)
    follow, asked = state.follower.follow, {}

    def lost(look: object, asks: Sequence[Ask]) -> list[Found]:
        frame = max(state.objects[1].answers) + 1
        (asked[frame],) = asks
        (found,) = follow(look, asks)
        return [Found(emptied(found.drawn), found.seen)] if frame in absent else [found]

    monkeypatch.setattr(state.follower, "follow", lost)
    monkeypatch.setattr("napari_segany.predict.window_follower._FOUND_AGAIN", 0.0)
    told = run(predictor, state, range(N_FRAMES))
    assert len(told) == (N_FRAMES if len(absent) < 5 else absent.start + 5)
    assert [t for t in told if not told[t].masks.any()] == [t for t in told if t in absent]
    looks_again = over_time and row == "sam2-nano"
    for frame in range(1, len(told)):
        missed = frame - absent.start if frame - 1 in absent else 0
        is_repeated = looks_again and missed > 0
        assert asked[frame].is_repeated == is_repeated
        before = absent.start - 1 if is_repeated else frame - 1
        assert np.array_equal(asked[frame].mask, told[before].masks[0])
        if is_repeated:  # reminded of the same, although more frames have passed than are kept
            first = asked[absent.start]
            assert [age for age, _ in first.memories] == [age for age, _ in asked[frame].memories]
            assert asked[frame].extent == first.extent
            for (_, then), (_, now) in zip(first.memories, asked[frame].memories, strict=True):
                assert then is now


def test_frames_may_say_themselves_whether_they_are_times(movie: np.ndarray) -> None:
    class Times(list[np.ndarray]):
        over_time = True

    predictor = predictor_of("sam2-nano")
    assert predictor.open(Times(movie)).repeats == predictor.options.patience
    assert predictor.open(Times(movie), over_time=False).repeats == 0
    assert predictor.open(movie).repeats == 0
    assert predictor_of("sam2-nano", patience=None).open(movie, over_time=True).repeats == N_FRAMES


def test_hard_scenes_are_followed_on_sure_frames_alone(
    movie: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bound that no frame reaches, only prompted frames are remembered; with none below, nothing changes."""
    usual = predictor_of("sam2-nano")
    expected = run(usual, opened(usual, movie), range(6))
    for least, ages in ((0.0, {0, 1, 2}), (1.0, {0})):
        predictor = predictor_of("sam2-nano", least_score=least)
        state, told = opened(predictor, movie), set()
        follow = state.follower.follow

        def noted(look: object, asks: Sequence[Ask]) -> list[Found]:
            told.update(age for ask in asks for age, _ in ask.memories)  # noqa: B023  # called in the same turn
            return follow(look, asks)  # noqa: B023

        monkeypatch.setattr(state.follower, "follow", noted)
        found = run(predictor, state, range(6))
        assert ages <= told if len(ages) > 1 else told == ages
        same = all(np.array_equal(found[t].masks, expected[t].masks) for t in expected)
        assert same or least == 1.0


def test_fast_objects_are_looked_for_where_they_go(movie: np.ndarray) -> None:
    """And work that goes on after a restart looks at the same places."""
    predictor = predictor_of("sam2-nano", foresees=True)
    state = opened(predictor, movie)
    whole = run(predictor, state, range(N_FRAMES))
    again = opened(predictor, movie)
    for t in range(8):
        predictor.recall(again, frame=t, object_id=1, mask=whole[t].masks[0], score=float(whole[t].scores[0]))
    rest = run(predictor, again, range(N_FRAMES))
    assert all(np.array_equal(rest[t].masks, whole[t].masks) for t in range(8, N_FRAMES))


def test_options_check_themselves() -> None:
    with pytest.raises(PromptError, match="0 to 1"):
        FollowOptions(least_score=1.5)
    for wrong in ({"memory": 0}, {"prompted": 1}, {"patience": 0}):
        with pytest.raises(PromptError, match="at least"):
            FollowOptions(**wrong)
