"""What is followed, weighed against the image model: where it is asked, what agreement gives, and what stays apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from tests.contracts.shrink import shrunken
from torch import Tensor, nn

from napari_segany.core.masks import box_of
from napari_segany.models.close_tracking import CloseTracking, Seen
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.sam2 import SAM2, Sam2
from napari_segany.models.second_opinion import VOICES, Heard, SecondOpinion, ends, middles
from napari_segany.models.windows import Places

WIDTH, SIDE = 32, 24

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(2, 20), st.integers(2, 20)))


def opinion(*, is_new: bool = False) -> SecondOpinion:
    """Return one that has learnt something, or not yet."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = SecondOpinion(WIDTH)
        if not is_new:
            nn.init.normal_(made.weights.weight)
            nn.init.normal_(made.verdict.weight)
    return made.eval()


def blob(row: float, col: float, radius: float) -> Tensor:
    """Return (SIDE, SIDE) logits of a disc."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    return 2 * (radius - torch.hypot(y - row, x - col))


def said(followed: Tensor, others: Tensor) -> tuple[MaskOutput, Heard, dict[str, Tensor]]:
    """Return what is weighed, of (B, h, w) followed masks and (B, 5, h, w) others."""
    count = len(followed)
    generator = torch.Generator().manual_seed(4)
    output = MaskOutput(
        followed[:, None], torch.full((count, 1), 0.7), torch.full((count, 1), 2.0), torch.zeros(count, 1, 4)
    )
    around = {
        "fine": torch.randn(count, WIDTH // 4, SIDE // 2, SIDE // 2, generator=generator),
        "earlier": followed[:, None],
        "recalled": torch.randn(count, WIDTH, SIDE // 4, SIDE // 4, generator=generator),
    }
    return output, Heard(others, torch.full((count, VOICES - 1), 0.6)), around


@torch.no_grad()
def test_where_all_agree_nothing_changes_until_it_learns() -> None:
    mask = blob(12, 11, 6)[None]
    output, heard, around = said(mask, mask[:, None].expand(-1, VOICES - 1, -1, -1))
    answer = opinion(is_new=True)(output, heard, **around)
    torch.testing.assert_close(answer.logits, output.logits.clamp(-8, 8))
    torch.testing.assert_close(answer.ious, output.ious)
    torch.testing.assert_close(answer.object_scores, output.object_scores)


@torch.no_grad()
def test_it_can_take_the_side_of_any_voice() -> None:
    followed, other = blob(12, 7, 4)[None], blob(12, 14, 6)[None]
    for voice in range(VOICES):
        others = followed[:, None].repeat(1, VOICES - 1, 1, 1)
        if voice:
            others[:, voice - 1] = other
        made = opinion(is_new=True)
        made.weights.bias[:VOICES] = torch.where(torch.arange(VOICES) == voice, 20.0, 0.0)
        output, heard, around = said(followed, others)
        expected = other if voice else followed
        assert torch.equal(made(output, heard, **around).logits[:, 0] > 0, expected > 0)


@torch.no_grad()
def test_objects_of_a_batch_are_as_alone() -> None:
    followed = torch.stack([blob(12, 11, 6), blob(5, 6, 3)])
    output, heard, around = said(followed, followed[:, None] + torch.randn(2, VOICES - 1, SIDE, SIDE))
    made, row = opinion(), slice(1, 2)
    together = made(output, heard, **around)
    alone = made(
        output.rows(row), Heard(heard.logits[row], heard.ious[row]), **{k: v[row] for k, v in around.items()}
    )
    for name in ("logits", "ious", "object_scores"):
        torch.testing.assert_close(getattr(alone, name), getattr(together, name)[row], rtol=1e-4, atol=1e-4)


@given(MASKS)
def test_a_mask_is_asked_about_where_it_is_deepest_and_in_its_box(mask: NDArray[np.bool_]) -> None:
    x, y = middles(torch.from_numpy(mask)[None])[0].long().tolist()
    if not mask.any():
        assert (x, y) == (0, 0)
        return
    depth = ndimage.distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    assert depth[y, x] == depth.max()
    box = box_of(mask)
    assert ends(torch.from_numpy(mask)[None])[0].tolist() == [[box.col0, box.row0], [box.col1, box.row1]]


@torch.no_grad()
def test_what_is_empty_is_not_asked_about() -> None:
    torch.manual_seed(0)
    tracking = CloseTracking(Sam2(replace(shrunken(SAM2["sam2-nano"]))).eval())
    view = Seen(tracking.model.encode(torch.randn(2, 3, 64, 64)), Places(torch.zeros(2, 2), torch.ones(2)))
    logits = torch.full((2, 1, 32, 32), -6.0)
    empty = MaskOutput(logits, torch.full((2, 1), 0.5), torch.ones(2, 1), torch.zeros(2, 1, 4))
    said = {"earlier": torch.zeros_like(logits), "recalled": torch.zeros_like(view.features.embedding)}
    assert tracking.weighed(view, empty, **said) is empty
    logits = logits.clone()
    logits[1, :, 10:20, 8:22] = 6.0
    answer = tracking.weighed(view, replace(empty, logits=logits), **said)
    assert torch.equal(answer.logits[0], logits[0]) and not torch.equal(answer.logits[1], logits[1])
