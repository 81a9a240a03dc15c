"""Batches of simulated prompts: in frame pixels, exact, with a mask only where one was drawn or answered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from annotated_images import disc_labels

from napari_segany.core.masks import box_of
from napari_segany.core.types import Box
from napari_segany.models.prompt_labels import BOX_END, BOX_START, NEGATIVE, PADDING, POSITIVE
from napari_segany.train import simulate
from napari_segany.train.clicks import Click, depth
from napari_segany.train.simulate import CELL, PromptMix, corrected, first_prompts

ONLY = {"click": PromptMix(1, 0), "box": PromptMix(0, 1), "mask": PromptMix(0, 0)}


def discs() -> np.ndarray:
    """Return (N, 40, 60) masks."""
    labels = disc_labels((40, 60), radius=6)
    return np.stack([labels == n for n in range(1, labels.max() + 1)])


def cell_of(xy: torch.Tensor) -> tuple[int, int]:
    """Return the (row, col) of the cell that a frame coordinate is the centre of, or fail."""
    col, row = ((float(v) + 0.5) / CELL - 0.5 for v in xy)
    assert row == int(row)
    assert col == int(col)
    return int(row), int(col)


def test_a_click_is_at_the_centre_of_its_cell() -> None:
    truth = discs()
    prompts = first_prompts(truth, np.random.default_rng(0), mix=ONLY["click"])
    assert prompts.xy.shape == (len(truth), 2, 2)
    assert prompts.xy.dtype == prompts.masks.dtype == torch.float32
    assert prompts.masks.shape == (len(truth), 1, 40, 60)
    assert not prompts.masks.any()
    assert prompts.labels.tolist() == [[POSITIVE, PADDING]] * len(truth)
    assert prompts.is_ambiguous.all()
    for mask, xy in zip(truth, prompts.xy, strict=True):
        assert mask[cell_of(xy[0])]


def test_a_cell_centre_is_that_of_its_pixels() -> None:
    """Cell 3 of two frame pixels covers pixels 6 and 7, whose centre is 6.5."""
    assert simulate._frame_xy(Click(3, 0, is_positive=True)) == (0.5, 6.5)


def test_a_box_has_its_corners_on_pixel_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = discs()
    monkeypatch.setattr(simulate, "noisy_box", lambda mask, _: box_of(mask))
    prompts = first_prompts(truth, np.random.default_rng(0), mix=ONLY["box"])
    assert prompts.labels.tolist() == [[BOX_START, BOX_END]] * len(truth)
    assert not prompts.is_ambiguous.any()
    assert not prompts.masks.any()
    for mask, xy in zip(truth, prompts.xy, strict=True):
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert xy[0].tolist() == [cols[0] * CELL - 0.5, rows[0] * CELL - 0.5]
        assert xy[1].tolist() == [(cols[-1] + 1) * CELL - 0.5, (rows[-1] + 1) * CELL - 0.5]
    assert simulate._corners(Box(0, 0, 40, 60)) == [(-0.5, -0.5), (119.5, 79.5)]


def test_a_drawn_mask_is_firm_logits_and_no_points() -> None:
    truth = discs()
    prompts = first_prompts(truth, np.random.default_rng(0), mix=ONLY["mask"])
    assert (prompts.labels == PADDING).all()
    assert not prompts.is_ambiguous.any()
    assert set(prompts.masks.unique().tolist()) == {-10.0, 10.0}
    for mask, drawn in zip(truth, prompts.masks[:, 0].numpy(), strict=True):
        assert ((drawn > 0) & mask).sum() / ((drawn > 0) | mask).sum() > 0.2


def test_first_prompts_come_in_their_shares() -> None:
    truth = np.repeat(discs(), 50, axis=0)
    prompts = first_prompts(truth, np.random.default_rng(1), mix=PromptMix())
    for label, share in ((POSITIVE, 0.55), (BOX_START, 0.35), (PADDING, 0.10)):
        assert float((prompts.labels[:, 0] == label).float().mean()) == pytest.approx(share, abs=0.1)
    assert torch.equal(prompts.is_ambiguous, prompts.labels[:, 0] == POSITIVE)
    again = first_prompts(truth, np.random.default_rng(1), mix=PromptMix())
    assert torch.equal(prompts.xy, again.xy)


def test_a_correction_adds_one_click_on_the_error() -> None:
    truth = discs()
    rng = np.random.default_rng(2)
    prompts = first_prompts(truth, rng, mix=ONLY["box"])
    logits = torch.where(torch.from_numpy(truth), 3.0, -3.0)[:, None]
    logits[0] = -3.0  # missed altogether
    logits[1, 0, :, 30:] = 3.0  # far too much
    later = corrected(prompts, truth, logits=logits, rng=rng)
    assert later.xy.shape == (len(truth), 3, 2)
    assert torch.equal(later.xy[:, :2], prompts.xy)
    assert torch.equal(later.labels[:, :2], prompts.labels)
    assert torch.equal(later.masks, logits)
    assert not later.is_ambiguous.any()
    assert later.labels[:3, 2].tolist() == [POSITIVE, NEGATIVE, PADDING]  # the third was right already
    assert truth[0][cell_of(later.xy[0, 2])]
    row, col = cell_of(later.xy[1, 2])
    assert col >= 30
    assert not truth[1][row, col]
    assert depth(truth[0]).max() > 1


def test_corrections_pile_up_and_pass_no_gradient() -> None:
    truth = discs()
    rng = np.random.default_rng(3)
    prompts = first_prompts(truth, rng, mix=ONLY["click"])
    for _ in range(3):
        logits = torch.randn(len(truth), 1, 40, 60, requires_grad=True)
        prompts = corrected(prompts, truth, logits=logits, rng=rng)
    assert prompts.xy.shape[1] == prompts.labels.shape[1] == 2 + 3
    assert not prompts.masks.requires_grad


def test_rows_pick_objects() -> None:
    truth = discs()
    prompts = first_prompts(truth, np.random.default_rng(0), mix=PromptMix())
    some = prompts.rows(torch.tensor([2, 0]))
    for name in ("xy", "labels", "masks", "is_ambiguous"):
        whole = getattr(prompts, name)
        assert torch.equal(getattr(some, name), torch.stack([whole[2], whole[0]]))
    assert torch.equal(some.to(torch.device("cpu")).xy, some.xy)
