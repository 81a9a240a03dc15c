"""The bundled semantic-nano in the dock: six levels of a real answer, names that are kept, and everything at once."""

from __future__ import annotations

import os

import numpy as np
import pytest
from desks import open_desk

pytest.importorskip("torch")
pytestmark = [pytest.mark.canvas, pytest.mark.slow]

_SHOT = "SEGANY_SCREENSHOT"  # where a picture of the window goes, if somebody wants to look at it


def test_levels_names_and_everything_with_the_bundled_model(make_napari_viewer, qtbot) -> None:
    from napari_segany.predict.loading import load_model
    from napari_segany.train.scenes import render_scene
    from napari_segany.ui.finding import FindingPredictor

    scene = render_scene(5, kind="histology", size=(192, 192))
    thing = max(scene.objects, key=lambda each: each.mask.sum() if each.level == 3 else 0)
    rows, cols = np.nonzero(thing.mask)
    place = (thing.mask_rows.start + int(np.median(rows)), thing.mask_cols.start + int(np.median(cols)))
    predictor = FindingPredictor(load_model("semantic-nano", device="cpu"))
    desk = open_desk(make_napari_viewer, qtbot, predictor, scene.image)
    running = desk.start()
    desk.hand.click(*place)
    desk.settle()
    preview = running.session.preview(())
    assert sorted(preview.prediction.levels) == [1, 2, 3, 4, 5, 6]
    areas = []
    for _ in range(6):
        desk.hand.key("Down")
    for _ in range(6):
        areas.append(int(running.session.preview(()).mask.sum()))
        desk.hand.key("Up")
    assert areas == sorted(areas)
    chosen = running.session.preview(())
    desk.hand.key("Return")
    desk.settle()
    assert (desk.labels == 1).sum() == chosen.mask.sum()
    assert running.session.objects.rows[1].name == chosen.name
    assert list(running.layers.labels.features["class"]) == [chosen.name]
    if _SHOT in os.environ:
        desk.hand.click(*place)
        desk.settle()
        desk.viewer.screenshot(os.environ[_SHOT], canvas_only=False, flash=False)
    desk.leave()
