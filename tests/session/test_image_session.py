import gc
import threading
import weakref

import numpy as np
import pytest
from session_fakes import FakePredictor, Pump, answer_masks

from napari_segany.core.errors import ImageError, PromptError
from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.session.answers import Stage
from napari_segany.session.image import ImageSession
from napari_segany.session.source import ArraySource, plane_index
from napari_segany.session.worker import LatestWorker

SHAPE = (3, 24, 32)
PLANE = (1,)


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def labels() -> ArrayLabels:
    return ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))


@pytest.fixture
def session(predictor: FakePredictor, labels: ArrayLabels) -> ImageSession:
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return ImageSession(ArraySource(image), predictor, sink=labels)


def one(*coord: float, positive: bool = True) -> Points:
    return Points(np.array([coord], dtype=np.float32), np.array([positive]))


def test_click_preview_commit_undo_redo(session: ImageSession, labels: ArrayLabels) -> None:
    session.click(PLANE, (10, 12))
    preview = session.preview(PLANE)
    assert preview is not None and len(preview.prediction) == 3
    expected = answer_masks(SHAPE[1:], Prompt(points=one(10, 12)))[1]
    assert np.array_equal(preview.mask, expected)
    assert session.commit()
    assert np.array_equal(labels.array[PLANE] == 1, expected) and not labels.array[0].any()
    assert session.object_id == 2 and session.preview(PLANE) is None
    assert session.undo()
    assert not labels.array.any() and session.object_id == 1 and session.preview(PLANE) is not None
    assert session.redo()
    assert np.array_equal(labels.array[PLANE] == 1, expected)
    assert session.object_id == 2 and session.preview(PLANE) is None
    session.undo()
    session.undo()
    assert session.preview(PLANE) is None and session.prompts(PLANE).is_empty and not session.undo()


def test_a_second_click_refines_the_shown_candidate(session: ImageSession, predictor: FakePredictor) -> None:
    session.click(PLANE, (10, 12))
    session.choose_next(PLANE)
    first = session.preview(PLANE)
    session.click(PLANE, (10, 20), positive=False)
    asked = predictor.asked[-1]
    assert first is not None and np.array_equal(asked.mask, first.prediction.logits[first.chosen])
    assert asked.points is not None and asked.points.positive.tolist() == [True, False]
    session.undo()
    assert predictor.asked[-1].mask is None  # back to the first round, which refined nothing


def test_planes_are_embedded_once_and_committed_together(
    session: ImageSession, predictor: FakePredictor, labels: ArrayLabels
) -> None:
    for plane in (0, 1, 0, 1):
        session.click((plane,), (10, 12))
    assert len(predictor.embedded) == 2
    session.commit()
    assert [bool(plane.any()) for plane in labels.array] == [True, True, False]
    session.undo()
    assert not labels.array.any()
    assert session.preview((0,)) is not None and session.preview((1,)) is not None


def test_a_drag_is_one_step(session: ImageSession) -> None:
    session.click(PLANE, (10, 12))
    for col in (13, 14, 15):
        session.set_points(PLANE, one(10, col), is_live=True)
    session.set_points(PLANE, one(10, 16))
    session.undo()
    assert session.prompts(PLANE).points.coords.tolist() == [[10, 12]]
    session.redo()
    assert session.prompts(PLANE).points.coords.tolist() == [[10, 16]]


def test_level_is_kept_for_the_next_object(session: ImageSession) -> None:
    session.click(PLANE, (10, 12))
    session.choose_level(6)
    assert session.preview(PLANE).level == 6
    session.commit()
    session.click(PLANE, (10, 25))
    assert session.preview(PLANE).level == 6
    session.choose_level(None)
    assert session.preview(PLANE).chosen == 0


def test_candidates_cycle_by_size(session: ImageSession) -> None:
    session.click(PLANE, (10, 12))
    levels = []
    for _ in range(4):
        levels.append(session.preview(PLANE).level)
        session.choose_next(PLANE)
    assert levels == [4, 6, 2, 4]


