"""TinyViT: the released keys, its embedding's shapes, biases that follow the weights, exact shortcuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.models.layers import merge_windows, partition_windows
from napari_segany.models.tiny_vit import TINY_VIT, TinyVitConfig, TinyVitEncoder, WindowAttention

LAYOUTS = Path(__file__).parents[1] / "golden" / "layouts"
SMALL = TinyVitConfig(
    widths=(8, 12, 16, 24),
    depths=(2, 1, 1, 1),
    heads=(2, 3, 4, 3),
    windows=(7, 7, 14, 7),
    image_size=128,
    out_width=32,
    classes=5,
)


def seeded(config: TinyVitConfig = SMALL) -> TinyVitEncoder:
    """Return an encoder whose weights, biases and statistics are all away from where they start."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder = TinyVitEncoder(config).eval()
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return encoder


def pixels(*, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(6))


def layout(name: str) -> dict[str, Any]:
    return json.loads((LAYOUTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["mobile_sam_vit_t", "sam_hq_vit_tiny"])
def test_keys_and_shapes_are_those_of_the_checkpoint(name: str) -> None:
    released = layout(name)
    with torch.device("meta"):
        encoder = TinyVitEncoder(TINY_VIT["tiny_vit"])
    ours = {f"image_encoder.{key}": list(tensor.shape) for key, tensor in encoder.state_dict().items()}
    assert ours == {key: s for key, s in released["keys"].items() if key.startswith("image_encoder.")}
    buffers = [f"image_encoder.{key}" for key, _ in encoder.named_buffers()]
    assert buffers == [key for key in released["buffers"] if key.startswith("image_encoder.")]


def test_the_state_dict_is_as_large_as_published() -> None:
    with torch.device("meta"):
        encoder = TinyVitEncoder(TINY_VIT["tiny_vit"])
    unused = sum(p.numel() for part in (encoder.head, encoder.norm_head) for p in part.parameters())
    assert sum(tensor.numel() for tensor in encoder.state_dict().values()) == 6_075_415
    assert unused == 321_000 + 640


@torch.inference_mode()
def test_shapes_of_the_embedding_and_the_early_feature() -> None:
    embedding, early = seeded()(pixels(batch=2))
    assert embedding.shape == (2, SMALL.out_width, 8, 8)
    assert early.shape == (2, 8, 8, SMALL.early_width)


@torch.inference_mode()
def test_biases_follow_weights_that_are_loaded_after_eval() -> None:
    trained = seeded()
    late = TinyVitEncoder(SMALL).eval()
    late(pixels())  # whatever is kept from a first call must not outlive the next line
    late.load_state_dict(trained.state_dict())
    assert torch.equal(late(pixels())[0], trained(pixels())[0])
    with torch.no_grad():
        for name, tensor in late.named_parameters():
            if name.endswith("attention_biases"):
                tensor.zero_()
    assert (late(pixels())[0] - trained(pixels())[0]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_bias_belongs_to_a_distance() -> None:
    attention = WindowAttention(4, heads=2, window=3)
    attention.attention_biases.copy_(torch.arange(18.0).reshape(2, 9))
    biases = attention.biases().reshape(2, 3, 3, 3, 3)  # head, y, x, y', x'
    for head, (y, x), (y2, x2) in [(0, (0, 0), (2, 1)), (1, (2, 1), (0, 2)), (1, (1, 1), (1, 1))]:
        assert biases[head, y, x, y2, x2] == 9 * head + 3 * abs(y - y2) + abs(x - x2)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(7, 7), (8, 8), (14, 9), (3, 5)])
def test_padding_tokens_are_what_normed_zeros_give(size: tuple[int, int]) -> None:
    attention = seeded().layers[1].blocks[0].attn
    x = torch.randn(2, *size, 12, generator=torch.Generator().manual_seed(1))
    windows, padded = partition_windows(x, 7)  # padded before the norm, as the released models do it
    qkv = attention.qkv(attention.norm(windows.flatten(1, 2)))
    q, k, v = qkv.unflatten(2, (3, 3, 4)).permute(3, 0, 2, 1, 4)  # per head: q, k, v
    weights = (q @ k.transpose(-1, -2) / 2 + attention.biases()).softmax(-1)
    slow = attention.proj((weights @ v).transpose(1, 2).flatten(2)).unflatten(1, (7, 7))
    torch.testing.assert_close(attention(x), merge_windows(slow, 7, padded=padded, size=size))


@torch.inference_mode()
def test_folding_the_norms_changes_nothing_but_the_keys() -> None:
    encoder = seeded()
    before = encoder(pixels())
    encoder.fold()
    encoder.fold()  # folding twice is folding once
    assert not any(".bn." in key for key in encoder.state_dict())
    for ours, theirs in zip(encoder(pixels()), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@torch.inference_mode()
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_is_close_to_float32(memory: torch.memory_format) -> None:
    encoder = seeded()
    exact, _ = encoder(pixels())
    encoder.fold()
    encoder.to(torch.bfloat16).to(memory_format=memory)  # type: ignore[call-overload]  # torch's stub lacks this pair
    reduced = encoder(pixels().to(torch.bfloat16, memory_format=memory))[0].float()
    assert (reduced - exact).norm() < 0.05 * exact.norm()


def test_every_parameter_but_the_classifier_learns() -> None:
    encoder = seeded().train()
    embedding, early = encoder(pixels(batch=2))
    (F.mse_loss(embedding, torch.randn_like(embedding)) + early.square().mean()).backward()
    silent = {
        name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()
    }
    assert silent == {"head", "norm_head"}
