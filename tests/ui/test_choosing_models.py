"""Models in the dock: the list, typing, licences, downloads, fine boundaries, and what fails."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from desks import open_desk
from session_fakes import FakePredictor

from napari_segany.core.errors import DownloadError
from napari_segany.models.registry import list_models
from napari_segany.ui import model_box
from napari_segany.ui.fine_box import FineBox
from napari_segany.ui.model_box import ModelBox, group_of
from napari_segany.ui.settings import remember_fine

MICRO = "microsam_vit_b_lm"


class Shelf:
    """Loads fakes by name, as models.registry's rows say what they can; `before` runs on the worker."""

    def __init__(self) -> None:
        self.made: dict[str, FakePredictor] = {}
        self.before = {}

    def __call__(self, name, settings, progress) -> FakePredictor:
        self.before.get(name, lambda progress: None)(progress)
        rows = {spec.name: spec for spec in list_models()}
        has_fine = name in rows and rows[name].has_fine
        finds = name in rows and rows[name].decoder is not None
        self.made[name] = FakePredictor(name, has_fine=has_fine, finds_instances=finds)
        return self.made[name]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def desk(make_napari_viewer, qtbot, image, shelf):
    desk = open_desk(make_napari_viewer, qtbot, None, image, load=shelf)
    yield desk
    desk.leave()


def choose(desk, name: str) -> None:
    """Type a model's name into the box and press Enter."""
    type_into(desk.widget.choices.models, desk.qtbot, name)


def type_into(box: ModelBox, qtbot, text: str) -> None:
    from qtpy.QtCore import Qt

    box.lineEdit().selectAll()
    qtbot.keyClicks(box.lineEdit(), text)
    qtbot.keyClick(box.lineEdit(), Qt.Key.Key_Return)
    box.completer().popup().hide()


def told() -> list[str]:
    from napari.utils.notifications import notification_manager

    return [str(note.message) for note in notification_manager.records]


class TestTheList:
    @pytest.fixture
    def box(self, qtbot) -> ModelBox:
        box = ModelBox(list_models(), chosen="sam2-nano", ask_file=lambda _: "")
        qtbot.addWidget(box)
        return box

    def test_every_model_is_there_once_under_its_family(self, box: ModelBox) -> None:
        names = [box.itemData(i) for i in range(box.count()) if box.itemData(i)]
        assert sorted(names) == sorted(spec.name for spec in list_models())
        assert names[0] == "sam2-nano" and box.name == "sam2-nano" and box.currentText() == "sam2-nano"
        titles = [box.itemText(i) for i in range(box.count()) if box.itemData(i) is None]
        assert [title.strip("— ") for title in titles] == list(
            dict.fromkeys(title for _, title in model_box._GROUPS)
        )
        assert {group_of(spec) for spec in list_models("microsam*")} == {"micro-sam"}
        assert {group_of(spec) for spec in list_models("*hq*") if not spec.is_bundled} == {"HQ-SAM"}
        assert not box.model().item(0).isEnabled()

    def test_downloads_licences_and_sizes_are_said(self, box: ModelBox) -> None:
        place = box.findData("sam_vit_h")
        assert box.itemText(place) == "sam_vit_h  (download, 2565 MB)"
        tip = box.itemData(box.findData(MICRO), 3)
        assert "CC-BY-4.0" in tip and "credits micro-sam" in tip and "Finds every object" in tip

    @pytest.mark.parametrize(
        ("typed", "name"),
        [("mobile_sam", "mobile_sam"), ("hiera_base", "sam2-nano"), ("hq_vit_tiny", "sam_hq_vit_tiny")],
    )
    def test_typing_takes_what_alone_fits(self, box: ModelBox, qtbot, typed: str, name: str) -> None:
        chosen = []
        box.chosen.connect(chosen.append)
        type_into(box, qtbot, typed)
        assert box.name == name and chosen == ([] if name == "sam2-nano" else [name])
        assert box.currentText() == box.itemText(box.findData(name))

    @pytest.mark.parametrize("file", ["", "/somewhere/mine.pt"])
    def test_somebodys_own_file(self, qtbot, file: str) -> None:
        box = ModelBox(list_models(), chosen="sam2-nano", ask_file=lambda _: file)
        qtbot.addWidget(box)
        chosen = []
        box.chosen.connect(chosen.append)
        box.setCurrentIndex(box.count() - 1)
        box.activated.emit(box.count() - 1)
        assert chosen == ([file] if file else [])
        assert box.name == (file or "sam2-nano")
        assert box.currentText() == (Path(file).name or "sam2-nano") and (box.spec is None) == bool(file)


