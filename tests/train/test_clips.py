"""Windows of clips for training: labels lie on what they mark, windows inside, still images move with labels."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from annotated_images import disc_image

from napari_segany.models.windows import Places, cut
from napari_segany.train import clips
from napari_segany.train.clip_plan import ClipPlan, WindowPlan
from napari_segany.train.clips import ClipStream, _cut_labels, _ending, set_in_motion
from napari_segany.train.dataset import annotate
from napari_segany.train.movies import Clip, render_clip

WINDOW = WindowPlan(side=64, frames=4)
PLAN = ClipPlan(usual=WINDOW, large=WindowPlan(side=96, frames=2), large_share=0.0, rendered=(96, 96))


def crops(count: int, *, seed: int = 0, plan: ClipPlan = PLAN) -> list[tuple[torch.Tensor, ...]]:
    return list(islice(ClipStream([], plan, seed=seed, first_seed=0), count))


def test_a_stream_gives_windows_of_one_shape() -> None:
    for pixels, masks, corners, scale in crops(8):
        assert pixels.shape == (4, 3, 64, 64)
        assert masks.shape == (4, 2, 64, 64)
        assert (corners.shape, scale.shape) == ((4, 2), (1,))
        assert masks.dtype == torch.bool
        assert 0 <= pixels.min() <= pixels.max() <= 1
        assert masks[0, 0].any()  # what is prompted is there


def test_batches_have_windows_of_one_size() -> None:
    plan = replace(PLAN, large_share=0.5)
    sides = [c[0].shape[2] for c in islice(ClipStream([], plan, seed=2, batch=3, first_seed=0), 24)]
    assert set(sides) == {64, 96}
    assert all(len(set(sides[start : start + 3])) == 1 for start in range(0, 24, 3))


def test_objects_vanish_where_clips_are_cut_for_that() -> None:
    """And there is more change where frames are passed over."""

    def vanished(plan: ClipPlan) -> float:
        return float(np.mean([~masks[-1, 0].any() for _, masks, _, _ in crops(216, plan=plan)]))

    kinds = replace(PLAN, moving_share=1.0, still_share=0.0, strides=(1,))
    assert vanished(replace(kinds, ending_share=1.0)) > 1.25 * vanished(replace(kinds, ending_share=0.0))


def test_kinds_that_are_named_again_come_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []

    def noted(seed: int, *, kind: str, frames: int, size: tuple[int, int]) -> Clip:
        rendered.append(kind)
        return render_clip(seed, kind=kind, frames=frames, size=size)

    monkeypatch.setattr(clips, "render_clip", noted)
    plan = replace(PLAN, again=("blobs", "blobs", "tubes"))  # tubes are not among the kinds: left out
    list(islice(ClipStream([], plan, seed=0, kinds=("nuclei", "blobs"), first_seed=0), 160))
    assert set(rendered) == {"nuclei", "blobs"}
    assert rendered.count("blobs") > 1.5 * rendered.count("nuclei")


def test_an_ending_is_where_most_changes() -> None:
    labels = np.zeros((30, 4, 4), dtype=np.uint32)
    labels[:, 0, 0] = 1
    labels[:12, 2, 2] = 2
    cuts = [_ending(labels, 4, stride=2, rng=np.random.default_rng(seed)) for seed in range(10)]
    assert all(len(labels[cut]) == 4 for cut in cuts)
    with_end = [bool((labels[cut][0] == 2).any() and not (labels[cut][-1] == 2).any()) for cut in cuts]
    assert np.mean(with_end) > 0.5  # a quarter of the starts, eight tried


def test_windows_lie_in_the_image() -> None:
    for _, _, corners, scale in crops(12):
        assert (corners >= -1e-3).all()
        assert (corners + 64 / scale <= 96 + 1e-3).all()


def test_streams_are_the_same_for_the_same_seed() -> None:
    first, again, other = crops(3), crops(3), crops(3, seed=1)
    assert all(
        torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert not all(torch.equal(x[0], y[0]) for x, y in zip(first, other, strict=True))


def test_labels_move_with_a_still_image_that_is_set_in_motion() -> None:
    image, labels = np.zeros((80, 90), dtype=np.uint8), np.zeros((80, 90), dtype=np.uint32)
    labels[20:40, 30:60] = 5
    image[labels == 5] = 200
    moving = set_in_motion(annotate("one", image, labels, modality="x"), 6, np.random.default_rng(0))
    assert moving.frames.shape == (6, 3, 80, 90)
    assert not np.array_equal(moving.labels[0], moving.labels[-1])
    for frame, marked in zip(moving.frames[:, 0].numpy(), moving.labels, strict=True):
        inside = marked == 5
        assert inside.any()
        assert frame[inside].mean() > 0.6
        assert frame[~inside].mean() < 0.2


def test_still_images_are_of_use() -> None:
    plan = ClipPlan(usual=WindowPlan(side=64, frames=3), large_share=0.0, still_share=1.0)
    pixels, masks, _, _ = next(iter(ClipStream([disc_image(size=(96, 96))], plan, seed=3)))
    assert pixels.shape[0] == masks.shape[0] == 3
    assert masks.any()


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_masks_lie_on_what_they_mark(scale: float) -> None:
    """Where a window shows a bright square, its mask is."""
    labels = np.zeros((1, 100, 100), dtype=np.uint32)
    labels[0, 30:60, 40:70] = 1
    places = Places(torch.tensor([[22.0, 15.0]]), torch.tensor([scale]))
    shown = cut(torch.from_numpy((labels > 0).astype(np.float32))[:, None], places, side=48)[0, 0] > 0.5
    marked = torch.from_numpy(_cut_labels(labels, places, side=48)[0] == 1)
    assert (shown ^ marked).float().mean() < 0.03
