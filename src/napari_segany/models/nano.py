"""The trunk of the bundled models: convolutions down to stride 16, then a small transformer, for laptop CPUs.

Memory-bound layers cost a CPU more than matrix products do: wide maps exist only at coarse strides, the fine ones stay
narrow, and the bulk of the work is dense products at stride 16. Positions come from depthwise convolutions
(Chu et al. 2021, "Conditional positional encodings"), so any frame size works and none is special. Measurements:
docs/develop/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layers import LayerNorm2d, Mlp, attend


@dataclass(frozen=True, slots=True)
class NanoConfig:
    """Channels at strides 2, 4, 8 and 16, and the transformer behind them."""

    widths: tuple[int, int, int, int] = (24, 48, 96, 224)
    depth: int = 6
    heads: int = 7
    out_width: int = 128


class ConvNorm(nn.Sequential):
    """3 x 3 convolution and batch norm."""

    def __init__(self, width: int, out_width: int, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(width, out_width, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_width),
        )

    def fold(self) -> None:
        """Fold the norm into the convolution, for inference; the state dict changes with it."""
        conv, norm = self
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0], self[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


class ConvBlock(nn.Module):
    """A residual pair of 3 x 3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, width)
        self.conv2 = ConvNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class NanoBlock(nn.Module):
    """Depthwise position code, global self-attention, MLP; pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp((width, 4 * width, width), activation=F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = x + self.position(x)
        size = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        batch, count, width = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).reshape(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
        mixed = attend(q, k, v).transpose(1, 2).reshape(batch, count, width)
        tokens = tokens + self.proj(mixed)
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).unflatten(2, size)


class NanoTrunk(nn.Module):
    """(B, 3, H, W) pixels, sides multiples of 16, to maps at strides 2, 4, 8, 16."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        two, four, eight, sixteen = config.widths
        self.stem = ConvNorm(3, two, stride=2)
        self.stage4 = nn.Sequential(ConvNorm(two, four, stride=2), nn.ReLU(), ConvBlock(four))
        self.stage8 = nn.Sequential(
            ConvNorm(four, eight, stride=2), nn.ReLU(), ConvBlock(eight), ConvBlock(eight)
        )
        self.stage16 = ConvNorm(eight, sixteen, stride=2)
        self.blocks = nn.Sequential(*(NanoBlock(sixteen, config.heads) for _ in range(config.depth)))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return (B, C, H / s, W / s) maps for s = 2, 4, 8, 16."""
        two = F.relu(self.stem(pixels))
        four = self.stage4(two)
        eight = self.stage8(four)
        return [two, four, eight, self.blocks(self.stage16(eight))]


class NanoNeck(nn.Module):
    """Top-down pathway: the image embedding at stride 8, and narrow maps at strides 4 and 2 for the decoder."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        two, four, eight, sixteen = config.widths
        width = config.out_width
        self.norm = LayerNorm2d(sixteen)
        self.lateral16 = nn.Conv2d(sixteen, width, kernel_size=1)
        self.lateral8 = nn.Conv2d(eight, width, kernel_size=1)
        self.merge8 = ConvBlock(width)
        self.out8 = nn.Conv2d(width, width, kernel_size=1)
        self.lateral4 = nn.Conv2d(four, width // 4, kernel_size=1)
        self.down8 = nn.Conv2d(width, width // 4, kernel_size=1)
        self.lateral2 = nn.Conv2d(two, width // 8, kernel_size=1)
        self.down4 = nn.Conv2d(width // 4, width // 8, kernel_size=1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the (B, C, H / 8, W / 8) embedding and the (B, C / 8, H / 2, …), (B, C / 4, H / 4, …) maps."""
        two, four, eight, sixteen = maps
        top = self.lateral16(self.norm(sixteen))
        merged = self.merge8(self.lateral8(eight) + _double(top))
        fine4 = self.lateral4(four) + _double(self.down8(merged))
        fine2 = self.lateral2(two) + _double(self.down4(F.relu(fine4)))
        return self.out8(merged), (fine2, fine4)


def _double(x: Tensor) -> Tensor:
    """Upsample (B, C, H, W) to twice its size, bilinearly."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


NANO: dict[str, NanoConfig] = {"nano": NanoConfig()}
