"""The bundled model in the dock for stacks: a real network follows a blob that moves."""

import numpy as np
import pytest
from stack_desks import open_stack

pytest.importorskip("torch")
pytestmark = [pytest.mark.canvas, pytest.mark.slow]


@pytest.fixture
def blob() -> np.ndarray:
    """(16, 128, 128) 12-bit frames with one bright blob that moves to the right; its centre is (64, 40 + 2 t)."""
    rows, cols = np.indices((128, 128))
    frames = [np.exp(-((((rows - 64) ** 2 + (cols - 40 - 2 * t) ** 2) / 240.0) ** 4)) for t in range(16)]
    noise = np.random.default_rng(0).normal(0, 40, (16, 128, 128))
    return np.clip(300 + 2400 * np.array(frames) + noise, 0, 4095).astype(np.uint16)


def truth(frame: int) -> np.ndarray:
    rows, cols = np.indices((128, 128))
    return np.hypot(rows - 64, cols - 40 - 2 * frame) < 15


def test_the_bundled_model_follows_a_blob(make_napari_viewer, qtbot, blob) -> None:
    from napari_segany.predict.loading import load_model
    from napari_segany.predict.video import VideoPredictor

    predictor = VideoPredictor(load_model("sam2-nano", device="cpu"))
    desk = open_stack(make_napari_viewer, qtbot, predictor, blob, name="blob", axis_labels="tyx")
    desk.start()
    desk.go_to(1)
    desk.go_to(0)
    desk.hand.click(64, 40)
    desk.settle()
    desk.hand.key("Return")
    desk.settle()
    overlaps = []
    for frame in range(16):
        found = desk.labels[frame] == 1
        overlaps.append((found & truth(frame)).sum() / (found | truth(frame)).sum())
    assert np.mean(overlaps) > 0.8, np.round(overlaps, 2).tolist()
    assert (desk.session.track(1).scores > 0).all()
    desk.hand.key("Z", ctrl=True)
    desk.settle()
    assert not desk.labels.any()
    desk.leave()
