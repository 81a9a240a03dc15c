"""Levels and class names in the dock: keys on the canvas, the mouse on the slider, text in the line."""

from types import SimpleNamespace

import numpy as np
import pytest
from desks import open_desk
from ladder_fakes import OWN, LadderPredictor
from qtpy.QtCore import Qt
from session_fakes import FakePredictor

from napari_segany.io.label_store import LabelStore
from napari_segany.ui import hooks
from napari_segany.ui.settings import Settings

pytestmark = pytest.mark.canvas


@pytest.fixture
def predictor() -> LadderPredictor:
    return LadderPredictor(radii=(2, 4, 7, 12, 20, 30))


@pytest.fixture
def kept(monkeypatch) -> SimpleNamespace:
    """What napari keeps for the plugin, which it does where the plugin is installed."""
    import napari.settings

    chosen = Settings()
    inference = SimpleNamespace(
        model=chosen.model,
        device=chosen.device,
        precision=chosen.precision,
        fine=chosen.fine,
        cache_mb=chosen.cache_mb,
        keep_features=False,
        features_gb=chosen.features_gb,
        classes=chosen.classes,
    )
    labels = SimpleNamespace(folder="", autosave=False, colour_by_class=chosen.is_coloured_by_class)
    kept = SimpleNamespace(inference=inference, labels=labels)
    monkeypatch.setattr(napari.settings, "get_plugin_settings", lambda name: kept)
    return kept


def drawn(desk) -> np.ndarray:
    """What the preview layer gave to the canvas."""
    return desk.running.layers.preview._slice.image.view == 1


def slide(desk, level: int) -> None:
    slider = desk.widget.work.ladder.slider
    desk.qtbot.mouseClick(slider, Qt.MouseButton.LeftButton, pos=slider.place_of(level).toPoint())


def write_classes(desk, text: str) -> None:
    line = desk.widget.work.classes.line
    line.clear()
    desk.qtbot.keyClicks(line, text)
    desk.qtbot.keyClick(line, Qt.Key.Key_Return)
    desk.settle()


def test_keys_and_slider_switch_the_preview_without_asking(desk, predictor) -> None:
    running = desk.start()
    ladder = desk.widget.work.ladder
    assert ladder.auto.isChecked() and ladder.slider.isEnabled()
    desk.hand.click(40, 60)
    desk.settle()
    shown = running.session.preview(())
    assert shown.level == ladder.slider.value() == 4 and ladder.slider.stops == (1, 2, 3, 4, 5, 6)
    assert "6 different" in ladder.count.text() and np.array_equal(drawn(desk), shown.mask)
    levels = []
    for act in ("Up", "Up", "Up", "Down", 2, 1, 6, 3):
        if isinstance(act, str):
            desk.hand.key(act)
        else:
            slide(desk, act)
        preview = running.session.preview(())
        levels.append(preview.level)
        assert np.array_equal(drawn(desk), preview.mask), "the canvas was given another mask"
        assert np.array_equal(np.asarray(running.layers.preview.data) == 1, preview.mask)
        assert ladder.slider.value() == preview.level and not ladder.auto.isChecked()
    assert levels == [5, 6, 6, 5, 2, 1, 6, 3] and len(predictor.asked) == 1
    ladder.auto.click()
    assert running.session.level is None and running.session.preview(()).level == 4
    ladder.auto.click()
    assert running.session.level == 4


def test_the_canvas_itself_shows_the_level(desk) -> None:
    """Pixels of a screenshot, since what is on its way to the canvas is not yet seen."""
    desk.start()
    desk.hand.click(48, 64)
    desk.settle()
    areas = []
    for level in (6, 1, 4):
        slide(desk, level)
        desk.settle()
        picture = desk.viewer.screenshot(canvas_only=True, flash=False).astype(int)
        yellowish = (picture[..., 0] > 90) & (picture[..., 2] < picture[..., 0] - 40)
        areas.append(int(yellowish.sum()))
    assert areas[0] > 2 * areas[2] > 10 * areas[1] > 0


def test_dragging_the_slider_goes_from_stop_to_stop(desk) -> None:
    running = desk.start()
    desk.hand.click(40, 60)
    desk.settle()
    slider, seen = desk.widget.work.ladder.slider, []
    running.session.level_changed.connect(seen.append)
    places = [slider.place_of(level).toPoint() for level in (1, 2, 3, 5)]
    desk.qtbot.mousePress(slider, Qt.MouseButton.LeftButton, pos=places[0])
    for place in places[1:]:
        desk.qtbot.mouseMove(slider, place)
        desk.qtbot.wait(10)
    desk.qtbot.mouseRelease(slider, Qt.MouseButton.LeftButton, pos=places[-1])
    assert seen[0] == 1 and seen[-1] == 5 and seen == sorted(seen)
    assert running.session.preview(()).level == 5


