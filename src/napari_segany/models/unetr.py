"""The distance decoder of micro-sam's models: an image embedding to foreground, centre and boundary distances.

Paper: Archit et al. 2025, "Segment Anything for Microscopy". The network is torch_em's UNETR without an encoder of its
own (Hatamizadeh et al. 2022), so it is the same for every image encoder. It comes in two forms, which differ in how
maps are doubled: bilinearly with a 1 x 1 convolution, or, in older files, by a transposed convolution.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FOREGROUND, CENTRE, BOUNDARY = range(3)
"""The output channels: probability of foreground; distance to the object's centre, and to its boundary."""


_EPSILON = 1e-5
_STRIP = 16  # rows


@dataclass(frozen=True, slots=True)
class UnetrConfig:
    """Channels of the embedding and at strides 8, 4, 2 and 1, and which form the decoder has."""

    in_width: int = 256
    widths: tuple[int, int, int, int] = (512, 256, 128, 64)
    out_channels: int = 3
    is_transposed: bool = False


class BilinearUp(nn.Module):
    """Doubles a map bilinearly and mixes its channels."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out_width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2H, 2W).

        The weights of an interpolation add up to one, so mixing first gives the same at a quarter of the work.
        """
        return F.interpolate(self.conv(x), scale_factor=2.0, mode="bilinear", align_corners=False)


class TransposedUp(nn.Module):
    """Doubles a map by a transposed convolution."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.block = nn.ConvTranspose2d(width, out_width, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2H, 2W)."""
        return self.block(x)


class Conv3(nn.Module):
    """A 3 x 3 convolution under the key that released files have it at."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.block(x)


class UpBlock(nn.Module):
    """Doubles a map, then convolution, batch norm, ReLU."""

    def __init__(self, width: int, out_width: int, *, is_transposed: bool) -> None:
        super().__init__()
        up = _up(width, out_width, is_transposed=is_transposed)
        self.block = nn.Sequential(up, Conv3(out_width), nn.BatchNorm2d(out_width), nn.ReLU(inplace=True))

    def fold(self) -> None:
        """Fold the norm into the convolution, for inference; the state dict changes with it."""
        conv, norm = self.block[1], self.block[2]
        if isinstance(conv, Conv3) and isinstance(norm, nn.BatchNorm2d):
            conv.block, self.block[2] = fuse_conv_bn_eval(conv.block, norm), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2H, 2W)."""
        return self.block(x)


class InstanceNorm(nn.Module):
    """Each channel of each image with mean 0 and variance 1 over its whole map; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); same shape.

        On one image this is batch norm with its own statistics, whose kernel keeps channels-last memory; torch's
        instance norm copies the map twice.
        """
        norm = _norm_in_strips if x.device.type == "cpu" and not torch.is_grad_enabled() else _norm
        parts = [norm(one) for one in x.split(1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _norm(x: Tensor) -> Tensor:
    """Normalise the channels of one (1, C, H, W) image."""
    return F.batch_norm(x, None, None, training=True, eps=_EPSILON)


def _norm_in_strips(x: Tensor) -> Tensor:
    """Normalise the channels of one (1, C, H, W) image, with statistics from strips of rows.

    The CPU's channels-last kernel adds one value after the other in float32: over a million pixels that is wrong in
    the third digit, and depends on the number of threads. Joining strips in float64 mends it at no cost.
    """
    strips = x.split(_STRIP, dim=2)
    zeros = torch.zeros(
        x.shape[1], device=x.device
    )  # float32, so that the statistics of half-precision maps are
    found = [torch.batch_norm_update_stats(strip, zeros, zeros.clone(), 0.0) for strip in strips]
    share = torch.tensor([[strip.shape[2] / x.shape[2]] for strip in strips], dtype=torch.float64)
    means, variances = (torch.stack(part).double() for part in zip(*found, strict=True))  # (strips, C) each
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean) ** 2)).sum(0)
    return F.batch_norm(x, mean.float(), variance.float(), training=False, eps=_EPSILON)


