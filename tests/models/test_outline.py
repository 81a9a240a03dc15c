"""Outlines decided anew: where, from what, and what stays as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_segany.models.fine import FineConfig
from napari_segany.models.judge import seen_of_mask
from napari_segany.models.layers import REACHES
from napari_segany.models.mask_decoder import MaskOutput, nested
from napari_segany.models.mask_spread import CELL
from napari_segany.models.outline import (
    AROUND,
    FEATURES,
    LOGITS,
    PIXELS,
    OutlineContext,
    OutlineHead,
    outline_inputs,
    pixels_below,
    places_beside,
    unsure,
)
from napari_segany.models.ways import AS_IT_IS, EXTENDED, OUTLINED

WIDTH = 16
MASKS = 3


def scene(*, answers: int = 1, masks: int = MASKS, side: int = 8) -> tuple[MaskOutput, Tensor, Tensor]:
    """Return an answer of random logits, and the features and the frame that its context was made of."""
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(answers, masks, side, side, generator=generator)
    features = torch.randn(answers, WIDTH // 8, side, side, generator=generator)
    frame = torch.randn(1, 3, 2 * side, 2 * side, generator=generator)
    embedding = torch.randn(answers, WIDTH, side // 4, side // 4, generator=generator)
    seen = torch.randn(answers, masks, seen_of_mask(WIDTH, masks=masks), generator=generator)
    context = OutlineContext(nested(features, 2), F.pixel_unshuffle(frame, 2), embedding, seen)
    tokens = torch.randn(answers, masks, WIDTH, generator=generator)
    return MaskOutput(logits, torch.rand(answers, masks), None, tokens, context=context), features, frame


def untrained(*, band: float = 6.0, most: int = 2048) -> OutlineHead:
    return OutlineHead(WIDTH, FineConfig(hidden=8, spread=4, judge=8, band=band, most=most), masks=MASKS)


def head(*, band: float = 6.0, most: int = 2048) -> OutlineHead:
    """Return a head that corrects at random."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = untrained(band=band, most=most).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return made


def doubled(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)


@torch.inference_mode()
def test_an_untrained_head_draws_what_its_base_draws() -> None:
    output, _, _ = scene(masks=1)
    finished = untrained().finished(output)
    assert finished.fine is not None
    torch.testing.assert_close(finished.fine, doubled(output.logits))
    assert finished.context is None


