import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import label_planes

from napari_segany.core.errors import ImageError
from napari_segany.core.masks import ArrayLabels
from napari_segany.core.repainting import patch_between, repaint

H, W = 6, 7


@st.composite
def painted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int], bool, set[int]]:
    labels = draw(label_planes(H, W))
    ids = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True))
    seed = draw(st.integers(0, 99))
    masks = np.random.default_rng(seed).random((len(ids), H, W)) < 0.4
    protected = draw(st.sets(st.integers(1, 5), max_size=2)) - set(ids)
    return labels, masks, ids, draw(st.booleans()), protected


@given(painted())
def test_pixel_by_pixel(case: tuple[np.ndarray, np.ndarray, list[int], bool, set[int]]) -> None:
    labels, masks, ids, keep, protected = case
    before = labels.copy()
    after = repaint(labels, masks, object_ids=ids, keep_existing=keep, protected=protected)
    assert np.array_equal(labels, before)
    for place in np.ndindex(H, W):
        was = int(labels[place])
        wanted = [i for i, mask in zip(ids, masks, strict=True) if mask[place]]
        other = was != 0 and was not in ids
        if other and (keep or was in protected or not wanted):
            assert after[place] == was
        else:
            assert after[place] == (wanted[0] if wanted else 0)


@given(label_planes(H, W), label_planes(H, W))
def test_a_patch_turns_one_plane_into_the_other_and_back(before: np.ndarray, after: np.ndarray) -> None:
    stack = ArrayLabels(np.stack([before * 0, before]))
    patch = patch_between(before, after, index=(1,))
    if patch is None:
        assert np.array_equal(before, after)
        return
    rows, cols = patch.slices
    changed = np.argwhere(before != after)
    assert [rows.start, cols.start] == changed.min(axis=0).tolist()
    assert [rows.stop, cols.stop] == (changed.max(axis=0) + 1).tolist()
    stack.write(patch)
    assert np.array_equal(stack.array[1], after) and not stack.array[0].any()
    stack.write(patch.reversed())
    assert np.array_equal(stack.array[1], before)


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ImageError, match=r"2 objects on a plane of \(6, 7\) have masks of \(1, 6, 7\)"):
        repaint(np.zeros((H, W), np.uint32), np.zeros((1, H, W), bool), object_ids=[1, 2])
