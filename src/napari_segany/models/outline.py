"""The bundled models' fine boundaries: outlines decided anew, at the frame's resolution, where the base is unsure.

After PointRend (Kirillov et al. 2020): a small network looks at one pixel of the coarse logits at a time and corrects
the 2 x 2 pixels of the frame below it. Once on the way, unsure pixels hear what those beside them see (cf. Graham & van
der Maaten 2017, "Submanifold sparse convolutional networks"), so that outlines are decided as lines and not pixel by
pixel. Nothing is made in advance of an image, and sure pixels cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .judge import SEEN, Evidence, MaskJudge, seen_of_maps, seen_of_mask
from .layers import REACHES, Mlp
from .mask_spread import CELL, MaskSpread
from .ways import AS_IT_IS, EXTENDED, WayChoice

if TYPE_CHECKING:
    from .fine import FineConfig
    from .mask_decoder import MaskOutput

LOGIT_SCALE = 4.0
"""Logits are divided by this before the network sees them."""
PIXELS = 12
"""Channels of the frame with its 2 x 2 pixels beside each other."""
AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
_RING = tuple(step for step in AROUND if step != (0, 0))
FEATURES = tuple((2 * dy, 2 * dx) for dy, dx in AROUND)
"""Where features are read, in logits from a place."""
LOGITS = (*AROUND, *((far * dy, far * dx) for far in (3, 6) for dy, dx in _RING))
"""Where logits are read."""
_SHARED = 16
"""Channels that a place tells those beside it."""
_SAMPLE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class OutlineContext:
    """What `OutlineHead` looks at beside the logits of B answers.

    Attributes
    ----------
    cells : (B, hw, 16, C / 8)
        What the base's masks are products of, the 4 x 4 pixels of a cell together (see `cells.nested`).
    pixels : (B or 1, 12, H / 2, W / 2)
        The frame, its 2 x 2 pixels beside each other.
    embedding : (B, C, h, w)
        Of the image, once it met the prompts.
    seen : (B, M, S)
        What the base's judge saw of the masks as the base draws them.
    ways : (B,)
        How each answer is finished (`ways`); None where nothing was chosen: with outlines.
    """

    cells: Tensor
    pixels: Tensor
    embedding: Tensor
    seen: Tensor
    ways: Tensor | None = None

    @property
    def is_plain(self) -> Tensor:
        """Which of the B answers keep the base's outlines, (B,) bool."""
        if self.ways is None:
            return torch.zeros(len(self.seen), dtype=torch.bool, device=self.seen.device)
        return self.ways == AS_IT_IS

    def rows(self, part: Tensor | slice) -> OutlineContext:
        """Return the context of some answers."""
        return OutlineContext(
            self.cells[part],
            self.pixels if len(self.pixels) == 1 else self.pixels[part],
            self.embedding[part],
            self.seen[part],
            None if self.ways is None else self.ways[part],
        )


