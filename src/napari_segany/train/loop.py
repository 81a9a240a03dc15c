"""The training loop: stages, steps in bf16, an average of the weights, checkpoints that resume, a table and a curve."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from napari_segany.core.errors import DataError
from napari_segany.models.fine import PointFineHead, point_inputs
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.promptable import ImageFeatures
from napari_segany.models.registry import spec_of
from napari_segany.models.sam2 import Sam2, build_sam2
from napari_segany.models.weights import find_weights, read_weights
from napari_segany.predict.preprocess import normalise

from .dataset import Annotated, CropStream
from .losses import (
    IOU_WEIGHT,
    POINTS,
    dense_loss,
    point_loss,
    prompt_loss,
    true_iou,
    unsure_places,
)
from .recipes import Recipe, Stage
from .simulate import CELL, PromptMix, corrected, first_prompts

_logger = logging.getLogger(__name__)

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
FEWEST_SAVED_SECONDS = 120


@dataclass(frozen=True, slots=True)
class StepReport:
    """One line of the live table."""

    step: int
    of_steps: int
    loss: float
    rate: float
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


class Trainable(nn.Module):
    """A model and its training-only head, callable in parts so that one set of cast weights serves a whole graph."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.model = model
        self.dense_head = nn.Conv2d(model.config.width // 8, 2, kernel_size=1)

    def forward(self, task: str, *inputs: object) -> object:
        """Run one task: "encode" pixels, "decode" prompts, make "dense" maps, or correct the logits of "points"."""
        if task == "encode":
            return self.model.encode(*inputs)  # type: ignore[arg-type]  # the tasks differ in their inputs
        if task == "dense":
            return self.dense_head(*inputs)
        if task == "points":
            fine = self.model.decoder.fine
            assert isinstance(fine, PointFineHead)
            return fine.at(*inputs)  # type: ignore[arg-type]  # as above
        features, xy, labels, masks, origin = inputs
        return self.model.decode_all(
            features,  # type: ignore[arg-type]  # as above
            xy,  # type: ignore[arg-type]  # as above
            labels,  # type: ignore[arg-type]  # as above
            masks=masks,  # type: ignore[arg-type]  # as above
            origin=origin,  # type: ignore[arg-type]  # as above
            with_fine=self.model.config.has_fine,
        )


class LowPrecision:
    """A model's calls with weights cast once per step; gradients reach the float32 originals.

    Casting the small weights instead of the large activations is what autocast does not do: measured on two cores with
    AMX, a step takes 0.75 of its float32 time this way and 1.0 under autocast.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module = module
        self.dtype = dtype
        self.kept = {
            f"{name}.{key}"
            for name, part in module.named_modules()
            if isinstance(part, nn.BatchNorm2d)
            for key, _ in part.named_parameters()
        }
        self.refresh()

    def refresh(self) -> None:
        """Cast the weights again, after the optimiser moved them."""
        self.weights = {
            name: p if name in self.kept or self.dtype == torch.float32 else p.to(self.dtype)
            for name, p in self.module.named_parameters()
        }

    def __call__(self, task: str, *inputs: object) -> object:
        """Run a task of the module with the cast weights."""
        return functional_call(self.module, self.weights, (task, *inputs))


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
        self.module = Trainable(build_sam2(recipe.name)).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this pair
        if recipe.base is not None:
            _take_over(self.module, recipe.base)
        self.average = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            _groups(self.module, recipe.weight_decay), lr=1e-4, betas=(0.9, 0.98)
        )
        self.step = 0
        self.seconds = 0.0
        self.best = -math.inf
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()

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
        batches = iter(self._loader(stage))
        rng = np.random.default_rng((self.recipe.seed, self.step))
        losses: list[float] = []
        began = saved = time.monotonic()
        while self.step < first + stage.steps:
            rate = self._rate(stage, self.step - first)
            losses.append(self._train_step(next(batches), stage, rate=rate, rng=rng))
            self.step += 1
            is_last = self.step == first + stage.steps
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

    def _loader(self, stage: Stage) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
        """Return an endless loader; its random numbers differ after every resume."""
        stream = CropStream(
            self.images,
            stage.plan,
            seed=self.recipe.seed * 100_003 + self.step,
            scene_share=stage.scene_share,
            kinds=stage.kinds,
        )
        workers = 1 if self.device.type == "cpu" else 12
        return DataLoader(stream, batch_size=stage.batch, num_workers=workers, prefetch_factor=3)

    def _rate(self, stage: Stage, done: int) -> float:
        """Return the learning rate after `done` steps of a stage: a cosine, behind a warm-up of the whole run."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * done / stage.steps)
        rate = stage.last_rate + (stage.rate - stage.last_rate) * cosine
        return rate * min(1.0, (self.step + 1) / self.recipe.warmup)

    def _train_step(
        self, batch: tuple[Tensor, Tensor, Tensor], stage: Stage, *, rate: float, rng: np.random.Generator
    ) -> float:
        """Take one optimiser step and return its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        is_fine = self.recipe.base is not None
        self.module.train(mode=not is_fine)  # a frozen base keeps its statistics, too
        low = LowPrecision(self.module, torch.bfloat16)
        loss = batch_loss(low, [x.to(self.device) for x in batch], stage, rng=rng, is_fine=is_fine)
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
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
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
            self.average = state["average"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        except Exception as error:  # torch raises many kinds for a bad file, or one of another model
            raise DataError(
                f"cannot resume from {path}: it is damaged, or of another model or version "
                f"({type(error).__name__}); move it away to start anew"
            ) from error
        _forget_after(self.step, self.folder / "history.jsonl")
        _logger.info("resumed %s at step %d", path, self.step)


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


def _take_over(module: Trainable, base: str) -> None:
    """Give a model the weights of its base, and freeze all but the fine parts."""
    own = module.model.state_dict()
    weights = read_weights(find_weights(spec_of(base)))
    module.model.load_state_dict(own | weights)
    for name, parameter in module.named_parameters():
        parameter.requires_grad = ".fine." in name


def batch_loss(
    low: LowPrecision, batch: list[Tensor], stage: Stage, *, rng: np.random.Generator, is_fine: bool = False
) -> Tensor:
    """Return the mean loss of a batch over all prompt rounds.

    Parameters
    ----------
    batch
        pixels (B, 3, S, S) in 0..1; masks (B, K, S, S) bool; dense (B, 2, S, S).
    is_fine
        Whether the fine parts are trained on a frozen base.
    """
    pixels, masks, dense = batch
    count = masks.shape[1]
    pixels = normalise(pixels).to(low.dtype, memory_format=torch.channels_last)
    features: ImageFeatures = low("encode", pixels)  # type: ignore[assignment]  # tasks share one signature
    full = masks.float().flatten(0, 1)[:, None]  # (N, 1, S, S)
    total = _rounds(low, _repeat(features, count), full, stage, rng=rng, is_fine=is_fine)
    if stage.dense_weight > 0:
        maps: Tensor = low("dense", features.fine[0])  # type: ignore[assignment]  # as above
        total = total + stage.dense_weight * dense_loss(maps.float(), nn.functional.avg_pool2d(dense, CELL))
    return total


def _rounds(
    low: LowPrecision,
    features: ImageFeatures,
    full: Tensor,
    stage: Stage,
    *,
    rng: np.random.Generator,
    is_fine: bool,
) -> Tensor:
    """Return the loss of the first prompt on all objects and of the corrective clicks on some of them."""
    truth = nn.functional.avg_pool2d(full, CELL)  # (N, 1, S/2, S/2)
    binary = (truth[:, 0] > 0.5).cpu().numpy()
    binary[~binary.any((1, 2)), 0, 0] = True  # thinner than a cell: any prompt will do
    prompts = first_prompts(binary, rng, mix=PromptMix()).to(truth.device)
    rounds, origin = int(rng.integers(min(2, stage.rounds), stage.rounds + 1)), _origin(stage, rng)
    total, weight, whole = truth.new_zeros(()), 0.0, len(truth)
    for index in range(rounds):
        output: MaskOutput = low("decode", features, prompts.xy, prompts.labels, prompts.masks, origin)  # type: ignore[assignment]  # tasks share one signature
        logits, ious = output.logits.float(), output.ious.float()
        share = len(truth) / whole
        if is_fine:
            loss = _fine_round(low, output, full, rng=rng)
        else:
            loss = prompt_loss(logits, ious, truth, is_ambiguous=prompts.is_ambiguous)
        total = total + share * loss
        weight += share
        if index + 1 == rounds:
            break
        if index == 0:
            kept = np.sort(rng.permutation(whole)[: max(1, round(stage.late_share * whole))])
            binary, on = binary[kept], torch.from_numpy(kept).to(truth.device)
            prompts, features, truth, full = prompts.rows(on), features.of(on), truth[on], full[on]
            logits, ious = logits[on], ious[on]
        prompts = corrected(prompts, binary, logits=_shown(logits, ious, prompts.is_ambiguous), rng=rng)
    return total / weight


def _fine_round(low: LowPrecision, output: MaskOutput, full: Tensor, *, rng: np.random.Generator) -> Tensor:
    """Return the loss of a round's fine parts: corrections at points, and predicted IoUs.

    Of each answer two masks learn: mask 0, and that of masks 1 to 3 whose base is nearest to the truth.
    """
    base, context = output.logits.float(), output.context
    assert context is not None
    found = true_iou(base, nn.functional.avg_pool2d(full, CELL))  # (N, 4)
    best = found[:, 1:].argmax(dim=1, keepdim=True) + 1
    chosen = torch.cat((torch.zeros_like(best), best), dim=1)  # (N, 2)
    rows = torch.arange(len(best), device=best.device)[:, None]
    wide = nn.functional.interpolate(base[rows, chosen], size=full.shape[2:], mode="bilinear")  # (N, 2, S, S)
    places = unsure_places(wide, POINTS, rng=rng)  # (N, 2, P)
    values = wide.flatten(2).gather(2, places)
    truth = full.flatten(2).expand(-1, 2, -1).gather(2, places)
    inputs = point_inputs(context, places, values)
    change: Tensor = low("points", inputs.to(low.dtype), context.token, output.tokens[rows, chosen])  # type: ignore[assignment]  # as above
    return (
        point_loss(values + change.float(), truth, base=values, share=found[rows, chosen])
        + IOU_WEIGHT * (output.ious.float() - found).abs().mean()
    )


def _origin(stage: Stage, rng: np.random.Generator) -> tuple[float, float]:
    """Return where a crop lies in a whole frame, (x, y): position codes must be known everywhere in it."""
    room = max(stage.plan.frames[1] - stage.plan.side, 0)
    x, y = rng.uniform(0, room, size=2)
    return float(x), float(y)


def _shown(logits: Tensor, ious: Tensor, is_ambiguous: Tensor) -> Tensor:
    """Return the (N, 1, h, w) logits that a person would be shown: the best by score, or the single mask."""
    best = ious[:, 1:].argmax(dim=1) + 1
    chosen = torch.where(is_ambiguous, best, torch.zeros_like(best))
    return logits[torch.arange(len(logits), device=logits.device), chosen][:, None].detach()


def _repeat(features: ImageFeatures, count: int) -> ImageFeatures:
    """Return the features with each image's row repeated `count` times, without a gather."""

    def spread(x: Tensor) -> Tensor:
        return x[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)

    return ImageFeatures(spread(features.embedding), tuple(spread(level) for level in features.fine))


def _groups(module: nn.Module, decay: float) -> list[dict[str, object]]:
    """Return the optimiser's groups: weight decay on matrices and kernels only."""
    learning = [p for p in module.parameters() if p.requires_grad]
    large = [p for p in learning if p.ndim >= 2]
    small = [p for p in learning if p.ndim < 2]
    return [{"params": large, "weight_decay": decay}, {"params": small, "weight_decay": 0.0}]
