"""Prompts drawn as maps: what they look like, and that no canvas is needed to know what a convolution makes of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_segany.models.drawn_prompts import (
    CLICK_WIDTHS,
    DRAWN_CHANNELS,
    Canvas,
    draw_prompts,
    halved,
    is_product,
    profiles,
)
from napari_segany.models.prompt_encoder import PromptEncoder, PromptGrid
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, PADDING, POSITIVE

CANVAS = Canvas((24, 32), cell=2.0, sigma=4.0)
POINTS = st.tuples(st.floats(-5, 70), st.floats(-5, 55))


def prompt(*points: tuple[float, float, int]) -> tuple[Tensor, Tensor]:
    """Return one prompt's (1, N, 2) places and (1, N) labels of (x, y, label)."""
    rows = torch.tensor([points])
    return rows[..., :2], rows[..., 2].long()


def test_a_click_is_three_gaussians_around_it() -> None:
    drawn = draw_prompts(*prompt((21.0, 11.0, POSITIVE)), CANVAS)
    assert drawn.shape == (1, DRAWN_CHANNELS, *CANVAS.size)
    row, col = 17, 4
    y, x = 2 * row + 0.5, 2 * col + 0.5  # in frame pixels
    for channel, width in enumerate(CLICK_WIDTHS):
        squared = (x - 21) ** 2 + (y - 11) ** 2
        expected = torch.exp(torch.tensor(-squared / (2 * (4 * width) ** 2)))
        torch.testing.assert_close(drawn[0, channel, row, col], expected)
    assert not drawn[0, len(CLICK_WIDTHS) :].any()


def test_negative_clicks_and_boxes_have_channels_of_their_own() -> None:
    xy, labels = prompt((21, 11, NEGATIVE), (10, 10, BOX_START), (40, 30, BOX_END), (0, 0, PADDING))
    drawn = draw_prompts(xy, labels, CANVAS)[0]
    used = [index for index, channel in enumerate(drawn) if channel.max() > 0.5]
    assert used == [*range(len(CLICK_WIDTHS), DRAWN_CHANNELS)]
    assert drawn[-1, 10, 12] > 0.99
    assert drawn[-1, 10, 30] < 0.01
    assert drawn[-1, 20, 12] < 0.01


def test_clicks_of_a_sign_add_up_to_one_at_most() -> None:
    xy, labels = prompt((20, 20, POSITIVE), (22, 20, POSITIVE))
    both = draw_prompts(xy, labels, CANVAS)
    each = [draw_prompts(xy[:, n : n + 1], labels[:, n : n + 1], CANVAS) for n in range(2)]
    torch.testing.assert_close(both, (each[0] + each[1]).clamp(max=1))
    assert (each[0] + each[1]).max() > 1


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([[POSITIVE, NEGATIVE, PADDING]], True),
        ([[BOX_START, BOX_END, POSITIVE]], True),
        ([[POSITIVE, POSITIVE]], False),
        ([[POSITIVE, PADDING], [NEGATIVE, NEGATIVE]], False),
    ],
)
def test_two_clicks_of_a_sign_are_no_product(kinds: list[list[int]], expected: bool) -> None:
    assert is_product(torch.tensor(kinds)) == expected


@settings(max_examples=60, deadline=None)
@given(
    places=st.lists(POINTS, min_size=4, max_size=4),
    kinds=st.permutations([POSITIVE, NEGATIVE, PADDING, PADDING]),
    is_box=st.booleans(),
)
def test_without_a_canvas_a_convolution_answers_alike(
    places: list[tuple[float, float]], kinds: list[int], is_box: bool
) -> None:
    xy, labels = prompt(*((*place, kind) for place, kind in zip(places, kinds, strict=True)))
    if is_box:
        xy = torch.cat((xy, torch.tensor([[[10.0, 8.0], [44.0, 31.0]]])), dim=1)
        labels = torch.cat((labels, torch.tensor([[BOX_START, BOX_END]])), dim=1)
    xy, labels = torch.cat((xy, xy.flip(1))), torch.cat((labels, labels))  # and another beside it
    generator = torch.Generator().manual_seed(1)
    conv = nn.Conv2d(1 + DRAWN_CHANNELS, 6, kernel_size=2, stride=2)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        canvas = draw_prompts(xy, labels, CANVAS)
        slow = conv(torch.cat((torch.zeros_like(canvas[:, :1]), canvas), dim=1))
        fast = (halved(conv, *profiles(xy, labels, CANVAS)) + conv.bias).transpose(1, 2).view_as(slow)
    assert is_product(labels)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("has_answer", [False, True])
@pytest.mark.parametrize(
    "kinds", [[POSITIVE], [POSITIVE, NEGATIVE], [BOX_START, BOX_END], [POSITIVE, POSITIVE, NEGATIVE]]
)
def test_the_encoder_answers_alike_while_it_learns_and_after(kinds: list[int], has_answer: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = PromptEncoder(16, PromptGrid(64, 8), mask_channels=32, click_sigma=4.0)
        masks = 6 * torch.randn(2, 1, 24, 32) if has_answer else None
        xy = 60 * torch.rand(2, len(kinds), 2)
    labels = torch.tensor([kinds, kinds])
    slow = encoder(xy, labels, masks=masks, size=(6, 8))
    with torch.no_grad():
        fast = encoder(xy, labels, masks=masks, size=(6, 8))
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-4)


def test_each_label_has_a_token_of_its_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = PromptEncoder(16, PromptGrid(64, 8))
        xy = 60 * torch.rand(1, 5, 2)
    kinds = [PADDING, NEGATIVE, POSITIVE, BOX_START, BOX_END]
    with torch.no_grad():
        tokens = encoder.points(xy, torch.tensor([kinds]))[0]
        code = encoder.pe_layer((xy + 0.5) / 64)[0]
        assert torch.equal(tokens[0], encoder.not_a_point_embed.weight[0])  # wherever it lies
        for kind, token, place in zip(kinds[1:], tokens[1:], code[1:], strict=True):
            torch.testing.assert_close(token, encoder.point_embeddings[kind].weight[0] + place)
