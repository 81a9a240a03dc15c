"""micro-sam's distance decoder: the released keys of both forms, its shapes, exact shortcuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.unetr import BilinearUp, InstanceNorm, UnetrConfig, UnetrDecoder, unetr_config_of

LAYOUTS = Path(__file__).parents[1] / "golden" / "layouts"
FORMS = {"microsam_ais_decoder": False, "microsam_ais_decoder_convtranspose": True}


def layout(name: str) -> dict[str, Any]:
    return json.loads((LAYOUTS / f"{name}.json").read_text())


def seeded(*, is_transposed: bool = False) -> UnetrDecoder:
    """Return a small decoder whose weights, biases and statistics are all away from where they start."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        decoder = UnetrDecoder(UnetrConfig(16, (32, 16, 8, 4), is_transposed=is_transposed)).eval()
    with torch.no_grad():
        for name, tensor in decoder.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return decoder


def embedding(*, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, 4, 6, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", FORMS)
def test_keys_and_shapes_are_those_of_the_released_files(name: str) -> None:
    released = layout(name)
    with torch.device("meta"):
        decoder = UnetrDecoder(unetr_config_of(released["keys"]))
    assert decoder.config.is_transposed == FORMS[name]
    assert {key: list(tensor.shape) for key, tensor in decoder.state_dict().items()} == released["keys"]
    assert [key for key, _ in decoder.named_buffers()] == released["buffers"]
    assert sum(p.numel() for p in decoder.parameters()) == released["n_parameters"]


@torch.inference_mode()
@pytest.mark.parametrize("is_transposed", FORMS.values())
def test_maps_are_fractions_at_the_size_of_the_frame(is_transposed: bool) -> None:
    maps = seeded(is_transposed=is_transposed)(embedding(batch=2))
    assert maps.shape == (2, 3, 64, 96)
    assert maps.dtype == torch.float32
    assert ((maps > 0) & (maps < 1)).all()
    assert (maps.std(dim=(2, 3)) > 0).all()


@torch.inference_mode()
def test_images_in_a_batch_do_not_mix() -> None:
    decoder, both = seeded(), embedding(batch=2)
    together = decoder(both)
    for index in range(2):
        torch.testing.assert_close(together[index : index + 1], decoder(both[index : index + 1]))


@torch.inference_mode()
@pytest.mark.parametrize("is_transposed", FORMS.values())
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_preparing_it_for_inference_changes_nothing(is_transposed: bool, memory: torch.memory_format) -> None:
    decoder = seeded(is_transposed=is_transposed)
    before = decoder(embedding())
    decoder.fold()
    decoder.fold()  # folding twice is folding once
    assert not any("running_var" in key for key in decoder.state_dict())
    decoder.to(memory_format=memory)  # type: ignore[call-overload]  # torch's stub lacks it
    torch.testing.assert_close(decoder(embedding().contiguous(memory_format=memory)), before)


@torch.inference_mode()
def test_it_works_in_the_number_format_of_its_weights() -> None:
    decoder = seeded()
    exact = decoder(embedding())
    decoder.fold()
    reduced = decoder.to(torch.bfloat16)(embedding())
    assert reduced.dtype == torch.float32
    assert (reduced - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(reduced, exact)


@torch.inference_mode()
def test_mixing_channels_before_doubling_is_the_same_as_after() -> None:
    up = BilinearUp(5, 3)
    x = torch.randn(1, 5, 6, 7)
    after = up.conv(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
    torch.testing.assert_close(up(x), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps_are_normalised_exactly(dtype: torch.dtype) -> None:
    x = torch.relu(torch.randn(2, 3, 500, 1030, generator=torch.Generator().manual_seed(1)) + 2).to(dtype)
    exact = x.double() - x.double().mean((2, 3), keepdim=True)
    exact /= (exact.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    allowed = 2e-5 if dtype == torch.float32 else 0.02
    with torch.inference_mode():
        ours = InstanceNorm()(x.contiguous(memory_format=torch.channels_last))
    assert ours.dtype == dtype
    assert (ours - exact).abs().max() < allowed


def test_normalising_with_gradients_is_the_same() -> None:
    x = torch.randn(2, 3, 40, 20, requires_grad=True)
    with torch.no_grad():
        fast = InstanceNorm()(x)
    recorded = InstanceNorm()(x)
    torch.testing.assert_close(recorded, fast)
    recorded.square().sum().backward()
    assert x.grad is not None


def test_every_parameter_learns() -> None:
    decoder = seeded().train()
    target = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    F.mse_loss(decoder(embedding(batch=2)), target).backward()
    silent = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
