"""Many-to-many against one-to-one matching: two short trainings of the same budget, and what their clicks find.

Semantic-SAM's paper reports 88.1 against 73.2 (Li et al. 2023, 1-click mIoU over all granularities). Here both begin
with the trunk of `sam2-nano`, see the same crops, and differ in what the six masks of a prompt learn from: every true
mask that the click lies in, or one of them, by whichever mask fits it best.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from napari_segany.core.types import ModelCard
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import assemble
from napari_segany.predict.precision import place
from napari_segany.train.loop import Trainer
from napari_segany.train.nested import NestedPlan
from napari_segany.train.nested_metrics import evaluate_nested, nested_scenes
from napari_segany.train.recipes import SEMANTIC_NANO, Recipe


def recipe(steps: int, *, is_many: bool) -> Recipe:
    """Return the shipped model's recipe, one stage of small crops of scenes alone."""
    stage = SEMANTIC_NANO.stages[0]
    assert isinstance(stage.plan, NestedPlan)
    plan = replace(stage.plan, side=128, is_many=is_many)
    own = replace(stage, steps=steps, plan=plan, last_rate=0.0, scene_share=1.0)
    return replace(SEMANTIC_NANO, stages=(own,), warmup=min(SEMANTIC_NANO.warmup, steps // 4), average=0.98)


def trained(steps: int, *, is_many: bool) -> dict[str, torch.Tensor]:
    """Return the averaged weights after a training."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe(steps, is_many=is_many), images=[], folder=Path(folder))
        for report in trainer.run(validate=lambda _: {}, every=10**9):
            if report.step % 100 == 0:
                print(f"  step {report.step}: loss {report.loss:.2f}, {report.seconds:.0f} s", flush=True)
        return trainer.averaged_weights()


def main() -> None:
    """Train twice, evaluate twice, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = {}
    for name, is_many in (("one to one", False), ("many to many", True)):
        print(name, flush=True)
        weights = trained(given.steps, is_many=is_many)
        card = ModelCard("semantic-nano", "in training", has_words=True)
        model = assemble(card, weights, placement=place("cpu"), where=f"a training, {name}")
        results[name] = evaluate_nested(ImagePredictor(model), nested_scenes(given.scenes)).as_dict()
    print(f"{given.steps} steps each, {given.scenes} scenes, {results['one to one']['clicks']} clicks")
    for name, result in results.items():
        print(
            f"{name:>14}: nested {result['nested']:.3f}, single {result['single']:.3f}, by level {result['by_level']}"
        )


if __name__ == "__main__":
    main()
