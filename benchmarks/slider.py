"""How long the slider takes: from a key or mouse event to the preview of another level on the canvas."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_segany.core.granularity import LEVELS, levels_of
from napari_segany.core.intensity import Window
from napari_segany.core.types import MaskPrediction, ModelCard, Prompt

STAGES = ("begun", "drawn", "shown")
"""The canvas begins to draw; it has drawn; the window, docks and all, was handed to the screen."""
PATIENCE_S = 5.0
GOAL_MS = 20.0


@dataclass(frozen=True)
class ReadyFeatures:
    """What is known of an image: its shape."""

    image_shape: tuple[int, int]
    window: Window
    nbytes: int = 0


class NestedDisks:
    """A predictor that answers any click with six nested disks at once, up to a third of the image's side."""

    card = ModelCard("six disks", "0" * 64)

    def embed(self, image: np.ndarray, *, window: Window | None = None) -> ReadyFeatures:
        """Return what is known."""
        return ReadyFeatures((image.shape[0], image.shape[1]), window or Window(0, 1))

    def predict(
        self, features: ReadyFeatures, prompt: Prompt, *, multimask: bool = True, fine: bool | None = None
    ) -> MaskPrediction:
        """Return six masks."""
        side = min(features.image_shape)
        row, col = prompt.points.coords[0]
        rows, cols = np.ogrid[: features.image_shape[0], : features.image_shape[1]]
        squares = (rows - row) ** 2 + (cols - col) ** 2
        masks = np.stack([squares <= (side * share) ** 2 for share in np.geomspace(0.01, 0.33, len(LEVELS))])
        scores = np.linspace(0.9, 0.4, len(LEVELS)).astype(np.float32)
        return MaskPrediction(masks, scores, np.zeros((6, 4, 4), dtype=np.float32), levels_of(masks))

    def predict_many(self, features, prompts, *, multimask=True, fine=None):
        """Return six masks for each."""
        return [self.predict(features, one, multimask=multimask, fine=fine) for one in prompts]


class Screen:
    """Waits for a canvas to have drawn, and for the window system to have been given the picture."""

    def __init__(self, viewer) -> None:
        from qtpy.QtWidgets import QApplication

        self.app = QApplication.instance()
        self.scene = viewer.window._qt_viewer.canvas._scene_canvas
        self.began = self.drawn = self.swapped = 0.0
        self.scene.events.draw.connect(self._on_begin, position="first")
        self.scene.events.draw.connect(self._on_draw, position="last")
        self.scene.native.frameSwapped.connect(self._on_swap)

    def _on_begin(self, event) -> None:
        self.began = time.perf_counter()

    def _on_draw(self, event) -> None:
        from vispy.gloo import gl

        gl.glFinish()  # a software renderer draws when it is asked for the result
        self.drawn = time.perf_counter()

    def _on_swap(self) -> None:
        self.swapped = time.perf_counter()

    def timed(self, act: Callable[[], None]) -> tuple[float, float, float]:
        """Do something, and return the seconds until each of `STAGES`."""
        self.rest()
        self.began = self.drawn = self.swapped = 0.0
        start = time.perf_counter()
        act()
        while not (self.drawn and self.swapped):
            self.app.processEvents()
            if time.perf_counter() - start > PATIENCE_S:
                raise TimeoutError("the canvas was not drawn again")
        return self.began - start, self.drawn - start, self.swapped - start

    def rest(self, seconds: float = 0.05) -> None:
        """Let everything that is on its way arrive."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.app.processEvents()


class Bench:
    """A shown viewer with an image, the dock, a running session and one click."""

    def __init__(self, side: int, *, window: Sequence[int] = ()) -> None:
        import napari

        from napari_segany.ui import settings
        from napari_segany.ui.annotate import AnnotateWidget

        folder = Path(tempfile.mkdtemp())
        settings.data_folder = lambda: folder  # labels of a benchmark are nobody's
        self.viewer = napari.Viewer()
        if window:
            self.viewer.window.resize(*window)
        self.viewer.add_image(np.random.default_rng(0).integers(0, 255, (side, side), dtype=np.uint8))
        predictor = NestedDisks()
        self.widget = AnnotateWidget(self.viewer, load=lambda name, settings, progress: predictor)
        self.viewer.window.add_dock_widget(self.widget, name="Segment by clicks", area="right")
        self.screen = Screen(self.viewer)
        self.screen.rest(0.5)
        self.viewer.reset_view()
        self.widget.start_button.click()
        self.session = self.widget.running.session
        self.session.click((), (side / 2, side / 2))
        end = time.perf_counter() + PATIENCE_S
        while self.session.preview(()) is None and time.perf_counter() < end:
            self.screen.rest()
        self.screen.rest(0.5)

    def press(self, name: str) -> None:
        """Press a key on the canvas."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        QTest.keyClick(self.screen.scene.native, getattr(Qt.Key, f"Key_{name}"))

    def slide(self, level: int) -> None:
        """Click on a stop of the slider."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        slider = self.widget.work.ladder.slider
        left, bare = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QTest.mouseClick(slider, left, bare, slider.place_of(level).toPoint())

    def redraw(self) -> None:
        """Draw the canvas again, with nothing changed: what no program over this canvas can be faster than."""
        self.screen.scene.update()

    def redraw_whole(self) -> None:
        """Draw the whole preview layer again, as napari does where a layer's data changed."""
        self.widget.running.layers.preview.refresh(extent=False, thumbnail=False)

    def close(self) -> None:
        """Close the window."""
        self.widget.release()
        self.viewer.close()


