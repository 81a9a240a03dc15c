"""The training loop on a model for tests: it learns, keeps its papers, and goes on where it stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_images import disc_image
from safetensors.torch import save_file
from tests.contracts.shrink import shrunken

from napari_segany.core.errors import DataError, WeightsError
from napari_segany.core.types import ModelCard
from napari_segany.models.build import CONFIGS
from napari_segany.models.sam2 import SAM2, build_sam2
from napari_segany.models.semantic_sam import SEMANTIC
from napari_segany.predict import precision
from napari_segany.predict.loading import assemble
from napari_segany.predict.precision import place
from napari_segany.train import dataset, loop, trainable
from napari_segany.train.clip_plan import ClipPlan, WindowPlan
from napari_segany.train.crops import CropPlan, CropStream
from napari_segany.train.loop import BEST, CHECKPOINT, Trainer
from napari_segany.train.nested import NestedPlan
from napari_segany.train.rounds import batch_loss
from napari_segany.train.stages import Recipe, Stage
from napari_segany.train.trainable import LowPrecision, Trainable

PLAN = CropPlan(side=64, objects=2, frames=(128, 128))
STAGE = Stage(2, PLAN, batch=2, rate=1e-3, last_rate=1e-4, rounds=2, scene_share=0.0)
RECIPE = Recipe("test-nano", stages=(STAGE, STAGE), warmup=2, average=0.9)


@pytest.fixture(autouse=True)
def own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the recipe's model a row of its own."""
    config = shrunken(SAM2["sam2-nano"])
    for table in (SAM2, CONFIGS):
        monkeypatch.setitem(table, RECIPE.name, config)


def trainer_in(folder: Path, *, recipe: Recipe = RECIPE) -> Trainer:
    return Trainer(recipe, images=[disc_image(), disc_image("more")], folder=folder)