@torch.inference_mode()
def test_of_several_masks_the_doubtful_ones_are_drawn_larger() -> None:
    output, _, _ = scene(masks=3)
    output = replace(output, ious=torch.tensor([[1.0, 0.5, 0.2]]))
    made = untrained(band=100.0)
    finished, as_they_are = made.finished(made.extended(output)).fine, made.finished(output).fine
    assert finished is not None
    assert as_they_are is not None
    more = (finished - doubled(output.logits))[0]
    torch.testing.assert_close(as_they_are, doubled(output.logits))  # where masks were not extended
    torch.testing.assert_close(more[0], torch.zeros_like(more[0]), atol=1e-5, rtol=0)
    for index, iou in ((1, 0.5), (2, 0.2)):
        expected = torch.full_like(more[index], -0.5 * float(np.log(iou)))
        torch.testing.assert_close(more[index], expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_only_unsure_pixels_are_changed() -> None:
    output, _, _ = scene(answers=2)
    fine = head(band=2.0).finished(output).fine
    assert fine is not None
    changed = fine != doubled(output.logits)
    is_unsure = (output.logits.abs() < 2.0).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(changed, is_unsure)


@torch.inference_mode()
def test_nothing_is_changed_outside_of_what_may_be() -> None:
    output, _, _ = scene()
    within = torch.zeros_like(output.logits, dtype=torch.bool)
    within[:, 1, 2:5] = True
    fine = head().finished(output, within=within).fine
    assert fine is not None
    changed = fine != doubled(output.logits)
    assert changed.any()
    assert not changed[~within.repeat_interleave(2, 2).repeat_interleave(2, 3)].any()


@torch.inference_mode()
def test_many_answers_are_finished_as_one_by_one() -> None:
    output, _, _ = scene(answers=3)
    together = head().finished(output).fine
    assert together is not None
    for index in range(3):
        alone = head().finished(output.row(index)).fine
        torch.testing.assert_close(together[index : index + 1], alone)


@torch.inference_mode()
def test_inputs_are_what_lies_around_a_place() -> None:
    output, features, frame = scene(answers=2)
    context, logits = output.context, output.logits
    assert context is not None
    side = logits.shape[3]
    pairs = F.pixel_unshuffle(frame, 2)[0]  # (12, 8, 8)
    for answer, mask, y, x in ((0, 0, 3, 4), (1, 2, 0, 7), (1, 1, 7, 0)):
        place = torch.tensor([((answer * logits.shape[1] + mask) * side + y) * side + x])
        (inputs,) = outline_inputs(context, logits, place)
        pixels, seen, coarse = inputs.split([len(AROUND) * PIXELS, len(FEATURES) * WIDTH // 8, len(LOGITS)])

        def at(maps: Tensor, steps: Sequence[tuple[int, int]], y: int = y, x: int = x) -> Tensor:
            rows, cols = (np.clip([p + step[k] for step in steps], 0, side - 1) for k, p in enumerate((y, x)))
            return maps[:, rows, cols].T.flatten()

        torch.testing.assert_close(pixels, at(pairs, AROUND))
        torch.testing.assert_close(seen, at(features[answer], FEATURES))
        torch.testing.assert_close(coarse, at(logits[answer, mask][None] / 4, LOGITS).clamp(-3, 3))


def test_places_beside_are_those_that_touch_and_are_unsure_too() -> None:
    shape = torch.Size((2, 1, 4, 5))
    places = torch.tensor([0, 1, 6, 19, 20, 4])  # 19 and 20 are neighbours in memory, but of two masks
    beside = places_beside(places, shape)
    assert beside.shape == (6, 9)
    for number, place in enumerate(places.tolist()):
        mask, row, col = place // 20, place % 20 // 5, place % 5
        for (dy, dx), found in zip(AROUND, beside[number].tolist(), strict=True):
            y, x = row + dy, col + dx
            wanted = mask * 20 + y * 5 + x
            is_there = 0 <= y < 4 and 0 <= x < 5 and wanted in places.tolist()
            assert found == (places.tolist().index(wanted) if is_there else 6)


@torch.inference_mode()
def test_a_place_hears_those_beside_it_and_no_others() -> None:
    network = head()
    inputs, told = torch.randn(3, network.first.in_features), torch.zeros(3, 16)
    alone = torch.full((3, 9), 3)
    pair = alone.clone()
    pair[0, 5], pair[1, 3] = 1, 0  # the first two touch
    before, after = network(inputs, told, alone), network(inputs, told, pair)
    assert not torch.allclose(before[:2], after[:2])
    torch.testing.assert_close(before[2], after[2])


def test_the_pixels_below_a_place_are_in_the_order_of_an_unshuffled_frame() -> None:
    frame = torch.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    pairs = F.pixel_unshuffle(frame.float().flatten(0, 1)[:, None], 2).long()  # (6, 4, 4, 6)
    places = torch.arange(6 * 4 * 6)
    below = frame.flatten()[pixels_below(places, torch.Size((2, 3, 4, 6)))]
    assert torch.equal(below, pairs.permute(0, 2, 3, 1).reshape(-1, 4))


@given(most=st.integers(1, 400), band=st.floats(0.1, 20), seed=st.integers(0, 1000))
def test_of_each_mask_the_least_sure_places_are_taken(most: int, band: float, seed: int) -> None:
    logits = 6 * torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(seed))
    places = unsure(logits, band=band, most=most)
    size = logits.abs().flatten(0, 1).flatten(1)
    for index in range(4):
        own = places[places // 256 == index] % 256
        assert len(own) <= most
        assert len(own) >= min(most, int((size[index] < band).sum())) - 1
        assert (size[index, own] < band).all()
        left = torch.ones(256, dtype=torch.bool)
        left[own] = False
        if len(own) and left.any():
            assert size[index, own].max() <= size[index, left].min()


@torch.inference_mode()
def test_what_is_meant_comes_from_the_token() -> None:
    output, _, _ = scene(masks=1)
    other = replace(output, tokens=output.tokens.flip(-1))
    one, two = (head().finished(each).fine for each in (output, other))
    assert one is not None and two is not None
    assert (one - two).abs().max() > 1e-3


@torch.inference_mode()
def test_a_mask_that_is_sure_everywhere_stays() -> None:
    output, _, _ = scene()
    sure = replace(output, logits=torch.full_like(output.logits, -9.0))
    fine = head().finished(sure).fine
    assert fine is not None
    assert (fine == -9.0).all()


@torch.inference_mode()
def test_whole_masks_change_each_by_itself_and_nothing_else_does() -> None:
    output, _, _ = scene(answers=2)
    made = head()
    extended = made.extended(output)
    assert not torch.allclose(extended.logits, output.logits, atol=0.1)
    assert extended.ious is output.ious
    assert extended.context is not None
    assert extended.context.ways is not None
    assert extended.context.ways.tolist() == [EXTENDED, EXTENDED]
    for index in range(2):
        torch.testing.assert_close(made.extended(output.row(index)).logits, extended.logits[index][None])
        one = output.row(index).masks(slice(1, 2))
        torch.testing.assert_close(made.extended(one).logits, extended.logits[index : index + 1, 1:2])
    new = untrained()
    assert torch.equal(new.extended(output).logits, output.logits)


@torch.no_grad()
def test_only_what_hears_of_a_mask_is_looked_at() -> None:
    """As good as the whole frame: places within reach of the masks are changed alike, what lies further away stays."""
    side = CELL * (4 * sum(REACHES))
    output, _, _ = scene(side=side)
    middle = slice(side // 2, side // 2 + 8)
    logits = torch.full_like(output.logits, -7.0)
    logits[:, :, middle, middle] = 3.0
    output, made = replace(output, logits=logits), head()
    near = made.extended(output).logits
    with torch.enable_grad():
        whole = made.extended(output).logits.detach()
    torch.testing.assert_close(near[:, :, middle, middle], whole[:, :, middle, middle])
    reached = (near != logits).any(1)[0].nonzero()
    edges = reached.min(0).values.tolist(), reached.max(0).values.tolist()
    margin = CELL * sum(REACHES)
    assert edges == ([side // 2 - margin] * 2, [side // 2 + 7 + margin] * 2)
    empty = replace(output, logits=torch.full_like(logits, -7.0))
    assert torch.equal(made.extended(empty).logits, empty.logits)


@torch.inference_mode()
def test_an_untrained_head_judges_as_its_base_did() -> None:
    output, _, _ = scene(answers=2)
    torch.testing.assert_close(untrained().judged(output).ious, output.ious)


@torch.inference_mode()
def test_masks_are_judged_as_they_are_once_they_were_changed() -> None:
    output, _, _ = scene(answers=2)
    made = head()
    before, extended = made.judged(output), made.extended(output)
    after = made.judged(extended)
    assert not torch.allclose(before.ious, after.ious)
    assert torch.equal(after.logits, extended.logits)
    for index in range(2):
        torch.testing.assert_close(made.judged(extended.row(index)).ious, after.ious[index][None])


@torch.inference_mode()
def test_evidence_is_of_every_second_row_and_column() -> None:
    output, features, _ = scene()
    evidence = head().evidence(output)
    inside = output.logits[:, :, ::2, ::2].sigmoid()
    torch.testing.assert_close(evidence.area, inside.flatten(2).sum(-1))
    seen = features[:, :, ::2, ::2].flatten(2).transpose(1, 2)  # (1, N, C)
    share = inside.flatten(2) / inside.flatten(2).sum(-1, keepdim=True)
    of_inside = evidence.seen[..., 3 * WIDTH : 3 * WIDTH + WIDTH // 8]
    torch.testing.assert_close(of_inside, share @ seen)


def _choosing(made: OutlineHead) -> OutlineHead:
    """Return a head that takes the way whose number is the first thing that is seen."""
    with torch.no_grad():
        made.choice.gain.weight.zero_()
        made.choice.gain.weight[:, 0] = torch.tensor([1.0, 2.0, 1.0])
        made.choice.gain.bias.copy_(torch.tensor([-0.5, -2.0, -0.5]))
    return made


@torch.inference_mode()
def test_each_answer_of_a_batch_is_finished_in_its_own_way() -> None:
    output, _, _ = scene(answers=3)
    assert output.context is not None
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = OutlineHead(WIDTH, FineConfig(hidden=8, spread=4, judge=8), masks=MASKS).eval()
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    ways = (EXTENDED, AS_IT_IS, OUTLINED)
    made = _choosing(made)
    output.context.seen[..., 0] = torch.tensor(ways)[:, None].float()
    together = made.suited(output, extends=True)
    assert together.context is not None and together.context.ways is not None
    assert together.context.ways.tolist() == list(ways)
    whole = made.judged(made.extended(output))
    torch.testing.assert_close(together.logits[0], whole.logits[0])
    torch.testing.assert_close(together.ious[0], whole.ious[0])
    assert torch.equal(together.logits[1:], output.logits[1:])
    assert torch.equal(together.ious[1:], output.ious[1:])
    drawn = made.finished(together).fine
    assert drawn is not None
    for index in range(3):
        alone = made.suited(output.row(index), extends=True)
        torch.testing.assert_close(alone.logits[0], together.logits[index])
        finished = made.finished(alone)
        assert finished.context is None
        if ways[index] == AS_IT_IS:
            assert finished.fine is None
            assert torch.equal(drawn[index], doubled(output.logits)[index])
        else:
            assert finished.fine is not None
            torch.testing.assert_close(finished.fine[0], drawn[index])
    plain = made.finished(replace(output.row(2))).fine
    assert plain is not None
    torch.testing.assert_close(drawn[2], plain[0])


@torch.inference_mode()
def test_the_best_mask_says_which_way_suits_and_windows_never_extend() -> None:
    output, _, _ = scene(answers=2)
    assert output.context is not None
    made = _choosing(untrained())
    output.context.seen[..., 0] = AS_IT_IS
    output.context.seen[0, 1, 0] = EXTENDED  # one mask of the first answer alone looks as if it should be
    for best, way in ((1, EXTENDED), (2, AS_IT_IS)):
        ious = torch.full_like(output.ious, 0.2)
        ious[:, best] = 0.9
        suited = made.suited(replace(output, ious=ious), extends=True)
        assert suited.context is not None and suited.context.ways is not None
        assert suited.context.ways.tolist() == [way, AS_IT_IS]
        window = made.suited(replace(output, ious=ious), extends=False)
        assert window.context is not None and window.context.ways is not None
        assert window.context.ways.tolist() == [OUTLINED if way == EXTENDED else AS_IT_IS, AS_IT_IS]
        assert torch.equal(window.logits, output.logits)


@torch.inference_mode()
def test_an_untrained_choice_takes_the_last_way_that_there_is() -> None:
    output, _, _ = scene(answers=2)
    for extends, way in ((True, EXTENDED), (False, OUTLINED)):
        suited = untrained().suited(output, extends=extends)
        assert suited.context is not None and suited.context.ways is not None
        assert suited.context.ways.tolist() == [way, way]
