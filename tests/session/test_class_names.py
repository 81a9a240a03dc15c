"""Class names: from answers to commits, through undo, and in the ledger of a store."""

import math

import numpy as np
import pytest
from ladder_fakes import OWN, LadderPredictor
from session_fakes import FakePredictor, Pump

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import CapabilityError, PromptError
from napari_segany.core.masks import ArrayLabels
from napari_segany.io.label_store import LabelStore
from napari_segany.session.answers import Stage
from napari_segany.session.image import ImageSession
from napari_segany.session.objects import CommittedObject, ObjectTable, left_by
from napari_segany.session.source import ArraySource
from napari_segany.session.worker import LatestWorker

SHAPE = (2, 32, 40)
PLANE = (1,)
CENTRES = ((8, 8), (8, 30), (24, 18))


def open_session(predictor, sink=None, **how) -> ImageSession:
    sink = ArrayLabels(np.zeros(SHAPE, dtype=np.uint32)) if sink is None else sink
    return ImageSession(ArraySource(np.zeros(SHAPE, dtype=np.float32)), predictor, sink=sink, **how)


@pytest.fixture
def predictor() -> LadderPredictor:
    return LadderPredictor()


@pytest.fixture
def session(predictor: LadderPredictor) -> ImageSession:
    return open_session(predictor)


def classes_of(session: ImageSession) -> dict[int, str]:
    return {label: row.name for label, row in session.objects.rows.items()}


def commit_three(session: ImageSession) -> None:
    for centre, level in zip(CENTRES, (2, 4, 1), strict=True):
        session.choose_level(level)
        session.click(PLANE, centre)
        assert session.commit()


def test_names_follow_the_level_into_the_table(session: ImageSession) -> None:
    session.click(PLANE, (15, 18))
    for level, name in enumerate(OWN, start=1):
        session.choose_level(level)
        assert session.preview(PLANE).name == name
    session.clear()
    commit_three(session)
    table = session.objects.features()
    assert table["index"].tolist() == [1, 2, 3]
    assert table["class"].tolist() == ["nucleolus", "nucleus", "granule"]
    assert table["level"].tolist() == [2, 4, 1] and (table["score"] > 0).all()


def test_undo_takes_the_row_and_redo_brings_it_back(session: ImageSession) -> None:
    told = []
    session.objects_changed.connect(lambda: told.append(len(session.objects.rows)))
    commit_three(session)
    whole = classes_of(session)
    session.undo()
    assert classes_of(session) == {1: "nucleolus", 2: "nucleus"}
    session.redo()
    assert classes_of(session) == whole and told == [1, 2, 3, 2, 3]


def test_a_label_that_is_committed_again_is_what_it_was_committed_as_last(session: ImageSession) -> None:
    commit_three(session)
    session.object_id = 2
    session.choose_level(5)
    session.click((0,), (15, 18))
    session.commit()
    assert classes_of(session)[2] == "cell"
    session.undo()
    assert classes_of(session)[2] == "nucleus"


def test_models_without_words_leave_names_empty() -> None:
    for predictor in (FakePredictor(), LadderPredictor(has_words=False)):
        session = open_session(predictor)
        session.set_classes(["a", "b"])
        session.click(PLANE, (15, 18))
        assert session.preview(PLANE).name == "" and session.own_classes == ()
        session.commit()
        assert classes_of(session) == {1: ""}


