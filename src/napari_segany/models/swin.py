"""Swin, the image encoder of Semantic-SAM: a transformer in four stages, attention inside windows that shift.

Papers: Liu et al. 2021 (Swin Transformer), Li et al. 2023 (Semantic-SAM, section 4). The numbers of the variants are
those of the released checkpoints, whose keys and shapes the tests compare. Windows are never made smaller than they
are trained, and every second block shifts them by half, on small grids too; what completes a grid to whole windows is
attended to like everything else, as in the released models.

Two ways to the same numbers: where gradients are recorded, where the encoder is traced, and on GPUs, the grid is
padded, rolled, cut, and masked window by window. On a CPU every token is copied to its place in one step, with the
windows that need the same mask beside each other: no mask is as long as the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_segany.core.errors import ImageError

from .layers import merge_windows

STRIDE = 32  # of the coarsest map
MASKED = -100.0  # added to the logit between two cells that are neighbours only because the grid was rolled
HIDDEN = (
    28 * 2**20
)  # bytes of an MLP's inside at a time on a CPU; past 32 MiB, memory is mapped anew each time

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SwinConfig:
    """One variant: channels of the first stage, blocks and heads of each, and the side of a window."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(
                    f"{width} channels are no multiple of {heads} heads; choose heads that divide them"
                )
        if self.window < 2:
            raise ValueError(f"window {self.window} cannot shift by half; it must be 2 or more")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        return self.embed_dim, 2 * self.embed_dim, 4 * self.embed_dim, 8 * self.embed_dim


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the tokens of a (B, H, W) grid lie when it is cut into windows, those with the same mask together.

    Attributes
    ----------
    tokens : (n * N,)
        Which token, of B * H * W, comes to each cell of the n windows of N cells; any in cells that have none.
    empty : (E,)
        The cells, of n * N, that have none.
    cells : (B * H * W,)
        The cell that each token comes to.
    counts
        How many windows are whole, then have their columns, their rows, or both from two ends of the grid.
    """

    tokens: Tensor
    empty: Tensor
    cells: Tensor
    counts: tuple[int, ...]


def windows_of(shape: tuple[int, int, int], *, window: int, shift: int, device: torch.device) -> Windows:
    """Return the windows of a (B, H, W) grid that is rolled by `shift` to the top and the left first."""
    batch, height, width = shape
    lines, columns = -(-height // window), -(-width // window)
    number = torch.empty(batch, lines, columns, dtype=torch.int64, device=device)
    counts: list[int] = []
    for part in _kinds(shift):
        group = number[:, part[0], part[1]]
        first = sum(counts)
        group.copy_(torch.arange(first, first + group.numel(), device=device).view(group.shape))
        counts.append(group.numel())
    y = (torch.arange(lines * window, device=device) - shift) % (lines * window)
    x = (torch.arange(columns * window, device=device) - shift) % (columns * window)
    places = number[:, (y // window)[:, None], x // window] * window + (y % window)[:, None]
    places = places * window + x % window  # (B, lines * window, columns * window)
    cells = places[:, :height, :width].flatten()
    tokens = torch.zeros(places.numel(), dtype=torch.int64, device=device)
    tokens[cells] = torch.arange(cells.numel(), device=device)
    empty = torch.cat((places[:, height:].flatten(), places[:, :height, width:].flatten()))
    return Windows(tokens, empty, cells, tuple(counts))


def _kinds(shift: int) -> tuple[tuple[slice, slice], ...]:
    """Return which (rows, columns) of windows have the same mask."""
    inner, last = slice(None, -1), slice(-1, None)
    if not shift:
        return ((slice(None), slice(None)),)
    return (inner, inner), (inner, last), (last, inner), (last, last)


class WindowAttention(nn.Module):
    """Self-attention inside windows of a (B, H, W, C) grid, with a learned bias for every (dy, dx) and head."""

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def biases(self) -> Tensor:
        """Return the (heads, N, N) biases between the N cells of a window, query first.

        They are looked up at every call, which takes no time beside the rest; a stored copy would miss weights that
        are loaded later.
        """
        axis = torch.arange(self.window, device=self.relative_position_bias_table.device)
        apart = axis[:, None] - axis + self.window - 1  # (w, w)
        entry = apart[:, None, :, None] * (2 * self.window - 1) + apart[None, :, None, :]  # y, x, y', x'
        return self.relative_position_bias_table.t()[:, entry.flatten(2).flatten(0, 1)]

    def forward(self, x: Tensor, *, shift: int, windows: Windows | None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `windows` are those of the grid, rolled by `shift`, or None to cut it."""
        qkv = self.qkv(x)  # (B, H, W, 3 C)
        x = self._cut_and_attend(qkv, shift) if windows is None else self._gather_and_attend(qkv, windows)
        return self.proj(x)

    def _gather_and_attend(self, qkv: Tensor, windows: Windows) -> Tensor:
        """Attend over (B, H, W, 3 C), every token copied once each way; returns (B, H, W, C)."""
        cells = qkv.flatten(0, 2).index_select(0, windows.tokens)  # (n * N, 3 C)
        cells[windows.empty] = self.qkv.bias.to(cells.dtype)  # what a token of zeros becomes
        q, k, v = self._split(cells.unflatten(0, (-1, self.window**2)))
        biases, parts, first = self.biases(), [], 0
        for mask, count in zip(seam_masks(self.window, like=biases), windows.counts, strict=False):
            part = slice(first, first + count)
            parts.append(attend_biased(q[part], k[part], v[part], biases=(biases + mask)[None]))
            first += count
        mixed = torch.cat(parts) if len(parts) > 1 else parts[0]  # (n, N, C)
        return mixed.flatten(0, 1).index_select(0, windows.cells).view(*qkv.shape[:3], -1)

    def _cut_and_attend(self, qkv: Tensor, shift: int) -> Tensor:
        """Attend over (B, H, W, 3 C), padded, rolled and masked as a whole; returns (B, H, W, C)."""
        batch, height, width, _ = qkv.shape
        side = self.window
        lines, columns = height + -height % side, width + -width % side
        qkv = completed(qkv, self.qkv.bias, size=(lines, columns))
        biases = self.biases()[None]  # (1, heads, N, N)
        if shift:
            qkv = qkv.roll((-shift, -shift), dims=(1, 2))
            biases = biases + grid_mask((lines, columns), window=side, shift=shift, like=biases)
            biases = biases.repeat(batch, 1, 1, 1)  # (B * n, heads, N, N)
        cells = _cut(qkv, side).flatten(1, 2)  # (B * n, N, 3 C)
        mixed = attend_biased(*self._split(cells), biases=biases).unflatten(1, (side, side))
        x = merge_windows(mixed, side, padded=(lines, columns), size=(lines, columns))
        x = x.roll((shift, shift), dims=(1, 2)) if shift else x
        return x[:, :height, :width]

    def _split(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn (n, N, 3 C) into queries, keys and values, (n, heads, N, d) each."""
        q, k, v = cells.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


def attend_biased(q: Tensor, k: Tensor, v: Tensor, *, biases: Tensor) -> Tensor:
    """Return the (n, N, C) mixtures of (n, heads, N, d) values; `biases` (n or 1, heads, N, N) add to the logits."""
    biases = biases.to(q.dtype).expand(q.shape[0], -1, -1, -1)  # len() would be fixed in a trace
    return F.scaled_dot_product_attention(q, k, v, attn_mask=biases).transpose(1, 2).flatten(2)


def completed(x: Tensor, fill: Tensor, *, size: Size) -> Tensor:
    """Return (B, H, W, C) completed at the bottom and the right to `size` with `fill` (C,)."""
    batch, height, width, channels = x.shape
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined]  # not in the stubs
    if size == (height, width) and not traced:  # what is traced is used at other sizes
        return x
    fill = fill.to(x.dtype).expand(batch, *size, channels)
    x = torch.cat((x, fill[:, :height, width:]), dim=2)
    return torch.cat((x, fill[:, height:]), dim=1)


def seam_masks(window: int, *, like: Tensor) -> Iterator[Tensor]:
    """Yield the (N, N) masks of the windows that are whole, have columns, have rows, or both, of two ends."""
    axis = torch.arange(window, device=like.device) < window - window // 2  # which end a line is of
    apart = (axis[:, None] != axis).to(like.dtype) * MASKED  # (w, w)
    rows = apart.repeat_interleave(window, dim=0).repeat_interleave(window, dim=1)  # (N, N)
    columns = apart.repeat(window, window)
    yield torch.zeros_like(rows)
    yield columns
    yield rows
    yield torch.minimum(rows, columns)


def grid_mask(size: Size, *, window: int, shift: int, like: Tensor) -> Tensor:
    """Return the (n, 1, N, N) masks of all windows of a (H, W) grid that was rolled by `shift`."""
    rows, columns = ((torch.arange(side, device=like.device) >= side - shift).to(like.dtype) for side in size)
    ends = (2 * rows[:, None] + columns)[None, :, :, None]  # (1, H, W, 1)
    ends = _cut(ends, window).flatten(1)  # (n, N)
    return ((ends[:, None, :] != ends[:, :, None]).to(like.dtype) * MASKED)[:, None]


def _cut(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C), of whole windows, into (B * n, window, window, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels).transpose(2, 3)
    return x.reshape(-1, window, window, channels)


class SwinMlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        if _records(x):
            return self.fc2(F.gelu(self.fc1(x)))
        flat = x.flatten(0, -2)
        step = max(1, HIDDEN // (self.fc1.out_features * x.element_size()))
        parts = [self.fc2(torch.ops.aten.gelu_(self.fc1(part))) for part in flat.split(step)]
        return torch.cat(parts).view(x.shape)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, *, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads=heads, window=window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = SwinMlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, *, shift: int, windows: Windows | None) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = x + self.attn(self.norm1(x), shift=shift, windows=windows)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """2 x 2 neighbours side by side, normalised and projected to twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2 C)."""
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, 2, W / 2, 2, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H / 2, W / 2, 4 C): column by column of the four
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks at one size, every second one with shifted windows, and the merging behind them, if there is one."""

    def __init__(self, config: SwinConfig, index: int) -> None:
        super().__init__()
        width = config.widths[index]
        self.window = config.window
        self.blocks = nn.ModuleList(
            Block(width, heads=config.heads[index], window=config.window, mlp_ratio=config.mlp_ratio)
            for _ in range(config.depths[index])
        )
        self.downsample = PatchMerging(width) if index < len(config.widths) - 1 else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to the same shape, and that to what the next stage takes."""
        shifts = (0, self.window // 2)
        windows = [self._windows(x, shift) for shift in shifts]
        for index, block in enumerate(self.blocks):
            x = block(x, shift=shifts[index % 2], windows=windows[index % 2])
        return x, x if self.downsample is None else self.downsample(x)

    def _windows(self, x: Tensor, shift: int) -> Windows | None:
        """Return the windows of a (B, H, W, C) grid, where tokens are gathered."""
        if _records(x):
            return None
        return windows_of(
            (x.shape[0], x.shape[1], x.shape[2]), window=self.window, shift=shift, device=x.device
        )


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 side by side, each a token, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, H / 4, W / 4, C)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """The encoder: (B, 3, H, W) pixels to four maps, at strides 4, 8, 16 and 32."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList(Stage(config, index) for index in range(len(config.widths)))
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for width in config.widths)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode normalised pixels.

        Parameters
        ----------
        pixels : (B, 3, H, W)
            H and W multiples of 32, of any size and not necessarily equal.

        Returns
        -------
        (B, C, H / 4, W / 4), (B, 2 C, H / 8, W / 8), (B, 4 C, H / 16, W / 16), (B, 8 C, H / 32, W / 32)
            Each normalised; their memory is channels-last.

        Raises
        ------
        ImageError
            If a side is no multiple of 32.
        """
        if pixels.shape[2] % STRIDE or pixels.shape[3] % STRIDE:
            raise ImageError(
                f"the encoder got {pixels.shape[2]} x {pixels.shape[3]} pixels; "
                f"both sides must be multiples of {STRIDE}: pad the image or resize it"
            )
        x = self.patch_embed(pixels)
        maps = []
        for stage, norm in zip(self.layers, (self.norm0, self.norm1, self.norm2, self.norm3), strict=True):
            seen, x = stage(x)
            maps.append(norm(seen).permute(0, 3, 1, 2))
        return maps[0], maps[1], maps[2], maps[3]


def _records(x: Tensor) -> bool:
    """Return whether to compute in whole grids, for gradients, for tracing and compiling, and on GPUs."""
    return torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling()


SWIN: dict[str, SwinConfig] = {
    "swin_t": SwinConfig(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin_l": SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}
