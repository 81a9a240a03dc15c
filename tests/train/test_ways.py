"""What each way of finishing an answer is worth, collected, and learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_images import disc_image

from napari_segany.models.outline import OutlineHead
from napari_segany.models.sam2 import Sam2
from napari_segany.models.ways import AS_IT_IS, EXTENDED, OUTLINED, WayChoice
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.train.answer_plan import AnswerPlan
from napari_segany.train.dataset import Annotated, annotate, from_scene
from napari_segany.train.loop import Trainer
from napari_segany.train.stages import Recipe, Stage
from napari_segany.train.ways import ways_loss, ways_of


@pytest.fixture(scope="module")
def fine() -> ImagePredictor:
    return ImagePredictor(load_model("sam2-hq-nano", device="cpu", precision="float32"))


def choice_of(predictor: ImagePredictor) -> WayChoice:
    assert isinstance(predictor.model.network, Sam2)
    head = predictor.model.network.decoder.fine
    assert isinstance(head, OutlineHead)
    return head.choice


def collected(predictor: ImagePredictor, item: Annotated) -> tuple[torch.Tensor, torch.Tensor]:
    looks = list(ways_of(predictor, item, np.random.default_rng(1), most=2))
    seen, gains = (torch.cat(values) for values in zip(*looks, strict=True))
    assert gains.shape == (len(looks), 3)
    assert seen.shape == (len(looks), choice_of(predictor).gain.in_features)
    return seen, gains


def test_large_objects_are_answered_every_way(fine: ImagePredictor) -> None:
    before = {k: v.clone() for k, v in choice_of(fine).state_dict().items()}
    _, gains = collected(fine, disc_image(size=(128, 128), radius=30))
    assert 2 <= len(gains) <= 6  # a click, a box, and a correction where the first answer was not perfect
    assert (gains[:, :2].abs() < 0.3).all()
    assert gains[:, 2].isnan().all()
    assert not choice_of(fine)._forward_pre_hooks
    assert all(torch.equal(v, before[k]) for k, v in choice_of(fine).state_dict().items())


def test_small_ones_are_looked_at_twice_and_thin_ones_gain_by_extending(fine: ImagePredictor) -> None:
    _, small = collected(fine, disc_image(size=(256, 256), radius=13))  # not foretold to be small
    in_window = ~small[:, 2].isnan()
    assert in_window.any() and not in_window.all()
    assert small[in_window, :2].isnan().all()
    assert not small[~in_window, :2].isnan().any()
    thin = torch.cat([collected(fine, from_scene(s, kind="neurites", size=(256, 256)))[1] for s in (5, 6)])
    outlined, extended = thin[~thin[:, 0].isnan(), :2].mean(0)
    assert extended > 0.02
    assert extended > outlined


def test_nothing_comes_of_an_image_without_objects(fine: ImagePredictor) -> None:
    empty = annotate("none", np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint32), modality="x")
    assert list(ways_of(fine, empty, np.random.default_rng(0), most=3)) == []


def test_it_learns_which_way_suits_what_is_seen() -> None:
    """Where the first thing seen is large extending pays, else nothing does; in windows the second one says so."""
    torch.manual_seed(0)
    choice = WayChoice(6)
    seen = torch.randn(512, 6)
    window = torch.arange(512) % 2 == 0
    gains = torch.full((512, 3), torch.nan)
    gains[~window, 0], gains[~window, 1] = -0.05, 0.1 * seen[~window, 0]
    gains[window, 2] = 0.1 * seen[window, 1]
    optimiser = torch.optim.Adam(choice.parameters(), lr=2e-2)
    for _ in range(300):
        loss = ways_loss(choice, [seen, gains], left_out=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        frame, near = (choice(seen, extends=extends).argmax(1) for extends in (True, False))
    assert set(frame.tolist()) == {AS_IT_IS, EXTENDED}
    assert set(near.tolist()) == {AS_IT_IS, OUTLINED}
    assert ((frame == EXTENDED) == (seen[:, 0] > 0.1)).float().mean() > 0.95
    assert ((near == OUTLINED) == (seen[:, 1] > 0.1)).float().mean() > 0.95


def test_the_loss_is_the_squared_error_of_what_is_known_in_points() -> None:
    choice = WayChoice(4)
    with torch.no_grad():
        choice.gain.bias.copy_(torch.tensor([0.01, 0.02, 0.5]))
        gains = torch.tensor([[0.01, 0.04, torch.nan], [torch.nan, torch.nan, 0.47]])
        loss = ways_loss(choice, [torch.randn(2, 4), gains], left_out=0.5)
    assert loss == pytest.approx((0 + 4 + 9) / 3, rel=1e-4)


def test_a_stage_about_ways_teaches_the_choice_alone(tmp_path: Path) -> None:
    plan = AnswerPlan("ways", scenes=1, images=1, objects=(1, 1), size=(96, 96))
    stage = Stage(2, plan, batch=8, rate=1e-2, last_rate=0.0, kinds=("spots",), learns=("choice",))
    recipe = Recipe("sam2-hq-nano", (stage,), base="sam2-nano", learns=(".fine.",), warmup=1, average=0.5)
    trainer = Trainer(recipe, images=[disc_image()], folder=tmp_path)
    before = {k: v.clone() for k, v in trainer.module.state_dict().items()}
    (report,) = trainer.run(validate=lambda _: {"score": 0.5})
    changed = [k for k, v in trainer.module.state_dict().items() if not torch.equal(v, before[k])]
    assert changed and all(".sam_mask_decoder.fine.choice." in k for k in changed)
    assert np.isfinite(report.loss)
