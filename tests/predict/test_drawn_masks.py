"""Masks from logits: only a part is worked out, and it is the part that resizing everything would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from napari_segany.predict import masks as module
from napari_segany.predict.masks import masks_of

sides = st.integers(1, 90)


def _reference(logits: torch.Tensor, *, cells: tuple[float, float], shape: tuple[int, int]) -> np.ndarray:
    """Sample every pixel of the image at its exact place among the logits."""
    axes = []
    for count, side, size in zip(cells, shape, logits.shape[1:], strict=True):
        places = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, size - 1)
        axes.append((places + 0.5) / size * 2 - 1)
    rows, cols = np.meshgrid(*axes, indexing="ij")
    grid = torch.from_numpy(np.stack((cols, rows), axis=-1)).float()[None].expand(len(logits), -1, -1, -1)
    return F.grid_sample(logits[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[
        :, 0
    ].numpy()


@settings(max_examples=80, deadline=None)
@example(geometry=(1, 7, 1, 7), share=(1.0, 0.9375), spread=1, seed=1, path=True)  # as many pixels as logits
@given(
    geometry=st.tuples(st.integers(1, 24), st.integers(1, 24), sides, sides),
    share=st.tuples(st.floats(0.3, 1.0), st.floats(0.3, 1.0)),
    spread=st.integers(1, 8),
    seed=st.integers(0, 1 << 30),
    path=st.sampled_from([True, False, None]),
)
def test_a_window_is_what_the_whole_would_be(
    geometry: tuple[int, int, int, int],
    share: tuple[float, float],
    spread: int,
    seed: int,
    path: bool | None,
) -> None:
    size, shape = geometry[:2], geometry[2:]
    rng = np.random.default_rng(seed)
    logits = torch.full((2, *size), -3.0)
    rows, cols = (slice(a := int(rng.integers(0, n)), a + spread) for n in size)
    logits[0, rows, cols] = torch.from_numpy(rng.normal(size=logits[0, rows, cols].shape)).float()
    cells = tuple(max(1.0, n * part) for n, part in zip(size, share, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        if path is not None:
            patch.setattr(module, "_prefers_origin", lambda *_: path)
        ours = masks_of(logits, cells=cells, shape=shape)
    exact = _reference(logits, cells=cells, shape=shape)
    differs = ours != (exact > 0)
    assert np.abs(exact[differs]).max(initial=0) < 1e-3  # a rounding apart from zero at most
    assert not ours[1].any()


def test_nothing_positive_draws_nothing() -> None:
    assert not masks_of(torch.full((3, 8, 8), -1.0), cells=(8, 8), shape=(40, 30)).any()


def test_everything_positive_fills_the_image() -> None:
    assert masks_of(torch.ones(1, 8, 8), cells=(6.5, 8), shape=(40, 30)).all()
