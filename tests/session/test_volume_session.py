import json
import threading

import numpy as np
import pytest
from session_fakes import Pump
from video_fakes import FakeVideo, SparingFake, shifted

from napari_segany.core.errors import AxesError, PromptError, StoreError
from napari_segany.core.masks import ArrayLabels, paint_object
from napari_segany.core.types import Box, Points
from napari_segany.io.state import ImageReference, SavedStack, SavedState, load_state, save_state
from napari_segany.session.answers import Stage
from napari_segany.session.records import DoubtRule
from napari_segany.session.source import ArraySource
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_signals import Direction, Ending, FollowingError
from napari_segany.session.volume_state import VolumeState
from napari_segany.session.worker import LatestWorker

SHAPE = (8, 20, 30)


def box_mask(box: Box, *, shift: int = 0) -> np.ndarray:
    mask = np.zeros(SHAPE[1:], dtype=bool)
    mask[int(box.row0) : int(box.row1), int(box.col0) : int(box.col1)] = True
    return shifted(mask, shift)


@pytest.fixture
def predictor() -> FakeVideo:
    return FakeVideo()


@pytest.fixture
def labels() -> ArrayLabels:
    return ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))


@pytest.fixture
def source() -> ArraySource:
    return ArraySource(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))


@pytest.fixture
def session(source: ArraySource, predictor: FakeVideo, labels: ArrayLabels) -> VolumeSession:
    return VolumeSession(source, predictor, sink=labels)


ONE = Box(2, 3, 8, 9)


def test_prompt_preview_propagate_undo_redo(session: VolumeSession, labels: ArrayLabels) -> None:
    ends, painted = [], []
    session.run_ended.connect(ends.append)
    session.frame_painted.connect(lambda frame, ids: painted.append((frame, ids)))
    session.set_box(3, ONE)
    preview = session.preview(1, 3)
    assert preview is not None and np.array_equal(preview.mask, box_mask(ONE)) and not labels.array.any()
    assert session.propagate()
    for frame in range(8):
        assert np.array_equal(labels.array[frame] == 1, box_mask(ONE, shift=frame - 3))
    assert painted == [(f, (1,)) for f in (3, 4, 5, 6, 7, 2, 1, 0)]
    assert [end.ending for end in ends] == [Ending.FINISHED] and session.preview(1, 3) is None
    done = labels.array.copy()
    assert session.undo_title == "propagate" and session.undo()
    assert not labels.array.any() and session.preview(1, 3) is not None
    assert session.redo() and np.array_equal(labels.array, done)
    assert session.undo() and session.undo() and session.preview(1, 3) is None and session.object_ids == ()
    assert not session.undo()


def test_ranges_and_directions(session: VolumeSession, labels: ArrayLabels) -> None:
    assert not session.propagate()
    session.set_box(3, ONE)
    painted = []
    session.frame_painted.connect(lambda frame, ids: painted.append(frame))
    session.propagate(Direction.BACKWARD)
    assert painted == [3, 2, 1, 0]
    session.propagate(frames=range(6, 4, -1))
    assert painted[4:] == [6, 5]
    session.propagate(Direction.FORWARD)
    assert painted[6:] == [4, 7], "only what lacks an answer"
    assert not session.propagate(frames=range(5, 5))
    with pytest.raises(PromptError, match="frame 8 is not one of the 8"):
        session.propagate(frames=range(0, 9))
    with pytest.raises(PromptError, match="in steps of 2"):
        session.propagate(frames=range(0, 8, 2))


