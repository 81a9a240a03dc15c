"""One contract for every `LabelSink`, and undo over it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.strategies import masks

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import ImageError
from napari_segany.core.masks import ArrayLabels, LabelPatch, LabelSink, paint_object
from napari_segany.io.label_store import LabelStore

SHAPE = (2, 9, 11)
WHOLE = (slice(0, 9), slice(0, 11))


def block(label_id: int, *, index: tuple[int, ...] = (0,), row0: int = 2, col0: int = 3) -> LabelPatch:
    before = np.zeros((3, 4), dtype=np.uint32)
    return LabelPatch(index=index, row0=row0, col0=col0, before=before, after=before + np.uint32(label_id))


class SinkContract:
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Iterator[LabelSink]:
        raise NotImplementedError

    def test_it_is_one(self, sink: LabelSink) -> None:
        assert isinstance(sink, LabelSink)
        assert sink.shape == SHAPE and sink.dtype == np.uint32

    def test_what_is_written_is_read(self, sink: LabelSink) -> None:
        sink.write(block(7, index=(1,)), note={"why": "test"})
        plane = sink.read((1,), WHOLE)
        assert plane.dtype == np.uint32 and plane.sum() == 7 * 12 and (plane[2:5, 3:7] == 7).all()
        assert not sink.read((0,), WHOLE).any()
        assert (sink.read((1,), (slice(4, 6), slice(6, 8))) == [[7, 0], [0, 0]]).all()

    def test_what_is_read_is_a_copy(self, sink: LabelSink) -> None:
        sink.read((0,), WHOLE)[:] = 9
        assert not sink.read((0,), WHOLE).any()

    def test_reversed_patches_restore(self, sink: LabelSink) -> None:
        sink.write(block(3))
        top = paint_object(sink, np.ones(SHAPE[1:], dtype=bool), label_id=4, index=(0,))
        assert top is not None
        sink.write(top)
        assert (sink.read((0,), WHOLE) == 4).all()
        sink.write(top.reversed())
        assert sink.read((0,), WHOLE).sum() == 3 * 12

    def test_the_highest_label_is_never_forgotten(self, sink: LabelSink) -> None:
        assert sink.max_label() == 0
        sink.write(block(2**32 - 2))
        sink.write(block(0))
        assert sink.max_label() == 2**32 - 2

    @pytest.mark.parametrize(
        "patch",
        [
            block(1, index=()),
            block(1, index=(2,)),
            block(1, index=(0, 0)),
            block(1, row0=7),
            block(1, col0=8),
        ],
    )
    def test_what_lies_outside_is_refused(self, sink: LabelSink, patch: LabelPatch) -> None:
        with pytest.raises(ImageError):
            sink.write(patch)
        assert sink.max_label() == 0

    @pytest.mark.parametrize(
        "box", [(slice(0, 0), slice(0, 2)), (slice(0, 10), slice(0, 2)), (slice(-1, 2), slice(0, 2))]
    )
    def test_boxes_outside_are_not_read(self, sink: LabelSink, box: tuple[slice, slice]) -> None:
        with pytest.raises(ImageError, match="empty or outside"):
            sink.read((0,), box)


class TestArrayLabels(SinkContract):
    @pytest.fixture
    def sink(self) -> Iterator[LabelSink]:  # type: ignore[override]
        yield ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))


class TestLabelStore(SinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Iterator[LabelSink]:
        with LabelStore.create(tmp_path / "s.ome.zarr", shape=SHAPE, calibration=Calibration("TYX")) as store:
            yield store


class UndoMachine(RuleBasedStateMachine):
    """Paint, undo and redo in any order; the sink must always show what a plain list of states says."""

    def make(self) -> LabelSink:
        return ArrayLabels(np.zeros(SHAPE, dtype=np.uint32))

    @initialize()
    def begin(self) -> None:
        self.sink = self.make()
        self.done: list[LabelPatch] = []
        self.undone: list[LabelPatch] = []
        self.states = [np.zeros(SHAPE, dtype=np.uint32)]

    @rule(
        mask=masks(height=9, width=11),
        label_id=st.integers(0, 4),
        plane=st.integers(0, 1),
        keep=st.booleans(),
    )
    def paint(self, mask: np.ndarray, label_id: int, plane: int, keep: bool) -> None:
        patch = paint_object(self.sink, mask, label_id=label_id, index=(plane,), keep_existing=keep)
        now = self.states[len(self.done)]
        then = now.copy()
        free = (now[plane] == 0) if keep and label_id else True
        then[plane][mask & free] = label_id
        if patch is None:
            assert np.array_equal(now, then)
            return
        self.sink.write(patch)
        self.states = [*self.states[: len(self.done) + 1], then]
        self.done.append(patch)
        self.undone.clear()

    @precondition(lambda self: self.done)
    @rule()
    def undo(self) -> None:
        self.undone.append(self.done.pop())
        self.sink.write(self.undone[-1].reversed())

    @precondition(lambda self: self.undone)
    @rule()
    def redo(self) -> None:
        self.done.append(self.undone.pop())
        self.sink.write(self.done[-1])

    @invariant()
    def shows_the_state(self) -> None:
        shown = np.stack([self.sink.read((plane,), WHOLE) for plane in range(SHAPE[0])])
        assert np.array_equal(shown, self.states[len(self.done)])


class StoreUndoMachine(UndoMachine):
    """The same over a store on disk, which must also show it to whoever opens it afterwards."""

    def make(self) -> LabelSink:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "s.ome.zarr"
        self.store = LabelStore.create(path, shape=SHAPE, calibration=Calibration("TYX"))
        return self.store

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.close()
        reopened = LabelStore.open(self.store.path, read_only=True)
        assert np.array_equal(np.asarray(reopened.array), self.states[len(self.done)])
        self.folder.cleanup()


TestUndo = UndoMachine.TestCase
TestUndo.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestStoreUndo = StoreUndoMachine.TestCase
TestStoreUndo.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
