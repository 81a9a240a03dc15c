"""How long the bundled model takes beside an earlier version of this package, in turns, each in a process of its own.

`git worktree add ../earlier COMMIT`, then `python benchmarks/versions.py --other ../earlier [--rounds N]`: medians over
all rounds, and how many times the other's. Both run with their own code and their own weights. `--data FOLDER`, which
holds `images/` and `labels/`, adds clicks on objects of real images: the first one on each, and the same once more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TIMES = 9
EVERY, MOST = 30, 4  # of the images, and the most objects of each
MODEL = "sam2-nano"


def measured(data: Path | None) -> dict[str, list[float]]:
    """Return milliseconds of encoding and clicking with the package that is on the path."""
    import numpy as np
    from skimage.data import cell

    from napari_segany.core.types import Points, Prompt
    from napari_segany.predict.image import ImagePredictor
    from napari_segany.predict.loading import load_model

    predictor = ImagePredictor(load_model(MODEL))
    large = np.ascontiguousarray(cell()[:512, :512])

    def clicking(image: Any) -> Callable[[], Any]:
        features = predictor.embed(image)
        middle = np.array([[side // 2 for side in image.shape]], dtype=np.float32)
        prompt = Prompt(points=Points(middle, np.array([True])))
        return lambda: predictor.predict(features, prompt)

    def disc(side: int, radius: int) -> Any:
        away = np.add.outer(*(2 * [(np.arange(side) - side // 2) ** 2]))
        ground = np.random.default_rng(0).normal(60, 6, (side, side))
        return (150 * (away < radius**2) + ground).astype(np.uint8)

    small = predictor.embed(disc(256, 11))
    point = Points(np.array([[128.0, 128.0]], dtype=np.float32), np.array([True]))
    first = predictor.predict(small, Prompt(points=point))
    again = Prompt(points=point, mask=first.logits[0])
    tasks: dict[str, Callable[[], Any]] = {
        "encode 512 x 512": lambda: predictor.embed(large),
        "click, 512 x 512": clicking(large),
        "click, disc in 1024 x 1024": clicking(disc(1024, 45)),
        "click, disc in 1536 x 1536": clicking(disc(1536, 45)),
        "click, small disc": clicking(disc(256, 11)),
        "click, tiny disc": clicking(disc(256, 7)),
        "correction, small disc": lambda: predictor.predict(small, again, multimask=False),
    }
    found = {name: [_milliseconds(task) for _ in range(TIMES)] for name, task in tasks.items()}
    return found if data is None else found | _on_real_images(predictor, data)


def _on_real_images(predictor: Any, data: Path) -> dict[str, list[float]]:
    """Return milliseconds of the first and of the second click on some objects of every thirtieth image of a folder."""
    import numpy as np
    from scipy import ndimage
    from skimage.io import imread

    from napari_segany.core.types import Points, Prompt

    found: dict[str, list[float]] = {"first click on an object": [], "second click on it": []}
    for path in sorted((data / "images").iterdir())[::EVERY]:
        labels = imread(data / "labels" / path.name)
        ids = np.unique(labels)[1:]
        middles = ndimage.center_of_mass(labels > 0, labels, ids[:: -(-len(ids) // MOST)])
        features = predictor.embed(imread(path))
        for middle in middles:
            prompt = Prompt(points=Points(np.array([middle], dtype=np.float32), np.array([True])))
            for times in found.values():
                times.append(_milliseconds(partial(predictor.predict, features, prompt)))
    return found


def _milliseconds(task: Callable[[], Any]) -> float:
    start = time.perf_counter()
    task()
    return 1000 * (time.perf_counter() - start)


def _child(source: Path, data: Path | None) -> dict[str, list[float]]:
    """Measure one source tree in a new process."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    command = [sys.executable, __file__, "--measure", *(["--data", str(data)] if data else [])]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    answer: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Measure both by turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="root of a checkout of the earlier version")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--data", type=Path, help="folder with images/ and labels/, for clicks on real objects"
    )
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measured(asked.data)))
        return
    if asked.other is None or not (asked.other / "src" / "napari_segany").is_dir():
        parser.error(f"--other must be the root of a checkout with src/napari_segany, got {asked.other}")
    trees = {"this": Path(__file__).parents[1] / "src", "other": asked.other / "src"}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in trees}
    for _ in range(asked.rounds):
        for name, source in trees.items():
            for task, values in _child(source, asked.data).items():
                times[name].setdefault(task, []).extend(values)
    print(f"{'':28}{'this, ms':>10}{'other, ms':>11}{'times':>8}")
    for task in times["this"]:
        ours, theirs = (statistics.median(times[name][task]) for name in trees)
        print(f"{task:28}{ours:10.1f}{theirs:11.1f}{ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