class OutlineHead(nn.Module):
    """Corrects logits around outlines: 36 pixels of the frame, 25 coarse logits and features at 9 places go in.

    Which object is meant comes from the mask's token. Before that, whole masks are `extended`, and `judged` as they are
    then. All of these start at zero: an untrained head answers as its base does, but for `generosity`. What is done to
    an answer is what `suited` chooses.
    """

    def __init__(self, width: int, config: FineConfig, *, masks: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.extent = MaskSpread(masks=1, told=width, seen=width // 8, inner=config.spread, is_asked=False)
        self.judge = MaskJudge(width, masks=masks, inner=config.judge)
        self.choice = WayChoice(seen_of_mask(width, masks=masks))
        self.meant = Mlp((width, width, 2 * hidden))
        looked = len(AROUND) * PIXELS + len(FEATURES) * (width // 8) + len(LOGITS)
        self.first = nn.Linear(looked, hidden)
        self.shared = nn.Linear(hidden, _SHARED)
        self.heard = nn.Linear(len(AROUND) * _SHARED, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 4)
        for silent in (self.meant.layers[-1], self.heard, self.last):
            assert isinstance(silent, nn.Linear)
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(silent.bias)

    def told(self, tokens: Tensor) -> Tensor:
        """Return what (..., C) mask tokens tell the network: (..., 2 * hidden)."""
        told: Tensor = self.meant(tokens)
        return told

    def forward(self, inputs: Tensor, told: Tensor, beside: Tensor) -> Tensor:
        """Return the (..., 4) corrections of the pixels below (..., I) inputs; `beside` as `places_beside` says."""
        bias, gain = told.chunk(2, dim=-1)
        x = F.relu(self.first(inputs) + bias)
        said = F.pad(F.relu(self.shared(x)).flatten(0, -2), (0, 0, 0, 1))  # a silent one at the end
        x = F.relu(x + self.heard(_taken(said, beside).flatten(-2)))
        x = F.relu(self.second(x)) * (1 + gain)
        corrections: Tensor = self.last(x)
        return corrections

    def suited(self, output: MaskOutput, *, extends: bool) -> MaskOutput:
        """Return all masks of B prompts, those of answers that it suits changed as a whole and judged anew.

        What the best mask of an answer looks like says which way suits it; `finished` goes by it, too.
        """
        context = output.context
        assert context is not None
        rows = torch.arange(len(output.ious), device=output.ious.device)
        promises = self.choice(context.seen[rows, output.ious.argmax(dim=1)], extends=extends)
        ways = promises.argmax(dim=1)
        output = replace(output, context=replace(context, ways=ways))
        far = (ways == EXTENDED).nonzero()[:, 0]
        if len(far) == 0:
            return output
        changed = self.judged(self.extended(output.rows(far)))
        if len(far) == len(ways):
            return changed
        logits, ious = (
            before.float().index_copy(0, far, after.float())
            for before, after in ((output.logits, changed.logits), (output.ious, changed.ious))
        )
        return replace(output, logits=logits, ious=ious)

    def extended(self, output: MaskOutput) -> MaskOutput:
        """Return (B, M, h, w) masks changed as a whole by what lies around, before any outline is decided anew.

        While no gradients are recorded, only places that hear of a mask are looked at.
        """
        context = output.context
        assert context is not None
        logits = output.logits.float().clone()
        size = (logits.shape[2] // CELL, logits.shape[3] // CELL)
        rows, cols = (slice(0, n) for n in size) if torch.is_grad_enabled() else _within_reach(logits)
        if rows.stop > rows.start:
            high, wide = (slice(CELL * part.start, CELL * part.stop) for part in (rows, cols))
            cells = context.cells.unflatten(1, size)[:, rows, cols].flatten(1, 2)
            logits[:, :, high, wide] = self.extent(logits[:, :, high, wide], output.tokens, cells)
        ways = torch.full((len(logits),), EXTENDED, device=logits.device)
        return replace(output, logits=logits, context=replace(context, ways=ways))

    def judged(self, output: MaskOutput) -> MaskOutput:
        """Return all masks of B prompts with the IoUs to expect of them once they are `extended` (inference only)."""
        return replace(output, ious=self.judge.decide(self.evidence(output)))

    def evidence(self, output: MaskOutput) -> Evidence:
        """Return what is to be seen of all masks of B prompts; told is what the base's judge said of its own."""
        context = output.context
        assert context is not None
        return self.judge.look(
            output.tokens,
            output.ious,
            embedding=context.embedding,
            upscaled=context.cells[:, :, ::SEEN],
            logits=seen_of_maps(output.logits),
        )

    def finished(self, output: MaskOutput, *, within: Tensor | None = None) -> MaskOutput:
        """Return chosen masks with the frame's logits as `fine`; `logits` stay as they are, for the next round.

        Parameters
        ----------
        output
            With (B, M, h, w) logits and their context.
        within : (B, M, h, w) bool
            What may be corrected.
        """
        context, config = output.context, self.config
        assert context is not None
        logits = output.logits.contiguous()
        plain = context.is_plain
        if bool(plain.all()):
            return replace(output, context=None)
        if bool(plain.any()):
            may = ~plain[:, None, None, None].expand_as(logits)
            within = may if within is None else within & may
        wide = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        places = unsure(logits, band=config.band, most=config.most, within=within)  # (P,)
        below = pixels_below(places, logits.shape)  # (P, 4)
        mask = places // (logits.shape[2] * logits.shape[3])
        told = _taken(self.told(output.tokens).flatten(0, 1), mask)
        inputs = outline_inputs(context, logits, places)
        change = self(inputs, told, places_beside(places, logits.shape))
        if context.ways is not None and logits.shape[1] > 1:
            lower = generosity(output.ious) * (context.ways == EXTENDED)[:, None]
            change = change + _taken(lower.reshape(-1, 1), mask)
        flat = wide.view(-1)
        flat[below] += change
        return replace(output, fine=wide, context=None)


def _within_reach(logits: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns of cells that hear of what lies inside of (B, M, h, w) masks; none of empty ones."""
    inside = (logits > 0).flatten(0, 1).any(0)
    ends = []
    for axis, count in enumerate(inside.shape):
        marked = inside.any(1 - axis).nonzero()[:, 0]
        if not len(marked):
            return slice(0, 0), slice(0, 0)
        first, last = int(marked[0]) // CELL, int(marked[-1]) // CELL
        ends.append(slice(max(0, first - sum(REACHES)), min(count // CELL, last + 1 + sum(REACHES))))
    return ends[0], ends[1]


def generosity(ious: Tensor) -> Tensor:
    """Return what is added to the logits of masks with these predicted IoUs, where an answer has several masks.

    Of all cuts through honest chances, that at J / (1 + J) gives the best IoU J to be had (Lipton et al. 2014 prove it
    for the F measure, where it is half of the best F): the less certain a mask, the lower the cut, by -log J in logits.
    Half of that measured better over all three masks of a click; single masks need none, nor do magnified small ones.
    """
    return -0.5 * ious.clamp(0.15, 1.0).log()


def unsure(logits: Tensor, *, band: float, most: int, within: Tensor | None = None) -> Tensor:
    """Return the flat places of (B, M, h, w) logits within a band around zero, of each mask the nearest `most`."""
    size = logits.abs().flatten(0, 1).flatten(1)  # (BM, hw)
    near = size < band
    if within is not None:
        near &= within.flatten(0, 1).flatten(1)
    for index in (near.sum(dim=1) > most).nonzero()[:, 0].tolist():
        found = size[index][near[index]]
        sample = found[:: max(1, len(found) // _SAMPLE)]
        near[index] &= size[index] < sample.kthvalue(max(1, len(sample) * most // len(found))).values
    return near.flatten().nonzero()[:, 0]


def pixels_below(places: Tensor, shape: torch.Size) -> Tensor:
    """Return (..., 4) flat places in (B, M, 2h, 2w) of the pixels below flat places in `shape` (B, M, h, w)."""
    height, width = shape[2:]
    mask, y, x = _coordinates(places, height, width)
    corner = (mask * 2 * height + 2 * y) * 2 * width + 2 * x
    return corner[..., None] + corner.new_tensor([0, 1, 2 * width, 2 * width + 1])


def places_beside(places: Tensor, shape: torch.Size) -> Tensor:
    """Return (..., 9) which of all P flat places in `shape` (B, M, h, w) lie `AROUND` each of them, P for none."""
    height, width = shape[2:]
    mask, y, x = (each[..., None] for each in _coordinates(places, height, width))
    rows, cols = _steps(y, x, AROUND)
    is_inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    numbers = places.new_full((shape.numel(),), places.numel())
    numbers[places.flatten()] = torch.arange(places.numel(), device=places.device)
    at = (mask * height + rows.clamp(0, height - 1)) * width + cols.clamp(0, width - 1)
    return torch.where(is_inside, _taken(numbers, at), places.numel())


def outline_inputs(context: OutlineContext, logits: Tensor, places: Tensor) -> Tensor:
    """Return the (..., I) inputs of `OutlineHead` at flat (...) places in (B, M, h, w) logits."""
    _, masks, height, width = logits.shape
    mask, y, x = (each[..., None] for each in _coordinates(places, height, width))
    answer = mask // masks

    def reached(steps: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        rows, cols = _steps(y, x, steps)
        return rows.clamp(0, height - 1), cols.clamp(0, width - 1)

    rows, cols = reached(AROUND)
    image = answer if len(context.pixels) > 1 else torch.zeros_like(answer)
    pixels = _taken(
        context.pixels.permute(0, 2, 3, 1).reshape(-1, PIXELS), (image * height + rows) * width + cols
    )
    rows, cols = reached(FEATURES)
    inner = ((rows // 2 % 2) * 2 + cols // 2 % 2) * 4 + (rows % 2) * 2 + cols % 2
    cell = (((answer * height + rows) // 4) * (width // 4) + cols // 4) * 16 + inner
    features = _taken(context.cells.flatten(0, 2), cell)
    rows, cols = reached(LOGITS)
    coarse = _taken(logits.flatten(), (mask * height + rows) * width + cols) / LOGIT_SCALE
    return torch.cat((pixels.flatten(-2), features.flatten(-2), coarse.clamp(-3, 3)), dim=-1)


def _steps(y: Tensor, x: Tensor, steps: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return (..., S) rows and columns some steps from (..., 1) ones."""
    dy, dx = y.new_tensor(steps).T
    return y + dy, x + dx


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    """Return (..., C), or (...) of (N,), the rows of (N, C) at (...) indices; five times faster than brackets."""
    return rows.index_select(0, index.flatten()).unflatten(0, index.shape)


def _coordinates(places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which mask, row and column flat places are in."""
    inside = places % (height * width)
    return places // (height * width), inside // width, inside % width
