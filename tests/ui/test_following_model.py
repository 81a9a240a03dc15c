"""The connections of a stack without a window: a viewer model, and a session that runs each call to its end."""

from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from stack_desks import FakeVideoPredictor

from napari_segany.core.errors import ImageError
from napari_segany.core.masks import ArrayLabels
from napari_segany.io.state import load_state
from napari_segany.session.volume import VolumeSession
from napari_segany.session.volume_state import VolumeState
from napari_segany.ui.following import Following
from napari_segany.ui.grid import grid_of, source_of
from napari_segany.ui.layers import add_layers
from napari_segany.ui.object_table import ObjectRow
from napari_segany.ui.run_bar import Pace, time_text
from napari_segany.ui.saved import layers_of_state, save_stack
from napari_segany.ui.stack_layers import read_label_plane
from napari_segany.ui.stack_previews import StackPreviews
from napari_segany.ui.stack_start import frame_axes, preferred_axis
from napari_segany.ui.target import Target

SHAPE = (12, 48, 64)


def open_following(
    shape: tuple[int, ...],
    *,
    axis: int = 0,
    follows: bool = False,
    names: str = "tyx",
    features: dict[str, list] | None = None,
) -> Following:
    viewer = ViewerModel()
    image = viewer.add_image(
        np.random.default_rng(0).normal(size=shape),
        name="stack",
        scale=(2.0,) * (len(shape) - 2) + (0.5, 0.5),
        axis_labels=tuple(names),
    )
    grid, array = grid_of(image), np.zeros(shape, dtype=np.uint32)
    target, predictor = Target(ArrayLabels(array), array), FakeVideoPredictor()

    def open_session(at: tuple[int, ...]) -> VolumeSession:
        return VolumeSession(source_of(image), predictor, sink=target.sink, axis=axis, at=at)

    layers = add_layers(viewer, grid=grid, target=target, name=image.name)
    if features is not None:
        layers.labels.features = features
    at = (0,) * (len(shape) - 3)
    return Following(
        viewer,
        image,
        session=open_session(at),
        open_session=open_session,
        layers=layers,
        grid=grid,
        target=target,
        follows_slider=follows,
    )


@pytest.fixture
def running() -> Following:
    return open_following(SHAPE)


def shown(running: Following) -> np.ndarray:
    return np.asarray(running.layers.preview.data)


def test_clicks_of_the_object_in_work_are_shown_and_those_of_others_are_not(running: Following) -> None:
    points, session = running.layers.points, running.session
    points.add((2, 20, 30))
    assert session.prompts(1, 2).points.coords.tolist() == [[20, 30]]
    running.next_object()
    assert session.object_id == 2 and len(points.data) == 0
    points.add((4, 10, 10))
    assert session.prompts(2, 4).points.coords.tolist() == [[10, 10]]
    running.choose(1)
    assert points.data.tolist() == [[2, 20, 30]]
    assert running.layers.labels.selected_label == 1


def test_previews_of_the_plane_in_view_with_the_object_in_work_on_top(running: Following) -> None:
    running.go_to(3)
    running.layers.points.add((3, 20, 30))
    running.next_object()
    running.layers.points.add((3, 20, 40))
    plane = shown(running)[3]
    assert plane[20, 30] == 2 and plane[20, 40] == 1 and plane[20, 35] == 1
    running.choose(1)
    assert shown(running)[3, 20, 35] == 1 and shown(running)[3, 20, 44] == 2
    running.go_to(4)
    assert not shown(running).any()
    running.go_to(3)
    assert shown(running)[3].any()


def test_following_paints_all_frames_and_describes_objects(running: Following) -> None:
    running.layers.points.add((0, 20, 20))
    running.follow_forward()
    running.describe_objects()
    labels = running.target.array
    assert [int(labels[f, 20, 20 + f]) for f in range(12)] == [1] * 12
    assert not shown(running).any()
    table = running.layers.labels.features
    assert (
        table["index"].tolist() == [1] and table["first"].tolist() == [0] and table["last"].tolist() == [11]
    )
    running.undo()
    assert not labels.any() and len(running.layers.points.data) == 1


def test_ranges_in_both_directions(running: Following) -> None:
    running.layers.points.add((5, 20, 30))
    running.follow_range(5, 2)
    assert running.target.array.any(axis=(1, 2)).nonzero()[0].tolist() == [2, 3, 4, 5]
    running.follow_range(5, 7)
    assert running.target.array.any(axis=(1, 2)).nonzero()[0].tolist() == [2, 3, 4, 5, 6, 7]


def test_nothing_to_follow_is_said(running: Following) -> None:
    told = []
    running.told.connect(told.append)
    running.follow_both()
    running.paint_here()
    running.next_doubt()
    assert len(told) == 3 and "Click on an object first" in told[0]


