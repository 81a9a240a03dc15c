"""Masks judged by a look at them: from what, by which of two ways, and what becomes of the scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.judge import _AROUND, MaskJudge, _grown
from napari_segany.models.mask_decoder import MASK_TOKENS
from napari_segany.models.picking import best_one, three_apart
from napari_segany.models.prompt_encoder import obeyed
from napari_segany.models.prompt_labels import NEGATIVE, PADDING, POSITIVE
from napari_segany.models.sam2 import Sam2, build_sam2

WIDTH, SIDE = 16, 6


def judge() -> MaskJudge:
    """Return a judge whose verdicts depend on everything it sees."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return _opinionated(MaskJudge(WIDTH, masks=MASK_TOKENS).eval())


def _opinionated(made: MaskJudge) -> MaskJudge:
    for part in (made.verdict, made.comparison):
        nn.init.normal_(part.layers[-1].weight)
    return made


def inputs(*, answers: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(answers, *shape, generator=generator)

    return {
        "tokens": drawn(MASK_TOKENS, WIDTH),
        "told": drawn(MASK_TOKENS).sigmoid(),
        "embedding": drawn(WIDTH, SIDE, SIDE),
        "upscaled": drawn(SIDE * SIDE, 4, WIDTH // 8),
        "logits": 4 * drawn(SIDE * SIDE, 4, MASK_TOKENS),
    }


def nano() -> Sam2:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = build_sam2("sam2-nano").eval()
        _opinionated(model.decoder.judge)
    return model


@torch.no_grad()
def test_an_untrained_judge_repeats_what_the_token_says() -> None:
    given_ = inputs()
    torch.testing.assert_close(MaskJudge(WIDTH, masks=MASK_TOKENS)(**given_)[0], given_["told"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["tokens", "told", "embedding", "upscaled", "logits"])
def test_everything_it_sees_counts(name: str) -> None:
    seen, sees = inputs(), judge()
    before, _ = sees(**seen)
    assert before.shape == (2, MASK_TOKENS)
    assert ((before > 0) & (before < 1)).all()
    seen[name] = seen[name].clone()
    seen[name][0] = seen[name][0].flip(0) * 0.7
    after, _ = sees(**seen)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])  # the other prompt's


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (16, 12)])
def test_a_neighbourhood_s_largest_value_is_found(size: tuple[int, int]) -> None:
    masks = torch.rand(2, 4, *size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(_grown(masks), F.max_pool2d(masks, _AROUND, stride=1, padding=_AROUND // 2))


@torch.no_grad()
def test_empty_and_full_masks_are_judged_too() -> None:
    seen = inputs()
    for fill in (-200.0, 200.0):
        seen["logits"] = torch.full_like(seen["logits"], fill)
        assert torch.isfinite(judge()(**seen)[0]).all()


def test_training_and_inference_judge_alike() -> None:
    model = nano()
    features = model.encode(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3)))
    xy, labels = torch.tensor([[[40.0, 20.0]]]), torch.tensor([[POSITIVE]])
    slow = model.decode_all(features, xy, labels)
    with torch.no_grad():
        fast = model.decode_all(features, xy, labels)
    torch.testing.assert_close(slow.ious.detach(), fast.ious, atol=1e-5, rtol=1e-4)


def test_judging_bends_no_mask() -> None:
    """What the judge learns reaches the tokens, and not the maps that masks are made of."""
    model = nano()
    features = model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    output = model.decode_all(features, torch.tensor([[[30.0, 20.0]]]), torch.tensor([[POSITIVE]]))
    output.ious.sum().backward()
    decoder = model.decoder
    assert all(p.grad is not None and p.grad.any() for p in decoder.judge.parameters())
    assert all(p.grad is None for p in decoder.output_upscaling.parameters())
    assert all(p.grad is None for p in decoder.output_hypernetworks_mlps.parameters())
    assert decoder.mask_tokens.weight.grad is not None


def test_only_the_image_models_decoder_judges() -> None:
    model = nano()
    assert hasattr(model.decoder, "judge")
    assert not hasattr(model.memory.decoder, "judge")


@torch.inference_mode()
def test_a_click_that_no_mask_obeys_takes_its_share_of_the_scores() -> None:
    model = nano()
    features = model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    assert model.frame_of(features) == (64, 64)
    xy = torch.tensor([[[30.0, 20.0], [30.0, 20.0]]])
    for labels in (torch.tensor([[POSITIVE, PADDING]]), torch.tensor([[POSITIVE, NEGATIVE]])):
        told = model.decode_all(features, xy, labels)
        answer, one = (model.decode(features, xy, labels, multimask=several) for several in (True, False))
        inside = told.logits[:, :, 10, 15] > 0  # the cell of the click
        share = torch.full((1, 4), 0.5) if labels[0, 1] == NEGATIVE else inside.float()
        told = replace(told, ious=told.ious * share)
        for shown, expected in ((answer, three_apart), (one, best_one)):
            torch.testing.assert_close(shown.ious, expected(told, obeyed=torch.ones_like).ious)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kinds=st.lists(st.sampled_from([POSITIVE, NEGATIVE, PADDING]), min_size=1, max_size=5))
def test_the_share_of_clicks_obeyed_is_counted(data: st.DataObject, kinds: list[int]) -> None:
    places = [(data.draw(st.integers(0, 31)), data.draw(st.integers(0, 15))) for _ in kinds]
    masks = torch.randn(1, 2, 3, 8, 16, generator=torch.Generator().manual_seed(len(kinds)))
    xy = torch.tensor([[[float(x), float(y)] for x, y in places]])
    found = obeyed(masks, xy, torch.tensor([kinds]), frame=(16, 32))
    assert found.shape == (1, 2, 3)
    for q in range(2):
        for m in range(3):
            agrees = [
                bool(masks[0, q, m, y // 2, x // 2] > 0) == (kind == POSITIVE)
                for (x, y), kind in zip(places, kinds, strict=True)
                if kind != PADDING
            ]
            expected = sum(agrees) / len(agrees) if agrees else 1.0
            assert float(found[0, q, m]) == pytest.approx(expected)
            assert (float(found[0, q, m]) == 0) == (expected == 0)  # such a mask is no answer: `picking`


def test_features_of_a_window_have_their_own_frame() -> None:
    features = ImageFeatures(torch.zeros(1, 128, 5, 9))
    assert build_sam2("sam2-nano").frame_of(features) == (40, 72)