def test_boxes_and_drawn_masks(session: ImageSession, labels: ArrayLabels) -> None:
    session.set_box(PLANE, Box(2, 3, 8, 9))
    session.commit()
    drawn = np.zeros(SHAPE[1:], dtype=bool)
    drawn[15:20, 20:30] = True
    session.set_mask(PLANE, drawn)
    session.commit()
    assert (labels.array[PLANE][2:8, 3:9] == 1).all() and np.array_equal(labels.array[PLANE] == 2, drawn)
    with pytest.raises(PromptError, match="drawn mask is"):
        session.set_mask(PLANE, drawn[1:])


def test_existing_objects_are_protected_unless_told(session: ImageSession, labels: ArrayLabels) -> None:
    session.set_box(PLANE, Box(2, 2, 10, 10))
    session.commit()
    session.set_box(PLANE, Box(6, 6, 14, 14))
    session.commit()
    assert labels.array[1, 7, 7] == 1 and labels.array[1, 12, 12] == 2
    session.keep_existing = False
    session.set_box(PLANE, Box(2, 2, 4, 4))
    session.commit()
    assert labels.array[1, 2, 2] == 3


def test_a_commit_that_changes_nothing_says_so(session: ImageSession) -> None:
    errors = []
    session.failed.connect(errors.append)
    for _ in range(2):
        session.set_box(PLANE, Box(2, 2, 10, 10))
        session.commit()
    assert len(errors) == 1 and "no pixel" in str(errors[0])


def test_hand_edits_take_their_place_in_the_line(session: ImageSession, labels: ArrayLabels) -> None:
    session.set_box(PLANE, Box(2, 2, 10, 10))
    session.commit()
    committed = labels.array.copy()
    from napari_segany.core.masks import paint_object

    mask = np.zeros(SHAPE[1:], dtype=bool)
    mask[4:6, 4:14] = True
    stroke = paint_object(labels, mask, label_id=5, index=PLANE)
    labels.write(stroke)
    session.record_paint((stroke,))
    session.undo()
    assert np.array_equal(labels.array, committed)
    session.undo()
    assert not labels.array.any()
    session.redo()
    session.redo()
    assert (labels.array[1, 4:6, 4:14] == 5).all()


def test_the_note_can_make_the_mask_again(session: ImageSession, labels: ArrayLabels, predictor) -> None:
    notes = []
    session.committed.connect(lambda _, note: notes.append(note))
    session.click(PLANE, (10, 12))
    session.click(PLANE, (14, 12))
    session.commit()
    (note,) = notes
    assert note["model"] == "fake" and note["weights_sha256"] == "0" * 64 and len(note["window"]) == 2
    first, second = note["rounds"]
    assert first["points"] == [[10, 12, True]] and first["refines_candidate"] is None
    assert second["points"] == [[10, 12, True], [14, 12, True]] and second["refines_candidate"] == 0


def test_state_goes_into_another_session(session: ImageSession, predictor: FakePredictor) -> None:
    session.object_id = 7
    session.click(PLANE, (10, 12))
    other = ImageSession(session.source, predictor, sink=ArrayLabels(np.zeros(SHAPE, dtype=np.uint32)))
    other.restore(session.state())
    assert other.object_id == 7 and np.array_equal(other.preview(PLANE).mask, session.preview(PLANE).mask)


def test_wrong_shapes_and_planes_are_refused(predictor: FakePredictor, labels: ArrayLabels) -> None:
    with pytest.raises(PromptError, match="labels have"):
        ImageSession(ArraySource(np.zeros((5, 5))), predictor, sink=labels)
    with pytest.raises(ImageError, match="plane"):
        ArraySource(np.zeros(SHAPE)).read((9,))
    with pytest.raises(ImageError, match="at least"):
        ArraySource(np.zeros((4, 3)), is_rgb=True)


def test_rgb_planes_have_label_shape() -> None:
    source = ArraySource(np.zeros((2, 24, 32, 3), dtype=np.uint8), is_rgb=True)
    assert source.shape == (2, 24, 32) and source.read((1,)).shape == (24, 32, 3)


@pytest.mark.parametrize(("position", "plane"), [(0.49, 0), (0.5, 1), (1.5, 2), (-3.0, 0), (99.0, 2)])
def test_planes_are_rounded_half_up_and_clipped(position: float, plane: int) -> None:
    assert plane_index((position, 3.0, 4.0), SHAPE) == (plane,)


