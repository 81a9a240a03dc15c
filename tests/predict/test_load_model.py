"""From a name or a file to a model that answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_segany.core.errors import DeviceError, UnknownModelError, WeightsError
from napari_segany.core.types import Points, Prompt
from napari_segany.models.registry import spec_of
from napari_segany.models.sam2 import build_sam2
from napari_segany.predict import loading
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_sam2("sam2-nano").state_dict()


@pytest.fixture(scope="module")
def saved(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(weights, path)
    return path


def test_a_file_loads_and_answers_as_the_network_does(saved: Path, weights: dict[str, torch.Tensor]) -> None:
    model = load_model(saved, device="cpu", precision="float32")
    assert model.card.name == "sam2-nano"
    assert model.card.weights_sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert model.card.licence == spec_of("sam2-nano").licence
    assert model.config.name == "sam2-nano"
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not any(m.training for m in model.network.modules() if not isinstance(m, torch.nn.Identity))
    with torch.device("meta"):
        plain = build_sam2("sam2-nano").eval()
    plain.load_state_dict(weights, assign=True)
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():  # norms folded, and still the same function
        ours, theirs = model.network.encode(pixels), plain.encode(pixels)
    torch.testing.assert_close(ours.embedding, theirs.embedding, rtol=1e-3, atol=1e-3)


def test_a_pickled_state_dict_loads_too(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"model": weights}, path)
    model = load_model(str(path), device="cpu", precision="bfloat16")
    assert next(model.network.image_encoder.parameters()).dtype == torch.bfloat16
    assert next(model.network.sam_mask_decoder.parameters()).dtype == torch.float32
    predictor = ImagePredictor(model)
    features = predictor.embed(np.random.default_rng(0).random((16, 24)))
    assert features.tensors.embedding.dtype == torch.float32
    answer = predictor.predict(features, Prompt(points=Points([[8, 8]], [True])))
    assert answer.masks.shape == (3, 16, 24)


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(UnknownModelError, match="sam3-nano"):
        load_model("sam3-nano", device="cpu")


@pytest.mark.parametrize("path", ["nowhere.safetensors", "nowhere.pt", Path("nowhere")])
def test_a_missing_file_is_named(path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="nowhere"):
        load_model(path, device="cpu")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"other\.safetensors.*1 tensors.*sam2-nano"):
        load_model(path, device="cpu")
    text = tmp_path / "notes.pt"
    text.write_text("not weights at all, but long enough to be something")
    with pytest.raises(WeightsError, match=r"notes\.pt"):
        load_model(text, device="cpu")


def test_a_shape_that_does_not_fit_is_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    key = "sam_mask_decoder.iou_token.weight"
    path = tmp_path / "cut.safetensors"
    save_file({**weights, key: torch.zeros(1, 3)}, path)
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        load_model(path, device="cpu")


def test_the_device_is_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_locate", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(DeviceError, match="'tpu'"):
        load_model("sam2-nano", device="tpu")