def test_a_correction_recomputes_only_what_it_changes(
    session: VolumeSession, predictor: FakeVideo, labels: ArrayLabels
) -> None:
    session.set_box(0, ONE)
    session.propagate()
    assert len(predictor.followed) == 7
    session.set_box(6, Box(10, 10, 14, 14))
    track = session.track(1)
    assert np.flatnonzero(track.stale).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(track.prompted).tolist() == [0, 6]
    predictor.followed.clear()
    session.propagate()
    assert predictor.followed == [(1, 4), (1, 5), (1, 7)] and not session.track(1).stale.any()
    assert np.array_equal(labels.array[5] == 1, box_mask(Box(10, 10, 14, 14), shift=-1))
    assert np.array_equal(labels.array[3] == 1, box_mask(ONE, shift=3))
    session.undo()
    session.undo()
    assert np.array_equal(labels.array[5] == 1, box_mask(ONE, shift=5))
    predictor.followed.clear()
    session.propagate()
    assert predictor.followed == [], "undo put valid results back, and the predictor knows"
    session.redo()
    session.redo()
    assert np.array_equal(labels.array[5] == 1, box_mask(Box(10, 10, 14, 14), shift=-1))


def test_clicks_and_drags(session: VolumeSession) -> None:
    session.click(2, (10, 12))
    session.click(2, (10, 20), positive=False)
    assert session.prompts(1, 2).points.positive.tolist() == [True, False]
    for col in (13, 14):
        session.set_points(2, Points(np.array([[10, col]]), np.array([True])), is_live=True)
    session.set_points(2, Points(np.array([[10, 15]]), np.array([True])))
    session.undo()
    assert session.prompts(1, 2).points.coords.tolist() == [[10, 12], [10, 20]]
    session.redo()
    assert session.prompts(1, 2).points.coords.tolist() == [[10, 15]]
    session.set_points(2, Points(np.array([[3, 3]]), np.array([True])), is_live=True)
    session.undo()
    assert session.prompts(1, 2).points.coords.tolist() == [[10, 15]], (
        "a drag that goes on is taken back whole"
    )


def test_labels_become_prompts_of_all_their_objects_in_one_step(
    session: VolumeSession, labels: ArrayLabels
) -> None:
    drawn = np.zeros(SHAPE[1:], dtype=np.uint32)
    drawn[1:4, 1:5], drawn[8:12, 2:9], drawn[15:18, 20:25] = 7, 3, 40
    labels.array[0, 19, 29] = 2
    ids = session.set_labels(1, drawn)
    assert ids == {3: 3, 7: 4, 40: 5} and session.object_ids == (3, 4, 5)
    for label, object_id in ids.items():
        assert np.array_equal(session.preview(object_id, 1).mask, drawn == label)
    session.propagate()
    assert all(np.array_equal(labels.array[1] == ids[label], drawn == label) for label in ids)
    session.undo()
    assert session.undo_title == "3 objects from labels"
    session.undo()
    assert session.object_ids == () and session.preview(4, 1) is None
    assert session.set_labels(1, drawn, keep_ids=True) == {3: 3, 7: 7, 40: 40}
    for wrong, what in ((drawn[1:], "a frame is"), (drawn * 0, "no object"), (drawn * 1.5, "integers")):
        with pytest.raises(PromptError, match=what):
            session.set_labels(1, wrong)


def test_locked_frames_and_objects_are_never_overwritten(
    session: VolumeSession, predictor: FakeVideo, labels: ArrayLabels
) -> None:
    session.set_box(0, ONE, object_id=1)
    session.propagate()
    session.lock_object(1)
    session.lock_frames([2, 3])
    locked = labels.array.copy()
    session.keep_existing = False
    session.set_box(0, Box(0, 0, 20, 30), object_id=2)
    session.propagate()
    assert np.array_equal(labels.array == 1, locked == 1)
    assert np.array_equal(labels.array[2:4], locked[2:4]) and (labels.array[4] == 2).any()
    assert session.track(2).locked.tolist() == [False, False, True, True, False, False, False, False]
    assert session.track(1).locked.all() and session.locked_frames == {2, 3}
    for call in (lambda: session.set_box(2, ONE, object_id=2), lambda: session.delete(1)):
        with pytest.raises(PromptError, match="locked"):
            call()
    with pytest.raises(PromptError, match="object 1 is locked"):
        session.click(1, (1, 1), object_id=1)
    session.lock_frames([2, 3], is_locked=False)
    predictor.followed.clear()
    session.propagate()
    assert predictor.followed == [(2, 2), (2, 3)]
    session.lock_object(1, is_locked=False)
    session.set_box(0, Box(3, 4, 6, 6), object_id=1)
    session.propagate()
    assert (labels.array[2] == 1).sum() == 6


