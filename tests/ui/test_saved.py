import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from session_fakes import FakePredictor

from napari_segany.core.masks import ArrayLabels
from napari_segany.core.types import Box
from napari_segany.io.state import load_state
from napari_segany.session.image import ImageSession
from napari_segany.ui import hooks
from napari_segany.ui.annotation import Annotation
from napari_segany.ui.grid import grid_of, source_of
from napari_segany.ui.layers import add_layers
from napari_segany.ui.saved import save_labels, save_session
from napari_segany.ui.target import Target

SHAPE = (3, 48, 64)


@pytest.fixture
def running(predictor: FakePredictor) -> Annotation:
    viewer = ViewerModel()
    how = {"scale": (3, 0.5, 0.5), "units": ("um",) * 3, "axis_labels": "zyx"}
    image = viewer.add_image(np.random.default_rng(0).normal(size=SHAPE), name="stack", **how)
    grid, array = grid_of(image), np.zeros(SHAPE, dtype=np.uint32)
    target = Target(ArrayLabels(array), array)
    session = ImageSession(source_of(image), predictor, sink=target.sink)
    layers = add_layers(viewer, grid=grid, target=target, name=image.name)
    return Annotation(viewer, image, session=session, layers=layers, grid=grid, target=target)


def test_a_state_holds_finished_objects_and_the_one_in_work(running: Annotation, tmp_path) -> None:
    session = running.session
    session.click((1,), (20, 30))
    session.click((1,), (25, 30), positive=False)
    session.commit()
    session.click((0,), (9, 9))
    session.commit()
    session.undo()  # the second object is in work again
    session.set_box((2,), Box(2, 3, 20, 30))
    file = save_session(running, tmp_path / "work.segany.json")
    state = load_state(file)
    assert [one.id for one in state.objects] == [1, 2]
    assert state.objects[0].prompts[0].points == ((20, 30, True), (25, 30, False))
    assert [frame.index for frame in state.objects[1].prompts] == [(0,), (2,)]
    assert state.model.name == "fake" and state.image.window is not None
    labels, shapes, points = (Layer.create(*data) for data in hooks.read(str(file)))
    assert np.array_equal(np.asarray(labels.data), running.target.array)
    assert np.allclose(points.data, [[1, 20, 30], [1, 25, 30], [0, 9, 9]]) and len(shapes.data) == 1
    assert np.allclose(labels.scale, (3, 0.5, 0.5)) and np.allclose(points.scale, labels.scale)


def test_a_copy_of_the_labels_is_the_labels(running: Annotation, tmp_path) -> None:
    running.session.click((1,), (20, 30))
    running.session.commit()
    path = save_labels(running, tmp_path / "copy")
    ((array, how, kind),) = hooks.read(str(path))
    assert path.name == "copy.ome.zarr" and kind == "labels" and how["units"] == ("micrometer",) * 3
    assert np.array_equal(np.asarray(array), running.target.array)
