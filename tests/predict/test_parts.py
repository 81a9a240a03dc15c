"""Parts of frames: they hold the object with what is around it, and answers come back to where they belong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_segany.core.geometry import fit_long_side
from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, ModelCard
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.predict.features import Features
from napari_segany.predict.parts import AROUND, Part, part_around
from napari_segany.predict.prompts import Encoded
from napari_segany.predict.zoom import OUTSIDE_LOGIT, boxes_of_answer

STRIDE = 8


def features_of(height: int, width: int) -> Features:
    """Return the (empty) features of an image of so many pixels."""
    resize = fit_long_side((height, width), long_side=min(max(height, width, 512), 1280), multiple=32)
    cells = [side // STRIDE for side in resize.target]
    tensors = ImageFeatures(torch.zeros(1, 2, *cells), (torch.zeros(1, 2, 4 * cells[0], 4 * cells[1]),))
    return Features(tensors, resize, Window(0, 1), ModelCard("sam2-nano", "0"), stride=STRIDE)


def answer_of(*masks: torch.Tensor, scores: tuple[float, ...]) -> MaskOutput:
    logits = torch.where(torch.stack(masks), 5.0, -5.0)[None]
    return MaskOutput(logits, torch.tensor([scores]), None, torch.zeros(1, len(masks), 4))


@given(
    height=st.integers(100, 2000),
    width=st.integers(100, 2000),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    share=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_a_part_holds_an_extent_and_what_is_around_it(
    height: int, width: int, place: tuple[float, float], share: tuple[float, float]
) -> None:
    features = features_of(height, width)
    sides = [length * part for length, part in zip((height, width), share, strict=True)]
    starts = [(length - side) * at for length, side, at in zip((height, width), sides, place, strict=True)]
    extent = Box(starts[0], starts[1], starts[0] + sides[0], starts[1] + sides[1])
    part = part_around(extent, features)
    cells = features.tensors.embedding.shape[2:]
    if part is None:
        longest = max(side * scale for side, scale in zip(sides, features.resize.scale, strict=True))
        assert longest + 2 * AROUND > 0.3 * STRIDE * min(cells) or min(cells) <= 32
        return
    assert (part.rows.stop - part.rows.start) * (part.cols.stop - part.cols.start) < 0.31 * cells.numel()
    for ends, length, start, side, scale in zip(
        (part.rows, part.cols), cells, starts, sides, features.resize.scale, strict=True
    ):
        assert 0 <= ends.start < ends.stop <= length
        assert (ends.stop - ends.start) % 16 == 0 or ends.stop - ends.start == length
        around = AROUND - STRIDE
        assert STRIDE * ends.start <= max(start * scale - around, 0) + 1e-6
        assert STRIDE * ends.stop >= min((start + side) * scale + around, STRIDE * length) - 1e-6


@pytest.fixture
def part() -> Part:
    return Part(slice(10, 26), slice(0, 32), (64, 96), STRIDE)


def test_features_of_a_part_lie_where_they_lay(part: Part) -> None:
    embedding = torch.randn(1, 3, 64, 96)
    fine = (torch.randn(1, 2, 256, 384), torch.randn(1, 2, 128, 192))
    cut = part.features(ImageFeatures(embedding, fine))
    torch.testing.assert_close(cut.embedding, embedding[:, :, 10:26, :32])
    torch.testing.assert_close(cut.fine[0], fine[0][:, :, 40:104, :128])
    torch.testing.assert_close(cut.fine[1], fine[1][:, :, 20:52, :64])
    assert cut.origin == (0, 80)
    assert cut.of(torch.tensor([0, 0])).origin == cut.to("cpu", torch.float64).origin == (0, 80)
    again = cut.part(slice(2, 4), slice(5, 9), stride=STRIDE)
    torch.testing.assert_close(again.embedding, embedding[:, :, 12:14, 5:9])
    assert again.origin == (40, 96)


def test_prompts_and_answers_go_there_and_back(part: Part) -> None:
    whole = torch.randn(1, 256, 384)
    seen = part.prompt(Encoded(torch.tensor([[20.0, 100.0]]), torch.tensor([1]), whole, has_answer=True))
    torch.testing.assert_close(seen.xy, torch.tensor([[20.0, 20.0]]))
    assert seen.mask is not None and seen.has_answer
    placed = part.placed(MaskOutput(seen.mask[None], torch.ones(1, 1), None, torch.zeros(1, 1, 4)))
    assert placed.logits.shape == (1, 1, 256, 384)
    torch.testing.assert_close(placed.logits[0, :, 40:104, :128], whole[:, 40:104, :128])
    placed.logits[0, :, 40:104, :128] = OUTSIDE_LOGIT
    assert (placed.logits == OUTSIDE_LOGIT).all()


def test_fine_masks_are_placed_at_their_own_resolution(part: Part) -> None:
    fine = torch.randn(1, 1, 16 * 8, 32 * 8)
    output = MaskOutput(torch.zeros(1, 1, 64, 128), torch.ones(1, 1), None, torch.zeros(1, 1, 4), fine)
    placed = part.placed(output).fine
    assert placed is not None and placed.shape == (1, 1, 512, 768)
    torch.testing.assert_close(placed[:, :, 80:208, :256], fine)


def test_boxes_are_those_of_the_placed_answer(part: Part) -> None:
    masks = torch.zeros(2, 64, 128, dtype=torch.bool)
    masks[0, 5:20, 30:60] = True
    masks[1, 0:64, 3:9] = True
    resize = fit_long_side((430, 645), long_side=768, multiple=32)
    for scores, count in (((0.9, 0.3), 1), ((0.9, 0.8), 2)):
        output = answer_of(*masks, scores=scores)
        boxes = part.boxes(output, resize.source)
        assert len(boxes) == count
        assert boxes == boxes_of_answer(part.placed(output), resize)


@pytest.mark.parametrize(
    ("rows", "cols", "is_cut"),
    [
        ((20, 40), (20, 40), False),
        ((20, 40), (0, 40), False),  # the frame ends there, too
        ((7, 40), (20, 40), True),
        ((8, 40), (20, 40), False),
        ((20, 57), (20, 40), True),
        ((20, 56), (20, 40), False),
        ((20, 40), (90, 121), True),
    ],
)
def test_masks_at_edges_inside_the_frame_are_cut(
    part: Part, rows: tuple[int, int], cols: tuple[int, int], is_cut: bool
) -> None:
    mask = torch.zeros(64, 128, dtype=torch.bool)
    mask[slice(*rows), slice(*cols)] = True
    middle = torch.zeros_like(mask)
    middle[30:33, 60:64] = True
    for scores in ((0.9, 0.1), (0.1, 0.9)):  # any of them may be chosen
        assert part.cuts(answer_of(mask, middle, scores=scores)) == is_cut
