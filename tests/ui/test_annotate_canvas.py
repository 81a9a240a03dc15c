"""The widget on a real canvas: every prompt here is a mouse or key event."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
from desks import Gaps, open_desk
from session_fakes import FakePredictor, answer_masks

from napari_segany.core.types import Points, Prompt
from napari_segany.io.label_store import LabelStore

pytestmark = pytest.mark.canvas


def disk(shape, row, col) -> np.ndarray:
    """What the fake answers to one click, best first."""
    return answer_masks(shape, Prompt(points=Points(np.array([[row, col]]), np.array([True]))))[1]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_click_preview_commit_undo_redo_save_reopen(desk, tmp_path) -> None:
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    shown = np.asarray(running.layers.preview.data) == 1
    assert overlap(shown, disk(shown.shape, 40, 60)) > 0.8
    assert not desk.labels.any()
    desk.hand.key("Return")
    desk.settle()
    committed = desk.labels.copy()
    assert np.array_equal(committed == 1, shown) and running.session.object_id == 2
    assert not np.asarray(running.layers.preview.data).any() and len(running.layers.points.data) == 0
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert not desk.labels.any() and np.asarray(running.layers.preview.data).any()
    assert len(running.layers.points.data) == 1
    desk.hand.key("Z", ctrl=True, shift=True)
    desk.settle()
    assert np.array_equal(desk.labels, committed)
    store = running.target.path
    desk.widget.save(tmp_path / "copy.ome.zarr")
    desk.widget.stop()
    for path in (store, tmp_path / "copy.ome.zarr"):
        with LabelStore.open(path) as reopened:
            assert np.array_equal(np.asarray(reopened.array), committed)
    assert [layer.name for layer in desk.viewer.layers] == ["image", "image labels"]


def test_buttons_and_modifiers_make_negative_clicks(desk) -> None:
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    desk.hand.click(40, 63, right=True)
    desk.settle()
    desk.hand.click(43, 60, shift=True)
    desk.settle()
    points = running.session.prompts(()).points
    assert points.positive.tolist() == [True, False, False]
    assert running.layers.points.features["prompt"].tolist() == ["positive", "negative", "negative"]
    assert not running.session.preview(()).mask[40, 63]
    desk.hand.key("T")
    desk.hand.click(37, 60)
    desk.settle()
    assert running.session.prompts(()).points.positive.tolist() == [True, False, False, False]
    assert desk.widget.work.signs.negative.isChecked()


def test_a_click_is_a_prompt_with_the_image_selected_too(desk) -> None:
    running = desk.start()
    desk.viewer.layers.selection.active = running.image
    desk.hand.click(40, 60)
    desk.settle()
    assert len(running.session.prompts(()).points) == 1 and len(running.layers.points.data) == 1


def test_dragging_the_view_adds_no_click(desk) -> None:
    running = desk.start()
    before = np.array(desk.viewer.scene.camera.center)
    desk.hand.drag((20, 20), (60, 80))
    desk.settle()
    assert len(running.layers.points.data) == 0
    assert not np.allclose(before, desk.viewer.scene.camera.center)


def test_dragging_a_click_moves_the_preview_with_it(desk) -> None:
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    seen = []
    running.session.preview_changed.connect(lambda _, shown: seen.append(shown.mask.nonzero()[1].mean()))
    desk.hand.drag((40, 60), (40, 90), during=desk.settle)
    desk.settle()
    assert len(seen) >= 3 and seen == sorted(seen)
    assert overlap(running.session.preview(()).mask, disk((96, 128), 40, 90)) > 0.7
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert abs(running.session.prompts(()).points.coords[0, 1] - 60) < 1
    assert abs(running.layers.points.data[0, 1] - 60) < 1


def test_shift_drag_draws_a_box_with_a_live_preview(desk) -> None:
    running = desk.start()
    seen = []
    running.session.preview_changed.connect(
        lambda _, shown: seen.append(0 if shown is None else shown.mask.sum())
    )
    desk.hand.drag((20, 30), (60, 90), shift=True, during=desk.settle)
    desk.settle()
    box = running.session.prompts(()).box
    assert np.allclose([box.row0, box.col0, box.row1, box.col1], [20.5, 30.5, 60.5, 90.5], atol=0.6)
    assert len(set(seen)) >= 3 and len(running.layers.points.data) == 0
    assert len(running.layers.shapes.data) == 1
    desk.hand.key("Return")
    desk.settle()
    assert (desk.labels[25:55, 35:85] == 1).all() and len(running.layers.shapes.data) == 0
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert len(running.layers.shapes.data) == 1


def test_polygons_drawn_with_naparis_own_tool_are_masks(desk) -> None:
    running = desk.start()
    desk.viewer.layers.selection.active = running.layers.shapes
    running.layers.shapes.mode = "add_polygon"
    for corner in ((20, 20), (20, 80), (60, 80), (60, 20)):
        desk.hand.click(*corner)
    desk.hand.key("Return")  # ends the polygon
    desk.settle()
    assert overlap(running.session.preview(()).mask, _square(20, 60, 20, 80)) > 0.9
    assert not desk.labels.any()
    desk.hand.key("Return")  # commits it
    desk.settle()
    assert (desk.labels == 1).sum() == pytest.approx(40 * 60, rel=0.05)


def _square(row0: int, row1: int, col0: int, col1: int) -> np.ndarray:
    mask = np.zeros((96, 128), dtype=bool)
    mask[row0:row1, col0:col1] = True
    return mask


def test_painting_by_hand_is_one_more_step_of_the_same_undo(desk) -> None:
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    desk.hand.key("Return")
    desk.settle()
    committed = desk.labels.copy()
    labels = running.layers.labels
    desk.viewer.layers.selection.active = labels
    labels.mode, labels.selected_label, labels.brush_size = "paint", 7, 6
    desk.hand.drag((40, 55), (40, 75))
    assert (desk.labels == 7).any()
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert np.array_equal(desk.labels, committed)
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert not desk.labels.any()
    labels.undo()  # napari's own history must not bring anything back
    assert not desk.labels.any()


def test_candidates_escape_and_next(desk) -> None:
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    areas = [int(running.session.preview(()).mask.sum())]
    desk.hand.key("Period")
    areas.append(int(np.asarray(running.layers.preview.data).sum()))
    desk.hand.key("Comma")
    desk.hand.key("Comma")
    areas.append(int(np.asarray(running.layers.preview.data).sum()))
    assert areas[2] < areas[0] < areas[1]
    desk.hand.key("Escape")
    desk.settle()
    assert len(running.layers.points.data) == 0 and not np.asarray(running.layers.preview.data).any()


def test_planes_of_a_calibrated_stack(make_napari_viewer, qtbot, predictor) -> None:
    stack = np.random.default_rng(1).integers(0, 4000, (4, 96, 128), dtype=np.uint16)
    how = {"scale": (2.0, 0.5, 0.25), "translate": (10, -5, 3), "units": ("um",) * 3, "axis_labels": "zyx"}
    desk = open_desk(make_napari_viewer, qtbot, predictor, stack, name="stack", **how)
    running = desk.start()
    desk.viewer.dims.set_point(0, 10 + 2.0 * 2)
    desk.settle()
    desk.hand.click(40, 60)
    desk.settle()
    desk.hand.key("Return")
    desk.settle()
    assert [bool(plane.any()) for plane in desk.labels] == [False, False, True, False]
    assert overlap(desk.labels[2] == 1, disk((96, 128), 40, 60)) > 0.7
    layer = running.layers.labels
    assert np.allclose(layer.scale, how["scale"]) and np.allclose(layer.translate, how["translate"])
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3 and layer.axis_labels == ("z", "y", "x")
    assert layer.data.dtype == np.uint32
    desk.viewer.dims.set_point(0, 10)
    assert running.plane == (0,)
    desk.leave()


def test_colour_images(make_napari_viewer, qtbot, predictor) -> None:
    colour = np.random.default_rng(2).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    desk = open_desk(make_napari_viewer, qtbot, predictor, colour, rgb=True)
    desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    assert predictor.embedded == [(96, 128, 3)] and desk.running.grid.shape == (96, 128)
    desk.leave()


def test_one_channel_of_many(make_napari_viewer, qtbot, predictor) -> None:
    channels = np.random.default_rng(3).normal(size=(3, 96, 128)).astype(np.float32)
    desk = open_desk(make_napari_viewer, qtbot, predictor, channels, axis_labels="cyx")
    box = desk.widget.choices.channels
    assert box.isVisible() and box.count() == 3
    box.setCurrentIndex(2)
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    assert running.grid.shape == (96, 128) and running.session.preview(()) is not None
    assert np.array_equal(running.session.source.read(()), channels[2])
    desk.leave()


def test_layers_may_be_renamed(desk) -> None:
    running = desk.start()
    for i, layer in enumerate(desk.viewer.layers):
        layer.name = f"renamed {i}"
    desk.hand.click(40, 60)
    desk.settle()
    desk.hand.key("Return")
    desk.settle()
    assert desk.labels.any() and running.layers.labels.name == "renamed 1"


def test_removing_the_image_while_the_model_looks_at_it(make_napari_viewer, qtbot, image) -> None:
    gate, entered = threading.Event(), threading.Event()
    predictor = FakePredictor(before_embed=lambda: (entered.set(), gate.wait(60)))
    desk = open_desk(make_napari_viewer, qtbot, predictor, image)
    desk.start(wait=False)
    desk.hand.click(40, 60)
    assert entered.wait(5)
    desk.viewer.layers.remove(desk.running.image)
    assert _worker_threads(), "stopping waited for the model, which stops the window"
    assert desk.running is None and [layer.name for layer in desk.viewer.layers] == ["image labels"]
    gate.set()
    qtbot.waitUntil(lambda: not _worker_threads(), timeout=30_000)
    desk.leave()


def burn_in_numpy(seconds: float) -> None:
    """Keep a core busy with array work."""
    a, end = np.random.default_rng(0).normal(size=(300, 300)), time.perf_counter() + seconds
    while time.perf_counter() < end:
        a = a @ a
        a /= np.abs(a).max()


def burn_in_torch(seconds: float) -> None:
    """Keep a core busy with convolutions, as an encoder does."""
    torch = pytest.importorskip("torch")
    x, w = torch.ones(1, 16, 128, 128), torch.ones(16, 16, 3, 3)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        torch.nn.functional.conv2d(x, w, padding=1)


@pytest.mark.parametrize("burn", [time.sleep, burn_in_numpy, burn_in_torch])
def test_the_window_stays_alive_while_the_model_works(make_napari_viewer, qtbot, image, burn) -> None:
    burn(0.01)  # imports are not what is measured
    desk = open_desk(make_napari_viewer, qtbot, FakePredictor(before_embed=lambda: burn(0.5)), image)
    session = desk.start().session
    gaps = []
    for _ in range(5):  # other programs stop the window too; what the model does to it shows in every round
        session._model.cache.clear()
        qtbot.wait(50)
        began = time.perf_counter()
        with Gaps() as gap:
            session.prepare(())
            desk.settle()
        assert time.perf_counter() - began > 0.4, "the model was not slow, so nothing was measured"
        gaps.append(gap.largest)
        if gap.largest <= 0.1:
            break
    desk.leave()
    print(f"\n{burn.__name__}: largest gaps {[round(1e3 * gap) for gap in gaps]} ms")
    assert min(gaps) <= 0.1


def test_slow_work_shows_progress_and_can_be_cancelled(make_napari_viewer, qtbot, image) -> None:
    gate = threading.Event()
    predictor = FakePredictor(before_embed=lambda: gate.wait(5))
    desk = open_desk(make_napari_viewer, qtbot, predictor, image)
    running = desk.start(wait=False)
    busy = desk.widget.work.busy
    assert not busy.isVisible()
    qtbot.waitUntil(busy.isVisible)
    busy.cancelled.emit()
    assert not busy.isVisible() and running.session.stage.value == ""
    gate.set()
    desk.hand.click(40, 60)
    desk.settle()
    assert running.session.preview(()) is not None
    desk.leave()


def test_errors_are_notifications_that_say_what_to_do(make_napari_viewer, qtbot, image) -> None:
    from napari.utils.notifications import notification_manager

    def broken() -> None:
        raise RuntimeError("the model exploded")

    desk = open_desk(make_napari_viewer, qtbot, FakePredictor(before_embed=broken), image)
    desk.start()
    told = [note.message for note in notification_manager.records]
    assert any("the model exploded" in text and "Press Start" in text for text in told)
    desk.leave()


def test_two_viewers_do_not_meet(make_napari_viewer, qtbot, image) -> None:
    desks = [open_desk(make_napari_viewer, qtbot, FakePredictor(), image) for _ in range(2)]
    for place, desk in enumerate(desks):
        desk.start()
        desk.hand.click(40, 30 + 50 * place)
        desk.settle()
    first, second = (desk.running.session for desk in desks)
    assert first.prompts(()).points.coords[0, 1] == pytest.approx(30, abs=1)
    assert second.prompts(()).points.coords[0, 1] == pytest.approx(80, abs=1)
    desks[0].hand.key("Return")
    desks[0].settle()
    assert desks[0].labels.any() and not desks[1].labels.any()
    assert desks[0].running.target.path != desks[1].running.target.path
    for desk in desks:
        desk.leave()


def _worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("segany")]


def test_closing_the_viewer_frees_model_and_thread(make_napari_viewer, qtbot, image) -> None:
    desk = open_desk(make_napari_viewer, qtbot, FakePredictor(), image)
    desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    assert _worker_threads()
    model, session = weakref.ref(desk.predictor), weakref.ref(desk.running.session)
    desk.viewer.close()
    del desk
    for _ in range(5):
        qtbot.wait(20)
        gc.collect()
    assert _worker_threads() == []
    assert model() is None and session() is None
