import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.masks import ArrayLabels, LabelPatch, paint_object
from napari_segany.session.history import Entry, Journal, apply_patch
from napari_segany.session.prompts import PromptStore

SIDE = 12


def disk(row: int, col: int, radius: int) -> np.ndarray:
    rows, cols = np.indices((SIDE, SIDE))
    return np.hypot(rows - row, cols - col) <= radius


def paint(labels: ArrayLabels, mask: np.ndarray, label_id: int) -> LabelPatch | None:
    patch = paint_object(labels, mask, label_id=label_id)
    if patch is not None:
        labels.write(patch)
    return patch


objects = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(0, 5), st.integers(0, 9))


@given(st.lists(objects, min_size=1, max_size=8))
def test_undo_all_is_the_start_and_redo_all_is_the_end(drawn: list[tuple[int, int, int, int]]) -> None:
    labels = ArrayLabels(np.zeros((SIDE, SIDE), dtype=np.uint32))
    journal = Journal(prompts=PromptStore(), sink=labels)
    states = [labels.array.copy()]
    for row, col, radius, label_id in drawn:
        patch = paint(labels, disk(row, col, radius), label_id)
        if patch is not None:
            journal.record(Entry("paint", (patch,)))
            states.append(labels.array.copy())
    for expected in states[-2::-1]:
        assert journal.undo() is not None
        assert np.array_equal(labels.array, expected)
    assert journal.undo() is None
    for expected in states[1:]:
        assert journal.redo() is not None
        assert np.array_equal(labels.array, expected)
    assert journal.redo() is None


def test_undo_never_resurrects_what_changed_since() -> None:
    labels = ArrayLabels(np.zeros((SIDE, SIDE), dtype=np.uint32))
    journal = Journal(prompts=PromptStore(), sink=labels)
    patch = paint(labels, disk(5, 5, 3), 1)
    assert patch is not None
    journal.record(Entry("object 1", (patch,)))
    labels.array[5, :] = 7  # somebody else writes, past the journal
    journal.undo()
    assert (labels.array[5, :] == 7).all() and not (labels.array == 1).any()


def test_a_patch_that_fits_nowhere_writes_nothing() -> None:
    labels = ArrayLabels(np.full((SIDE, SIDE), 9, dtype=np.uint32))
    zeros = np.zeros((2, 2), dtype=np.uint32)
    assert apply_patch(LabelPatch(row0=1, col0=1, before=zeros, after=zeros + 1), sink=labels) is None
    assert (labels.array == 9).all()


def test_a_new_step_ends_what_could_be_redone() -> None:
    labels = ArrayLabels(np.zeros((SIDE, SIDE), dtype=np.uint32))
    prompts = PromptStore()
    journal = Journal(prompts=prompts, sink=labels)
    journal.record(Entry("click", prompts=prompts.add_click((), (1, 1), positive=True)))
    journal.undo()
    assert prompts[()].is_empty and journal.redo_title == "click"
    journal.record(Entry("click", prompts=prompts.add_click((), (2, 2), positive=True)))
    assert journal.redo_title is None and journal.redo() is None


def test_old_steps_are_forgotten_past_the_memory_limit() -> None:
    labels = ArrayLabels(np.zeros((SIDE, SIDE), dtype=np.uint32))
    journal = Journal(prompts=PromptStore(), sink=labels, max_bytes=1)
    for label_id in (1, 2):
        patch = paint(labels, disk(5, 5, 3), label_id)
        assert patch is not None
        journal.record(Entry(f"object {label_id}", (patch,)))
    assert journal.undo() is not None and journal.undo() is None
