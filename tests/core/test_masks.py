from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.strategies import label_ids, label_planes, masks

from napari_segany.core.errors import EmptyMaskError, ImageError
from napari_segany.core.masks import (
    ArrayLabels,
    LabelPatch,
    box_iou,
    box_of,
    clean_mask,
    fill_holes,
    mask_iou,
    nms,
    paint_object,
    pairwise_iou,
    remove_islands,
    slices_of,
)
from napari_segany.core.types import Box


def disk(shape: tuple[int, int], row: int, col: int, radius: float) -> np.ndarray:
    rows, cols = np.indices(shape)
    return np.hypot(rows - row, cols - col) <= radius


class TestBoxes:
    @given(masks())
    def test_box_is_the_tightest(self, mask: np.ndarray) -> None:
        if not mask.any():
            with pytest.raises(EmptyMaskError, match="empty mask"):
                box_of(mask)
            return
        rows, cols = slices_of(box_of(mask))
        assert mask[rows, cols].sum() == mask.sum()
        inside = mask[rows, cols]
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()

    def test_a_stack_has_no_box(self) -> None:
        with pytest.raises(ImageError, match=r"\(2, 3, 4\)"):
            box_of(np.ones((2, 3, 4), dtype=bool))

    def test_box_iou_by_hand(self) -> None:
        a = np.array([[0, 0, 2, 2], [5, 5, 5, 5]], dtype=np.float32)
        b = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 4, 4]], dtype=np.float32)
        assert box_iou(a, b) == pytest.approx(np.array([[1, 1 / 7, 0], [0, 0, 0]]))


class TestIou:
    @given(hnp.arrays(bool, (4, 9, 7)), hnp.arrays(bool, (3, 9, 7)))
    def test_by_boxes_equals_pixel_by_pixel(self, a: np.ndarray, b: np.ndarray) -> None:
        expected = [[mask_iou(one, other) for other in b] for one in a]
        assert pairwise_iou(list(a), list(b)) == pytest.approx(np.array(expected, dtype=np.float32))
        own = [[mask_iou(one, other) for other in a] for one in a]
        assert pairwise_iou(list(a)) == pytest.approx(np.array(own, dtype=np.float32))

    def test_separate_boxes(self) -> None:
        spots = [disk((60, 60), 10, 10, 5), disk((60, 60), 10, 13, 5), disk((60, 60), 45, 45, 5)]
        overlap = pairwise_iou(spots)
        assert overlap[0, 2] == overlap[2, 1] == 0
        assert overlap[0, 1] == overlap[1, 0] == pytest.approx(mask_iou(spots[0], spots[1]))
        assert pairwise_iou([], spots).shape == (0, 3)

    def test_empty_and_misshapen(self) -> None:
        nothing = np.zeros((3, 3), dtype=bool)
        assert mask_iou(nothing, nothing) == 0.0
        with pytest.raises(ImageError, match=r"\(3, 3\) and \(3, 4\)"):
            mask_iou(nothing, np.zeros((3, 4), dtype=bool))


class TestNms:
    def test_keeps_the_best_of_each_group(self) -> None:
        spots = [disk((40, 40), 10, 10 + i, 6) for i in range(3)] + [disk((40, 40), 30, 30, 6)]
        kept = nms(pairwise_iou(spots), np.array([0.5, 0.9, 0.6, 0.1], np.float32), threshold=0.5)
        assert kept.tolist() == [1, 3]

    @given(hnp.arrays(bool, (6, 5, 5)), hnp.arrays(np.float32, 6, elements=st.floats(0, 1, width=16)))
    def test_what_is_dropped_meets_a_better_survivor(self, stack: np.ndarray, scores: np.ndarray) -> None:
        overlap = pairwise_iou(list(stack))
        kept = nms(overlap, scores, threshold=0.3)
        assert (np.diff(scores[kept]) <= 0).all()
        for i, j in product(kept, kept):
            assert i == j or overlap[i, j] <= 0.3
        for i in set(range(6)) - set(kept.tolist()):
            assert any(overlap[i, j] > 0.3 and scores[j] >= scores[i] for j in kept)

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ImageError, match="3 scores"):
            nms(np.eye(2, dtype=np.float32), np.ones(3, dtype=np.float32))