def test_a_locked_frame_takes_no_click_and_keeps_its_labels(running: Following) -> None:
    told = []
    running.told.connect(told.append)
    running.go_to(4)
    running.flip_frame_lock()
    running.layers.points.add((4, 20, 30))
    assert "locked" in told[0] and len(running.layers.points.data) == 0
    running.layers.points.add((0, 20, 30))
    running.follow_forward()
    assert not running.target.array[4].any() and running.target.array[5].any()
    running.flip_frame_lock()
    assert running.session.locked_frames == frozenset()


def test_the_next_doubt_is_of_the_object_in_work_first(running: Following) -> None:
    running.layers.points.add((0, 20, 5))  # leaves the image nowhere; scores fade below the rule at frame 18
    running.session.doubts = type(running.session.doubts)(min_score=0.8)
    running.follow_forward()
    doubtful = running.session.track(1).doubtful.nonzero()[0].tolist()
    assert doubtful == [8, 9, 10, 11]
    running.next_doubt()
    assert running.frame == 8
    running.next_doubt()
    assert running.frame == 9
    running.go_to(11)
    running.next_doubt()
    assert running.frame == 8


def test_labels_as_prompts(running: Following) -> None:
    plane = np.zeros(SHAPE[1:], dtype=np.int64)
    for i in range(6):
        plane[4:8, 4 + 9 * i : 9 + 9 * i] = 10 + i
    layer = running.viewer.add_labels(plane, name="by hand")
    running.go_to(2)
    assert running.take_labels(layer) == 6
    assert running.session.object_ids == (1, 2, 3, 4, 5, 6)
    assert (shown(running)[2] > 0).sum() == (plane > 0).sum()
    running.follow_forward()
    assert sorted(np.unique(running.target.array[2])) == [0, 1, 2, 3, 4, 5, 6]
    assert np.array_equal(running.target.array[2] > 0, plane > 0)
    running.undo()
    running.undo()
    assert running.session.undo_title is None and not running.target.array.any()


def test_own_labels_become_prompts_under_their_own_ids(running: Following) -> None:
    running.target.array[3, 10:20, 10:20] = 7
    running.go_to(3)
    assert running.take_labels(running.layers.labels) == 1
    assert running.session.object_ids == (7,)


def test_labels_of_another_shape_are_refused() -> None:
    viewer = ViewerModel()
    layer = viewer.add_labels(np.zeros((5, 7), dtype=int))
    with pytest.raises(ImageError, match=r"\(5, 7\)"):
        read_label_plane(layer, index=(0,), shape=SHAPE)
    negative = viewer.add_labels(np.zeros(SHAPE, dtype=int) - 1)
    with pytest.raises(ImageError, match="negative"):
        read_label_plane(negative, index=(0,), shape=SHAPE)


@pytest.mark.parametrize("axis", [0, 1])
def test_time_and_depth_each_along_the_other(axis: int) -> None:
    running = open_following((4, 5, 48, 64), axis=axis, follows=True, names="tzyx")
    first = running.session
    running.layers.points.add((0, 0, 20, 20))
    running.follow_forward()
    other = (0, 2) if axis == 0 else (2, 0)
    running.viewer.dims.set_point([0, 1], [2.0 * i for i in other])
    assert running.is_elsewhere
    running.follow_slider()
    assert running.session is not first and not running.is_elsewhere
    assert len(running.layers.points.data) == 0 and running.session.object_id == 2
    running.layers.points.add((*other, 30, 30))
    running.follow_forward()
    along = running.target.array[(slice(None), 2) if axis == 0 else (2,)]
    assert (along == 2).any(axis=(1, 2)).all() and not (along == 1).any()
    running.viewer.dims.set_point([0, 1], [0.0, 0.0])
    running.follow_slider()
    assert running.session.object_ids == (1,) and running.layers.points.data.tolist() == [[0, 0, 20, 20]]


def test_an_axis_that_is_not_followed_refuses_clicks_elsewhere() -> None:
    running = open_following((4, 5, 48, 64), axis=0, follows=False, names="tzyx")
    told = []
    running.told.connect(told.append)
    running.viewer.dims.set_point([0, 1], [0.0, 4.0])
    running.follow_slider()
    running.layers.points.add((0, 2, 20, 20))
    assert running.session.object_ids == () and "another stack" in told[0]


def test_frame_axes_by_their_names() -> None:
    viewer = ViewerModel()
    data = np.zeros((3, 6, 8, 9), dtype=np.uint8)
    named = viewer.add_image(data, axis_labels=("z", "time", "y", "x"))
    axes = frame_axes(named)
    assert [(axis.letter, axis.name, axis.n_frames) for axis in axes] == [("Z", "Z", 3), ("T", "time", 6)]
    assert preferred_axis(axes) == 1
    plain = frame_axes(viewer.add_image(data[0]))
    assert [(axis.letter, axis.title) for axis in plain] == [("Z", "Z  (6 frames)")]
    assert frame_axes(viewer.add_image(data[0, 0])) == []
    single = frame_axes(viewer.add_image(data[:1], axis_labels=("t", "z", "y", "x")))
    assert preferred_axis(single) == 1  # one time point is nothing to follow through


