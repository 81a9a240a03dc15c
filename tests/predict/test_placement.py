"""Devices and number formats: chosen in one place, refused in words, and close to each other in what they answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import ROWS, predictor_of

from napari_segany.core.errors import DeviceError
from napari_segany.core.types import Points, Prompt
from napari_segany.predict import precision
from napari_segany.predict.precision import PRECISIONS, Placement, place


def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["reproducible", "float32"])
def test_reproducible_is_float32(name: str) -> None:
    assert place("cpu", name) == Placement(torch.device("cpu"), torch.float32)


def test_auto_on_a_cpu_is_what_its_matrix_units_take(monkeypatch: pytest.MonkeyPatch) -> None:
    only_cpu(monkeypatch)
    for has_units, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda has=has_units: has)
        assert place() == Placement(torch.device("cpu"), dtype)


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((9, 0), torch.bfloat16)])
def test_auto_takes_cuda_first(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert place() == Placement(torch.device("cuda"), dtype)


def test_a_title_for_people() -> None:
    assert place("cpu", "bfloat16").title == "cpu, bfloat16"


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    only_cpu(monkeypatch)
    with pytest.raises(DeviceError, match=f"'{name}'.*device='auto'"):
        place(name)


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert place("cuda:1", "float32").device == torch.device("cuda:1")
    with pytest.raises(DeviceError, match=r"'cuda:2'.*2"):
        place("cuda:2", "float32")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "auto:1", "xpu"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=f"'{name}'"):
        place(name)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"'int8'.*bfloat16"):
        place("cpu", "int8")


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", sorted(set(PRECISIONS) - {"float32", "auto"}))
def test_formats_agree(row: str, name: str) -> None:
    image = np.random.default_rng(0).random((48, 64))
    prompt = Prompt(points=Points([[20, 30]], [True]))
    exact, other = (
        (p := predictor_of(row, precision=format_)).predict(p.embed(image), prompt, multimask=False)
        for format_ in ("float32", name)
    )
    assert 0.02 < exact.best.mean() < 0.98
    assert np.abs(exact.logits - other.logits).mean() < 0.05 * exact.logits.std()  # random masks are ragged
    assert np.array_equal(exact.logits, other.logits) == (name == "reproducible")
    assert other.logits.dtype == np.float32
