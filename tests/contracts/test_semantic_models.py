"""One contract over every Semantic-SAM of the registry, shrunken to sizes for a unit test."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, PADDING, POSITIVE
from napari_segany.models.query_decoder import TOKENS
from napari_segany.models.semantic_sam import CLICK_SIDE, SemanticSam

from .shrink import SEMANTIC, SIDE, WIDTH
from .small import Small, small_row

# Words need texts, which have tests of their own; the released models have these parts and never learnt them.
UNUSED = ("class_embed", "class_embed_part", "lang_mapper", "text_encoder.", "word_scores.")
CLICK = torch.tensor([[[20.0, 30.0]]])
BOX = torch.tensor([[[8.0, 5.0], [50.0, 30.0]]])
CLICKS = torch.tensor([[[20.0, 30.0]], [[44.0, 12.0]], [[50.0, 51.0]]])


@dataclass(frozen=True)
class Row:
    """A shrunken row and its first image."""

    small: Small

    @property
    def model(self) -> SemanticSam:
        assert isinstance(self.small.model, SemanticSam)
        return self.small.model

    def click(self, xy: Tensor = CLICK, **how: bool) -> MaskOutput:
        """Return the answer to clicks (N, 1, 2)."""
        labels = torch.full(xy.shape[:2], POSITIVE)
        return self.model.decode(self.small.features(), xy, labels, **how)


@pytest.fixture(scope="module", params=SEMANTIC)
def row(request: pytest.FixtureRequest) -> Row:
    return Row(small_row(request.param))


@torch.inference_mode()
def test_shapes_follow_the_strides(row: Row) -> None:
    features = row.model.encode(row.small.pixels)
    side = SIDE // row.model.config.stride
    assert features.embedding.shape == (2, WIDTH, side, side)
    votes = row.model.config.pixel_decoder.votes
    assert features.fine[0].shape == (2, 16 + 2 * votes, 4 * side, 4 * side)
    levels = row.model.levels_of(features)
    sides = [level.shape[3] for level in levels]
    assert sides == [sides[0] >> index for index in range(len(levels))]
    assert len(levels) == row.model.config.pixel_decoder.deformable.levels
    assert row.model.frame_of(features) == (SIDE, SIDE)
    answer = row.click(CLICKS)
    assert answer.logits.shape == (3, TOKENS, 4 * side, 4 * side)
    assert answer.ious.shape == (3, TOKENS)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 96), (64, 128)])
def test_frames_of_other_sizes_are_taken(row: Row, size: tuple[int, int]) -> None:
    features = row.model.encode(torch.zeros(1, 3, *size))
    answer = row.model.decode(features, CLICK, torch.tensor([[POSITIVE]]))
    stride = row.model.config.stride
    assert answer.logits.shape == (1, TOKENS, 4 * size[0] // stride, 4 * size[1] // stride)
    assert row.model.frame_of(features) == size


@torch.inference_mode()
def test_answers_are_finite_and_differ_by_level_and_over_the_image(row: Row) -> None:
    answer = row.click()
    assert torch.isfinite(answer.logits).all()
    assert ((answer.ious >= 0) & (answer.ious <= 1)).all()
    assert (answer.logits.std(dim=(2, 3)) > 0).all()
    flat = answer.logits[0].flatten(1)
    apart = (flat[:, None] - flat).abs().amax(dim=2) + torch.eye(TOKENS)
    assert apart.min() > 1e-4


@torch.inference_mode()
def test_the_same_question_gets_the_same_answer(row: Row) -> None:
    assert torch.equal(row.click().logits, row.click().logits)


@torch.inference_mode()
def test_images_in_a_batch_do_not_mix(row: Row) -> None:
    batch = row.model.encode(row.small.pixels)
    for index in range(2):
        alone = row.model.encode(row.small.pixels[index : index + 1])
        own = batch.of(torch.tensor([index]))
        for ours, theirs in zip((own.embedding, *own.fine), (alone.embedding, *alone.fine), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_prompts_do_not_mix_but_in_the_reference_s_order(row: Row) -> None:
    alone = torch.cat([row.click(xy[None]).logits for xy in CLICKS])
    together = row.click(CLICKS).logits
    scale = float(alone.abs().max())
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * scale)
    mixed = row.click(CLICKS, reference=True).logits
    assert (mixed - alone).abs().max() > 1e-3 * scale


@torch.inference_mode(mode=False)
def test_inference_takes_shorter_ways_to_the_same_numbers(row: Row) -> None:
    with torch.no_grad():
        fast = row.click(CLICKS)
    with torch.enable_grad():
        slow = row.click(CLICKS)
    assert slow.logits.requires_grad
    for ours, theirs in ((fast.logits, slow.logits), (fast.ious, slow.ious), (fast.tokens, slow.tokens)):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(scale, 1e-3))


@torch.inference_mode()
def test_every_part_of_a_prompt_matters(row: Row) -> None:
    features = row.small.features()

    def asked(xy: Tensor, *labels: int, masks: Tensor | None = None) -> Tensor:
        return row.model.decode(features, xy, torch.tensor([labels]), masks=masks).logits

    base = asked(CLICK, POSITIVE)
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)
    others = {
        "a moved click": asked(CLICK + 12, POSITIVE),
        "a box": asked(BOX, BOX_START, BOX_END),
        "a larger box": asked(BOX * 1.2, BOX_START, BOX_END),
        "a mask": row.model.decode(features, *nothing, masks=row.small.mask_prompt()).logits,
    }
    for what, answer in others.items():
        assert (answer - base).abs().max() > 1e-4 * base.abs().max(), what
    assert not torch.equal(others["a box"], others["a larger box"])


@torch.inference_mode()
def test_padding_changes_nothing_and_a_click_that_is_not_obeyed_lowers_the_score(row: Row) -> None:
    features, base = row.small.features(), row.click()
    padded = row.model.decode(
        features, torch.cat((CLICK, CLICK * 0), dim=1), torch.tensor([[POSITIVE, PADDING]])
    )
    torch.testing.assert_close(padded.logits, base.logits, rtol=1e-4, atol=1e-5)
    again = torch.cat((CLICK, CLICK), dim=1)
    denied = row.model.decode(features, again, torch.tensor([[POSITIVE, NEGATIVE]]))
    torch.testing.assert_close(denied.ious, 0.5 * row_scores(row))  # a mask obeys one of the two


def row_scores(row: Row) -> Tensor:
    """Return the (1, 6) scores of the click, whether its masks obey it or not."""
    click = torch.cat((CLICK[0] + 0.5, torch.zeros(1, 2)), dim=1) / SIDE
    click[:, 2:] = CLICK_SIDE
    looked = row.model.look(row.small.features(), click[None], torch.zeros(1, 1, dtype=torch.bool))[-1]
    return row.model.answers(row.small.features(), looked).ious.clamp(0, 1)


@torch.inference_mode()
def test_a_single_mask_is_the_best_of_the_six(row: Row) -> None:
    everything, chosen = row.click(), row.click(multimask=False)
    best = everything.ious[0].argmax()
    assert chosen.logits.shape[1] == chosen.ious.shape[1] == 1
    assert torch.equal(chosen.logits[0, 0], everything.logits[0, best])
    assert torch.equal(chosen.ious[0, 0], everything.ious[0, best])


@torch.inference_mode()
def test_half_precision_is_close_to_full(row: Row) -> None:
    full = row.click().logits
    model = copy.deepcopy(row.model)
    model.image_encoder.to(torch.bfloat16)
    features = model.encode(row.small.pixels[:1].bfloat16())
    half = model.decode(features, CLICK, torch.tensor([[POSITIVE]])).logits
    assert torch.isfinite(half).all()
    assert (half - full).norm() < 0.1 * full.norm()
    assert not torch.equal(half, full)


def test_every_parameter_of_the_path_learns(row: Row) -> None:
    model = row.model
    model.zero_grad()
    boxes = torch.tensor([[[0.3, 0.5, CLICK_SIDE, CLICK_SIDE], [0.5, 0.4, 0.6, 0.5]]])
    features = row.small.features()
    generator = torch.Generator().manual_seed(3)
    loss = torch.zeros(())
    for looked in model.look(features, boxes, torch.tensor([[False, True]])):
        found = model.answers(features, looked, boxes[..., :2])
        for part in (found.logits, found.ious, found.boxes):
            loss = loss + (part * torch.randn(part.shape, generator=generator)).mean()
    loss.backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if not name.removeprefix("query_decoder.").startswith((*UNUSED, "seeds.", "seed_tokens."))
        and (parameter.grad is None or not parameter.grad.any())
    ]
    model.zero_grad()
    assert silent == []
