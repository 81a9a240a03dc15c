"""RepViT: the released keys, maps at four strides, branches that fold into one convolution without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from napari_segany.models.layers import fold_norms
from napari_segany.models.repvit import REPVIT, ChannelWeights, RepVit, RepVitConfig, TokenMixer

LAYOUT = Path(__file__).parents[1] / "golden" / "layouts" / "edgetam.json"
PREFIX = "image_encoder.trunk."
SMALL = RepVitConfig(widths=(8, 16, 24, 32), depths=(1, 2, 3, 1))


def seeded(config: RepVitConfig = SMALL) -> RepVit:
    """Return a trunk whose weights, biases and statistics are all away from where they start."""
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        trunk = RepVit(config).eval()
    with torch.no_grad():
        for name, tensor in trunk.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return trunk


def pixels(*, batch: int = 1, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(6))


def test_keys_and_shapes_are_those_of_the_checkpoint() -> None:
    released = json.loads(LAYOUT.read_text())
    with torch.device("meta"):
        trunk = RepVit(REPVIT["repvit_m1"])
    ours = {PREFIX + key: list(tensor.shape) for key, tensor in trunk.state_dict().items()}
    assert ours == {key: shape for key, shape in released["keys"].items() if key.startswith(PREFIX)}
    buffers = [PREFIX + key for key, _ in trunk.named_buffers()]
    assert sorted(buffers) == sorted(key for key in released["buffers"] if key.startswith(PREFIX))


@torch.inference_mode()
def test_maps_lie_at_four_strides() -> None:
    maps = seeded()(pixels(batch=2))
    assert [tuple(one.shape) for one in maps] == [
        (2, width, 64 // stride, 96 // stride)
        for width, stride in zip(SMALL.widths, (4, 8, 16, 32), strict=True)
    ]


@torch.inference_mode()
def test_folding_changes_nothing_but_the_keys() -> None:
    trunk = seeded()
    before = trunk(pixels())
    fold_norms(trunk)
    fold_norms(trunk)  # folding twice is folding once
    keys = trunk.state_dict()
    assert not any(".bn." in key or "token_mixer.conv1" in key for key in keys)
    assert any("token_mixer.conv.c.bias" in key for key in keys)
    for ours, theirs in zip(trunk(pixels()), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@torch.inference_mode()
def test_a_folded_token_mixer_is_one_convolution() -> None:
    mixer = seeded().body["stages_0"].blocks[0].token_mixer
    assert isinstance(mixer, TokenMixer)
    x = torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(1))
    slow = mixer.conv.bn(mixer.conv.c(x)) + mixer.conv1.bn(mixer.conv1.c(x)) + x
    torch.testing.assert_close(mixer(x), slow)
    mixer.fold()
    assert sum(isinstance(part, torch.nn.Conv2d) for part in mixer.modules()) == 1
    torch.testing.assert_close(mixer(x), slow)


@torch.inference_mode()
def test_a_channel_has_one_weight_everywhere_and_all_places_decide_on_it() -> None:
    weights = seeded().body["stages_1"].blocks[0].se
    assert isinstance(weights, ChannelWeights)
    assert not isinstance(seeded().body["stages_1"].blocks[1].se, ChannelWeights)
    x = 1 + torch.rand(1, 16, 5, 6, generator=torch.Generator().manual_seed(2))
    ratio = weights(x) / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert ((ratio > 0) & (ratio < 1)).all()
    other = x.clone()
    other[:, :, 4, 5] += 50
    assert (weights(other)[:, :, 0, 0] - weights(x)[:, :, 0, 0]).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_is_close_to_float32(memory: torch.memory_format) -> None:
    trunk = seeded()
    exact = trunk(pixels())
    fold_norms(trunk)
    trunk.to(torch.bfloat16).to(memory_format=memory)  # type: ignore[call-overload]  # torch's stub lacks this pair
    reduced = trunk(pixels().to(torch.bfloat16, memory_format=memory))
    for ours, theirs in zip(reduced, exact, strict=True):
        assert (ours.float() - theirs).norm() < 0.05 * theirs.norm()


def test_every_parameter_learns() -> None:
    trunk = seeded().train()
    maps = trunk(pixels(batch=2))
    sum((one * torch.randn_like(one)).mean() for one in maps).backward()
    assert [name for name, p in trunk.named_parameters() if p.grad is None or not p.grad.any()] == []
