"""Another model, fine boundaries, every object at once, and warnings: a session without a window."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
from session_fakes import FakePredictor, Pump, answer_masks

from napari_segany.core.errors import CapabilityError, DownloadError, PromptError
from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.session.answers import Stage
from napari_segany.session.image import ImageSession
from napari_segany.session.source import ArraySource
from napari_segany.session.worker import CancelledError, LatestWorker

SHAPE = (3, 24, 32)
PLANE, OTHER = (1,), (2,)


@pytest.fixture
def labels() -> ArrayLabels:
    return ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))


def session_of(predictor: FakePredictor, labels: ArrayLabels, **how: object) -> ImageSession:
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return ImageSession(ArraySource(image), predictor, sink=labels, **how)


def everything_in_work(session: ImageSession) -> np.ndarray:
    """Give clicks, a box and a drawn mask on three planes."""
    session.click(PLANE, (10, 12))
    session.click(PLANE, (10, 20), positive=False)
    session.set_box(OTHER, Box(2, 3, 9, 11))
    drawn = np.zeros(SHAPE[1:], dtype=bool)
    drawn[15:20, 20:30] = True
    session.set_mask((0,), drawn)
    return drawn


class TestAnotherModel:
    def test_keeps_every_prompt_label_and_step(self, labels: ArrayLabels) -> None:
        first, second = FakePredictor("first"), FakePredictor("second")
        session = session_of(first, labels)
        session.set_box(PLANE, Box(2, 2, 6, 6))
        session.commit()
        committed = labels.array.copy()
        everything_in_work(session)
        before, title = session.state().prompts, session.undo_title
        told = []
        session.model_changed.connect(told.append)
        session.set_predictor(lambda: second)
        assert told == [second.card] and session.card == second.card
        after = session.state().prompts
        assert list(after) == list(before) and all(after[index] is before[index] for index in before)
        assert {session.preview(index).card.name for index in before} == {"second"}
        assert np.array_equal(labels.array, committed) and session.undo_title == title
        assert len(second.asked) == 3 and len(second.embedded) == 3 and session.object_id == 2

    def test_logits_of_the_old_model_are_not_asked_of_the_new(self, labels: ArrayLabels) -> None:
        first, second = FakePredictor("first"), FakePredictor("second")
        session = session_of(first, labels)
        drawn = everything_in_work(session)
        assert first.asked[1].mask is not None  # the second click refined the first answer
        session.set_predictor(lambda: second)
        logits = [prompt for prompt in second.asked if prompt.mask is not None and prompt.mask.dtype != bool]
        assert logits == []
        assert any(prompt.mask is not None and np.array_equal(prompt.mask, drawn) for prompt in second.asked)
        session.click(PLANE, (14, 12))
        assert second.asked[-1].mask is not None and second.asked[-1].mask.dtype == np.float32
        session.undo()
        assert second.asked[-1].mask is None  # undo brings the prompts back, and not the other model's logits
        session.set_predictor(lambda: first)
        assert any(p.mask is not None and p.mask.dtype != bool for p in first.asked[-3:])  # its own again

    def test_provenance_names_who_drew_and_only_its_rounds(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor("first"), labels)
        notes = []
        session.committed.connect(lambda _, note: notes.append(note))
        session.click(PLANE, (10, 12))
        session.click(PLANE, (10, 20), positive=False)
        session.set_predictor(lambda: FakePredictor("second"))
        session.click(PLANE, (14, 12))
        session.commit()
        (note,) = notes
        assert note["model"] == "second"
        assert [len(asked["points"]) for asked in note["rounds"]] == [2, 3]
        assert [asked["refines_candidate"] for asked in note["rounds"]] == [None, 0]

    def test_features_of_a_plane_come_from_the_model_that_is_asked(self, labels: ArrayLabels) -> None:
        first, second = FakePredictor("first"), FakePredictor("second")
        session = session_of(first, labels)
        session.prepare(PLANE)
        session.set_predictor(lambda: second)
        assert second.embedded == [SHAPE[1:]]  # the plane in view, without a prompt
        session.set_predictor(lambda: first)
        assert len(first.embedded) == 1  # kept in memory

    def test_a_model_that_cannot_be_loaded_leaves_everything_as_it_was(self, labels: ArrayLabels) -> None:
        first = FakePredictor("first")
        session = session_of(first, labels)
        session.click(PLANE, (10, 12))
        shown, failed, told = session.preview(PLANE), [], []
        session.switch_failed.connect(failed.append)
        session.failed.connect(failed.append)
        session.model_changed.connect(told.append)

        def offline() -> FakePredictor:
            raise DownloadError("no network")

        session.set_predictor(offline)
        assert [str(error) for error in failed] == ["no network"] and told == []
        assert session.card == first.card and session.preview(PLANE) is shown and session.stage is Stage.IDLE
        session.click(PLANE, (10, 14))
        assert first.asked[-1].mask is not None
        assert session.commit() and labels.array.any()

    def test_the_old_model_is_freed(self, labels: ArrayLabels) -> None:
        first = FakePredictor("first")
        session = ImageSession(ArraySource(np.zeros(SHAPE)), _handing_over([first]), sink=labels)
        session.click(PLANE, (10, 12))
        gone = weakref.ref(first)
        del first
        session.set_predictor(lambda: FakePredictor("second"))
        gc.collect()
        assert gone() is None and session.card.name == "second"

    def test_a_first_model_that_fails_can_be_replaced(self, labels: ArrayLabels) -> None:
        def broken() -> FakePredictor:
            raise DownloadError("no network")

        session = ImageSession(ArraySource(np.zeros(SHAPE)), broken, sink=labels)
        errors = []
        session.failed.connect(errors.append)
        session.click(PLANE, (10, 12))
        assert len(errors) == 1 and session.preview(PLANE) is None
        session.set_predictor(lambda: FakePredictor("second"))
        assert session.preview(PLANE).card.name == "second"


def _handing_over(owned: list[FakePredictor]):
    """Return a way to load a predictor that is held by nobody else."""
    return owned.pop


class Threaded:
    """A session on a real thread, with the main thread pumped by hand."""

    def __init__(self, predictor: FakePredictor, labels: ArrayLabels) -> None:
        self.pump = Pump()
        worker = LatestWorker(post=self.pump.post, name="segany-test")
        self.session = ImageSession(
            ArraySource(np.zeros(SHAPE)), lambda: predictor, sink=labels, worker=worker
        )
        self.told: list[str] = []
        self.failed: list[Exception] = []
        self.session.model_changed.connect(lambda card: self.told.append(card.name))
        self.session.switch_failed.connect(self.failed.append)

    def settle(self) -> None:
        self.pump.until(lambda: self.session.stage is Stage.IDLE)


def warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


class Slow:
    """A way to load that waits until it may go on."""

    def __init__(self, predictor: FakePredictor, *, error: Exception | None = None) -> None:
        self.predictor, self.error = predictor, error
        self.entered, self.gate = threading.Event(), threading.Event()

    def __call__(self) -> FakePredictor:
        self.entered.set()
        assert self.gate.wait(5)
        if self.error is not None:
            raise self.error
        return self.predictor


class TestOnTheWorker:
    @pytest.fixture
    def run(self, labels: ArrayLabels) -> Threaded:
        run = Threaded(FakePredictor("first"), labels)
        run.session.click(PLANE, (10, 12))
        run.settle()
        yield run
        assert run.session.close()

    def test_clicks_while_the_other_is_loaded_are_answered_by_it(self, run: Threaded) -> None:
        slow = Slow(FakePredictor("second"))
        run.session.set_predictor(slow)
        assert slow.entered.wait(5)
        run.session.click(PLANE, (14, 12))
        run.session.click(OTHER, (5, 5))
        slow.gate.set()
        run.settle()
        assert run.told == ["first", "second"] and run.failed == []
        assert {run.session.preview(index).card.name for index in (PLANE, OTHER)} == {"second"}
        assert all(prompt.mask is None for prompt in slow.predictor.asked)

    def test_clicks_while_the_other_fails_are_answered_by_the_old_one(self, run: Threaded) -> None:
        slow = Slow(FakePredictor("second"), error=MemoryError("too large"))
        run.session.set_predictor(slow)
        assert slow.entered.wait(5)
        run.session.click(PLANE, (14, 12))
        assert not run.session.commit()  # waits for an answer
        slow.gate.set()
        run.pump.until(lambda: bool(run.failed))
        run.settle()
        assert isinstance(run.failed[0], MemoryError) and run.told == ["first"]
        shown = run.session.preview(PLANE)
        assert shown.card.name == "first" and len(shown.prompts.points) == 2
        assert run.session.object_id == 1  # what waited for the new model is not committed by the old one

    def test_the_newest_of_several_wins(self, run: Threaded) -> None:
        slow = Slow(FakePredictor("second"))
        run.session.set_predictor(slow)
        assert slow.entered.wait(5)
        run.session.set_predictor(lambda: FakePredictor("third"))
        slow.gate.set()
        run.settle()
        assert run.told == ["first", "third"] and run.session.preview(PLANE).card.name == "third"

    @pytest.mark.parametrize("fails", [False, True])
    def test_cancel_calls_the_switch_off(self, run: Threaded, fails: bool) -> None:
        slow = Slow(FakePredictor("second"), error=DownloadError("cut") if fails else None)
        run.session.set_predictor(slow)
        assert slow.entered.wait(5)
        run.session.cancel()
        assert [type(error) for error in run.failed] == [CancelledError]
        assert run.session.stage is Stage.IDLE
        slow.gate.set()
        run.session.click(PLANE, (14, 12))
        run.settle()
        assert run.told == ["first"] and run.session.preview(PLANE).card.name == "first"

    @pytest.mark.parametrize("action", ["undo", "clear", "next_object"])
    def test_undo_and_escape_do_not_call_it_off(self, run: Threaded, action: str) -> None:
        slow = Slow(FakePredictor("second"))
        run.session.set_predictor(slow)
        assert slow.entered.wait(5)
        getattr(run.session, action)()
        slow.gate.set()
        run.settle()
        assert run.told == ["first", "second"] and run.session.preview(PLANE) is None

    def test_commit_at_once_waits_for_the_new_model(self, run: Threaded, labels: ArrayLabels) -> None:
        notes = []
        run.session.committed.connect(lambda _, note: notes.append(note["model"]))
        run.session.set_predictor(lambda: FakePredictor("second"))
        assert not run.session.commit()
        run.pump.until(labels.array.any)
        run.settle()
        assert notes == ["second"]

    def test_warnings_of_the_predictor_are_told(self, run: Threaded) -> None:
        told: list[tuple[str, str]] = []
        run.session.warned.connect(lambda text: told.append((text, threading.current_thread().name)))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            hook = warnings.showwarning
            text = "fake ran out of memory on cuda; it goes on with the CPU"
            run.session.set_predictor(lambda: FakePredictor("second", before_embed=lambda: warn(text)))
            run.settle()
            run.pump.until(lambda: bool(told))
            run.pump.until(lambda: warnings.showwarning is hook)  # others see their warnings as before
        assert told == [(text, "MainThread")]

    def test_warnings_that_nobody_hears_stay_warnings(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(before_embed=lambda: warn("slow")), labels)
        with pytest.warns(RuntimeWarning, match="slow"):
            session.click(PLANE, (10, 12))


class TestFineBoundaries:
    def test_the_switch_asks_again_with_the_same_features(self, labels: ArrayLabels) -> None:
        predictor = FakePredictor(has_fine=True)
        session = session_of(predictor, labels)
        told = []
        session.fine_changed.connect(told.append)
        session.click(PLANE, (2, 12))
        session.click(OTHER, (2, 12))
        assert session.fine is None and predictor.fine == [None, None]
        assert session.preview(PLANE).has_fine and not session.preview(PLANE).mask[0].any()
        session.fine = False
        session.fine = False
        assert told == [False] and predictor.fine[2:] == [False, False] and len(predictor.embedded) == 2
        assert all(session.preview(index).mask[0].any() for index in (PLANE, OTHER))
        assert len(session.preview(PLANE).prediction) == 3
        session.fine = None
        assert not session.preview(PLANE).mask[0].any() and session.undo_title == "click"

    def test_one_candidate_copes_with_the_keys_and_the_level(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(has_fine=True), labels)
        session.choose_level(6)
        session.click(PLANE, (10, 12))
        for step in (1, 1, -1):
            session.choose_next(PLANE, step=step)
            assert session.preview(PLANE).chosen == 0
        session.fine = False
        assert session.preview(PLANE).level == 6
        session.choose_next(PLANE)
        session.fine = None
        session.choose_level(2)
        assert len(session.preview(PLANE).prediction) == 1 and session.commit()

    def test_each_round_says_how_it_was_drawn(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(has_fine=True), labels)
        notes = []
        session.committed.connect(lambda _, note: notes.append(note))
        session.click(PLANE, (10, 12))
        session.fine = False
        session.click(PLANE, (10, 14))
        session.fine = True
        session.commit()
        assert notes[0]["fine"] is True and [asked["fine"] for asked in notes[0]["rounds"]] == [False, True]

    def test_asking_a_model_without_them_is_an_error(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(), labels, fine=True)
        errors = []
        session.failed.connect(errors.append)
        session.click(PLANE, (10, 12))
        assert isinstance(errors[0], PromptError) and session.preview(PLANE) is None
        session.fine = None
        assert session.preview(PLANE) is not None and not session.preview(PLANE).has_fine


class TestEveryObject:
    def test_is_one_step_beside_what_is_there(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(finds_instances=True), labels)
        session.set_box(PLANE, Box(0, 0, 4, 4))  # the first square, drawn already
        session.commit()
        session.click(PLANE, (20, 30))
        committed = labels.array.copy()
        session.find_all(PLANE)
        assert (
            len(np.unique(labels.array)) == 1 + 12
        )  # background, and one square of the 12 was there already
        assert labels.array.max() == 12 and (labels.array[1, :4, :4] == 1).all()
        assert not labels.array[0].any() and not labels.array[2].any()
        assert session.object_id == 13 and session.preview(PLANE) is not None
        found = labels.array.copy()
        session.undo()
        assert np.array_equal(labels.array, committed) and session.object_id == 2
        assert session.preview(PLANE) is not None
        session.redo()
        assert np.array_equal(labels.array, found) and session.object_id == 13

    def test_finding_nothing_new_says_so(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(finds_instances=True), labels)
        errors = []
        session.failed.connect(errors.append)
        session.find_all(PLANE)
        session.find_all(PLANE)
        assert len(errors) == 1 and "not in the labels already" in str(errors[0])

    def test_of_a_model_that_cannot(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(), labels)
        errors = []
        session.failed.connect(errors.append)
        session.find_all(PLANE)
        assert isinstance(errors[0], CapabilityError) and "micro-sam" in str(errors[0])
        assert not labels.array.any() and session.stage is Stage.IDLE

    def test_where_half_of_an_object_is_covered(self, labels: ArrayLabels) -> None:
        session = session_of(FakePredictor(finds_instances=True), labels)
        labels.array[1, 8:10, 8:12] = 7  # half of a square
        labels.array[1, 16:19, 16:20] = 8  # more than half of one
        session.find_all(PLANE)
        assert (labels.array[1, 10:12, 8:12] > 8).all() and not labels.array[1, 19, 16:20].any()
        assert (labels.array[1, 8:10, 8:12] == 7).all()

    def test_the_store_is_told_how(self, labels: ArrayLabels) -> None:
        notes: list[dict[str, object]] = []

        class Noting(ArrayLabels):
            def write(self, patch, *, note=None) -> None:
                notes.append(note)
                super().write(patch, note=note)

        session = session_of(FakePredictor(finds_instances=True), Noting(labels.array))
        session.find_all(OTHER)
        assert notes[0]["labels"] == [1, 12] and notes[0]["model"] == "fake"


def test_prompts_of_a_card_are_values() -> None:
    predictor = FakePredictor("one")
    session = session_of(predictor, ArrayLabels(np.zeros(SHAPE, dtype=np.uint32)))
    session.click(PLANE, (10, 12))
    session.click(PLANE, (14, 12))
    now = session.prompts(PLANE)
    assert now.prompt(predictor.card).mask is not None
    assert now.prompt(replace(predictor.card, weights_sha256="1" * 64)).mask is None
    assert len(now.rounds(predictor.card)) == 2
    first = Prompt(points=Points(np.array([[10, 12]]), np.array([True])))
    assert answer_masks(SHAPE[1:], first).any()