def test_pixels_of_others_stay_unless_told(session: VolumeSession, labels: ArrayLabels) -> None:
    labels.array[:, 4, :] = 9
    session.set_box(0, ONE, object_id=1)
    session.propagate()
    assert (labels.array[:, 4] == 9).all()
    session.undo()
    session.keep_existing = False
    session.propagate()
    assert (labels.array[0, 4, 3:9] == 1).all()
    session.undo()
    assert (labels.array[:, 4] == 9).all()


def test_names_colours_parents_tracks_and_table(session: VolumeSession) -> None:
    session.set_box(0, ONE, object_id=1)
    session.set_box(4, Box(12, 20, 15, 24), object_id=2)
    session.propagate()
    told = []
    session.objects_changed.connect(lambda: told.append(None))
    session.rename(2, "daughter")
    session.recolour(2, (1.0, 0.5, 0.0))
    session.set_parents(2, [1])
    assert len(told) == 3
    table = session.tracks()
    assert table.data.shape[1] == 4 and len(table.scores) == len(table)
    first = table.data[table.data[:, 0] == 1]
    assert first[:, 1].tolist() == list(range(8)) and first[0, 2:].tolist() == [4.5, 5.5]
    assert first[3, 2:].tolist() == [4.5, 8.5] and table.graph == {2: [1]}
    rows = session.features()
    assert rows["name"].tolist() == ["", "daughter"] and rows["index"].tolist() == [1, 2]
    assert rows["first"].tolist() == [0, 0] and rows["last"].tolist() == [7, 7]
    assert rows["area"].tolist() == [36.0, 12.0]
    track = session.track(2)
    assert track.colour == (1.0, 0.5, 0.0) and track.parents == (1,) and track.frame_range == (0, 7)
    for _ in range(3):
        session.undo()
    assert session.track(2).name == "" and session.tracks().graph == {}
    for call in (lambda: session.set_parents(2, [2]), lambda: session.set_parents(2, [5])):
        with pytest.raises(PromptError, match="cannot come from"):
            call()
    for call in (lambda: session.rename(5, "x"), lambda: session.track(5)):
        with pytest.raises(PromptError, match="no object 5; there are: 1, 2"):
            call()


def test_doubts(session: VolumeSession) -> None:
    session.set_box(0, Box(2, 24, 8, 28))  # leaves to the right
    session.propagate()
    track = session.track(1)
    assert track.areas.tolist() == [24, 24, 24, 18, 12, 6, 0, 0] and track.scores[6] == -1
    assert not track.doubtful.any()
    session.doubts = DoubtRule(min_score=0.885, max_jump=1.9)
    assert np.flatnonzero(session.track(1).doubtful).tolist() == [2, 3, 4, 5]
    session.doubts = DoubtRule(min_score=0, max_jump=1.9)
    assert np.flatnonzero(session.track(1).doubtful).tolist() == [5]
    with pytest.raises(PromptError, match="max_jump above 1"):
        DoubtRule(max_jump=1)


@pytest.mark.parametrize(
    ("scores", "doubtful"),
    [
        ([0.9, -1, -1, 0.9, 0.9, -1, 0.9], [0, 3, 4, 6]),
        ([-1, 0.9, 0.9, -1, -1], []),  # came and went
        ([0.9, -1, np.nan, -1, 0.9], []),  # not looked for all the way: two stretches
        ([0.9, np.nan, 0.9, -1, 0.9], [2, 4]),
        ([-1, -1], []),
        ([], []),
    ],
)
def test_what_was_gone_in_between_is_doubtful_on_both_sides(scores: list[float], doubtful: list[int]) -> None:
    areas = np.where(np.nan_to_num(scores, nan=-1) >= 0, 20, 0)
    assert np.flatnonzero(DoubtRule().doubtful(np.array(scores), areas)).tolist() == doubtful


