"""Frames of files: the same as of the array that was written, and clear words where a file is damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from yaozarrs import v05

from napari_segany.core.axes import Calibration
from napari_segany.core.errors import FileFormatError
from napari_segany.core.frames import ReadAhead, frame_stacks
from napari_segany.io.frames import FilePlanes
from napari_segany.io.images import open_image
from napari_segany.io.ngff import multiscale_of


def _stack(dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (4, 3, 24, 32)).astype(dtype)


def _write_zarr(path: Path, data: np.ndarray, *, axes: str = "TZYX") -> Path:
    group = zarr.open_group(str(path), mode="w")
    array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(1, 1, *data.shape[2:]))
    array[:] = data
    multiscale = multiscale_of(Calibration(axes), name="image", levels=1)
    group.attrs["ome"] = v05.Image(multiscales=[multiscale]).model_dump(mode="json", exclude_none=True)
    return path


def _write_tiff(path: Path, data: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "TZYX"}, **options)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["plain", "compressed", "zarr"])
@pytest.mark.parametrize("axis", ["T", "Z"])
def test_frames_are_those_of_the_array(tmp_path: Path, dtype: str, kind: str, axis: str) -> None:
    data = _stack(dtype)
    if kind == "zarr":
        path = _write_zarr(tmp_path / "a.ome.zarr", data)
    else:
        path = _write_tiff(tmp_path / "a.ome.tif", data, compression="zlib" if kind == "compressed" else None)
    wanted = data if axis == "Z" else data.swapaxes(0, 1)
    found = list(frame_stacks(FilePlanes(open_image(path)), axis=axis))
    assert len(found) == len(wanted)
    for stack, frames in zip(found, wanted, strict=True):
        with ReadAhead(stack) as ahead:
            seen = [ahead[i] for i in range(len(ahead))]
        np.testing.assert_array_equal(np.stack(seen), frames)
        assert seen[0].dtype == data.dtype


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = _write_zarr(tmp_path / "a.ome.zarr", _stack())
    chunk = path / "0" / "c" / "2" / "1" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    stack = list(frame_stacks(FilePlanes(open_image(path)), axis="T"))[1]
    assert stack[1].shape == (24, 32)
    with pytest.raises(FileFormatError, match=r"cannot read the plane T=2, Z=1 of .*a\.ome\.zarr: .*damaged"):
        stack[2]


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = _write_tiff(tmp_path / "a.ome.tif", _stack(), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[5].dataoffsets[0]  # T=1, Z=2
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 64)
    stack = list(frame_stacks(FilePlanes(open_image(path)), axis="Z"))[1]
    assert stack[1].shape == (24, 32)
    with pytest.raises(FileFormatError, match="cannot read the plane T=1, Z=2"):
        stack[2]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("left", [0.3, 0.7, 0.98])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, compression: str | None, left: float) -> None:
    path = _write_tiff(tmp_path / "a.ome.tif", _stack(), compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(FileFormatError, match=r"a\.ome\.tif"):
        list(frame_stacks(FilePlanes(open_image(path)), axis="T"))
