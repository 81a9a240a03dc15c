"""A whole training run in a folder: data in, checkpoints, validation and the best weights out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_segany.core.errors import DataError
from napari_segany.core.types import ModelCard
from napari_segany.models.close_tracking import CloseTracking
from napari_segany.models.registry import spec_of
from napari_segany.models.sam2 import Sam2
from napari_segany.models.weights import find_weights, read_metadata, read_weights, write_packed
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import assemble
from napari_segany.predict.precision import place

from .clip_plan import ClipPlan
from .clips import ClipStream
from .dataset import Annotated, is_validation, read_folder
from .following import follow_quality
from .loop import BEST, CHECKPOINT, StepReport, Trainer, predictor_of
from .metrics import evaluate, validation_scenes
from .nested_metrics import evaluate_nested, nested_scenes
from .recipes import recipe_of
from .scenes import THIN_KINDS
from .stages import Recipe

_IMAGES, _SCENES, _OBJECTS, _CLICKS_MADE = 24, 18, 8, 5
_CLIPS = 48
_NESTED = 40
_MEASURES = ("click1", "click3", "click5", "box", "best_of_3")


def run_training(
    recipe: str | Recipe,
    *,
    data: Path | None,
    folder: Path,
    device: str = "auto",
    is_resumed: bool = False,
    weights: Path | None = None,
    stage: int = 1,
    every: int = 500,
) -> Iterator[StepReport]:
    """Train by a recipe, yielding a report every 20 steps; metrics come with every `every`-th step.

    Parameters
    ----------
    recipe
        A recipe, or the name of a shipped model's.
    data
        Folder with `images/` and `labels/`; a fifth is held back for validation. None trains on scenes alone.
    folder
        Where checkpoint, best weights, `history.jsonl` and `curve.svg` go.
    is_resumed
        Go on with the folder's checkpoint. Without it, a folder that has one is refused.
    weights
        File of the same model to begin with, at the recipe's `stage`, counted from 1, instead of with nothing: later
        stages run anew, or the model is fitted to other data.

    Raises
    ------
    DataError
        If the data cannot be read, the folder holds another run, there is no such stage, or a later stage is to begin
        with nothing.
    WeightsError
        If the weights to begin with are another model's.
    """
    recipe = recipe_of(recipe) if isinstance(recipe, str) else recipe
    if (folder / CHECKPOINT).exists() and not is_resumed:
        raise DataError(f"{folder} holds a run already; pass --resume to go on with it, or another folder")
    if stage > 1 and weights is None:
        raise DataError(
            f"stage {stage} goes on from weights; name the file to begin with, or begin with stage 1"
        )
    images = list(read_folder(data)) if data is not None else []
    kept = [item for item in images if is_validation(item.name)]
    trainer = Trainer(
        recipe,
        images=[item for item in images if not is_validation(item.name)],
        folder=folder,
        device=place(device).device.type,
    )
    if weights is not None and not is_resumed:
        trainer.begin_with(read_weights(weights), stage=stage)
    yield from trainer.run(validate=_validator(recipe, kept, device=device), every=every)


def _validator(
    recipe: Recipe, kept: list[Annotated], *, device: str
) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    """Return a function that measures weights on a few held-back images and on scenes that training never renders."""
    if recipe.follows:
        return _following_validator(recipe, kept, device=device)
    if recipe.nests:
        return _nested_validator(recipe, device=device)
    step = max(1, len(kept) // _IMAGES)
    sets = {"scenes": list(validation_scenes(_SCENES))}
    if recipe.is_fine:
        sets["thin"] = list(validation_scenes(_SCENES, kinds=THIN_KINDS))
    if kept:
        sets["images"] = kept[::step][:_IMAGES]

    def validate(weights: dict[str, Tensor]) -> dict[str, float]:
        predictor = predictor_of(recipe, weights, device=device)
        results = {
            key: evaluate(predictor, items, most_objects=_OBJECTS, clicks=_CLICKS_MADE).as_dict()
            for key, items in sets.items()
        }
        return _flat(results, is_fine=recipe.is_fine)

    return validate


def _following_validator(
    recipe: Recipe, kept: list[Annotated], *, device: str
) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    """Return a function that measures weights on windows of clips that training never sees."""
    plan = recipe.stages[-1].plan
    assert isinstance(plan, ClipPlan)
    stream = ClipStream(kept, replace(plan, again=()), seed=1, first_seed=0, batch=8)
    clips = list(islice(stream, _CLIPS))

    def validate(weights: dict[str, Tensor]) -> dict[str, float]:
        card = ModelCard(recipe.row, "in training")
        model = assemble(card, weights, placement=place(device), where="the running training")
        assert isinstance(model.network, Sam2)
        return follow_quality(CloseTracking(model.network), clips)

    return validate


def _nested_validator(recipe: Recipe, *, device: str) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    """Return a function that measures weights on nested scenes that training never renders."""
    scenes = list(nested_scenes(_NESTED))

    def validate(weights: dict[str, Tensor]) -> dict[str, float]:
        card = ModelCard(recipe.row, "in training", has_words=True)
        model = assemble(card, weights, placement=place(device), where="the running training")
        found = evaluate_nested(ImagePredictor(model), scenes).as_dict()
        metrics = {name: float(str(found[name])) for name in ("nested", "single", "ordered", "named")}
        return metrics | {"score": round(metrics["nested"] + 0.2 * metrics["named"], 4)}

    return validate


def _flat(results: dict[str, dict[str, object]], *, is_fine: bool = False) -> dict[str, float]:
    """Return the headline numbers of each set, those of images unprefixed where there are any, and one score.

    Fine parts are scored by their outlines, everything else by IoU.
    """
    measures = ("click1", "click3", "boundary_iou") if is_fine else _MEASURES
    flat: dict[str, float] = {}
    for key, result in results.items():
        prefix = "" if key == "images" or len(results) == 1 else f"{key}_"
        flat |= {prefix + m: float(str(result[m])) for m in measures}
    left_out = ("click1", "click3") if is_fine else ("click5", "best_of_3")
    counted = [value for name, value in flat.items() if not name.endswith(left_out)]
    flat["score"] = round(sum(counted) / len(counted), 4)
    return flat


def export_weights(folder: Path, path: Path, *, recipe: Recipe) -> None:
    """Write the best weights of a run as a packed file, with what a reader needs to know in its header."""
    source = folder / BEST
    if not source.exists():
        raise DataError(f"{folder} holds no {BEST}; train until its first validation")
    weights = torch.load(source, map_location="cpu", weights_only=True)
    last = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    metrics = [row for row in last if row["metrics"]]
    chosen = max(metrics, key=lambda row: row["metrics"]["score"])
    write_packed(path, weights, metadata=_header(recipe, chosen))


def _header(recipe: Recipe, chosen: dict[str, Any]) -> dict[str, str]:
    """Return what a reader needs to know, for the file's header; of what only learnt to follow, beside its base's."""
    own = {
        "recipe": json.dumps(asdict(recipe)),
        "step": str(chosen["step"]),
        "seconds": str(round(chosen["seconds"])),
        "validation": json.dumps(chosen["metrics"]),
    }
    if recipe.follows and recipe.base is not None:
        base = read_metadata(find_weights(spec_of(recipe.base)))
        return {k: v for k, v in base.items() if k != "format"} | {f"memory_{k}": v for k, v in own.items()}
    return {"model": recipe.row, "licence": "BSD-3-Clause", **own}