def scored(*scores: float) -> Callable[[dict[str, torch.Tensor]], dict[str, float]]:
    """Return a validation that gives these scores in turn."""
    left = list(scores)
    return lambda _: {"score": left.pop(0), "click1": 0.5}


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return all tensors of a trainer, copied, by flat names."""
    flat = {f"module {k}": v.clone() for k, v in trainer.module.state_dict().items()}
    flat |= {f"average {k}": v.clone() for k, v in trainer.average.items()}
    for index, slots in trainer.optimiser.state_dict()["state"].items():
        flat |= {f"optimiser {index} {name}": value.clone() for name, value in slots.items()}
    return flat


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def fixed_batch() -> list[torch.Tensor]:
    stream = iter(CropStream([disc_image()], PLAN, seed=0, scene_share=0.0))
    return [torch.stack(parts) for parts in zip(*[next(stream) for _ in range(3)], strict=True)]


def test_some_batches_are_wide_where_the_stage_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def recorded(
        low: LowPrecision, batch: list[torch.Tensor], *rest: object, **named: object
    ) -> torch.Tensor:
        seen.append(tuple(batch[0].shape))
        return batch_loss(low, batch, *rest, **named)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(loop, "batch_loss", recorded)
    wide = replace(PLAN, side=96)
    stage = replace(STAGE, steps=8, batch=4, wide=wide, wide_share=0.5)
    list(
        trainer_in(tmp_path, recipe=replace(RECIPE, stages=(stage,))).run(validate=scored(0.0, 0.0), every=8)
    )
    usual, as_many_pixels = (4, 3, 64, 64), (2, 3, 96, 96)
    assert len(seen) == 8
    assert set(seen) == {usual, as_many_pixels}


def test_scenes_alone_train_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_scene = dataset.from_scene
    monkeypatch.setattr(
        dataset, "from_scene", lambda seed, *, size, kind: whole_scene(seed, size=(64, 64), kind=kind)
    )
    recipe = Recipe(RECIPE.name, stages=(Stage(3, PLAN, batch=2, rate=1e-3, last_rate=0, rounds=2),))
    trainer = Trainer(recipe, images=[], folder=tmp_path / "run")
    before = state_of(trainer)
    reports = list(trainer.run(validate=scored(0.25)))
    assert [r.step for r in reports] == [3]
    assert reports[0].of_steps == 3
    assert np.isfinite(reports[0].loss)
    assert reports[0].metrics == {"score": 0.25, "click1": 0.5}
    assert reports[0].seconds > 0
    assert json.loads((tmp_path / "run" / "history.jsonl").read_text())["loss"] == reports[0].loss
    assert "click1 0.500" in (tmp_path / "run" / "curve.svg").read_text()
    after = state_of(trainer)
    moved = [k for k in before if k.startswith("module") and not torch.equal(before[k], after[k])]
    assert len(moved) > 0.9 * sum(k.startswith("module") and ".memory." not in k for k in before)


def test_a_stage_may_keep_some_of_what_it_began_with(tmp_path: Path) -> None:
    ends = []
    for share in (0.0, 0.25):
        recipe = replace(RECIPE, stages=(STAGE, replace(STAGE, kept=share)))
        trainer = trainer_in(tmp_path / str(share), recipe=recipe)
        run = trainer.run(validate=scored(0.1, 0.2))
        next(run)
        begun = {k: v.clone() for k, v in trainer.average.items()}
        list(run)
        ends.append({k: v.clone() for k, v in trainer.average.items()})
    for key, plain in ends[0].items():
        mixed = 0.75 * plain + 0.25 * begun[key] if plain.is_floating_point() else plain
        torch.testing.assert_close(ends[1][key], mixed, msg=key)
    assert_equal(trainer.module.state_dict(), ends[1])


def test_what_a_stage_keeps_survives_a_stop(tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(replace(STAGE, steps=24, kept=0.5),))
    stopped = trainer_in(tmp_path, recipe=recipe)
    begun = {k: v.clone() for k, v in stopped.average.items()}
    next(stopped.run(validate=scored(0.1), every=20))
    resumed = trainer_in(tmp_path, recipe=recipe)
    assert resumed.step == 20
    assert_equal(resumed.before, begun)


def test_a_stage_may_leave_the_trunk_as_it_is(tmp_path: Path) -> None:
    first, second = (
        Stage(2, PLAN, batch=2, rate=1e-3, last_rate=0, rounds=1, learns=learns)
        for learns in ((), ("sam_mask_decoder", "sam_prompt_encoder"))
    )
    trainer = Trainer(Recipe(RECIPE.name, stages=(first, second)), images=[disc_image()], folder=tmp_path)
    reports = trainer.run(validate=scored(0.1, 0.2))
    assert next(reports).step == 2
    before = state_of(trainer)
    assert next(reports).step == 4
    after = state_of(trainer)
    moved = {k for k in before if k.startswith("module") and not torch.equal(before[k], after[k])}
    assert moved
    assert all("sam_mask_decoder" in k or "sam_prompt_encoder" in k for k in moved)


def test_a_later_stage_begins_with_weights(tmp_path: Path) -> None:
    torch.manual_seed(11)
    weights = build_sam2(RECIPE.name).state_dict()
    stages = (*RECIPE.stages, Stage(2, PLAN, batch=2, rate=1e-3, last_rate=0, rounds=1))
    recipe = replace(RECIPE, stages=stages, warmup=4)
    trainer = Trainer(recipe, images=[disc_image()], folder=tmp_path)
    trainer.begin_with(weights, stage=3)
    assert trainer.step == RECIPE.steps
    assert_equal(trainer.averaged_weights(), weights)
    assert trainer._rate(stages[2], 0) == pytest.approx(1e-3 / 4)  # a new optimiser has to warm up
    assert [r.step for r in trainer.run(validate=scored(0.5))] == [recipe.steps]
    again = Trainer(recipe, images=[disc_image()], folder=tmp_path)
    assert (again.step, again.begun) == (recipe.steps, RECIPE.steps)
    with pytest.raises(DataError, match="stage 4 is not one of the 3"):
        trainer.begin_with(weights, stage=4)
    with pytest.raises(WeightsError, match="missing"):
        trainer.begin_with({}, stage=1)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = trainer_in(tmp_path)
    for report in first.run(validate=scored(0.4)):
        assert report.step == 2
        break
    stopped = state_of(first)
    assert any(key.startswith("optimiser") for key in stopped)
    second = trainer_in(tmp_path)
    assert (second.step, second.best, second.seconds) == (2, 0.4, first.seconds)
    assert_equal(state_of(second), stopped)
    reports = list(second.run(validate=scored(0.6)))
    assert [r.step for r in reports] == [4]
    assert reports[0].seconds > first.seconds
    assert steps_in(tmp_path) == [2, 4]
    third = trainer_in(tmp_path)
    assert third.step == 4
    assert list(third.run(validate=scored())) == []  # nothing left to do


def test_a_kill_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_in(tmp_path)
    trainer.step = 1
    trainer.save()
    old = (tmp_path / CHECKPOINT).read_bytes()
    trainer.step = 2

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for owner, name in ((Path, "replace"), (torch, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(KeyboardInterrupt):
                trainer.save()
        assert (tmp_path / CHECKPOINT).read_bytes() == old
        assert trainer_in(tmp_path).step == 1
    trainer.save()
    assert trainer_in(tmp_path).step == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINT]


@pytest.mark.parametrize("what", ["cut", "empty", "text", "other content", "other model"])
def test_a_checkpoint_that_cannot_be_used_is_named(tmp_path: Path, what: str) -> None:
    trainer_in(tmp_path).save()
    path = tmp_path / CHECKPOINT
    if what == "other content":
        torch.save({"step": 3}, path)
    elif what == "other model":
        state = torch.load(path, weights_only=True)
        state["module"].pop("dense_head.weight")
        torch.save(state, path)
    else:
        kept = {"cut": path.read_bytes()[:5000], "empty": b"", "text": b"not a checkpoint"}
        path.write_bytes(kept[what])
    with pytest.raises(DataError, match=r"checkpoint\.pt.*move it away"):
        trainer_in(tmp_path)


def test_a_history_agrees_with_its_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lines behind the checkpoint will be written again; the last may be cut off in the middle."""
    trainer = trainer_in(tmp_path)
    trainer.step = 40
    trainer.save()
    lines = [json.dumps({"step": step, "of_steps": 80, "loss": 1.0, "metrics": {}}) for step in (20, 40, 60)]
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + '\n{"step": 80, "of_')
    with caplog.at_level(logging.WARNING):
        assert trainer_in(tmp_path).step == 40
    assert steps_in(tmp_path) == [20, 40]
    assert "cut off" in caplog.text


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    reports = trainer.run(validate=scored(0.7, 0.5))
    next(reports)
    best = {k: v.clone() for k, v in trainer.averaged_weights().items()}
    assert list(reports)[-1].metrics["score"] == 0.5
    assert trainer.best == 0.7
    assert_equal(torch.load(tmp_path / BEST, weights_only=True), best)
    last = trainer.averaged_weights()
    assert any(not torch.equal(best[key], last[key]) for key in best)