class Threaded:
    """A session on a real thread, with the main thread pumped by hand."""

    def __init__(self, predictor: FakePredictor, labels: ArrayLabels) -> None:
        self.pump = Pump()
        self.load_thread: list[str] = []
        self.session = ImageSession(
            ArraySource(np.zeros(SHAPE, dtype=np.float32)),
            lambda: self._load(predictor),
            sink=labels,
            worker=LatestWorker(post=self.pump.post, name="segany-test"),
        )
        self.stages: list[Stage] = []
        self.session.stage_changed.connect(self.stages.append)

    def _load(self, predictor: FakePredictor) -> FakePredictor:
        self.load_thread.append(threading.current_thread().name)
        return predictor

    def settle(self) -> None:
        self.pump.until(lambda: self.session.stage is Stage.IDLE)


def test_threads_stages_and_enter_before_the_answer(labels: ArrayLabels) -> None:
    run = Threaded(FakePredictor(), labels)
    run.session.click(PLANE, (10, 12))
    assert not run.session.commit() and not labels.array.any()  # waits for the answer on its way
    run.pump.until(labels.array.any)
    run.settle()
    assert run.load_thread == ["segany-test"] and run.session.object_id == 2
    wanted = [Stage.LOADING, Stage.READING, Stage.EMBEDDING, Stage.PREDICTING, Stage.IDLE]
    assert [stage for stage in run.stages if stage in wanted] == wanted
    assert run.session.close()


def test_clicks_during_embedding_embed_once_and_show_the_newest(labels: ArrayLabels) -> None:
    gate = threading.Event()
    predictor = FakePredictor(before_embed=lambda: gate.wait(5))
    run = Threaded(predictor, labels)
    shown = []
    run.session.preview_changed.connect(lambda index, preview: shown.append(preview))
    run.session.prepare(PLANE)
    for col in (5, 10, 15):
        run.session.click(PLANE, (10, col))
    gate.set()
    run.settle()
    assert len(predictor.embedded) == 1 and len(shown) == 1
    assert shown[0].prompts.points.coords[:, 1].tolist() == [5, 10, 15]
    assert run.session.close()


def test_planes_whose_answer_was_overtaken_are_answered_later(labels: ArrayLabels) -> None:
    run = Threaded(FakePredictor(), labels)
    run.session.click((0,), (10, 12))
    run.session.click((1,), (10, 12))
    run.settle()
    assert run.session.preview((0,)) is not None and run.session.preview((1,)) is not None
    assert run.session.close()


def test_cancel_keeps_prompts_and_a_late_answer_is_dropped(labels: ArrayLabels) -> None:
    gate, entered = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        gate.wait(5)

    run = Threaded(FakePredictor(before_embed=hold), labels)
    run.session.click(PLANE, (10, 12))
    assert entered.wait(5)
    run.session.cancel()
    gate.set()
    run.pump.drain()
    assert run.session.stage is Stage.IDLE and run.session.preview(PLANE) is None
    assert not run.session.prompts(PLANE).is_empty
    assert run.session.close()


def test_errors_are_told_and_the_session_goes_on(labels: ArrayLabels) -> None:
    fails = [True]

    def break_once() -> None:
        if fails:
            fails.clear()
            raise OSError("the disk with the image is gone")

    run = Threaded(FakePredictor(before_embed=break_once), labels)
    errors = []
    run.session.failed.connect(errors.append)
    run.session.click(PLANE, (10, 12))
    run.settle()
    assert len(errors) == 1 and run.session.preview(PLANE) is None
    run.session.click(PLANE, (10, 13))
    run.settle()
    assert run.session.preview(PLANE) is not None
    assert run.session.close()


def test_closing_frees_thread_model_and_session(labels: ArrayLabels) -> None:
    predictor = FakePredictor()
    run = Threaded(predictor, labels)
    run.session.click(PLANE, (10, 12))
    run.settle()
    assert run.session.close()
    gone = [weakref.ref(predictor), weakref.ref(run.session)]
    del predictor, run
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert "segany-test" not in [thread.name for thread in threading.enumerate()]
