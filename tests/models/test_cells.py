"""Maps whose pixels lie cell by cell, and back."""

from __future__ import annotations

import pytest
import torch

from napari_segany.models.cells import laid_out, nested

SIZE = (3, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("depth", [1, 2])
def test_maps_that_were_cut_into_cells_are_laid_out_again(depth: int, dtype: torch.dtype) -> None:
    maps = torch.randn(2, 4, SIZE[0] << depth, SIZE[1] << depth, dtype=dtype)
    cells = nested(maps, depth)  # (B, hw, 4^d, M)
    masks_first = cells.permute(0, 3, 1, 2)
    assert torch.equal(laid_out(masks_first, depth, size=SIZE), maps)
    assert torch.equal(laid_out(masks_first.contiguous(), depth, size=SIZE), maps)