def test_averaged_weights_are_a_model_s(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    weights = trainer.averaged_weights()
    assert weights.keys() == build_sam2(RECIPE.name).state_dict().keys()
    before = {k: v.clone() for k, v in trainer.average.items()}
    card = ModelCard(RECIPE.name, "in training")
    for each in ("float32", "bfloat16"):  # a predictor made of them leaves the average alone
        assemble(card, weights, placement=place("cpu", each), where="a test")
    assert_equal(trainer.average, before)


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    trainer.step = 10**6
    key = "model.sam_mask_decoder.iou_token.weight"
    start = trainer.average[key].clone()
    with torch.no_grad():
        trainer.module.state_dict()[key].add_(1.0)
    trainer._move_average()
    torch.testing.assert_close(trainer.average[key], start + (1 - RECIPE.average))


def test_the_rate_warms_up_and_falls_along_a_cosine(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    stage = Stage(100, PLAN, batch=1, rate=1e-3, last_rate=1e-4)
    trainer.step = 0
    assert trainer._rate(stage, 0) == pytest.approx(1e-3 / RECIPE.warmup)
    trainer.step = 50
    rates = [trainer._rate(stage, done) for done in (0, 50, 100)]
    assert rates == pytest.approx([1e-3, 5.5e-4, 1e-4])


def test_a_step_without_finite_gradients_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_in(tmp_path)
    before = state_of(trainer)
    monkeypatch.setattr(
        loop, "batch_loss", lambda low, *_, **__: sum(w.sum() for w in low.weights.values()) * float("nan")
    )
    loss = trainer._train_step(fixed_batch(), STAGE, rate=1.0, rng=np.random.default_rng(0))  # type: ignore[arg-type]  # a list of the three
    assert np.isnan(loss)
    assert "not finite" in caplog.text
    assert_equal(state_of(trainer), before)


def test_a_batch_is_learnt() -> None:
    torch.manual_seed(0)
    module = Trainable(build_sam2(RECIPE.name)).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    batch = fixed_batch()
    losses = []
    for _ in range(25):
        loss = batch_loss(LowPrecision(module, torch.float32), batch, STAGE, rng=np.random.default_rng(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    silent = [name for name, p in module.named_parameters() if p.grad is None]
    assert [
        name for name in silent if not any(part in name for part in ("obj_score", ".memory.", "size_head"))
    ] == []


@pytest.mark.parametrize("is_fast", [True, False])
def test_steps_are_taken_in_bfloat16_where_it_is_multiplied_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    """Elsewhere its products take ninety times as long as float32's."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: is_fast)
    seen: list[torch.dtype] = []

    def low(module: Trainable, dtype: torch.dtype, *, only: str = "") -> LowPrecision:
        seen.append(dtype)
        return LowPrecision(module, dtype, only=only)

    monkeypatch.setattr(loop, "LowPrecision", low)
    next(trainer_in(tmp_path).run(validate=scored(0.5), every=2))
    assert set(seen) == {torch.bfloat16 if is_fast else torch.float32}


def test_low_precision_reaches_the_float32_weights() -> None:
    torch.manual_seed(0)
    module = Trainable(build_sam2(RECIPE.name)).train()
    batch = fixed_batch()
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        module.zero_grad()
        loss = batch_loss(LowPrecision(module, dtype), batch, STAGE, rng=np.random.default_rng(0))
        loss.backward()
        grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        assert all(g.dtype == torch.float32 for g in grads)
        found[dtype] = (float(loss.detach()), torch.cat(grads))
    (exact, exact_grad), (low, low_grad) = found.values()
    assert low == pytest.approx(exact, rel=0.05)
    assert torch.nn.functional.cosine_similarity(exact_grad, low_grad, dim=0) > 0.9


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_any_number_of_rounds_and_objects(rounds: int) -> None:
    """One object, and one object of which the rounding of a share would keep none."""
    module = Trainable(build_sam2(RECIPE.name)).train()
    stage = Stage(1, PLAN, batch=1, rate=1e-3, last_rate=0, rounds=rounds, late_share=0.2)
    batch = [x[:1] for x in fixed_batch()]
    batch[1], batch[3] = batch[1][:, :1], batch[3][:, :1]
    loss = batch_loss(LowPrecision(module, torch.float32), batch, stage, rng=np.random.default_rng(1))
    assert torch.isfinite(loss)


def test_an_object_thinner_than_a_cell_does_no_harm() -> None:
    module = Trainable(build_sam2(RECIPE.name)).train()
    pixels, masks, *others = fixed_batch()
    masks = torch.zeros_like(masks)
    masks[:, :, 20, 31] = True
    loss = batch_loss(
        LowPrecision(module, torch.float32), [pixels, masks, *others], STAGE, rng=np.random.default_rng(1)
    )
    assert torch.isfinite(loss)


def test_weight_decay_is_for_matrices_only() -> None:
    module = Trainable(build_sam2(RECIPE.name))
    groups = {group["weight_decay"]: group["params"] for group in loop._groups(module, RECIPE)}
    large, small = groups.pop(RECIPE.weight_decay), groups.pop(0.0)
    assert not groups
    assert all(p.ndim >= 2 for p in large)
    assert all(p.ndim < 2 for p in small)
    assert len(large) + len(small) == len(list(module.parameters()))


def test_a_frozen_base_stays_and_its_fine_parts_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SAM2, "test-hq-nano", shrunken(SAM2["sam2-hq-nano"]))
    base = build_sam2(RECIPE.name).state_dict()
    path = tmp_path / "base.safetensors"
    save_file(base, path)
    monkeypatch.setattr(trainable, "find_weights", lambda spec: path)
    recipe = replace(
        RECIPE,
        name="test-hq-nano",
        base="sam2-nano",
        learns=(".fine.",),
        stages=(replace(STAGE, dense_weight=0.0),),
    )
    trainer = Trainer(recipe, images=[disc_image()], folder=tmp_path / "run")
    before = state_of(trainer)
    losses = []
    for _ in range(12):
        batch = fixed_batch()
        losses.append(trainer._train_step(batch, recipe.stages[0], rate=1e-2, rng=np.random.default_rng(5)))
        trainer.step += 1
    after = state_of(trainer)
    moved = {
        key for key in before if key.startswith("module model.") and not torch.equal(before[key], after[key])
    }
    assert moved
    assert all(".fine." in key for key in moved)
    assert losses[-1] < losses[0]
    for key, tensor in base.items():
        assert torch.equal(trainer.averaged_weights()[key], tensor), key


def test_a_memory_learns_on_a_frozen_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From clips, beginning as the image model decodes; the memory that the base has already is left aside."""
    base = build_sam2(RECIPE.name).state_dict()
    path = tmp_path / "base.safetensors"
    save_file(base, path)
    monkeypatch.setattr(trainable, "find_weights", lambda spec: path)
    windows = WindowPlan(side=64, frames=3)
    plan = ClipPlan(usual=windows, large=windows, rendered=(96, 96), still_share=0.0)
    recipe = replace(
        RECIPE, name="test-memory", model=RECIPE.name, base="sam2-nano", learns=(".memory.",),
        stages=(Stage(3, plan, batch=1, rate=1e-3, last_rate=0.0),),
    )  # fmt: skip
    trainer = Trainer(recipe, images=[], folder=tmp_path / "run")
    first = trainer.averaged_weights()
    assert torch.equal(first["memory.decoder.iou_token.weight"], base["sam_mask_decoder.iou_token.weight"])
    assert not torch.equal(first["memory.ages"], base["memory.ages"])
    before = state_of(trainer)
    (report,) = trainer.run(validate=scored(0.5))
    assert np.isfinite(report.loss)
    after = state_of(trainer)
    moved = {k for k in before if k.startswith("module model.") and not torch.equal(before[k], after[k])}
    assert moved
    assert all(".memory." in key for key in moved)
    for key, tensor in base.items():
        if not key.startswith("memory."):
            assert torch.equal(trainer.averaged_weights()[key], tensor), key


def test_nested_masks_are_learnt_on_the_trunk_of_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shrunken(SEMANTIC["semantic-nano"])
    for table in (SEMANTIC, CONFIGS):
        monkeypatch.setitem(table, "test-semantic-nano", config)
    base = build_sam2(RECIPE.name).state_dict()
    path = tmp_path / "base.safetensors"
    save_file(base, path)
    monkeypatch.setattr(trainable, "spec_of", lambda _: None)
    monkeypatch.setattr(trainable, "find_weights", lambda _: path)
    plan = NestedPlan(side=64, objects=2, seen=6, frames=(128, 128))
    stage = replace(STAGE, plan=plan)
    recipe = replace(
        RECIPE, name="test-semantic-nano", stages=(stage,), trunk_of=RECIPE.name, trunk_share=0.25
    )
    trainer = trainer_in(tmp_path / "run", recipe=recipe)
    before = {key: value.clone() for key, value in trainer.module.state_dict().items()}
    for key, value in base.items():
        if key.startswith("image_encoder.trunk."):
            assert torch.equal(before["model." + key.replace("trunk.", "")], value)
    list(trainer.run(validate=scored(0.5), every=2))
    shares = {group["share"]: group["lr"] for group in trainer.optimiser.param_groups}
    assert set(shares) == {0.25, 1.0}
    assert shares[0.25] == pytest.approx(0.25 * shares[1.0])
    assert (tmp_path / "run" / BEST).exists()
    after = trainer.module.state_dict()
    for part in ("image_encoder", "pixel_decoder", "query_decoder", "text_encoder", "word_scores"):
        assert any(not torch.equal(after[k], before[k]) for k in after if k.startswith(f"model.{part}"))
    again = trainer_in(tmp_path / "run", recipe=recipe)
    assert again.step == 2
    assert_equal(state_of(again), state_of(trainer))