def test_tracks_follow_the_objects_until_somebody_removes_them(running: Following) -> None:
    running.show_tracks(True)
    assert len(running.viewer.layers) == 5
    running.layers.points.add((0, 20, 20))
    running.follow_forward()
    running.describe_objects()
    tracks = running.viewer.layers["stack tracks"]
    assert tracks.data.shape == (12, 4) and np.allclose(tracks.scale, running.layers.labels.scale)
    running.next_object()
    running.layers.points.add((0, 30, 20))
    running.follow_forward()
    running.session.set_parents(2, [1])
    running.describe_objects()
    assert tracks.data.shape == (24, 4) and {k: list(v) for k, v in tracks.graph.items()} == {2: [1]}
    running.viewer.layers.remove(tracks)
    running.describe_objects()
    assert "stack tracks" not in running.viewer.layers


def test_colours_of_objects(running: Following) -> None:
    labels, colours = running.layers.labels, running.colours
    running.layers.points.add((0, 20, 20))
    running.follow_forward()
    usual = labels.get_color(1), labels.get_color(5)
    running.session.recolour(1, (1.0, 0.0, 0.5))
    running.describe_objects()
    assert np.allclose(labels.get_color(1)[:3], (1, 0, 0.5)) and np.allclose(labels.get_color(5), usual[1])
    assert colours.colour_of(1, (1.0, 0.0, 0.5)) == "#ff0080"
    running.undo()
    running.describe_objects()
    assert np.allclose(labels.get_color(1), usual[0])


def test_stopping_takes_everything_but_the_labels_away(running: Following) -> None:
    viewer, reasons = running.viewer, []
    running.stopped.connect(reasons.append)
    viewer.layers.remove(running.layers.labels)
    assert "removed" in reasons[0] and [layer.name for layer in viewer.layers] == ["stack"]
    assert not viewer.keymap and running._gestures not in viewer.mouse_drag_callbacks


def test_previews_forget_what_was_painted(running: Following) -> None:
    running.layers.points.add((1, 20, 30))
    preview, previews = running.session.preview(1, 1), StackPreviews()
    previews.put((1,), 1, preview)
    assert (1,) in previews and np.array_equal(previews.compose((1,), chosen=1) == 1, preview.mask)
    assert np.array_equal(previews.compose((1,), chosen=9) == 2, preview.mask)
    previews.put((1,), 1, None)
    assert (1,) not in previews and previews.compose((1,), chosen=1) is None


def test_a_saved_state_holds_the_work_and_shows_its_clicks(running: Following, tmp_path) -> None:
    running.layers.points.add((1, 20, 30))
    running.follow_both()
    running.session.rename(1, "mother")
    file = save_stack(running, tmp_path / "work.segany.json")
    state = load_state(file)
    left = VolumeState.from_json(state.stack.model_dump(mode="json"))
    assert left.records[1].name == "mother" and len(left.records[1].results) == SHAPE[0]
    layers = {how["name"]: data for data, how, _ in layers_of_state(state, folder=tmp_path)}
    assert layers["Saved clicks"].tolist() == [[1, 20, 30]]
    assert np.array_equal(np.asarray(layers["work"]), running.target.array)


def test_pace_and_time_left() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    pace.start()
    assert pace.per_second is None and pace.left_s(10) is None
    for done in range(1, 11):
        now[0] += 0.5
        pace.step(done)
    assert pace.per_second == pytest.approx(2) and pace.left_s(30) == pytest.approx(15)
    for done in range(11, 51):
        now[0] += 2.0
        pace.step(done)
    assert pace.per_second == pytest.approx(0.5)  # the last seconds count
    assert [time_text(s) for s in (8, 130, 3900)] == ["8 s", "2 min 10 s", "1 h 5 min"]


def test_classes_that_are_known_are_in_the_features_and_the_list() -> None:
    running = open_following(SHAPE, features={"index": [1, 7], "class": ["nucleus", "cell"]})
    running.layers.points.add((0, 20, 20))
    running.follow_forward()
    running.next_object()
    running.layers.points.add((0, 30, 20))
    running.describe_objects()
    assert [running.class_of(label) for label in (1, 2, 7)] == ["nucleus", "", "cell"]
    table = running.layers.labels.features
    assert dict(zip(table["index"], table["class"], strict=True)) == {1: "nucleus", 2: ""}
    row = ObjectRow(1, "", "#ffffff", 0.9, (0, 3), 0, False, running.class_of(1))
    assert row.title == "nucleus 1" and replace(row, name="mine").title == "mine"
    assert replace(row, class_name="").title == "Object 1"
