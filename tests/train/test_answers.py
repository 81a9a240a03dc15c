"""Answers collected for the judge: what it was shown, what it said, and how good the masks really were."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_images import disc_image

from napari_segany.core.types import Points, Prompt
from napari_segany.models.judge import Evidence, MaskJudge
from napari_segany.models.sam2 import Sam2
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model
from napari_segany.predict.prompts import encode_prompt
from napari_segany.train import answers
from napari_segany.train.answer_plan import AnswerPlan
from napari_segany.train.answers import AnswerStream, answers_of, judge_loss
from napari_segany.train.clicks import deepest_point
from napari_segany.train.dataset import FIRST_SEED, Annotated, annotate
from napari_segany.train.loop import Trainer
from napari_segany.train.metrics import whole_mask
from napari_segany.train.stages import Recipe, Stage

PLAN = AnswerPlan(scenes=2, images=3, objects=(3, 2), size=(96, 96), image_share=0.5)


@pytest.fixture(scope="module")
def nano() -> ImagePredictor:
    return ImagePredictor(load_model("sam2-nano", device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def fine() -> ImagePredictor:
    return ImagePredictor(load_model("sam2-hq-nano", device="cpu", precision="float32"))


def _judge(predictor: ImagePredictor) -> MaskJudge:
    assert isinstance(predictor.model.network, Sam2)
    decoder = predictor.model.network.decoder
    return decoder.fine.judge if predictor.card.has_fine else decoder.judge


def _stream(
    predictor: ImagePredictor, *, images: list[Annotated] | None = None, batch: int = 16
) -> AnswerStream:
    images = [disc_image(radius=5), disc_image("more")] if images is None else images
    return AnswerStream(predictor, images, PLAN, seed=3, kinds=("fluorescence", "spots"), batch=batch)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["nano", "fine"])
def test_the_judge_decides_by_the_evidence_as_when_predicting(
    name: str, request: pytest.FixtureRequest
) -> None:
    predictor: ImagePredictor = request.getfixturevalue(name)
    item = disc_image(size=(128, 128), radius=30)  # too large to be looked at again
    (look,) = answers_of(predictor, item, np.random.default_rng(0), most=1)
    said = _judge(predictor).decide(Evidence(*(x.float() for x in look[:4])))[0]
    assert look[-1].max() > 0.8
    features, mask = predictor.embed(item.image), whole_mask(item.objects[0], item.labels.shape)
    at = Points(np.array([deepest_point(mask)], dtype=np.float32), np.array([True]))
    shown = predictor.predict(features, Prompt(points=at)).scores
    assert abs(float(said.max()) - float(shown.max())) < 0.1  # the click may have been another one


def test_small_objects_are_looked_at_twice_and_truth_goes_along(
    nano: ImagePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sam2, "sides", lambda *_: None)  # as before anything is foretold
    item = disc_image(size=(256, 256), radius=7)
    looks = list(answers_of(nano, item, np.random.default_rng(1), most=4))
    assert len(looks) == 8  # four in the frame and four in a window
    assert all(look[-1].shape == (1, 4) and look[-1].max() > 0.6 for look in looks)
    frame, window = looks[0][3].max(), looks[1][3].max()
    assert window > 1.5 * frame  # the masks' areas: it is magnified


def test_what_is_foretold_to_be_small_is_looked_at_in_its_window_alone(nano: ImagePredictor) -> None:
    item = disc_image(size=(256, 256), radius=7)
    looks = list(answers_of(nano, item, np.random.default_rng(1), most=4))
    assert len(looks) == 4
    assert all(look[-1].shape == (1, 4) and look[-1].max() > 0.6 for look in looks)


def test_of_masks_that_are_changed_as_a_whole_the_frame_alone_is_looked_at(fine: ImagePredictor) -> None:
    item = disc_image(size=(256, 256), radius=7)
    looks = list(answers_of(fine, item, np.random.default_rng(1), most=4))
    assert len(looks) == 4
    assert all(look[-1].shape == (1, 4) and look[-1].max() > 0.5 for look in looks)


def test_true_ious_are_those_of_the_masks(nano: ImagePredictor) -> None:
    item = disc_image(size=(128, 128), radius=30)
    (look,) = answers_of(nano, item, np.random.default_rng(0), most=1)
    features = nano.embed(item.image)
    truth = encode_prompt(Prompt(mask=whole_mask(item.objects[0], item.labels.shape)), features)
    assert truth.mask is not None
    area = float((truth.mask > 0).sum()) / 4  # the judge sees every second row and column
    best = int(look[-1][0].argmax())
    assert look[-1][0, best] > 0.9
    assert 0.7 * area < look[3][0, best] < 1.4 * area  # soft masks have wide rims


def test_an_image_without_objects_gives_no_answers(nano: ImagePredictor) -> None:
    empty = annotate("none", np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint32), modality="x")
    assert list(answers_of(nano, empty, np.random.default_rng(0), most=3)) == []


def test_hooks_are_gone_when_answers_are_collected(nano: ImagePredictor) -> None:
    list(answers_of(nano, disc_image(), np.random.default_rng(0), most=1))
    assert not _judge(nano)._forward_pre_hooks
    assert not nano.model.network.decoder._forward_hooks


def test_batches_are_drawn_from_what_was_collected_once(
    nano: ImagePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def counted(predictor: ImagePredictor, item: Annotated, *rest: object, **named: object) -> object:
        seen.append(item.name)
        return answers_of(predictor, item, *rest, **named)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(answers, "answers_of", counted)
    batches = list(islice(_stream(nano), 3))
    assert len(seen) == PLAN.scenes + PLAN.images
    assert {name.split("-")[0] for name in seen} == {"fluorescence", "spots", "discs", "more"}
    assert [len(x) for x in batches[0]] == [16] * 5
    assert batches[0][0].dtype == torch.float32
    assert not torch.equal(batches[0][0], batches[1][0])
    again = next(iter(_stream(nano)))
    assert all(torch.equal(a, b) for a, b in zip(batches[0], again, strict=True))


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)])
def test_images_have_their_share(
    nano: ImagePredictor, monkeypatch: pytest.MonkeyPatch, share: float, least: int, most: int
) -> None:
    def marked(
        _: ImagePredictor, item: Annotated, *__: object, **named: object
    ) -> list[tuple[torch.Tensor, ...]]:
        return [(torch.full((1, 4), float(item.modality == "fluorescence")),)]

    monkeypatch.setattr(answers, "answers_of", marked)
    plan = replace(PLAN, image_share=share)
    stream = AnswerStream(nano, [disc_image()], plan, seed=1, kinds=("spots",), batch=400)
    (drawn,) = next(iter(stream))
    assert len(drawn) == 400
    assert least <= drawn[:, 0].sum() <= most


def test_scenes_alone_will_do(nano: ImagePredictor) -> None:
    assert len(next(iter(_stream(nano, images=[], batch=5)))[0]) == 5


def test_a_judge_learns_which_mask_is_meant() -> None:
    """Masks whose second kind of evidence is large are the right ones; the token says the opposite."""
    torch.manual_seed(0)
    judge = MaskJudge(16, masks=4)
    right = torch.nn.functional.one_hot(torch.randint(4, (256,)), 4).float()
    seen = torch.randn(256, 4, judge.verdict.layers[0].in_features)
    seen[..., 1] = 3 * right
    batch = [seen, 0.6 - 0.2 * right, torch.eye(4).expand(256, 4, 4), torch.ones(256, 4), 0.3 + 0.6 * right]
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = judge_loss(judge, batch, left_out=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        said = judge.decide(Evidence(*batch[:4]))
    assert losses[-1] < losses[0]
    assert (said.argmax(1) == right.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize(
    ("recipe", "learns"),
    [
        (Recipe("sam2-nano", stages=()), ".sam_mask_decoder.judge."),
        (
            Recipe("sam2-hq-nano", stages=(), base="sam2-nano", learns=(".fine.",)),
            ".sam_mask_decoder.fine.judge.",
        ),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_a_stage_of_answers_teaches_the_judge_alone(recipe: Recipe, learns: str, tmp_path: Path) -> None:
    stage = Stage(2, PLAN, batch=8, rate=1e-2, last_rate=0.0, kinds=("spots",), learns=("judge",))
    recipe = replace(recipe, stages=(stage,), warmup=1, average=0.5)
    trainer = Trainer(recipe, images=[disc_image()], folder=tmp_path)
    before = {k: v.clone() for k, v in trainer.module.state_dict().items()}
    (report,) = trainer.run(validate=lambda _: {"score": 0.5})
    changed = [k for k, v in trainer.module.state_dict().items() if not torch.equal(v, before[k])]
    assert changed and all(learns in k for k in changed)
    assert np.isfinite(report.loss)


def test_no_scene_of_the_judge_is_one_of_validation(
    monkeypatch: pytest.MonkeyPatch, nano: ImagePredictor
) -> None:
    seeds: list[int] = []
    whole_scene = answers.from_scene

    def noted(seed: int, **named: object) -> Annotated:
        seeds.append(seed)
        return whole_scene(seed, **named)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(answers, "from_scene", noted)
    next(iter(_stream(nano, images=[])))
    assert len(seeds) == PLAN.scenes
    assert min(seeds) >= FIRST_SEED


@torch.no_grad()
def test_looking_and_deciding_are_what_judging_is() -> None:
    generator = torch.Generator().manual_seed(2)
    judge = MaskJudge(16, masks=4)
    torch.nn.init.normal_(judge.verdict.layers[-1].weight, generator=generator)
    shapes = {"embedding": (2, 16, 6, 6), "upscaled": (2, 36, 4, 2), "logits": (2, 36, 4, 4)}
    maps = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tokens, told = torch.randn(2, 4, 16, generator=generator), torch.rand(2, 4, generator=generator)
    ious, evidence = judge(tokens, told, **maps)
    looked = judge.look(tokens, told, **maps)
    assert [x.shape[:2] for x in astuple(evidence)] == [(2, 4)] * 4
    assert all(torch.equal(a, b) for a, b in zip(astuple(evidence), astuple(looked), strict=True))
    assert torch.equal(judge.decide(evidence), ious)