def test_the_level_stays_for_the_next_object_and_the_next_start(desk) -> None:
    desk.start()
    desk.hand.key("Up")  # before anything was clicked
    desk.hand.key("Up")
    assert desk.running.session.level == 5
    for row in (30, 60):
        desk.hand.click(row, 60)
        desk.settle()
        assert desk.running.session.preview(()).level == 5
        desk.hand.key("Return")
        desk.settle()
    assert desk.running.layers.labels.features["level"].tolist() == [5, 5]
    desk.widget.stop()
    desk.start()
    assert desk.running.session.level == desk.widget.work.ladder.slider.value() == 5
    assert not desk.widget.work.ladder.auto.isChecked()


def test_three_masks_and_one(make_napari_viewer, qtbot, image) -> None:
    desk = open_desk(make_napari_viewer, qtbot, FakePredictor(), image)
    running = desk.start()
    ladder = desk.widget.work.ladder
    desk.hand.click(40, 60)
    desk.settle()
    assert ladder.slider.stops == (2, 4, 6) and ladder.slider.isEnabled()
    slide(desk, 5)
    shown = running.session.preview(())
    assert ladder.slider.value() == 5 and shown.level == 4 and "None at level 5" in ladder.count.text()
    desk.hand.key("Up")
    assert running.session.level == 6
    desk.hand.click(42, 62)
    desk.settle()
    assert len(running.session.preview(()).prediction) == 1
    assert not ladder.slider.isEnabled() and "single mask" in ladder.slider.toolTip()
    desk.hand.key("Down")
    assert running.session.level == 6, "a key chose where there is nothing to choose"
    desk.hand.key("Return")
    desk.settle()
    assert ladder.slider.isEnabled()
    desk.leave()


def test_planes_have_their_own_masks_and_one_level(make_napari_viewer, qtbot, predictor) -> None:
    stack = np.random.default_rng(1).integers(0, 255, (3, 96, 128), dtype=np.uint8)
    desk = open_desk(make_napari_viewer, qtbot, predictor, stack)
    running = desk.start()
    for plane in (0, 2):
        desk.viewer.dims.set_point(0, plane)
        desk.settle()
        desk.hand.click(30 + 10 * plane, 60)
        desk.settle()
    slide(desk, 2)
    assert np.array_equal(drawn(desk), running.session.preview((2,)).mask)
    desk.viewer.dims.set_point(0, 0)
    desk.settle()
    assert running.session.preview((0,)).level == 2
    assert np.array_equal(drawn(desk), running.session.preview((0,)).mask)
    desk.viewer.dims.set_point(0, 1)
    desk.settle()
    assert not drawn(desk).any() and "Click" in desk.widget.work.ladder.count.text()
    assert desk.widget.work.status.text().startswith("Click")
    desk.hand.key("Down")
    assert running.session.level == 1
    desk.viewer.dims.set_point(0, 2)
    desk.settle()
    assert np.array_equal(drawn(desk), running.session.preview((2,)).mask)
    desk.leave()


def test_contours_are_drawn_as_a_whole(desk) -> None:
    running = desk.start()
    running.layers.preview.contour = 2
    desk.hand.click(40, 60)
    desk.settle()
    slide(desk, 6)
    mask = running.session.preview(()).mask
    outline = drawn(desk)
    assert outline.any() and not outline[40, 60] and not (outline & ~mask).any()


