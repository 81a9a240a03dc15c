"""How long the bundled model takes beside an earlier version of this package, by turns, each in a process of its own.

`git worktree add ../earlier COMMIT`, then `python benchmarks/versions.py --other ../earlier [--rounds N]`. Both run
with their own code and their own weights. A round asks both for a few runs of each task, one right after the other, so
that both meet the same machine, however busy it is; shown are the medians over all rounds, and the median of how much
longer the one took than the other. `--data FOLDER`, which holds `images/` and `labels/`, adds clicks on objects of real
images: the first one on each, and the same once more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

TIMES = 5  # in a round, behind one that is not counted
EVERY, MOST = 30, 4  # of the images, and the most objects of each
MODEL = "sam2-nano"

Times = dict[str, list[float]]
"""Milliseconds by task."""


def made_tasks(predictor: Any) -> dict[str, Callable[[], Any]]:
    """Return what is measured on made images, with the package that is on the path."""
    import numpy as np
    from skimage.data import cell

    from napari_segany.core.types import Points, Prompt

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
    return {
        "encode 512 x 512": lambda: predictor.embed(large),
        "click, 512 x 512": clicking(large),
        "click, disc in 1024 x 1024": clicking(disc(1024, 45)),
        "click, disc in 1536 x 1536": clicking(disc(1536, 45)),
        "click, small disc": clicking(disc(256, 11)),
        "click, tiny disc": clicking(disc(256, 7)),
        "correction, small disc": lambda: predictor.predict(small, again, multimask=False),
    }


def real_images(predictor: Any, data: Path) -> Iterator[Times]:
    """Yield, image by image, the times of the first and of the second click on some objects of every thirtieth."""
    import numpy as np
    from scipy import ndimage
    from skimage.io import imread

    from napari_segany.core.types import Points, Prompt

    for path in sorted((data / "images").iterdir())[::EVERY]:
        found: Times = {"first click on an object": [], "second click on it": []}
        labels = imread(data / "labels" / path.name)
        ids = np.unique(labels)[1:]
        middles = ndimage.center_of_mass(labels > 0, labels, ids[:: -(-len(ids) // MOST)])
        features = predictor.embed(imread(path))
        for middle in middles:
            prompt = Prompt(points=Points(np.array([middle], dtype=np.float32), np.array([True])))
            for times in found.values():
                times.append(_milliseconds(partial(predictor.predict, features, prompt)))
        yield found


def _milliseconds(task: Callable[[], Any]) -> float:
    start = time.perf_counter()
    task()
    return 1000 * (time.perf_counter() - start)


def answer_questions(data: Path | None) -> None:
    """Answer each line that is read with one of JSON: "tasks" with their names, "image" and a task with times."""
    from napari_segany.predict.image import ImagePredictor
    from napari_segany.predict.loading import load_model

    predictor = ImagePredictor(load_model(MODEL))
    tasks = made_tasks(predictor)
    images = iter(()) if data is None else real_images(predictor, data)
    for line in sys.stdin:
        question = line.strip()
        answer: Times | list[str]
        if question == "tasks":
            answer = list(tasks)
        elif question == "image":
            answer = next(images, {})
        else:
            tasks[question]()
            answer = {question: [_milliseconds(tasks[question]) for _ in range(TIMES)]}
        print(json.dumps(answer), flush=True)


class Version:
    """One version of the package at work in a process of its own."""

    def __init__(self, source: Path, data: Path | None) -> None:
        environment = os.environ | {"PYTHONPATH": str(source.resolve())}
        command = [sys.executable, __file__, "--measure", *(["--data", str(data)] if data else [])]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, question: str) -> Any:
        """Return its answer to a question of `answer_questions`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a version stopped with exit status {self._process.wait()}; see above")
        return json.loads(line)

    def stop(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.wait()


def by_turns(
    one: Version, other: Version, question: str, *, turn: int
) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of milliseconds, of the one and of the other, by task; every second turn the other goes first."""
    if turn % 2:
        second, first = other.ask(question), one.ask(question)
    else:
        first, second = one.ask(question), other.ask(question)
    return {task: list(zip(first[task], second[task], strict=True)) for task in first}


def main() -> None:
    """Measure both by turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="root of a checkout of the earlier version")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--data", type=Path, help="folder with images/ and labels/, for clicks on real objects"
    )
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        answer_questions(asked.data)
        return
    if asked.other is None or not (asked.other / "src" / "napari_segany").is_dir():
        parser.error(f"--other must be the root of a checkout with src/napari_segany, got {asked.other}")
    here = Path(__file__).parents[1]
    this, other = (Version(root / "src", asked.data) for root in (here, asked.other))
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        questions = asked.rounds * this.ask("tasks")
        other.ask("tasks")
        for turn, question in enumerate(questions):
            for task, pairs in by_turns(this, other, question, turn=turn).items():
                # One pair a round: what is slow now is slow for both.
                found.setdefault(task, []).append(tuple(map(statistics.median, zip(*pairs, strict=True))))
        turn = 0
        while pairs_of := by_turns(this, other, "image", turn=turn):
            for task, pairs in pairs_of.items():
                found.setdefault(task, []).extend(pairs)
            turn += 1
    finally:
        this.stop()
        other.stop()
    print(f"{'':28}{'this, ms':>10}{'other, ms':>11}{'times':>8}")
    for task, pairs in found.items():
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{task:28}{ours:10.1f}{theirs:11.1f}{statistics.median(a / b for a, b in pairs):8.2f}")


if __name__ == "__main__":
    main()