def test_answers_are_painted_without_following(session: VolumeSession, labels: ArrayLabels) -> None:
    assert not session.commit()
    session.set_box(0, ONE)
    session.set_box(5, ONE)
    assert session.commit()
    assert [bool(plane.any()) for plane in labels.array] == [f in (0, 5) for f in range(8)]
    assert session.undo_title == "paint answers" and not session.commit()
    session.undo()
    assert not labels.array.any() and session.preview(1, 5) is not None


def test_hand_edits_take_their_place_in_the_line(session: VolumeSession, labels: ArrayLabels) -> None:
    session.set_box(0, ONE)
    session.propagate()
    stroke = paint_object(labels, box_mask(Box(0, 0, 1, 10)), label_id=1, index=(4,))
    labels.write(stroke)
    session.record_paint((stroke,))
    assert session.track(1).areas.tolist() == [36, 36, 36, 36, 46, 36, 36, 36]
    session.undo()
    assert session.track(1).areas[4] == 36 and (labels.array[4] == 1).sum() == 36
    session.redo()
    session.undo()
    session.undo()
    assert not labels.array.any()


@pytest.mark.parametrize("over_time", [False, True])
def test_the_predictor_hears_whether_frames_are_times(
    source: ArraySource, predictor: FakeVideo, labels: ArrayLabels, over_time: bool
) -> None:
    session = VolumeSession(source, predictor, sink=labels, over_time=over_time)
    session.set_box(0, ONE)
    assert predictor.over_time == [over_time]


def test_any_axis_may_count_the_frames(predictor: FakeVideo) -> None:
    image = np.random.default_rng(0).normal(size=(3, 5, 20, 30))
    labels = ArrayLabels(np.zeros(image.shape, dtype=np.uint32))
    session = VolumeSession(ArraySource(image), predictor, sink=labels, axis=0, at=(2,))
    assert session.n_frames == 3 and session.index(1) == (1, 2)
    assert session.frame_at((1, 2)) == 1 and session.frame_at((1, 3)) is None
    session.set_box(0, ONE)
    session.propagate()
    assert labels.array[:, 2].any(axis=(1, 2)).all() and not labels.array[:, [0, 1, 3, 4]].any()
    assert session.tracks().data[1].tolist() == [1, 1, 2, 4.5, 6.5]
    other = VolumeSession(ArraySource(image), predictor, sink=labels, axis=1)
    assert other.n_frames == 5 and other.index(3) == (0, 3) and other.object_id == 2
    for how in ({"axis": 2}, {"axis": 0, "at": (5,)}, {"axis": 1, "at": ()}):
        with pytest.raises(AxesError):
            VolumeSession(ArraySource(image), predictor, sink=labels, **how)
    with pytest.raises(PromptError, match="labels have"):
        VolumeSession(ArraySource(image[0]), predictor, sink=labels)


def test_an_error_while_following_is_told_and_what_was_painted_stays(
    source: ArraySource, labels: ArrayLabels
) -> None:
    broken = {5}

    def read(frame: int) -> None:
        if frame in broken:
            raise ValueError("chunk 5 cannot be read")

    predictor = FakeVideo(before_frame=read)
    session = VolumeSession(source, predictor, sink=labels)
    errors, ends = [], []
    session.failed.connect(errors.append)
    session.run_ended.connect(ends.append)
    session.set_box(2, ONE)
    session.propagate()
    (error,) = errors
    assert isinstance(error, FollowingError) and isinstance(error.__cause__, ValueError)
    assert "after frame 4 of 8" in str(error) and "chunk 5" in str(error)
    assert [end.ending for end in ends] == [Ending.FAILED] and ends[0].frames == (2, 3, 4)
    assert session.stage is Stage.IDLE and not session.is_running
    assert [bool(plane.any()) for plane in labels.array] == [2 <= f <= 4 for f in range(8)]
    broken.clear()
    predictor.followed.clear()
    assert session.interrupted and session.resume() and session.interrupted == ()
    assert {frame for _, frame in predictor.followed} == {0, 1, 5, 6, 7}
    assert predictor.opened == 2 and {frame for _, frame in predictor.recalled} <= {2, 3, 4}
    session.undo()
    session.undo()
    assert not labels.array.any()