class TestNames:
    def test_go_from_the_answer_to_the_table_and_the_files(self, desk, predictor, tmp_path) -> None:
        running = desk.start()
        for row, level in ((20, 2), (48, 4), (75, 1)):
            slide(desk, level)
            desk.hand.click(row, 60)
            desk.settle()
            assert desk.widget.work.status.text().startswith(OWN[level - 1] + ", ")
            desk.hand.key("Return")
            desk.settle()
        desk.hand.key("Z", ctrl=True)
        desk.settle()
        expected = {1: "nucleolus", 2: "nucleus"}
        features = running.layers.labels.features
        assert dict(zip(features["index"], features["class"], strict=True)) == expected
        desk.widget.save(tmp_path / "copy.ome.zarr")
        desk.widget.save(tmp_path / "work.segany.json")
        store = running.target.path
        desk.widget.stop()
        for path in (store, tmp_path / "copy.ome.zarr", tmp_path / "work.segany.json"):
            layers = [data for data in hooks.read(str(path)) if data[2] == "labels"]
            assert len(layers) == 1, path
            table = layers[0][1]["features"]
            assert dict(zip(table["index"], table["class"], strict=True)) == expected, path
            assert list(table["level"]) == [2, 4]

    def test_are_known_to_a_session_over_reopened_labels(self, desk, tmp_path) -> None:
        desk.start()
        slide(desk, 5)
        desk.hand.click(40, 60)
        desk.settle()
        desk.hand.key("Return")
        desk.settle()
        desk.widget.save(tmp_path / "copy.ome.zarr")
        desk.widget.stop()
        ((data, how, _),) = hooks.read(str(tmp_path / "copy.ome.zarr"))
        layer = desk.viewer.add_labels(data, **{**how, "name": "copy"})
        desk.widget.choices.labels.layer = layer
        running = desk.start()
        assert running.layers.labels is layer and running.session.objects.rows[1].name == "cell"
        desk.hand.click(80, 100)
        desk.settle()
        desk.hand.key("Return")
        desk.settle()
        assert layer.features["class"].tolist() == ["cell", "cell"]
        desk.widget.stop()
        ((_, how, _),) = hooks.read(str(tmp_path / "copy.ome.zarr"))
        assert list(how["features"]["class"]) == ["cell", "cell"]
        with LabelStore.open(tmp_path / "copy.ome.zarr", read_only=True) as store:
            assert store.records()[-1].note["class"] == "cell"

    def test_follow_the_line_of_classes(self, kept, desk) -> None:
        running = desk.start()
        box = desk.widget.work.classes
        assert box.line.isVisible() and "colony" in box.line.placeholderText()
        desk.hand.click(40, 60)
        desk.settle()
        write_classes(desk, " small ,large,, small")
        assert running.session.classes == ("small", "large") and box.line.text() == "small, large"
        assert running.session.preview(()).name == "large" and kept.inference.classes == "small, large"
        assert desk.widget.work.status.text().startswith("large, ")
        desk.hand.key("Return")
        desk.settle()
        assert running.layers.labels.features["class"].tolist() == ["large"], (
            "Enter in the line committed too"
        )
        desk.widget.stop()
        desk.start()
        assert desk.running.session.classes == ("small", "large")
        desk.qtbot.keyClicks(box.line, ", and")
        desk.qtbot.keyClick(box.line, Qt.Key.Key_Up)
        desk.qtbot.keyClick(box.line, Qt.Key.Key_Escape)
        assert box.line.text() == "small, large" and desk.running.session.level is None
        write_classes(desk, "")
        assert desk.running.session.classes == ()

    def test_a_refused_list_is_told_and_taken_back(self, desk) -> None:
        from napari.utils.notifications import notification_manager

        running = desk.start()
        desk.hand.click(40, 60)
        desk.settle()
        write_classes(desk, "refused")
        assert running.session.classes == () and desk.widget.work.classes.line.text() == ""
        assert any("no word" in note.message for note in notification_manager.records)

    def test_colours_are_those_of_the_classes(self, kept, desk) -> None:
        from napari_segany.ui.class_colours import colour_of_class

        running = desk.start()
        labels, box = running.layers.labels, desk.widget.work.classes
        usual = labels.colormap
        box.colours.click()
        assert labels.colormap is usual, "there is no class yet"
        for row, level in ((20, 4), (48, 4), (75, 1)):
            slide(desk, level)
            desk.hand.click(row, 60)
            desk.settle()
            desk.hand.key("Return")
            desk.settle()
        colours = [tuple(labels.colormap.map(label)[:3]) for label in (1, 2, 3)]
        assert colours[0] == colours[1] == pytest.approx(colour_of_class("nucleus"), abs=0.01)
        assert colours[2] == pytest.approx(colour_of_class("granule"), abs=0.01)
        assert "nucleus" in box.legend.text() and "(2)" in box.legend.text()
        assert kept.labels.colour_by_class
        desk.hand.key("Z", ctrl=True)
        desk.settle()
        assert tuple(labels.colormap.map(3)[:3]) != pytest.approx(colour_of_class("granule"), abs=0.01)
        box.colours.click()
        assert labels.colormap is usual and not kept.labels.colour_by_class

    def test_models_without_words_have_no_line(self, make_napari_viewer, qtbot, image) -> None:
        desk = open_desk(make_napari_viewer, qtbot, FakePredictor(), image)
        desk.start()
        box = desk.widget.work.classes
        assert not (box.line.isVisible() or box.title.isVisible() or box.colours.isVisible())
        desk.running.session.set_predictor(LadderPredictor)
        desk.settle()
        assert box.line.isVisible() and box.title.isVisible() and box.colours.isVisible()
        desk.leave()
