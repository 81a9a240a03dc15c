"""What fine boundaries bring and cost: sam2-hq-nano beside sam2-nano, its frozen base, in one run.

`python benchmarks/fine.py [--scenes N] [--seed N] [--data DIR] [--rounds N] [--threads N] [--json]`. README.md beside
it says more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_segany.core.types import Points, Prompt
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.train.dataset import Annotated
from napari_segany.train.metrics import evaluate, evaluate_folder, validation_scenes
from napari_segany.train.results import Evaluation
from napari_segany.train.scenes import THIN_KINDS

BASE, FINE = "sam2-nano", "sam2-hq-nano"
SIDE = 512
CLICKS = ((256.0, 256.0), (100.0, 300.0), (400.0, 120.0), (60.0, 60.0))  # row, col
MEASURES = ("boundary_iou", "box_boundary_iou", "click1", "click3", "box")
MOST_OBJECTS = 8


def accuracy(both: dict[str, ImagePredictor], arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return both models' measures on each set, objects the same."""

    def scenes(kinds: tuple[str, ...] | None) -> Callable[[ImagePredictor], Evaluation]:
        def run(predictor: ImagePredictor) -> Evaluation:
            chosen = {} if kinds is None else {"kinds": kinds}
            items: Iterable[Annotated] = validation_scenes(arguments.scenes, seed=arguments.seed, **chosen)
            return evaluate(predictor, items, most_objects=MOST_OBJECTS)

        return run

    sets: dict[str, Callable[[ImagePredictor], Evaluation]] = {
        "thin scenes": scenes(THIN_KINDS),
        "scenes of all kinds": scenes(None),
    }
    if arguments.data is not None:
        sets["validation images"] = lambda predictor: evaluate_folder(
            predictor, arguments.data, split="validation", most_objects=MOST_OBJECTS
        )
    found: dict[str, dict[str, Any]] = {}
    for title, run in sets.items():
        results = {name: run(predictor).as_dict() for name, predictor in both.items()}
        found[title] = {"objects": results[BASE]["objects"]}
        for name, values in results.items():
            found[title][name] = {measure: values[measure] for measure in MEASURES}
    return found


def cost(both: dict[str, ImagePredictor], *, rounds: int) -> dict[str, Any]:
    """Return medians in milliseconds, image by image and click by click in turn, and what the fine model adds."""
    from skimage.data import cell

    image = np.ascontiguousarray(cell()[:SIDE, :SIDE])
    prompts = [Prompt(points=Points(np.array([at], dtype=np.float32), np.array([True]))) for at in CLICKS]
    encode: dict[str, list[float]] = {name: [] for name in both}
    click: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(rounds + 2):  # the first two do not count
        features = {}
        for name, predictor in both.items():
            start = time.perf_counter()
            features[name] = predictor.embed(image)
            encode[name].append(1000 * (time.perf_counter() - start))
        for prompt in (
            prompts * 2
        ):  # windows of small objects are embedded at first sight, and do not count either
            for name, predictor in both.items():
                start = time.perf_counter()
                predictor.predict(features[name], prompt)
                click[name].append(1000 * (time.perf_counter() - start))
    passed = 2 * len(prompts)
    seen = {
        name: [ms for index, ms in enumerate(times[2 * passed :]) if index % passed >= len(prompts)]
        for name, times in click.items()
    }
    ms = {
        name: {"encode": statistics.median(encode[name][2:]), "click": statistics.median(seen[name])}
        for name in both
    }
    values = {
        name: sum(p.numel() for p in predictor.model.network.parameters()) for name, predictor in both.items()
    }
    more = {part: ms[FINE][part] / ms[BASE][part] - 1 for part in ("encode", "click")}
    more["image and click"] = sum(ms[FINE].values()) / sum(ms[BASE].values()) - 1
    return {
        "parameters": values[BASE],
        "parameters added": values[FINE] - values[BASE],
        "ms": {name: {part: round(value, 1) for part, value in parts.items()} for name, parts in ms.items()},
        "more time": {part: round(value, 3) for part, value in more.items()},
    }


def print_tables(result: dict[str, Any]) -> None:
    """Print accuracy and cost as text."""
    print(f"{'':<34}" + "".join(f"{measure:>18}" for measure in MEASURES))
    for title, models in result["accuracy"].items():
        print(f"{title}, {models['objects']} objects")
        for name in (BASE, FINE):
            print(f"  {name:<32}" + "".join(f"{models[name][measure]:>18.3f}" for measure in MEASURES))
        gains = (100 * (models[FINE][measure] - models[BASE][measure]) for measure in MEASURES)
        print(f"  {'points gained':<32}" + "".join(f"{gain:>+18.1f}" for gain in gains))
    spent = result["cost"]
    print(f"\nparameters: {spent['parameters']:,}, added {spent['parameters added']:,}")
    for name, parts in spent["ms"].items():
        print(f"{name:<14} encode {parts['encode']:.1f} ms, click {parts['click']:.1f} ms")
    print(
        "more time: "
        + ", ".join(f"{part} {100 * share:+.1f} %" for part, share in spent["more time"].items())
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=20, help="scenes of each set")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first scene, below 2**32: training begins there"
    )
    parser.add_argument(
        "--data", type=Path, help="a folder with images/ and labels/; its validation part is used"
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    both = {name: ImagePredictor(load_model(name, device="cpu")) for name in (BASE, FINE)}
    result = {"cost": cost(both, rounds=arguments.rounds), "accuracy": accuracy(both, arguments)}
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_tables(result)


if __name__ == "__main__":
    main()
