"""Masks judged by a look at them: from what, by which of two ways, and what becomes of the scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.judge import MaskJudge
from napari_segany.models.mask_decoder import FAVOUR, MASK_TOKENS, MaskDecoder, MaskOutput
from napari_segany.models.prompt_encoder import NEGATIVE, PADDING, POSITIVE, obeyed
from napari_segany.models.sam2 import NANO_DECODER, Sam2, build_sam2

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
    torch.testing.assert_close(MaskJudge(WIDTH, masks=MASK_TOKENS)(**given_), given_["told"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["tokens", "told", "embedding", "upscaled", "logits"])
def test_everything_it_sees_counts(name: str) -> None:
    seen, sees = inputs(), judge()
    before = sees(**seen)
    assert before.shape == (2, MASK_TOKENS)
    assert ((before > 0) & (before < 1)).all()
    seen[name] = seen[name].clone()
    seen[name][0] = seen[name][0].flip(0) * 0.7
    after = sees(**seen)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])  # the other prompt's


@torch.no_grad()
def test_empty_and_full_masks_are_judged_too() -> None:
    seen = inputs()
    for fill in (-200.0, 200.0):
        seen["logits"] = torch.full_like(seen["logits"], fill)
        assert torch.isfinite(judge()(**seen)).all()


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


@pytest.mark.parametrize(
    ("ious", "shown"),
    [
        ([0.7, 0.7 + 0.9 * FAVOUR, 0.2, 0.1], 0),
        ([0.7, 0.1, 0.7 + 1.1 * FAVOUR, 0.1], 2),
        ([0.0, 0.0, 0.0, 0.0], 0),
    ],
)
def test_the_single_mask_is_the_best_one_and_mask_0_in_doubt(ious: list[float], shown: int) -> None:
    decoder = MaskDecoder(WIDTH, replace(NANO_DECODER, mlp_width=8, heads=2), projects_fine_maps=False)
    logits = torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2)
    output = MaskOutput(logits, torch.tensor([ious]), None, torch.randn(1, 4, WIDTH))
    single = decoder.select(output, multimask=False)
    assert single.logits[0, 0, 0, 0] == shown
    assert single.ious.tolist() == [[pytest.approx(ious[shown])]]  # the score is told without the favour
    assert decoder.select(output, multimask=True).ious.shape == (1, 3)


def test_of_four_masks_the_one_most_like_the_best_is_left_out() -> None:
    decoder = MaskDecoder(WIDTH, replace(NANO_DECODER, mlp_width=8, heads=2), projects_fine_maps=False)
    columns = torch.arange(16.0)[None, :].expand(16, 16)

    def shown(ends: list[float], ious: list[float]) -> list[float]:
        logits = torch.stack([(columns < end).float() - 0.5 for end in ends])[None]
        answer = decoder.select(
            MaskOutput(logits, torch.tensor([ious]), None, torch.randn(1, 4, WIDTH)), multimask=True
        )
        return answer.ious[0].tolist()

    assert shown([8, 10, 4, 14], [0.9, 0.8, 0.7, 0.6]) == pytest.approx([0.9, 0.7, 0.6])
    assert shown([8, 10, 4, 14], [0.7, 0.6, 0.9, 0.5]) == pytest.approx([0.6, 0.9, 0.5])
    assert shown([8, 9, 0, 14], [0.9, 0.8, 0.7, 0.6]) == pytest.approx(
        [0.9, 0.8, 0.6]
    )  # nothing is no answer
    assert shown([8, 9, 4, 14], [0.9, 0.8, 0.7, 0.0]) == pytest.approx([0.9, 0.8, 0.7])  # it obeys no click


@torch.inference_mode()
def test_a_click_that_no_mask_obeys_takes_its_share_of_the_scores() -> None:
    model = nano()
    features = model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    assert model.frame_of(features) == (64, 64)
    xy = torch.tensor([[[30.0, 20.0], [30.0, 20.0]]])
    for labels in (torch.tensor([[POSITIVE, PADDING]]), torch.tensor([[POSITIVE, NEGATIVE]])):
        told, answer = model.decode_all(features, xy, labels), model.decode(features, xy, labels)
        inside = told.logits[:, :, 10, 15] > 0  # the cell of the click
        share = torch.full((1, 4), 0.5) if labels[0, 1] == NEGATIVE else inside.float()
        shown = model.decoder.select(replace(told, ious=told.ious * share), multimask=True)
        torch.testing.assert_close(answer.ious, shown.ious)


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


def test_features_of_a_window_have_their_own_frame() -> None:
    features = ImageFeatures(torch.zeros(1, 128, 5, 9))
    assert build_sam2("sam2-nano").frame_of(features) == (40, 72)