class ConvBlock(nn.Module):
    """Twice: instance norm, 3 x 3 convolution, ReLU."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            InstanceNorm(),
            nn.Conv2d(width, out_width, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            InstanceNorm(),
            nn.Conv2d(out_width, out_width, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return self.block(x)


class UpPath(nn.Module):
    """Three steps that double a map and join it with one that was doubled from the embedding alone."""

    def __init__(self, widths: tuple[int, int, int, int], *, is_transposed: bool) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        self.blocks = nn.ModuleList(ConvBlock(2 * out_width, out_width) for _, out_width in steps)
        self.samplers = nn.ModuleList(_up(*step, is_transposed=is_transposed) for step in steps)

    def step(self, index: int, x: Tensor, beside: Tensor) -> Tensor:
        """Map (B, C, H, W), with (B, C, 2H, 2W) beside it, to (B, C / 2, 2H, 2W).

        Of the map beside, the released networks read the middle half of the channels.
        """
        x = self.samplers[index](x)
        width = x.shape[1]
        start = (beside.shape[1] - width) // 2
        return self.blocks[index](torch.cat((x, beside[:, start : start + width]), dim=1))


class UnetrDecoder(nn.Module):
    """(B, C, h, w) image embeddings to (B, 3, 16h, 16w) maps, 0 to 1: see `FOREGROUND`, `CENTRE`, `BOUNDARY`."""

    def __init__(self, config: UnetrConfig) -> None:
        super().__init__()
        self.config = config
        widths, is_transposed = config.widths, config.is_transposed
        self.decoder = UpPath(widths, is_transposed=is_transposed)
        self.deconv1 = UpBlock(config.in_width, widths[0], is_transposed=is_transposed)
        self.deconv2 = UpBlock(widths[0], widths[1], is_transposed=is_transposed)
        self.deconv3 = UpBlock(widths[1], widths[2], is_transposed=is_transposed)
        self.deconv4 = UpBlock(widths[2], widths[3], is_transposed=is_transposed)
        self.base = ConvBlock(config.in_width, widths[0])
        self.out_conv = nn.Conv2d(widths[3], config.out_channels, kernel_size=1)
        self.deconv_out = _up(widths[3], widths[3], is_transposed=is_transposed)
        self.decoder_head = ConvBlock(2 * widths[3], widths[3])

    def fold(self) -> None:
        """Fold every batch norm into its convolution, for inference; the state dict changes with it."""
        for part in self.modules():
            if isinstance(part, UpBlock):
                part.fold()

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the maps in float32; inside, the decoder works in the number format of its own weights."""
        embedding = embedding.to(self.out_conv.weight.dtype)
        x = self.base(embedding)  # (B, 512, h, w)
        beside = self.deconv1(embedding)  # (B, 512, 2h, 2w)
        x = self.decoder.step(0, x, beside)  # (B, 256, 2h, 2w)
        beside = self.deconv2(beside)
        x = self.decoder.step(1, x, beside)  # (B, 128, 4h, 4w)
        beside = self.deconv3(beside)
        x = self.decoder.step(2, x, beside)  # (B, 64, 8h, 8w)
        beside = self.deconv4(beside)  # (B, 64, 16h, 16w)
        x = torch.cat((self.deconv_out(x), beside), dim=1)
        del beside  # the largest maps: at most two of them at a time
        return self.out_conv(self.decoder_head(x)).float().sigmoid()


def unetr_config_of(keys: Container[str]) -> UnetrConfig:
    """Return the configuration of a released decoder, by the keys of its state dict."""
    return UnetrConfig(is_transposed="decoder.samplers.0.block.weight" in keys)


def _up(width: int, out_width: int, *, is_transposed: bool) -> nn.Module:
    """Return the module that doubles a map."""
    return TransposedUp(width, out_width) if is_transposed else BilinearUp(width, out_width)