def test_a_predictor_that_cannot_be_loaded_is_tried_again(source: ArraySource, labels: ArrayLabels) -> None:
    tries = []

    def load() -> FakeVideo:
        tries.append(threading.current_thread())
        if len(tries) == 1:
            raise OSError("no weights")
        return FakeVideo()

    session = VolumeSession(source, load, sink=labels)
    errors = []
    session.failed.connect(errors.append)
    assert not tries and session.card is None
    session.set_box(0, ONE)
    assert "no weights" in str(errors[0]) and session.preview(1, 0) is None
    session.propagate()
    assert len(errors) == 1 and labels.array.any(axis=(1, 2)).all()


def test_a_read_only_array_is_a_clear_error(source: ArraySource, predictor: FakeVideo) -> None:
    array = np.zeros(SHAPE, dtype=np.uint32)
    array.flags.writeable = False
    session = VolumeSession(source, predictor, sink=ArrayLabels(array))
    errors, ends = [], []
    session.failed.connect(errors.append)
    session.run_ended.connect(ends.append)
    session.set_box(0, ONE)
    session.propagate()
    (error,) = errors
    assert isinstance(error, StoreError) and "read-only" in str(error)
    assert [end.ending for end in ends] == [Ending.FAILED] and session.undo_title == "box"


def test_another_predictor_is_fed_with_what_is_there(
    session: VolumeSession, predictor: FakeVideo, labels: ArrayLabels
) -> None:
    session.set_box(0, ONE)
    session.propagate(frames=range(0, 4))
    cards = []
    session.model_changed.connect(cards.append)
    other = FakeVideo(name="other")
    session.set_predictor(lambda: other)
    assert [card.name for card in cards] == ["other"]
    session.propagate()
    assert other.recalled == [(1, f) for f in range(4)] and other.followed == [(1, f) for f in (4, 5, 6, 7)]


def test_a_saved_state_goes_through_a_file_into_another_session(
    session: VolumeSession, source: ArraySource, labels: ArrayLabels, tmp_path
) -> None:
    session.set_box(0, ONE, object_id=1)
    session.click(5, (10, 10), object_id=4)
    session.set_mask(3, box_mask(Box(15, 2, 18, 6)), object_id=4)
    session.propagate(frames=range(0, 5))
    session.set_box(1, Box(3, 3, 6, 6), object_id=1)
    session.rename(4, "four")
    session.recolour(4, (0.1, 0.2, 0.3))
    session.lock_frames([1, 2, 6])
    content = session.state().to_json()
    image = ImageReference(path="", shape=SHAPE, axes="TYX")
    file = save_state(tmp_path / "a", SavedState(image=image, stack=SavedStack.model_validate(content)))
    stack = load_state(file).stack
    state = VolumeState.from_json(stack.model_dump(mode="json"))
    assert state.to_json() == content == json.loads(json.dumps(content))
    predictor = FakeVideo()
    other = VolumeSession(source, predictor, sink=ArrayLabels(labels.array.copy()))
    other.restore(state)
    assert other.object_ids == (1, 4) and other.track(4).name == "four" and other.locked_frames == {1, 2, 6}
    for object_id in (1, 4):
        for name in ("scores", "areas", "prompted", "stale"):
            mine, theirs = (getattr(one.track(object_id), name) for one in (session, other))
            assert np.array_equal(mine, theirs, equal_nan=name == "scores"), name
    session.propagate()
    other.propagate()
    assert np.array_equal(labels.array, other._sink.array)
    with pytest.raises(PromptError, match="saved along axis"):
        other.restore(VolumeState(1, (0,)))


