"""The same connections without a window: a viewer model, and a session that runs each call to its end."""

import numpy as np
import pytest
from napari.components import ViewerModel
from session_fakes import FakePredictor, answer_masks

from napari_segany.core.errors import ImageError, SegAnyError
from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box
from napari_segany.session.image import ImageSession
from napari_segany.ui.annotation import Annotation
from napari_segany.ui.dock import explain
from napari_segany.ui.grid import grid_of, source_of
from napari_segany.ui.layers import PreviewStack, add_layers
from napari_segany.ui.settings import Settings
from napari_segany.ui.target import STORE_KEY, Target, new_target, target_of, try_new_target

SHAPE = (3, 48, 64)


@pytest.fixture
def running(predictor: FakePredictor) -> Annotation:
    viewer = ViewerModel()
    image = viewer.add_image(np.random.default_rng(0).normal(size=SHAPE), name="stack", scale=(3, 0.5, 0.5))
    grid, array = grid_of(image), np.zeros(SHAPE, dtype=np.uint32)
    target = Target(ArrayLabels(array), array)
    session = ImageSession(source_of(image), predictor, sink=target.sink)
    layers = add_layers(viewer, grid=grid, target=target, name=image.name)
    return Annotation(viewer, image, session=session, layers=layers, grid=grid, target=target)


def test_points_added_moved_and_deleted_with_naparis_tools(running: Annotation) -> None:
    points, session = running.layers.points, running.session
    points.add((1, 20, 30))
    points.add((1, 25, 30))
    assert session.prompts((1,)).points.coords.tolist() == [[20, 30], [25, 30]]
    assert session.prompts((1,)).seed is not None  # the second click refines the first answer
    running.flip_sign()
    points.add((2, 10, 10))
    assert session.prompts((2,)).points.positive.tolist() == [False]
    points.selected_data = {0}
    points.remove_selected()
    assert session.prompts((1,)).points.coords.tolist() == [[25, 30]]
    session.undo()
    assert points.data.tolist() == [[1, 20, 30], [1, 25, 30], [2, 10, 10]]
    assert points.features["prompt"].tolist() == ["positive", "positive", "negative"]


def test_rectangles_polygons_and_paths(running: Annotation) -> None:
    shapes, session = running.layers.shapes, running.session
    shapes.add_rectangles([[1, 4.5, 5.5], [1, 4.5, 15.5], [1, 14.5, 15.5], [1, 14.5, 5.5]])
    assert session.prompts((1,)).box == Box(5, 6, 15, 16)
    shapes.add_polygons([[1, 20, 20], [1, 20, 40], [1, 40, 40], [1, 40, 20]])
    assert session.prompts((1,)).mask.sum() == pytest.approx(400, rel=0.1)
    assert len(shapes.data) == 2
    shapes.add_paths([[2, 5, 5], [2, 5, 45]])
    assert len(session.prompts((2,)).points) == 8 and len(shapes.data) == 2
    assert len(running.layers.points.data) == 8
    for _ in range(3):
        session.undo()
    assert len(shapes.data) == 0 and len(running.layers.points.data) == 0
    for _ in range(3):
        session.redo()
    assert list(map(str, shapes.shape_type)) == ["rectangle", "polygon"]
    shapes.selected_data = {0}
    shapes.remove_selected()
    assert session.prompts((1,)).box is None and session.prompts((1,)).mask is not None


def test_the_preview_is_on_its_plane_only(running: Annotation) -> None:
    running.session.click((1,), (20, 30))
    shown = np.asarray(running.layers.preview.data)
    assert shown[1].any() and not shown[0].any() and not shown[2].any()
    assert np.array_equal(shown[1] == 1, running.session.preview((1,)).mask)


def test_the_plane_follows_the_slider_through_the_scale(running: Annotation) -> None:
    running.viewer.dims.set_point(0, 6.0)
    assert running.plane == (2,)
    running.viewer.dims.ndisplay = 3
    assert not running.shows_planes


@pytest.mark.parametrize("which", ["image", "points", "preview", "labels"])
def test_removing_a_layer_stops_with_a_reason(running: Annotation, which: str) -> None:
    reasons = []
    running.stopped.connect(reasons.append)
    layer = running.image if which == "image" else getattr(running.layers, which)
    running.viewer.layers.remove(layer)
    assert len(reasons) == 1 and layer.name in reasons[0]
    left = [kept.name for kept in running.viewer.layers]
    assert left == [name for name in ("stack", "stack labels") if name != layer.name]
    running.viewer.layers.clear()
    assert len(reasons) == 1


def test_stopping_takes_keys_and_mouse_back(running: Annotation) -> None:
    viewer, labels = running.viewer, running.layers.labels
    assert viewer.keymap and labels.keymap and running._gestures in viewer.mouse_drag_callbacks
    running.stop()
    assert not viewer.keymap and not labels.keymap and running._gestures not in viewer.mouse_drag_callbacks


def test_preview_stacks_slice_like_arrays() -> None:
    stack = PreviewStack(SHAPE)
    mask = answer_masks(SHAPE[1:], _click())[0]
    stack.planes[(1,)] = mask
    full = np.asarray(stack)
    assert full.sum() == mask.sum()
    for key in (
        1,
        (1, slice(None), slice(3, 9)),
        (Ellipsis, 4),
        (slice(None), 20, 30),
        (0, ...),
        np.int64(2),
    ):
        assert np.array_equal(stack[key], full[key]), key
    assert stack.ndim == 3 and stack.size == full.size


def _click():
    from napari_segany.core.types import Points, Prompt

    return Prompt(points=Points(np.array([[20, 30]]), np.array([True])))


def test_labels_go_to_a_store_or_say_why_not(running: Annotation, own_data_folder, tmp_path) -> None:
    target = new_target(running.grid, image_name="my image / 1", settings=Settings())
    assert target.path is not None and target.path.parent == own_data_folder / "labels"
    assert "/" not in target.path.name and target.path.name.startswith("my_image")
    target.close()
    assert not target.path.exists()  # nothing was committed, so nothing is left behind
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    memory, problem = try_new_target(
        running.grid, image_name="x", settings=Settings(label_folder=str(blocked / "labels"))
    )
    assert memory.path is None and isinstance(problem, OSError)
    plain, problem = try_new_target(running.grid, image_name="x", settings=Settings(is_autosaving=False))
    assert plain.path is None and problem is None


def test_existing_labels_can_be_gone_on_with(running: Annotation, tmp_path) -> None:
    viewer = running.viewer
    store = new_target(running.grid, image_name="x", settings=Settings())
    store.array[1, 4, 4] = 5
    store.sink.close()
    opened = viewer.add_labels(np.asarray(store.array), metadata={STORE_KEY: str(store.path)})
    again = target_of(opened, grid=running.grid)
    assert again.sink.max_label() == 5 and opened.data is again.array
    again.close()
    assert store.path.exists()
    plain = viewer.add_labels(np.zeros(SHAPE, dtype=np.uint32))
    assert target_of(plain, grid=running.grid).array is plain.data
    for wrong in (np.zeros((4, 4), dtype=np.uint32), np.zeros(SHAPE, dtype=np.uint8)):
        with pytest.raises(ImageError, match="New labels"):
            target_of(viewer.add_labels(wrong), grid=running.grid)


def test_errors_say_what_to_do() -> None:
    assert explain(SegAnyError("do this")) == "do this"
    assert "Press Start" in explain(RuntimeError("boom"))