class TestFineBox:
    def test_is_for_models_that_draw_them(self, qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [spec for spec in list_models() if spec.name != "sam2-hq-nano"]
        monkeypatch.setattr("napari_segany.ui.fine_box.list_models", lambda: rows)
        box = FineBox()
        qtbot.addWidget(box)
        box.follow("sam2-nano", has_fine=False, is_on=True)
        assert not box.isEnabled() and not box.isChecked() and "sam_hq_vit_tiny" in box.toolTip()
        box.follow("sam_hq_vit_b", has_fine=True, is_on=True)
        assert box.isEnabled() and box.isChecked()

    def test_offers_the_sibling_where_it_is_listed(self, qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
        from napari_segany.models.rows import NANO, NANO_HQ

        monkeypatch.setattr("napari_segany.ui.fine_box.list_models", lambda: [NANO, NANO_HQ])
        box = FineBox()
        qtbot.addWidget(box)
        box.follow("sam2-nano", has_fine=False, is_on=True)
        assert box.isEnabled() and not box.isChecked() and "sam2-hq-nano" in box.toolTip()


def test_the_wish_is_a_setting_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    import napari.settings

    kept = SimpleNamespace(inference=SimpleNamespace(fine=True))
    monkeypatch.setattr(napari.settings, "get_plugin_settings", lambda name: kept)
    remember_fine(False)
    assert kept.inference.fine is False


@pytest.mark.canvas
class TestInTheDock:
    def test_fine_boundaries_are_switched_and_remembered(
        self, desk, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wishes: list[bool] = []
        monkeypatch.setattr("napari_segany.ui.annotate.remember_fine", wishes.append)
        choose(desk, "sam_hq_vit_tiny")
        running, box, work = desk.start(), desk.widget.choices.fine, desk.widget.work
        assert box.isEnabled() and box.isChecked()
        desk.hand.click(4, 60)
        desk.settle()
        assert len(running.session.preview(()).prediction) == 1
        assert not work._larger.isEnabled()
        desk.hand.key("Period")  # one candidate: nothing to go to
        box.click()
        desk.settle()
        assert running.session.fine is False and not running.session.preview(()).has_fine
        assert work._larger.isEnabled() and len(shelf.made["sam_hq_vit_tiny"].embedded) == 1
        assert wishes == [False]
        choose(desk, "mobile_sam")
        desk.settle()
        assert not box.isEnabled() and "sam_hq_vit_tiny" in box.toolTip()

    @pytest.mark.parametrize("key", ["Key_Return", "Key_Enter", "Key_Escape"])
    def test_enter_and_escape_while_typing_leave_the_object_alone(self, desk, key: str) -> None:
        from qtpy.QtCore import Qt

        running, line = desk.start(), desk.widget.choices.models.lineEdit()
        desk.hand.click(40, 60)
        desk.settle()
        line.setFocus()
        desk.qtbot.keyClicks(line, "xyz")
        desk.qtbot.keyClick(line, getattr(Qt.Key, key))
        desk.settle()
        assert len(running.session.prompts(()).points) == 1 and not desk.labels.any()
        assert line.text() == "sam2-nano"

    def test_a_model_that_cannot_be_had_leaves_the_old_one(self, desk, shelf: Shelf) -> None:
        def offline(progress) -> None:
            raise DownloadError("mobile_sam is not on this machine and $SEGANY_OFFLINE is set")

        shelf.before["mobile_sam"] = offline
        running = desk.start()
        desk.hand.click(40, 60)
        desk.settle()
        shown = running.session.preview(())
        choose(desk, "mobile_sam")
        desk.settle()
        assert desk.widget.choices.models.name == "sam2-nano" and running.session.preview(()) is shown
        assert any("SEGANY_OFFLINE" in text for text in told()) and any("goes on" in text for text in told())
        desk.hand.click(44, 60)
        desk.settle()
        assert shelf.made["sam2-nano"].asked[-1].mask is not None

    def test_a_licence_is_asked_once_before_the_download(self, desk, shelf: Shelf) -> None:
        bar, models = desk.widget.licence, desk.widget.choices.models
        running = desk.start()
        choose(desk, MICRO)
        assert bar.isVisible() and "CC-BY-4.0" in bar.note.text() and MICRO not in shelf.made
        bar.refuse.click()
        assert not bar.isVisible() and models.name == "sam2-nano"
        choose(desk, MICRO)
        bar.agree.click()
        desk.settle()
        assert running.session.card.name == MICRO and not bar.isVisible()
        choose(desk, "sam2-nano")
        desk.settle()
        choose(desk, MICRO)
        desk.settle()
        assert running.session.card.name == MICRO

    def test_start_asks_too(self, desk, shelf: Shelf) -> None:
        choose(desk, MICRO)
        desk.widget.start_button.click()
        assert desk.running is None and desk.widget.licence.isVisible()
        desk.widget.licence.agree.click()
        desk.settle()
        assert desk.running is not None and desk.running.session.card.name == MICRO

    def test_downloads_show_how_far_they_are_and_are_called_off(self, desk, shelf: Shelf) -> None:
        began, ended = threading.Event(), threading.Event()

        def download(progress) -> None:
            try:
                for done in range(3000):
                    progress(done << 20, 3000 << 20, "mobile_sam.pt")  # more bytes than Qt can count
                    began.set()
                    ended.wait(0.01)
            finally:
                ended.set()

        shelf.before["mobile_sam"] = download
        running, busy = desk.start(), desk.widget.work.busy
        choose(desk, "mobile_sam")
        assert began.wait(10)
        desk.qtbot.waitUntil(lambda: busy.isVisible() and "of 3146 MB" in busy._title.text(), timeout=10_000)
        assert busy._bar.maximum() == 3000 << 10
        busy.cancelled.emit()
        assert ended.wait(10)
        desk.settle()
        assert running.session.card.name == "sam2-nano" and desk.widget.choices.models.name == "sam2-nano"
        assert not busy.isVisible() and "mobile_sam" not in shelf.made
        del shelf.before["mobile_sam"]
        choose(desk, "mobile_sam")
        desk.settle()
        assert running.session.card.name == "mobile_sam"

    def test_every_object_at_once(self, desk) -> None:
        button = desk.widget.work.find_all
        desk.start()
        assert not button.isEnabled() and "micro-sam" in button.toolTip()
        choose(desk, MICRO)
        desk.widget.licence.agree.click()
        desk.settle()
        assert button.isEnabled()
        button.click()
        desk.settle()
        assert desk.labels.max() == 12 * 16
        desk.hand.key("Z", ctrl=True)
        desk.settle()
        assert not desk.labels.any()

    def test_warnings_from_the_worker_are_notifications(self, desk, shelf: Shelf) -> None:
        text = "mobile_sam ran out of memory on cuda with an image; it goes on with the CPU"
        shelf.before["mobile_sam"] = lambda progress: warnings.warn(text, RuntimeWarning, stacklevel=2)
        desk.start()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            choose(desk, "mobile_sam")
            desk.settle()
        desk.qtbot.waitUntil(lambda: text in told(), timeout=10_000)
        assert text in told()

    def test_features_outlive_the_window(self, desk, tmp_path: Path) -> None:
        from napari_segany.io.features import FeatureStore
        from napari_segany.ui.settings import Settings, features_folder
        from napari_segany.ui.start import features_store

        assert features_folder() == tmp_path / "cache" / "features"
        store = features_store(Settings())
        assert isinstance(store, FeatureStore) and store.max_bytes == 2 * 10**9
        assert features_store(Settings(is_keeping_features=False)) is None
        assert desk.start().session._model._stored is not None