def test_frames_that_a_predictor_settles_without_a_word_are_not_stale(
    source: ArraySource, labels: ArrayLabels
) -> None:
    session = VolumeSession(source, SparingFake(), sink=labels)
    session.set_box(0, ONE)
    session.propagate()
    session.set_box(4, Box(10, 10, 14, 14))
    assert np.flatnonzero(session.track(1).stale).tolist() == [3, 4, 5, 6]
    session.propagate(frames=range(0, 6))
    assert np.flatnonzero(session.track(1).stale).tolist() == [6]


def test_a_correction_is_told_again_on_top_of_what_it_corrects(
    source: ArraySource, labels: ArrayLabels
) -> None:
    predictor = SparingFake()
    session = VolumeSession(source, predictor, sink=labels)
    session.set_box(0, ONE)
    session.propagate(frames=range(0, 8))
    session.set_box(4, Box(10, 10, 14, 14))
    session.propagate(frames=range(0, 8))
    predictor.corrected.clear()
    predictor.prompted.clear()
    session.undo()
    assert predictor.corrected[0] == (1, 4, 36), "the mask before the correction"
    assert predictor.prompted == [(1, 0), (1, 4)] and session.preview(1, 4).mask.sum() == 16


# ---------------------------------------------------------------------- on a thread


