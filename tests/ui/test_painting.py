import numpy as np
import pytest
from napari.layers import Labels

from napari_segany.core.masks import ArrayLabels, LabelPatch
from napari_segany.session.history import apply_patch
from napari_segany.ui.painting import patches_from_paint, watch_paint


def painted(ndim: int = 2):
    shape = (3, 40, 50)[-ndim:]
    array = np.zeros(shape, dtype=np.uint32)
    array[..., 5:15, 5:15] = 3
    layer, told = Labels(array), []
    watch_paint(layer, told.append)
    return layer, told, array.copy()


def stroke(layer: Labels) -> None:
    layer.selected_label, layer.brush_size = 8, 6
    with layer.block_history():
        for col in (8, 11, 14, 17):
            layer.paint((10, col), 8)


def erase(layer: Labels) -> None:
    layer.paint((10, 10), 0)


def fill(layer: Labels) -> None:
    layer.fill((7, 7), 6)


def set_items(layer: Labels) -> None:
    layer.data_setitem((np.array([1, 2, 30]), np.array([4, 5, 40])), 9)


@pytest.mark.parametrize("edit", [stroke, erase, fill, set_items])
def test_what_napari_paints_can_be_taken_back_and_done_again(edit) -> None:
    layer, told, before = painted()
    edit(layer)
    after = np.array(layer.data)
    assert not np.array_equal(before, after)
    (patches,) = told
    sink = ArrayLabels(layer.data)
    for patch in patches:
        apply_patch(patch.reversed(), sink=sink)
    assert np.array_equal(layer.data, before)
    for patch in patches:
        apply_patch(patch, sink=sink)
    assert np.array_equal(layer.data, after)


def test_a_stroke_through_planes_gives_one_patch_a_plane() -> None:
    layer, told, before = painted(3)
    layer.n_edit_dimensions = 3
    layer.brush_size = 4
    layer.paint((1, 20, 20), 5)
    (patches,) = told
    assert sorted(patch.index for patch in patches) == [(0,), (1,), (2,)]
    for patch in patches:
        apply_patch(patch.reversed(), sink=ArrayLabels(layer.data))
    assert np.array_equal(layer.data, before)


def test_naparis_own_undo_is_emptied() -> None:
    layer, told, _ = painted()
    stroke(layer)
    after = np.array(layer.data)
    layer.undo()
    assert np.array_equal(layer.data, after) and len(told) == 1


def test_the_watch_ends() -> None:
    layer, told = Labels(np.zeros((9, 9), dtype=np.uint32)), []
    leave = watch_paint(layer, told.append)
    leave()
    layer.paint((4, 4), 2)
    assert told == []


def test_an_edit_that_changes_nothing_is_no_patch() -> None:
    array = np.zeros((4, 4), dtype=np.uint32)
    indices = (np.array([1]), np.array([1]))
    assert patches_from_paint([(indices, np.array([0]), 0)], array=array) == []
    (patch,) = patches_from_paint([(indices, np.array([7]), 0)], array=array)
    assert isinstance(patch, LabelPatch) and patch.before.tolist() == [[7]]
