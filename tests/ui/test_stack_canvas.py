"""The dock for stacks on a real canvas: every prompt here is a mouse or key event."""

import numpy as np
import pytest
from session_fakes import answer_masks
from stack_desks import FakeVideoPredictor, open_stack

from napari_segany.core.types import Points, Prompt
from napari_segany.io.label_store import LabelStore

pytestmark = pytest.mark.canvas
SHAPE = (32, 96, 160)


def disk(row: float, col: float) -> np.ndarray:
    """The (H, W) mask that the fake follows from a click."""
    return answer_masks(SHAPE[1:], Prompt(points=Points(np.array([[row, col]]), np.array([True]))))[2]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, SHAPE, dtype=np.uint16)


@pytest.fixture
def desk(make_napari_viewer, qtbot, stack):
    desk = open_stack(make_napari_viewer, qtbot, FakeVideoPredictor(), stack, name="movie", axis_labels="tyx")
    yield desk
    desk.leave()


def test_click_follow_correct_follow_undo_both_save_reopen(desk, tmp_path) -> None:
    running = desk.start()
    desk.go_to(31)
    desk.go_to(0)
    desk.hand.click(40, 40)
    desk.settle()
    assert overlap(np.asarray(running.layers.preview.data)[0] == 1, disk(40, 40)) > 0.8
    assert not desk.labels.any()
    desk.hand.key("Return")
    desk.settle()
    first = desk.labels.copy()
    assert all(overlap(first[f] == 1, disk(40, 40 + f)) > 0.8 for f in range(SHAPE[0]))
    assert not np.asarray(running.layers.preview.data).any()

    desk.go_to(20)
    desk.predictor.worked_out.clear()
    desk.hand.click(60, 90)
    desk.settle()
    desk.hand.key("Return")
    desk.settle()
    second = desk.labels.copy()
    assert set(desk.predictor.worked_out) <= set(range(10, 32)), "frames were done again without need"
    assert np.array_equal(second[:10], first[:10])
    assert (second[20] == 1)[60, 90] and not np.array_equal(second[20:], first[20:])

    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert np.array_equal(desk.labels, first)
    assert len(running.layers.points.data) == 2
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert len(running.layers.points.data) == 1
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert not desk.labels.any()
    for _ in range(3):
        desk.hand.key("Z", ctrl=True, shift=True)
        desk.settle()
    assert np.array_equal(desk.labels, second)
    _saved_and_reopened(desk, second, tmp_path)


def _saved_and_reopened(desk, labels: np.ndarray, tmp_path) -> None:
    """Save a copy and a state; stop; start again over the store that was worked in."""
    store = desk.running.target.path
    desk.widget.save(tmp_path / "copy.ome.zarr")
    desk.widget.save(tmp_path / "work.segany.json")
    layer = desk.running.layers.labels
    desk.press(desk.widget.start_button)
    assert desk.running is None and desk.widget.timeline is None
    assert [one.name for one in desk.viewer.layers] == ["movie", "movie labels", "movie tracks"]
    for path in (store, tmp_path / "copy.ome.zarr"):
        with LabelStore.open(path) as reopened:
            assert np.array_equal(np.asarray(reopened.array), labels)
    assert (tmp_path / "work.segany.json").exists()
    desk.widget.choices.labels.layer = layer
    desk.start()
    assert desk.session.object_ids == (1,) and desk.session.track(1).prompted.nonzero()[0].tolist() == [0, 20]
    assert [row.frames for row in desk.widget.work.table.rows] == [(0, 31)]