class TestChosenClasses:
    def test_are_asked_for_what_is_shown(self, session: ImageSession, predictor: LadderPredictor) -> None:
        session.choose_level(6)
        session.click(PLANE, (15, 18))
        assert session.preview(PLANE).name == "colony" and session.own_classes == OWN
        session.set_classes(["small", " large "])
        assert session.classes == ("small", "large") and session.preview(PLANE).name == "large"
        assert session.preview(PLANE).level == 6 and len(predictor.embedded) == 1
        session.click(PLANE, (16, 18))
        assert predictor.named == [("small", "large")]  # made once
        session.set_classes(["nothing fits"])
        assert session.preview(PLANE).name == ""
        session.set_classes([])
        assert session.preview(PLANE).name == "colony"

    def test_nothing_is_asked_where_nothing_is_shown(self, session: ImageSession, predictor) -> None:
        session.set_classes(["a"])
        assert predictor.asked == [] and predictor.named == []

    def test_refused_lists_are_given_up(self, session: ImageSession) -> None:
        failures, told = [], []
        session.failed.connect(failures.append)
        session.classes_changed.connect(told.append)
        session.set_classes(["a"])
        session.click(PLANE, (15, 18))
        session.set_classes(["refused"])
        assert isinstance(failures[0], CapabilityError) and session.classes == ("a",)
        assert told == [("a",), ("refused",), ("a",)]
        session.click(PLANE, (15, 19))
        assert session.preview(PLANE).name == "a" and len(failures) == 1

    def test_empty_and_double_names_are_errors(self, session: ImageSession) -> None:
        for names in (["a", ""], ["a", "a "]):
            with pytest.raises(PromptError, match="differ"):
                session.set_classes(names)

    def test_stay_with_another_model_and_in_a_saved_state(self, session: ImageSession) -> None:
        session.set_classes(["a", "b"])
        session.click(PLANE, (15, 18))
        other = LadderPredictor("other")
        session.set_predictor(lambda: other)
        assert session.card.name == "other" and session.preview(PLANE).name == "b"  # level 4 is every second
        again = open_session(LadderPredictor())
        again.restore(session.state())
        assert again.classes == ("a", "b") and again.preview(PLANE).name == "b"

    def test_are_put_to_the_model_on_the_worker(self, predictor: LadderPredictor) -> None:
        import threading

        threads, naming = [], predictor.naming
        predictor.naming = lambda classes: (
            threads.append(threading.current_thread().name),
            naming(classes),
        )[1]
        pump = Pump()
        session = open_session(predictor, worker=LatestWorker(post=pump.post, name="segany-names"))
        session.click(PLANE, (15, 18))
        session.set_classes(["a"])
        pump.until(lambda: session.stage is Stage.IDLE)
        assert session.preview(PLANE).name == "a" and threads == ["segany-names"]
        assert session.close()


class TestStores:
    def store(self, path) -> LabelStore:
        return LabelStore.create(path, shape=SHAPE, calibration=Calibration("ZYX", (1.0,) * 3))

    def test_know_their_objects_and_the_level_when_they_are_opened_again(self, tmp_path) -> None:
        with self.store(tmp_path / "a.ome.zarr") as store:
            session = open_session(LadderPredictor(), store)
            commit_three(session)
            session.undo()
            session.choose_level(5)
            session.click((0,), (15, 18))
            session.commit()
            known = session.objects.rows
        with LabelStore.open(tmp_path / "a.ome.zarr") as store:
            again = open_session(LadderPredictor(), store)
            assert classes_of(again) == {1: "nucleolus", 2: "nucleus", 3: "cell"} and again.level == 5
            assert {label: row.level for label, row in again.objects.rows.items()} == {1: 2, 2: 4, 3: 5}
            assert [row.score for row in again.objects.rows.values()] == pytest.approx(
                [row.score for row in known.values()], abs=1e-4
            )

    def test_from_before_there_were_classes_are_read(self) -> None:
        old = {"label": 3, "score": 0.5, "level": 2, "candidate": 1, "rounds": []}
        found = {"labels": [5, 7], "how": "every object, without prompts"}
        left = left_by([old, {"stack": {"objects": []}}, found, {}])
        assert {label: row.level for label, row in left.table.rows.items()} == {3: 2, 5: 0, 6: 0, 7: 0}
        assert left.level is None and math.isnan(left.table.rows[5].score)

    def test_with_a_note_of_another_kind_are_opened_all_the_same(self) -> None:
        left = left_by([{"objects": 5}, {"chosen_level": 9}, {"objects": [{"label": "x"}]}])
        assert left.table.rows == {} and left.level is None

    def test_rows_that_are_given_are_below_those_of_the_ledger(self, tmp_path) -> None:
        given = ObjectTable({1: CommittedObject(1, "old"), 9: CommittedObject(9, "kept")})
        with self.store(tmp_path / "a.ome.zarr") as store:
            commit_three(open_session(LadderPredictor(), store))
            again = open_session(LadderPredictor(), store, objects=given)
            assert classes_of(again) == {1: "nucleolus", 2: "nucleus", 3: "granule", 9: "kept"}


def test_objects_that_are_found_without_prompts_have_no_class() -> None:
    session = open_session(FakePredictor(finds_instances=True))
    session.find_all(PLANE)
    table = session.objects.features()
    assert len(table["index"]) == 20 and set(table["class"]) == {""} and np.isnan(table["score"]).all()
    session.undo()
    assert session.objects.rows == {}