class TestCleaning:
    def test_holes_and_islands(self) -> None:
        ring = disk((40, 40), 20, 20, 12) & ~disk((40, 40), 20, 20, 4)
        dirty = ring.copy()
        dirty[2, 2] = True
        dirty[20, 10] = False  # a pinhole in the ring
        assert np.array_equal(clean_mask(dirty), disk((40, 40), 20, 20, 12))
        assert np.array_equal(clean_mask(dirty, hole_area=3, island_area=2), ring)

    def test_the_largest_part_always_stays(self) -> None:
        mask = np.zeros((9, 9), dtype=bool)
        mask[1, 1] = mask[5, 5] = mask[5, 6] = True
        assert remove_islands(mask, min_area=100).sum() == 2
        assert not remove_islands(np.zeros((4, 4), dtype=bool)).any()

    def test_a_bay_is_no_hole(self) -> None:
        mask = np.ones((5, 5), dtype=bool)
        mask[2, 2:] = False
        assert np.array_equal(fill_holes(mask), mask)

    @given(masks())
    def test_filling_only_adds_and_islands_only_go(self, mask: np.ndarray) -> None:
        assert (fill_holes(mask, max_area=3) >= mask).all()
        assert (remove_islands(mask, min_area=3) <= mask).all()


class TestPainting:
    @given(label_planes(9, 11), masks(height=9, width=11), label_ids, st.booleans())
    def test_a_patch_paints_and_its_reverse_restores(
        self, labels: np.ndarray, mask: np.ndarray, label_id: int, keep: bool
    ) -> None:
        start = labels.copy()
        free = (labels == 0) if keep and label_id else np.ones_like(mask)
        expected = np.where(mask & free, np.uint32(label_id), start)
        patch = paint_object(labels, mask, label_id=label_id, keep_existing=keep)
        assert np.array_equal(labels, start)  # nothing is written yet
        if patch is None:
            assert np.array_equal(expected, start)
            return
        sink = ArrayLabels(labels)
        sink.write(patch)
        assert np.array_equal(sink.array, expected)
        changed = expected != start
        assert patch.box == box_of(changed)  # as small as can be
        sink.write(patch.reversed())
        assert np.array_equal(sink.array, start)

    def test_only_the_box_of_the_plane_is_read(self) -> None:
        class Watched:
            shape = (3, 100, 100)

            def __getitem__(self, key: tuple[int, slice, slice]) -> np.ndarray:
                self.key = key
                return np.zeros((3, 100, 100), dtype=np.uint32)[key]

        labels = Watched()
        patch = paint_object(labels, disk((100, 100), 50, 60, 4), label_id=3, index=(2,))
        assert patch is not None and patch.index == (2,)
        assert labels.key == (2, slice(46, 55), slice(56, 65))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label_id": -1}, "got -1"),
            ({"label_id": 2**32}, "4294967295"),
            ({"index": ()}, "1 leading indices"),
            ({"index": (3,)}, r"plane \(3,\) is outside"),
            ({"index": (-1,)}, "outside"),
            ({"mask": np.ones((5, 5), dtype=bool)}, r"\(5, 5\) does not fit"),
        ],
    )
    def test_what_cannot_be_painted_says_why(self, change: dict[str, object], message: str) -> None:
        given_: dict[str, object] = {
            "mask": np.ones((4, 5), dtype=bool),
            "label_id": 1,
            "index": (0,),
        } | change
        with pytest.raises(ImageError, match=message):
            paint_object(np.zeros((2, 4, 5), dtype=np.uint32), given_.pop("mask"), **given_)  # type: ignore[arg-type]

    def test_a_large_patch_is_small_in_memory(self) -> None:
        side = 2000
        labels = np.zeros((side, side), dtype=np.uint32)
        patch = paint_object(labels, disk((side, side), 1000, 1000, 900), label_id=9)
        assert patch is not None and patch.nbytes < labels.nbytes / 100
        assert patch.after.dtype == np.uint32 and patch.after.max() == 9

    def test_a_patch_checks_itself(self) -> None:
        two, three = np.zeros((2, 2), np.uint32), np.zeros((3, 3), np.uint32)
        with pytest.raises(ImageError, match=r"\(2, 2\) and \(3, 3\)"):
            LabelPatch(row0=0, col0=0, before=two, after=three)
        with pytest.raises(ImageError, match=r"\(-1, 0\)"):
            LabelPatch(row0=-1, col0=0, before=two, after=two)
        patch = LabelPatch(row0=3, col0=4, before=two, after=two + 1)
        assert patch.box == Box(3, 4, 5, 6)
        assert patch.reversed().reversed().after.tolist() == [[1, 1], [1, 1]]

    def test_only_uint32_is_a_sink(self) -> None:
        with pytest.raises(ImageError, match="int64"):
            ArrayLabels(np.zeros((4, 4), dtype=np.int64))  # type: ignore[arg-type]