class Gate:
    """Lets frames through one by one."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)

    def __call__(self, frame: int) -> None:
        self.reached.release()
        assert self.open.acquire(timeout=20)


@pytest.fixture
def pump() -> Pump:
    return Pump()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def threaded(source: ArraySource, labels: ArrayLabels, pump: Pump, gate: Gate):
    session = VolumeSession(
        source, FakeVideo(before_frame=gate), sink=labels, worker=LatestWorker(post=pump.post)
    )
    yield session
    gate.open.release(100)
    assert session.close(timeout=20)


def test_frames_arrive_one_by_one_and_a_stop_keeps_them(
    threaded: VolumeSession, labels: ArrayLabels, pump: Pump, gate: Gate
) -> None:
    painted, ends, progress = [], [], []
    threaded.frame_painted.connect(
        lambda frame, ids: painted.append((frame, bool(labels.array[frame].any())))
    )
    threaded.run_ended.connect(ends.append)
    threaded.progress_changed.connect(progress.append)
    threaded.set_box(0, ONE)
    pump.until(lambda: threaded.preview(1, 0) is not None, timeout=20)
    assert threaded.propagate() and threaded.is_running
    pump.until(lambda: painted == [(0, True)], timeout=20)
    gate.open.release(2)
    pump.until(lambda: len(painted) == 3, timeout=20)
    assert painted == [(0, True), (1, True), (2, True)]
    assert (progress[-1].done, progress[-1].total, progress[-1].frame) == (3, 8, 2)
    for _ in range(3):
        assert gate.reached.acquire(timeout=20)  # frame 3 is being worked on
    threaded.stop()
    assert not threaded.is_running and ends[-1].ending is Ending.STOPPED and threaded.stage is Stage.IDLE
    gate.open.release()
    pump.until(lambda: len(painted) == 4, timeout=20)  # it was on its way
    assert threaded.interrupted and threaded.undo_title == "propagate"
    gate.open.release(100)
    assert threaded.resume()
    pump.until(lambda: not threaded.is_running, timeout=20)
    assert [frame for frame, _ in painted] == list(range(8)) and ends[-1].ending is Ending.FINISHED
    assert threaded._model._predictor.recalled == []
    threaded.undo()
    assert labels.array[:4].any(axis=(1, 2)).all() and not labels.array[4:].any()
    threaded.undo()
    assert not labels.array.any()


def test_the_worker_is_never_far_ahead_of_what_is_painted(
    threaded: VolumeSession, pump: Pump, gate: Gate
) -> None:
    threaded.set_box(0, ONE)
    pump.until(lambda: threaded.preview(1, 0) is not None, timeout=20)
    gate.open.release(100)
    threaded.propagate()
    for _ in range(3):
        assert gate.reached.acquire(timeout=20)
    assert not gate.reached.acquire(timeout=0.3), "the fourth frame waits until the first is painted"
    pump.until(lambda: not threaded.is_running, timeout=20)


def test_a_prompt_ends_the_propagation_and_is_answered(
    threaded: VolumeSession, labels: ArrayLabels, pump: Pump, gate: Gate
) -> None:
    ends = []
    threaded.run_ended.connect(ends.append)
    threaded.set_box(0, ONE)
    threaded.propagate()
    assert gate.reached.acquire(timeout=20)
    threaded.set_box(7, Box(10, 10, 13, 13), object_id=2)
    assert [end.ending for end in ends] == [Ending.STOPPED]
    gate.open.release(100)
    pump.until(lambda: threaded.preview(2, 7) is not None, timeout=20)
    assert threaded.propagate()
    pump.until(lambda: not threaded.is_running, timeout=20)
    for frame in range(8):
        assert np.array_equal(labels.array[frame] == 1, box_mask(ONE, shift=frame))
        assert np.array_equal(labels.array[frame] == 2, box_mask(Box(10, 10, 13, 13), shift=frame - 7))


def test_undo_while_following_takes_everything_back(
    threaded: VolumeSession, labels: ArrayLabels, pump: Pump, gate: Gate
) -> None:
    painted = []
    threaded.frame_painted.connect(lambda frame, ids: painted.append(frame))
    threaded.set_box(0, ONE)
    threaded.propagate()
    gate.open.release(2)
    pump.until(lambda: len(painted) == 3, timeout=20)
    for _ in range(3):
        assert gate.reached.acquire(timeout=20)
    assert threaded.undo() and not threaded.is_running and not labels.array.any()
    gate.open.release(100)
    pump.until(lambda: threaded.preview(1, 0) is not None and threaded.stage is Stage.IDLE, timeout=20)
    assert not labels.array.any(), "a frame that was on its way is dropped"
    assert threaded.redo() and labels.array[:3].any(axis=(1, 2)).all()
    threaded.propagate()
    pump.until(lambda: not threaded.is_running, timeout=20)
    assert labels.array.any(axis=(1, 2)).all()


def test_locks_hold_while_objects_are_followed(
    threaded: VolumeSession, labels: ArrayLabels, pump: Pump, gate: Gate
) -> None:
    painted = []
    threaded.frame_painted.connect(lambda frame, ids: painted.append(frame))
    threaded.set_box(0, ONE)
    threaded.propagate()
    pump.until(lambda: len(painted) == 1, timeout=20)
    threaded.lock_frames([2])
    threaded.rename(1, "one")
    assert threaded.is_running
    gate.open.release(100)
    pump.until(lambda: not threaded.is_running, timeout=20)
    assert not labels.array[2].any() and labels.array[3:].any(axis=(1, 2)).all()
    threaded.lock_frames([2], is_locked=False)
    threaded.propagate()
    pump.until(lambda: not threaded.is_running, timeout=20)
    assert labels.array[2].any() and painted[-1] == 2


def test_a_listener_may_stop_what_runs_without_a_thread(session: VolumeSession, labels: ArrayLabels) -> None:
    ends = []
    session.run_ended.connect(ends.append)
    session.frame_painted.connect(lambda frame, ids: session.stop() if frame == 4 else None)
    session.set_box(2, ONE)
    session.propagate()
    assert [end.ending for end in ends] == [Ending.STOPPED] and ends[0].frames == (2, 3, 4)
    assert session.interrupted and not session.is_running and session.stage is Stage.IDLE
    assert session.resume() and labels.array.any(axis=(1, 2)).all()
