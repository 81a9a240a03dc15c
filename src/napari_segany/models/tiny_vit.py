"""TinyViT-5M, the image encoder of MobileSAM and of HQ-SAM's light model: convolutions, then windowed attention.

Papers: Wu et al. 2022 (TinyViT), Zhang et al. 2023 (MobileSAM), Ke et al. 2023 (HQ-SAM). The numbers are those of the
released configuration, checked against the released checkpoint's keys and shapes in the tests. The third merging keeps
its size, so that the embedding is at stride 16; the classifier's norm and head are in the checkpoints and unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layers import LayerNorm2d, merge_windows, partition_windows

_MERGE_STRIDES = (2, 2, 1)
_EXPANSION = 4  # of the convolutional blocks and of the MLPs


@dataclass(frozen=True, slots=True)
class TinyVitConfig:
    """Four stages: channels, blocks, attention heads and windows of each; the first is convolutional."""

    widths: tuple[int, int, int, int] = (64, 128, 160, 320)
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (2, 4, 5, 10)
    windows: tuple[int, int, int, int] = (7, 7, 14, 7)
    image_size: int = 1024
    out_width: int = 256
    classes: int = 1000

    @property
    def early_width(self) -> int:
        """Channels of the early feature."""
        return self.widths[2]


class ConvBatchNorm(nn.Module):
    """Convolution without a bias, and batch norm."""

    def __init__(
        self, width: int, out_width: int, *, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            width,
            out_width,
            kernel_size=kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_width)

    def fold(self) -> None:
        """Fold the norm into the convolution, for inference; the state dict changes with it."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.c, self.bn = fuse_conv_bn_eval(self.c, self.bn), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return self.bn(self.c(x))


class PatchEmbed(nn.Module):
    """Two strided convolutions, to stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvBatchNorm(3, width // 2, kernel=3, stride=2),
            nn.GELU(),
            ConvBatchNorm(width // 2, width, kernel=3, stride=2),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H / 4, W / 4)."""
        return self.seq(pixels)


class ConvBlock(nn.Module):
    """Inverted bottleneck: widen, depthwise 3 x 3, narrow; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = _EXPANSION * width
        self.conv1 = ConvBatchNorm(width, inner)
        self.conv2 = ConvBatchNorm(inner, inner, kernel=3, groups=inner)
        self.conv3 = ConvBatchNorm(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Widen, and by stride 2 halve the sides; between stages."""

    def __init__(self, width: int, out_width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBatchNorm(width, out_width)
        self.conv2 = ConvBatchNorm(out_width, out_width, kernel=3, stride=stride, groups=out_width)
        self.conv3 = ConvBatchNorm(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Self-attention inside windows, with one learned bias for every distance (|dy|, |dx|) and head."""

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def biases(self) -> Tensor:
        """Return the (1, heads, N, N) biases between the N positions of a window.

        They are looked up at every call: this takes a thousandth of the encoder's time, and a stored copy would miss
        weights that are loaded later.
        """
        axis = torch.arange(self.window, device=self.attention_biases.device)
        apart = (axis[:, None] - axis).abs()  # (w, w)
        entry = (
            self.window * apart[:, None, :, None] + apart[None, :, None, :]
        )  # (w, w, w, w) as y, x, y', x'
        return self.attention_biases[:, entry.flatten(2).flatten(0, 1)][None]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        size = (x.shape[1], x.shape[2])
        windows, padded = partition_windows(self._pad(self.qkv(self.norm(x))), self.window)
        parts = windows.unflatten(3, (self.heads, -1)).flatten(1, 2).transpose(1, 2)  # (n, heads, N, 3d)
        q, k, v = parts.chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.biases())
        mixed = mixed.transpose(1, 2).flatten(2).unflatten(1, (self.window, self.window))
        return self.proj(merge_windows(mixed, self.window, padded=padded, size=size))

    def _pad(self, qkv: Tensor) -> Tensor:
        """Pad (B, H, W, 3C) at the bottom and the right to whole windows.

        The released models pad with zeros before the norm and mask nothing, so a padding token is the norm's bias
        everywhere: it is projected once, and not at every place.
        """
        batch, height, width, channels = qkv.shape
        pad_h, pad_w = -height % self.window, -width % self.window
        if not pad_h and not pad_w:
            return qkv
        empty = self.qkv(self.norm.bias)
        full = empty.to(qkv.dtype).expand(batch, height + pad_h, width + pad_w, channels).clone()
        full[:, :height, :width] = qkv
        return full


class FeedForward(nn.Module):
    """The block's MLP, with its norm inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, _EXPANSION * width)
        self.fc2 = nn.Linear(_EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    """Window attention, a depthwise convolution across window borders (not residual), MLP."""

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads=heads, window=window)
        self.mlp = FeedForward(width)
        self.local_conv = ConvBatchNorm(width, width, kernel=3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        last = x.permute(0, 2, 3, 1)  # free where the memory is channels-last
        last = last + self.attn(last)
        last = self.local_conv(last.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (last + self.mlp(last)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks at one size, and the merging behind them, if there is one."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class TinyVitEncoder(nn.Module):
    """(B, 3, S, S) pixels to the image embedding and the early feature."""

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__()
        self.config = config
        widths, out_width = config.widths, config.out_width
        self.patch_embed = PatchEmbed(widths[0])
        self.layers = nn.ModuleList(_stages(config))
        self.norm_head = nn.LayerNorm(widths[3])
        self.head = nn.Linear(widths[3], config.classes)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[3], out_width, kernel_size=1, bias=False),
            LayerNorm2d(out_width),
            nn.Conv2d(out_width, out_width, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_width),
        )

    def fold(self) -> None:
        """Fold every batch norm into its convolution, for inference; the state dict changes with it."""
        for part in self.modules():
            if isinstance(part, ConvBatchNorm):
                part.fold()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, C, S / 16, S / 16) embedding and the early feature, (B, S / 16, S / 16, C').

        The early feature is what the second stage gives after its merging; HQ-SAM reads it.
        """
        x = self.patch_embed(pixels)
        x = self.layers[1](self.layers[0](x))
        early = x.permute(0, 2, 3, 1)
        return self.neck(self.layers[3](self.layers[2](x))), early


def _stages(config: TinyVitConfig) -> list[Stage]:
    """Return the four stages in order."""
    stages = []
    for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        blocks: list[nn.Module] = [
            ConvBlock(width)
            if i == 0
            else AttentionBlock(width, heads=config.heads[i], window=config.windows[i])
            for _ in range(depth)
        ]
        merging = (
            PatchMerging(width, config.widths[i + 1], stride=_MERGE_STRIDES[i])
            if i < len(_MERGE_STRIDES)
            else None
        )
        stages.append(Stage(blocks, merging))
    return stages


TINY_VIT: dict[str, TinyVitConfig] = {"tiny_vit": TinyVitConfig()}
