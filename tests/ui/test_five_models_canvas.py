"""Seven models of five families on one canvas, without restart: real networks, small, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from desks import open_desk

pytest.importorskip("torch")
pytestmark = pytest.mark.canvas

NAMES = (
    "sam_vit_b",
    "mobile_sam",
    "sam_hq_vit_tiny",
    "sam2.1_hiera_tiny",
    "microsam_vit_b_lm",
    "sam2-nano",
)
SHAPE = (3, 96, 128)


@pytest.fixture
def small_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the released names load small networks with random weights from files."""
    import torch
    from safetensors.torch import save_file
    from tests.contracts.shrink import WIDTH, shrunken

    from napari_segany.models import build
    from napari_segany.models.unetr import UnetrConfig, UnetrDecoder
    from napari_segany.predict import loading

    finder = UnetrConfig(WIDTH, (16, 8, 4, 2))

    def file_of(name: str, make) -> Path:
        path = tmp_path / f"{name}.safetensors"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(len(name))
                save_file({k: v.contiguous() for k, v in make().state_dict().items()}, path)
        return path

    for name in NAMES:
        monkeypatch.setitem(build.CONFIGS, name, shrunken(build.CONFIGS[name]))
    monkeypatch.setattr(loading, "key_map_of", lambda config: lambda key: key)
    monkeypatch.setattr(loading, "unetr_config_of", lambda keys: finder)
    monkeypatch.setattr(
        loading,
        "find_weights",
        lambda spec, *, progress=None: file_of(spec.name, lambda: build.build_model(spec.name)),
    )
    monkeypatch.setattr(
        loading,
        "find_decoder",
        lambda spec, *, progress=None: (
            None if spec.decoder is None else file_of("decoder", lambda: UnetrDecoder(finder))
        ),
    )
    return tmp_path


def choose(desk, name: str) -> None:
    """Type a model's name into the dock, press Enter, and agree to its licence if one is shown."""
    from qtpy.QtCore import Qt

    box = desk.widget.choices.models
    box.lineEdit().selectAll()
    desk.qtbot.keyClicks(box.lineEdit(), name)
    desk.qtbot.keyClick(box.lineEdit(), Qt.Key.Key_Return)
    box.completer().popup().hide()
    if desk.widget.licence.isVisible():
        desk.qtbot.mouseClick(desk.widget.licence.agree, Qt.MouseButton.LeftButton)
    desk.settle()


def prompt_three_planes(desk) -> None:
    """Two clicks, a box, and an outline, each on a plane of its own."""
    running = desk.running
    desk.viewer.dims.set_point(0, 0)
    desk.settle()
    desk.hand.click(40, 60)
    desk.settle()
    desk.hand.click(60, 90, right=True)
    desk.settle()
    desk.viewer.dims.set_point(0, 1)
    desk.settle()
    desk.hand.drag((20, 30), (60, 90), shift=True)
    desk.settle()
    desk.viewer.dims.set_point(0, 2)
    desk.viewer.layers.selection.active = running.layers.shapes
    running.layers.shapes.mode = "add_polygon"
    for corner in ((20, 20), (20, 80), (60, 80), (60, 20)):
        desk.hand.click(*corner)
    desk.hand.key("Return")
    desk.settle()
    desk.viewer.layers.selection.active = running.layers.points


def test_six_models_without_restart_and_every_prompt_stays(
    make_napari_viewer, qtbot, small_rows: Path
) -> None:
    from napari_segany.ui.loading import load_predictor

    stack = np.random.default_rng(1).integers(0, 4000, SHAPE, dtype=np.uint16)
    desk = open_desk(make_napari_viewer, qtbot, None, stack, load=load_predictor)
    running = desk.start()
    session = running.session
    desk.hand.click(80, 20)
    desk.settle()
    desk.hand.key("Return")  # one object is committed before the switches
    desk.settle()
    committed, ids, title = desk.labels.copy(), session.object_id, session.undo_title
    prompt_three_planes(desk)
    before, drawn = session.state().prompts, len(running.layers.shapes.data)
    assert [len(before[(i,)].points) for i in range(2)] == [2, 0] and before[(1,)].box and drawn == 2
    answered = {}
    for name in NAMES:
        choose(desk, name)
        assert desk.running is running and session.card.name == name
        after = session.state().prompts
        assert list(after) == list(before) and all(after[index] is before[index] for index in before)
        shown = {index: session.preview(index) for index in before}
        assert {preview.card.name for preview in shown.values()} == {name}
        answered[name] = np.stack([preview.mask for preview in shown.values()])
        assert len(running.layers.points.data) == 2 and len(running.layers.shapes.data) == drawn
        assert np.array_equal(desk.labels, committed) and session.object_id == ids
    others = [answered[name] for name in NAMES]
    same = [(a, b) for a in range(6) for b in range(a) if np.array_equal(others[a], others[b])]
    assert not same, "two models gave the same masks: one of them did not answer"
    desk.hand.click(44, 60)  # what is clicked now refines the last model's answer
    desk.settle()
    assert session.preview((2,)).card.name == NAMES[-1]
    while session.undo_title != title:
        desk.hand.key("Z", ctrl=True)
        desk.settle()
    assert not session.state().prompts and np.array_equal(desk.labels, committed)
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert committed.any() and not desk.labels.any()
    desk.leave()


def test_every_object_by_a_small_micro_sam(make_napari_viewer, qtbot, small_rows: Path) -> None:
    from napari_segany.ui.loading import load_predictor

    image = np.random.default_rng(2).integers(0, 4000, SHAPE[1:], dtype=np.uint16)
    desk = open_desk(make_napari_viewer, qtbot, None, image, load=load_predictor)
    choose(desk, "microsam_vit_b_lm")
    desk.widget.start_button.click()
    desk.widget.licence.agree.click()
    desk.settle()
    assert desk.widget.work.find_all.isEnabled()
    failed, found = [], []
    desk.running.session.failed.connect(failed.append)
    desk.running.session.labels_changed.connect(found.append)
    desk.widget.work.find_all.click()
    desk.settle()
    assert len(failed) + len(found) == 1  # random distances may hold no object
    assert all("found no object" in str(error) for error in failed)
    desk.leave()
