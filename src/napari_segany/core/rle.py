"""COCO run-length encoding of masks, byte for byte as pycocotools has it, worked out on the object's box."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import FileFormatError
from .masks import box_of, slices_of
from .types import BoolMask


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask as COCO's compressed runs: `size` (H, W), `counts` the text that COCO files carry."""

    size: tuple[int, int]
    counts: str

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 0:
            raise FileFormatError(f"an RLE size is (height, width), got {self.size}")
        if re.fullmatch(r"[0-o]*", self.counts) is None:
            raise FileFormatError(
                "RLE counts hold characters outside '0'..'o'; pass COCO's compressed string"
            )


def encode_rle(mask: BoolMask) -> Rle:
    """Return an (H, W) mask as COCO RLE: column-major runs, zeros first."""
    height, width = mask.shape
    if not mask.any():
        return Rle((height, width), _pack_counts(np.array([height * width])))
    rows, cols = slices_of(box_of(mask))
    padded = np.pad(mask[rows, cols].T, ((0, 0), (1, 1))).view(np.int8)
    steps = np.diff(padded, axis=1)  # (box width, box height + 1), one image column a row
    starts, ends = (_positions(steps == sign, rows.start, cols.start, height) for sign in (1, -1))
    open_run = starts[1:] != ends[:-1]  # full columns continue in the next one
    starts = starts[np.concatenate([[True], open_run])]
    ends = ends[np.concatenate([open_run, [True]])]
    counts = np.empty(2 * len(starts), dtype=np.int64)
    counts[0::2] = starts - np.concatenate([[0], ends[:-1]])
    counts[1::2] = ends - starts
    rest = height * width - ends[-1]
    return Rle((height, width), _pack_counts(np.append(counts, rest) if rest else counts))


def decode_rle(rle: Rle) -> BoolMask:
    """Return the (H, W) mask of a COCO RLE.

    Raises
    ------
    FileFormatError
        If the runs do not add up to the size.
    """
    height, width = rle.size
    counts = _unpack_counts(rle.counts)
    if (counts < 0).any() or counts.sum() != height * width:
        raise FileFormatError(
            f"RLE runs cover {counts.sum()} pixels, but its size {rle.size} has {height * width}"
        )
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _positions(marks: BoolMask, row0: int, col0: int, height: int) -> NDArray[np.int64]:
    """Return where marks (columns, rows) of a crop are, as column-major positions in the whole image."""
    cols, rows = np.nonzero(marks)
    return (cols + col0).astype(np.int64) * height + rows + row0


def _pack_counts(counts: NDArray[np.int64]) -> str:
    """Return runs as COCO text: differences to the run before last, 5 bits a character, lowest first."""
    left = counts.astype(np.int64)
    left[3:] -= counts[1:-2]
    digits, used = [], []
    going = np.ones(len(left), dtype=bool)
    while going.any():
        digit = left & 31
        left = left >> 5
        used.append(going)
        going = going & np.where(digit & 16, left != -1, left != 0)
        digits.append(digit + 32 * going + 48)
    codes = np.stack(digits, axis=1)[np.stack(used, axis=1)].astype(np.uint8)
    return str(codes.tobytes(), "ascii")


def _unpack_counts(text: str) -> NDArray[np.int64]:
    """Return the runs of COCO text."""
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    last = (codes & 32) == 0
    if codes.size == 0 or not last[-1]:
        raise FileFormatError("RLE counts are empty or cut off in the middle of a number")
    begins = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(begins, np.diff(np.append(begins, len(codes))))
    if place.max() > 11:
        raise FileFormatError("RLE counts hold a number above 2**55; the text is damaged")
    values = np.add.reduceat((codes & 31) << (5 * place), begins)
    signed = last & ((codes & 16) != 0)
    values[signed[last]] -= (1 << (5 * (place[last] + 1)))[signed[last]]
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
