"""What is learnt of sizes: sides in frame pixels of what was clicked on, by the head alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_images import disc_image

from napari_segany.models.sam2 import Sam2
from napari_segany.models.size_head import QUANTILE, SizeHead
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.train.answer_plan import AnswerPlan
from napari_segany.train.dataset import annotate, from_scene
from napari_segany.train.loop import Trainer
from napari_segany.train.recipes import recipe_of
from napari_segany.train.sides import sides_loss, sides_of
from napari_segany.train.stages import Stage


@pytest.fixture(scope="module")
def nano() -> ImagePredictor:
    return ImagePredictor(load_model("sam2-nano", device="cpu", precision="float32"))


@pytest.mark.parametrize(("radius", "size"), [(5, 128), (12, 256), (30, 640)])
def test_sides_are_in_pixels_of_the_frame(nano: ImagePredictor, radius: int, size: int) -> None:
    item = disc_image(size=(size, size), radius=radius)
    scale = max(1.0, 512 / size)
    rows = list(sides_of(nano, item, np.random.default_rng(0), most=3))
    assert rows
    for seen, side in rows:
        assert seen.shape == (1, 128) and side.shape == (1,)
        assert 2 ** float(side) == pytest.approx(scale * (2 * radius + 1), rel=0.1)


def test_an_image_without_objects_teaches_nothing(nano: ImagePredictor) -> None:
    empty = annotate("none", np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint32), modality="x")
    assert list(sides_of(nano, empty, np.random.default_rng(0), most=3)) == []


def test_a_head_learns_what_nine_in_ten_do_not_exceed() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(4000, 8, generator=generator)
    sides = 6 + seen[:, 0] + torch.rand(4000, generator=generator)
    head = SizeHead(8)
    optimiser = torch.optim.Adam(head.parameters(), 0.03)
    for _ in range(500):
        optimiser.zero_grad()
        sides_loss(head, [seen, sides]).backward()
        optimiser.step()
    with torch.no_grad():
        bounds = head(seen)
    assert float((sides <= bounds).float().mean()) == pytest.approx(QUANTILE, abs=0.03)
    assert float((bounds - 6 - seen[:, 0]).mean()) == pytest.approx(QUANTILE, abs=0.05)


def test_the_bundled_head_tells_small_from_large(nano: ImagePredictor) -> None:
    rng = np.random.default_rng(0)
    items = [
        from_scene(seed, kind=kind, size=(256, 256))
        for seed in (3, 4)
        for kind in ("spots", "fluorescence", "em")
    ]
    rows = [row for item in items for row in sides_of(nano, item, rng, most=8)]
    seen, sides = (torch.cat(values).float() for values in zip(*rows, strict=True))
    network = nano.model.network
    assert isinstance(network, Sam2)
    with torch.inference_mode():
        foretold = network.size_head(seen)
    assert float(torch.corrcoef(torch.stack((foretold, sides)))[0, 1]) > 0.8
    assert 0.75 < float((sides <= foretold).float().mean()) < 1
    assert float((foretold - sides).median()) < 1.2  # doublings


def test_a_stage_about_sides_teaches_the_head_alone(tmp_path: Path) -> None:
    plan = AnswerPlan("sides", scenes=2, images=2, objects=(3, 2), size=(96, 96), image_share=0.5)
    stage = Stage(2, plan, batch=8, rate=1e-2, last_rate=0.0, kinds=("spots",), learns=("size_head",))
    recipe = replace(recipe_of("sam2-nano"), stages=(stage,), warmup=1, average=0.5)
    trainer = Trainer(recipe, images=[disc_image()], folder=tmp_path)
    before = {k: v.clone() for k, v in trainer.module.state_dict().items()}
    (report,) = trainer.run(validate=lambda _: {"score": 0.5})
    changed = [k for k, v in trainer.module.state_dict().items() if not torch.equal(v, before[k])]
    assert sorted(changed) == ["model.size_head.line.bias", "model.size_head.line.weight"]
    assert np.isfinite(report.loss)
