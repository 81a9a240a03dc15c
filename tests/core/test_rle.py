from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from pycocotools import mask as coco
from tests.strategies import masks

from napari_segany.core.errors import FileFormatError
from napari_segany.core.rle import Rle, decode_rle, encode_rle


def reference(mask: np.ndarray) -> str:
    return str(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"], "ascii")


@given(masks())
def test_bytes_are_those_of_pycocotools_and_back(mask: np.ndarray) -> None:
    rle = encode_rle(mask)
    assert rle.counts == reference(mask)
    assert rle.size == mask.shape
    assert np.array_equal(decode_rle(rle), mask)


def test_large_counts_of_several_characters() -> None:
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[10:2500, 3000:3900] = True
    mask[::7, ::501] ^= True
    rle = encode_rle(mask)
    assert rle.counts == reference(mask)
    assert np.array_equal(decode_rle(rle), mask)


@pytest.mark.parametrize(
    ("size", "counts", "message"),
    [
        ((4, 4), "", "cut off"),
        ((4, 4), encode_rle(np.eye(4, dtype=bool)).counts[:-1], "cover"),
        ((5, 4), encode_rle(np.eye(4, dtype=bool)).counts, "cover 16 pixels"),
        ((4, 4), "ab c", "characters"),
        ((4, 4), "o" * 14 + "0", "damaged"),
        ((-1, 4), "0", r"\(-1, 4\)"),
    ],
)
def test_damaged_codes_are_refused(size: tuple[int, int], counts: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        decode_rle(Rle(size, counts))