def timings(bench: Bench, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Return the times of every kind of event, in turns; the first turn is not counted."""
    random = np.random.default_rng(1)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(rounds + 1):
        bench.session.choose_level(LEVELS[0])
        events = [("keys up and down", name) for name in ["Up"] * 5 + ["Down"] * 5]
        events += [("slider", "")] * 10 + [("canvas alone", "")] * 5 + [("whole layer", "")] * 5
        for kind, key in events:
            before = bench.session.preview(()).level
            other = int(random.choice([level for level in LEVELS if level != before]))
            act = {
                "keys up and down": lambda key=key: bench.press(key),
                "slider": lambda other=other: bench.slide(other),
                "canvas alone": bench.redraw,
                "whole layer": bench.redraw_whole,
            }[kind]
            took = bench.screen.timed(act)
            if kind in ("keys up and down", "slider"):
                check(bench, before)
            if turn:
                found.setdefault(kind, []).append(took)
    return found


def check(bench: Bench, before: int) -> None:
    """Make sure that another level is what the canvas was given."""
    shown = bench.session.preview(())
    layer = bench.widget.running.layers.preview
    assert shown.level != before, "the event changed nothing"
    assert np.array_equal(layer._slice.image.view == 1, shown.mask), "the canvas was given something else"


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile, in ms."""
    return {
        "median_ms": round(1e3 * statistics.median(seconds), 2),
        "p95_ms": round(1e3 * float(np.percentile(seconds, 95)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[512, 2048], help="of square images, in pixels"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--window", type=int, nargs=2, default=[], help="its width and height, in pixels")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report: dict[str, object] = {"machine": platform.machine(), "cores": os.cpu_count(), "results": []}
    rows: list[dict[str, object]] = []
    for side in options.sides:
        bench = Bench(side, window=options.window)
        canvas = bench.screen.scene.native
        report["canvas"] = [canvas.width(), canvas.height()]
        for kind, took in timings(bench, options.rounds).items():
            times = {
                stage: summary(column) for stage, column in zip(STAGES, zip(*took, strict=True), strict=True)
            }
            rows.append({"side": side, "event": kind, "events": len(took), **times})
        bench.close()
    report["results"] = rows
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"canvas of {report['canvas']} pixels, {report['cores']} cores; the goal is {GOAL_MS:.0f} ms until drawn"
    )
    print("\nms from the event until the canvas begins to draw, has drawn, is shown with its window:")
    print("median (95th percentile)\n")
    print(f"| image | event | n | {' | '.join(STAGES)} |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row[stage]['median_ms']:.1f} ({row[stage]['p95_ms']:.1f})" for stage in STAGES]
        print(f"| {row['side']}² | {row['event']} | {row['events']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
