"""RepViT, the image encoder of EdgeTAM: depthwise convolutions that become one each for inference.

Papers: Wang et al. 2024 (RepViT), Zhou et al. 2025 (EdgeTAM). The numbers are those of RepViT-M1, checked against the
released checkpoint's keys and shapes in the tests; keys are timm's, under which the checkpoint was released.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .tiny_vit import ConvBatchNorm

_EXPANSION = 2  # of the channel mixers
_SQUEEZE = 4  # of the channel weights, then rounded to
_ROUNDED = 8


@dataclass(frozen=True, slots=True)
class RepVitConfig:
    """Channels and blocks of the four stages, at strides 4, 8, 16 and 32."""

    widths: tuple[int, int, int, int] = (48, 96, 192, 384)
    depths: tuple[int, int, int, int] = (2, 2, 14, 2)


class Stem(nn.Module):
    """Two strided convolutions, to stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(3, width // 2, kernel=3, stride=2)
        self.conv2 = ConvBatchNorm(width // 2, width, kernel=3, stride=2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H / 4, W / 4)."""
        return self.conv2(F.gelu(self.conv1(pixels)))


class TokenMixer(nn.Module):
    """Depthwise: 3 x 3, plus 1 x 1, plus the input itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = ConvBatchNorm(width, width, kernel=3, groups=width)
        self.conv1: ConvBatchNorm | None = ConvBatchNorm(width, width, groups=width)

    def fold(self) -> None:
        """Fold norms and all three branches into one 3 x 3 convolution, for inference; the state dict changes."""
        if self.conv1 is None:
            return
        self.conv.fold()
        self.conv1.fold()
        large, small = self.conv.c, self.conv1.c
        assert large.bias is not None and small.bias is not None
        large.weight.data[:, :, 1:2, 1:2] += small.weight.data + 1  # the input's own weight is 1
        large.bias.data += small.bias.data
        self.conv1 = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.conv(x) if self.conv1 is None else self.conv(x) + self.conv1(x) + x


class ChannelWeights(nn.Module):
    """Weighs every channel by what all channels are on average (squeeze and excitation)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(_ROUNDED, (width // _SQUEEZE + _ROUNDED // 2) // _ROUNDED * _ROUNDED)
        self.fc1 = nn.Conv2d(width, inner, kernel_size=1)
        self.fc2 = nn.Conv2d(inner, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x * self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class ChannelMixer(nn.Module):
    """Two 1 x 1 convolutions, wider between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(width, _EXPANSION * width)
        self.conv2 = ConvBatchNorm(_EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.conv2(F.gelu(self.conv1(x)))


class RepVitBlock(nn.Module):
    """Token mixer, weights of channels in every second block, residual channel mixer."""

    def __init__(self, width: int, *, weighs: bool) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(width)
        self.se = ChannelWeights(width) if weighs else nn.Identity()
        self.channel_mixer = ChannelMixer(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class Downsample(nn.Module):
    """Between stages: a block, half the sides, more channels, a residual channel mixer."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.pre_block = RepVitBlock(width, weighs=False)
        self.spatial_downsample = ConvBatchNorm(width, width, kernel=3, stride=2, groups=width)
        self.channel_downsample = ConvBatchNorm(width, out_width)
        self.ffn = ChannelMixer(out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / 2, W / 2)."""
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class RepVitStage(nn.Module):
    """Blocks at one stride, behind the step down to it; the first stage has none."""

    def __init__(self, width: int, depth: int, *, in_width: int | None) -> None:
        super().__init__()
        self.downsample = nn.Identity() if in_width is None else Downsample(in_width, width)
        self.blocks = nn.Sequential(*(RepVitBlock(width, weighs=i % 2 == 0) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / 2, W / 2), in the first stage to the same shape."""
        return self.blocks(self.downsample(x))


class RepVit(nn.Module):
    """(B, 3, S, S) pixels to maps at strides 4, 8, 16 and 32."""

    def __init__(self, config: RepVitConfig) -> None:
        super().__init__()
        widths = config.widths
        self.body = nn.ModuleDict({"stem": Stem(widths[0])})
        for i, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            self.body[f"stages_{i}"] = RepVitStage(width, depth, in_width=widths[i - 1] if i else None)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return four maps, finest first."""
        stem, *stages = self.body.values()
        x = stem(pixels)
        maps = []
        for stage in stages:
            x = stage(x)
            maps.append(x)
        return maps


REPVIT: dict[str, RepVitConfig] = {"repvit_m1": RepVitConfig()}
