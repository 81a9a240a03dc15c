"""The packed format: its error bound as a property, its size, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from napari_segany.core.errors import WeightsError
from napari_segany.models.weights import pack, read_metadata, read_weights, unpack, write_packed

LARGE_SHAPES = st.sampled_from([(64, 64), (1, 64, 8, 8), (4097, 1), (1, 1, 5000), (2, 4, 600), (96, 3, 7, 7)])


@settings(deadline=None)  # the first call imports torch's kernels
@given(data=st.data(), shape=LARGE_SHAPES, exponent=st.integers(-9, 5))
def test_an_int8_entry_is_off_by_at_most_half_its_row_s_scale(
    data: st.DataObject, shape: tuple[int, ...], exponent: int
) -> None:
    seed = data.draw(st.integers(0, 1 << 16))
    spread = data.draw(hnp.arrays(np.float32, shape[0], elements=st.floats(0, 8, width=32)))
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    weight = noise * spread.reshape(-1, *[1] * (len(shape) - 1)) * 10.0**exponent
    stored = pack({"w": torch.from_numpy(weight)})
    assert stored["w"].dtype == torch.int8
    assert stored["w::scale"].dtype == torch.float16
    read = unpack(stored)["w"]
    assert read.shape == shape
    rows = len(stored["w::scale"])
    error = (read - torch.from_numpy(weight)).abs().reshape(rows, -1).amax(dim=1)
    assert (error <= 0.5 * stored["w::scale"].float() * (1 + 1e-5)).all()
    largest = torch.from_numpy(weight).abs().reshape(rows, -1).amax(dim=1)
    assert (stored["w::scale"].float() <= largest / 127 * 1.002 + 1e-7).all()


@settings(deadline=None)
@given(values=hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-60000, 60000, width=32)))
def test_small_tensors_are_off_by_half_precision_at_most(values: np.ndarray) -> None:
    read = unpack(pack({"b": torch.from_numpy(values)}))["b"].numpy()
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values, rtol=2**-11, atol=2**-25)


def test_what_half_precision_cannot_hold_stays_exact() -> None:
    weights = {"big": torch.tensor([1e30, -1.0]), "count": torch.tensor(123456789), "none": torch.zeros(0)}
    read = unpack(pack(weights))
    assert read.keys() == weights.keys()
    assert torch.equal(read["big"], weights["big"])
    assert torch.equal(read["count"], weights["count"])


def test_a_file_comes_back_whole_with_its_metadata_at_a_quarter_of_the_size(tmp_path: Path) -> None:
    weights = {"w": torch.randn(512, 256), "b": torch.randn(512), "n": torch.tensor(3)}
    path = write_packed(tmp_path / "w.safetensors", weights, metadata={"model": "tiny", "config": "{}"})
    assert read_metadata(path) == {"model": "tiny", "config": "{}", "format": "segany-packed-1"}
    read = read_weights(path)
    assert read.keys() == weights.keys()
    assert (read["w"] - weights["w"]).abs().max() < weights["w"].abs().max() / 253
    assert path.stat().st_size < 0.27 * weights["w"].numel() * 4
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_packing_twice_changes_nothing_more() -> None:
    once = unpack(pack({"w": torch.randn(80, 80)}))
    twice = unpack(pack(once))
    assert (once["w"] - twice["w"]).abs().max() <= once["w"].abs().max() * 2e-3


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "w.safetensors", {"b": torch.ones(3)}, metadata={})
    with pytest.raises(WeightsError, match="not finite"):
        write_packed(path, {"w": torch.full((64, 64), float("nan"))}, metadata={})
    assert torch.equal(load_file(path)["b"], torch.ones(3, dtype=torch.float16))
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_format_s_own_keys_are_refused() -> None:
    with pytest.raises(WeightsError, match="::scale"):
        pack({"w::scale": torch.ones(2)})


def test_scales_that_do_not_belong_are_refused() -> None:
    stored = pack({"w": torch.randn(64, 64)})
    with pytest.raises(WeightsError, match="64 rows but scales of shape"):
        unpack(stored | {"w::scale": torch.ones(3, dtype=torch.float16)})
