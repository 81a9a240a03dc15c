from __future__ import annotations

import numpy as np
import pytest

from napari_segany.core.errors import PromptError
from napari_segany.core.types import Box, MaskPrediction, Points, Prompt


class TestPoints:
    def test_lists_become_arrays(self) -> None:
        points = Points([[1, 2], [3, 4]], [True, False])  # type: ignore[arg-type]
        assert points.coords.dtype == np.float32 and points.positive.dtype == bool and len(points) == 2

    def test_a_click_goes_last_and_changes_nothing(self) -> None:
        first = Points(np.array([[1, 2]]), np.array([True]))
        second = first.with_click(5.5, 6, positive=False)
        assert second.coords.tolist() == [[1, 2], [5.5, 6]] and second.positive.tolist() == [True, False]
        assert len(first) == 1

    @pytest.mark.parametrize(
        ("coords", "positive", "message"),
        [
            ([1, 2], [True], r"\(N, 2\)"),
            ([[1, 2, 3]], [True], r"\(1, 3\)"),
            ([[1, 2]], [True, False], "1 points but signs"),
            ([[1, 2], [np.nan, 3]], [True, True], "finite"),
            ([[1, np.inf]], [True], "finite"),
        ],
    )
    def test_nonsense_is_refused(self, coords: object, positive: object, message: str) -> None:
        with pytest.raises(PromptError, match=message):
            Points(np.array(coords), np.array(positive))


class TestBox:
    def test_sizes(self) -> None:
        box = Box(1, 2, 4.5, 10)
        assert (box.height, box.width) == (3.5, 8)

    @pytest.mark.parametrize(
        "ends", [(0, 0, 0, 5), (3, 0, 1, 5), (0, 5, 5, 5), (0, 0, np.nan, 5), (-np.inf, 0, 1, 1)]
    )
    def test_nonsense_is_refused(self, ends: tuple[float, ...]) -> None:
        with pytest.raises(PromptError, match="box"):
            Box(*ends)


class TestPrompt:
    def test_nothing_is_no_prompt(self) -> None:
        empty = Points(np.empty((0, 2)), np.empty(0, dtype=bool))
        with pytest.raises(PromptError, match="at least one"):
            Prompt()
        with pytest.raises(PromptError, match="at least one"):
            Prompt(points=empty)
        assert Prompt(points=empty, text="nuclei").points is None

    def test_masks_are_drawn_or_logits(self) -> None:
        drawn = np.eye(3, dtype=bool)
        assert Prompt(mask=drawn).mask is drawn
        logits = Prompt(mask=np.ones((4, 4))).mask  # type: ignore[arg-type]
        assert logits is not None and logits.dtype == np.float32
        for bad, message in (
            (np.ones((3, 3), dtype=np.uint8), "labels == id"),
            (np.ones((2, 3, 3), dtype=bool), "2D"),
            (np.empty((0, 3), dtype=bool), "2D"),
            (np.full((3, 3), np.nan), "finite"),
        ):
            with pytest.raises(PromptError, match=message):
                Prompt(mask=bad)  # type: ignore[arg-type]


def test_best_is_the_first() -> None:
    masks = np.stack([np.eye(3, dtype=bool), ~np.eye(3, dtype=bool)])
    answer = MaskPrediction(
        masks, np.array([0.9, 0.2], np.float32), np.zeros((2, 4, 4), np.float32), np.array([2, 4])
    )
    assert len(answer) == 2 and np.array_equal(answer.best, masks[0])
