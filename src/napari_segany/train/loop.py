"""The training loop: stages, steps in bf16, an average of the weights, checkpoints that resume, a table and a curve."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from napari_segany.core.errors import DataError
from napari_segany.core.types import ModelCard
from napari_segany.models.sam2 import Sam2, build_sam2
from napari_segany.models.semantic_sam import SEMANTIC, build_semantic
from napari_segany.models.weights import load_strictly
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import assemble
from napari_segany.predict.precision import place, step_dtype

from .answer_plan import AnswerPlan
from .answers import AnswerStream, answers_loss
from .clip_plan import ClipPlan
from .clips import ClipStream
from .crops import CropPlan, CropStream
from .dataset import Annotated
from .following import ClipBatch, FollowedWeights, Lesson
from .nested import NestedBatch, NestedPlan, NestedStream
from .rounds import batch_loss
from .semantic import SemanticTrainable
from .stages import Recipe, Stage
from .trainable import LowPrecision, Trainable, take_over, take_trunk

_logger = logging.getLogger(__name__)

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
FEWEST_SAVED_SECONDS = 120
_TRUNK = "model.image_encoder."


@dataclass(frozen=True, slots=True)
class StepReport:
    """One line of the live table."""

    step: int
    of_steps: int
    loss: float
    rate: float
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains one model by a recipe in a folder that holds its checkpoint, history and curve.

    Parameters
    ----------
    recipe
        What to do.
    images
        Annotated training images; may be empty, then only scenes are used.
    folder
        Where checkpoint, `history.jsonl` and `curve.svg` go; an existing checkpoint is resumed.
    device
        "cpu", "cuda", …
    """

    def __init__(self, recipe: Recipe, *, images: list[Annotated], folder: Path, device: str = "cpu") -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.images = images
        self.folder = folder
        self.device = torch.device(device)
        self.dtype = step_dtype(device)
        self.module = _trainable(recipe).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this pair
        self.learning = {name for name, p in self.module.named_parameters() if p.requires_grad}
        self.average = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.optimiser = torch.optim.AdamW(_groups(self.module, recipe), lr=1e-4, betas=(0.9, 0.98))
        self.before: dict[str, Tensor] = {}  # of a stage that keeps some of it
        self.step = self.begun = 0
        self.seconds = 0.0
        self.best = -math.inf
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()

    def begin_with(self, weights: Mapping[str, Tensor], *, stage: int) -> None:
        """Begin at the recipe's `stage`, counted from 1, with a model's weights instead of with nothing.

        Raises
        ------
        DataError
            If there is no such stage.
        WeightsError
            If the weights are another model's.
        """
        if not 1 <= stage <= len(self.recipe.stages):
            raise DataError(
                f"stage {stage} is not one of the {len(self.recipe.stages)} of {self.recipe.name}, counted from 1"
            )
        model = self.module.get_submodule("model")
        load_strictly(model, weights, where="the weights to begin with")
        self.average = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.step = self.begun = sum(each.steps for each in self.recipe.stages[: stage - 1])

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the averaged weights of the model alone, on the CPU."""
        prefix = "model."
        return {k.removeprefix(prefix): v.cpu() for k, v in self.average.items() if k.startswith(prefix)}

    def run(
        self, *, validate: Callable[[dict[str, Tensor]], dict[str, float]], every: int = 400
    ) -> Iterator[StepReport]:
        """Train to the recipe's end, yielding a report every 20 steps and saving on the way.

        `validate` turns averaged weights into metrics, of which "score" decides what is kept as best.
        """
        first = 0
        for stage in self.recipe.stages:
            last = first + stage.steps
            if self.step < last:
                yield from self._run_stage(stage, first, validate=validate, every=every)
            first = last
        self.save()

    def _run_stage(
        self,
        stage: Stage,
        first: int,
        *,
        validate: Callable[[dict[str, Tensor]], dict[str, float]],
        every: int,
    ) -> Iterator[StepReport]:
        """Train the rest of one stage that begins at step `first`."""
        self._freeze(stage)
        if stage.kept and not self.before:
            self.before = {k: v.clone() for k, v in self.average.items()}
        rng = np.random.default_rng((self.recipe.seed, self.step))
        batches = self._batches(stage, rng)
        losses: list[float] = []
        began = saved = time.monotonic()
        while self.step < first + stage.steps:
            rate = self._rate(stage, self.step - first)
            losses.append(self._train_step(next(batches), stage, rate=rate, rng=rng))
            self.step += 1
            is_last = self.step == first + stage.steps
            if is_last and stage.kept:
                self._keep(stage.kept)
            if self.step % 20 == 0 or is_last:
                now = time.monotonic()
                self.seconds, began = self.seconds + now - began, now
                metrics = self._validated(validate) if self.step % every == 0 or is_last else {}
                report = StepReport(
                    self.step, self.recipe.steps, float(np.mean(losses)), rate, self.seconds, metrics
                )
                losses.clear()
                self._log(report)
                if metrics or now - saved > FEWEST_SAVED_SECONDS:
                    self.save()
                    saved = now
                yield report
                began = time.monotonic()

    def _freeze(self, stage: Stage) -> None:
        """Let learn what the recipe leaves to learn, and of that what the stage does."""
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad = name in self.learning and (
                not stage.learns or any(part in name for part in stage.learns)
            )

    def _batches(self, stage: Stage, rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Yield batches without end; some of them wide ones, where the stage has such."""
        usual = iter(self._loader(stage))
        wide = iter(self._loader(_widened(stage))) if stage.wide is not None else usual
        while True:
            yield next(wide if rng.random() < stage.wide_share else usual)

    def _loader(self, stage: Stage) -> DataLoader[tuple[Tensor, ...]]:
        """Return an endless loader; its random numbers differ after every resume."""
        seed = self.recipe.seed * 100_003 + self.step
        stream: IterableDataset[tuple[Tensor, ...]]
        if isinstance(stage.plan, AnswerPlan):
            stream = AnswerStream(
                predictor_of(self.recipe, self.averaged_weights(), device=self.device.type),
                self.images,
                stage.plan,
                seed=seed,
                kinds=stage.kinds,
                batch=stage.batch,
            )
            return DataLoader(stream, batch_size=None)
        if isinstance(stage.plan, ClipPlan):
            stream = ClipStream(self.images, stage.plan, seed=seed, batch=stage.batch)
        elif isinstance(stage.plan, NestedPlan):
            stream = NestedStream(
                self.images,
                stage.plan,
                vocabulary=SEMANTIC[self.recipe.row].vocabulary,
                seed=seed,
                scene_share=stage.scene_share,
                kinds=stage.kinds,
            )
        else:
            stream = CropStream(
                self.images,
                stage.plan,
                seed=seed,
                scene_share=stage.scene_share,
                kinds=stage.kinds,
                clip_kinds=stage.clip_kinds,
                clip_share=stage.clip_share,
            )
        workers = 1 if self.device.type == "cpu" else 12
        return DataLoader(stream, batch_size=stage.batch, num_workers=workers, prefetch_factor=3)

    def _rate(self, stage: Stage, done: int) -> float:
        """Return the learning rate after `done` steps of a stage: a cosine, behind a warm-up where the run began."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * done / stage.steps)
        rate = stage.last_rate + (stage.rate - stage.last_rate) * cosine
        return rate * min(1.0, (self.step - self.begun + 1) / self.recipe.warmup)

    def _train_step(
        self, batch: tuple[Tensor, ...], stage: Stage, *, rate: float, rng: np.random.Generator
    ) -> float:
        """Take one optimiser step and return its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        # what is frozen keeps its statistics, too
        self.module.train(mode=self.recipe.base is None and stage.learns_images)
        low = LowPrecision(self.module, self.dtype, only=_TRUNK if self.recipe.nests else "")
        parts = [x.to(self.device) for x in batch]
        loss: Tensor
        if self.recipe.nests:
            assert isinstance(stage.plan, NestedPlan)
            loss = low("nested", NestedBatch(*parts), rng, stage.plan.is_many)  # type: ignore[assignment]  # tasks share one signature
        elif self.recipe.follows:
            assert isinstance(stage.plan, ClipPlan)
            clips, weights = ClipBatch(*parts), FollowedWeights(stage.object_weight, stage.absent_weight)
            lesson = Lesson.of(rng, clips.masks.shape[1], spoilt_share=stage.plan.spoilt_share)
            loss = low("follow", clips, rng, lesson, weights)  # type: ignore[assignment]  # as above
        elif isinstance(stage.plan, AnswerPlan):
            model = self.module.get_submodule("model")
            assert isinstance(model, Sam2)
            loss = answers_loss(model, parts, stage.plan)
        else:
            loss = batch_loss(low, parts, stage, rng=rng, is_fine=self.recipe.is_fine)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
            self._move_average()
        else:
            _logger.warning("step %d: gradient is not finite; the step is left out", self.step)
        return float(loss.detach())

    @torch.no_grad()
    def _move_average(self) -> None:
        """Move the averaged weights towards the present ones; faster in the first steps."""
        share = 1 - min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for key, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, share)
            else:
                self.average[key].copy_(value)

    @torch.no_grad()
    def _keep(self, share: float) -> None:
        """Mix a share of the weights that the stage began with into the averaged ones, and go on with these."""
        for key, value in self.average.items():
            if value.is_floating_point():
                value.lerp_(self.before[key], share)
        self.before = {}
        self.module.load_state_dict(self.average)

    def _validated(self, validate: Callable[[dict[str, Tensor]], dict[str, float]]) -> dict[str, float]:
        """Return the metrics of the averaged weights; keep these weights where they are the best so far."""
        metrics = validate(self.averaged_weights())
        if metrics.get("score", -math.inf) > self.best:
            self.best = metrics["score"]
            _replace(self.folder / BEST, self.averaged_weights())
        return metrics

    def _log(self, report: StepReport) -> None:
        """Append to the history and redraw the curve."""
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        if report.metrics:
            from .curve import draw_curve

            draw_curve(self.folder / "history.jsonl", self.folder / "curve.svg")

    def save(self) -> None:
        """Write the checkpoint beside the old one, then replace it: a killed run keeps one or the other."""
        state = {
            "module": self.module.state_dict(),
            "average": self.average,
            "before": self.before,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "begun": self.begun,
            "seconds": self.seconds,
            "best": self.best,
            "recipe": json.dumps(asdict(self.recipe)),
            "images": len(self.images),
            "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
        }
        _replace(self.folder / CHECKPOINT, state)

    def _resume(self) -> None:
        """Load the folder's checkpoint."""
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.module.load_state_dict(state["module"])
            self.average, self.before = state["average"], state["before"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self.begun = state["begun"]
        except Exception as error:  # torch raises many kinds for a bad file, or one of another model
            raise DataError(
                f"cannot resume from {path}: it is damaged, or of another model or version "
                f"({type(error).__name__}); move it away to start anew"
            ) from error
        _forget_after(self.step, self.folder / "history.jsonl")
        _logger.info("resumed %s at step %d", path, self.step)


def predictor_of(recipe: Recipe, weights: dict[str, Tensor], *, device: str) -> ImagePredictor:
    """Return a predictor with the weights of a running training."""
    card = ModelCard(recipe.row, "in training", has_fine=recipe.is_fine)
    return ImagePredictor(assemble(card, weights, placement=place(device), where="the running training"))


def _replace(path: Path, state: object) -> None:
    """Write a file beside the old one, then replace it."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def _forget_after(step: int, history: Path) -> None:
    """Take out of a history what a resumed run will write again, and a line that was cut off."""
    if not history.exists():
        return
    kept = []
    for line in history.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            _logger.warning("%s: left out a line that was cut off", history)
    partial = history.with_name(history.name + ".partial")
    partial.write_text("".join(kept))
    partial.replace(history)


def _widened(stage: Stage) -> Stage:
    """Return a stage whose batches are all wide, each of about as many pixels as the usual ones."""
    assert stage.wide is not None
    fewer = (stage.plan.side / stage.wide.side) ** 2 if isinstance(stage.plan, CropPlan) else 1.0
    return replace(stage, plan=stage.wide, batch=max(1, round(stage.batch * fewer)))


def _trainable(recipe: Recipe) -> nn.Module:
    """Return what a recipe trains, as it begins."""
    if recipe.nests:
        model = build_semantic(recipe.row)
        if recipe.trunk_of is not None:
            take_trunk(model, recipe.trunk_of)
        return SemanticTrainable(model)
    module = Trainable(build_sam2(recipe.row))
    if recipe.base is not None:
        take_over(module, recipe.base, learns=recipe.learns)
    return module


def _groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:  # Any: as torch wants them
    """Return the optimiser's groups: weight decay on matrices and kernels only, the trunk at its share of the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            share = recipe.trunk_share if name.startswith(_TRUNK) else 1.0
            groups.setdefault((share, recipe.weight_decay if p.ndim >= 2 else 0.0), []).append(p)
    return [
        {"params": parts, "weight_decay": decay, "share": share} for (share, decay), parts in groups.items()
    ]
