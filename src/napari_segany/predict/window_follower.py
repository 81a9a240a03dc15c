"""Following in windows: each object is looked at in a window that goes with it, magnified as its size asks for.

For models with a `CloseMemory`, the bundled ones. What is not near an object costs nothing, so the time of a frame
depends on the number and the size of objects and not on the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.errors import CapabilityError
from napari_segany.core.intensity import Window
from napari_segany.core.masks import PlaneBox, box_of
from napari_segany.core.types import AnyArray, BoolMask, Box, Prompt
from napari_segany.models.close_memory import CloseMemoryConfig
from napari_segany.models.close_tracking import CloseKept, CloseTracking, Seen
from napari_segany.models.sam2 import Sam2
from napari_segany.models.tracking import TrackedFrame
from napari_segany.models.windows import LARGEST_SCALE, Places, corner_around, cut

from .features import Features
from .followed import Memory
from .follower import Ask, Drawn, Found, at_pixels, score_of
from .image import ImagePredictor
from .loading import Model
from .preprocess import check_image, normalise, to_rgb
from .zoom import kept_parts

SIDE = 128
"""Window pixels on the smallest window's side."""
APPEARING = 44.0
"""Window pixels that an object's longer side should have."""
_CONTEXT = 2.4  # sides of a window per side of an object that is too large for the smallest
_LARGEST_SIDE = 640
_MULTIPLE = 32
_LOOSE = 1.35  # by how much an object may grow or shrink before its window changes its scale
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class FrameLook:
    """One frame: raw, and (1, 3, H, W) in 0..1."""

    image: AnyArray
    rgb: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.rgb.shape[2], self.rgb.shape[3]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """How a window is laid: its side in window pixels, its scale, its centre (x, y) in image pixels."""

    side: int
    scale: float
    centre: tuple[float, float]

    def places(self, shape: tuple[int, int]) -> Places:
        """Return where it lies in an image of (H, W)."""
        corner = corner_around(np.array(self.centre), self.side / self.scale, size=shape)
        return Places(torch.from_numpy(corner).float()[None], torch.tensor([self.scale]))


@dataclass(frozen=True, slots=True, eq=False)
class CloseSpatial:
    """What a window's memory is made of: tokens, the answer, how the window lay, and the object's box where seen."""

    kept: CloseKept
    answer: TrackedFrame
    frame: Frame
    extent: Box | None


class WindowFollower:
    """See the module; `window` is the one intensity window of the stack."""

    def __init__(self, model: Model, *, window: Window) -> None:
        network = model.network
        if not isinstance(network, Sam2) or not isinstance(network.config.memory, CloseMemoryConfig):
            raise CapabilityError(f"{model.card.name} does not follow objects in windows")
        self._tracking = CloseTracking(network)
        self._predictor = ImagePredictor(model)
        self._model, self._window = model, window
        self._features: tuple[FrameLook, Features] | None = None

    @property
    def queue(self) -> int:
        """How many passed frames are remembered."""
        return self._tracking.memory.n_ages - 1

    @property
    def pointers(self) -> int:
        """From how many frames pointers are taken."""
        return self.queue

    def look(self, image: AnyArray) -> FrameLook:
        """Return a frame in 0..1."""
        image = check_image(image)
        return FrameLook(image, to_rgb(image, self._window))

    def nbytes(self, look: object) -> int:
        """Return the memory that a look holds."""
        own = cast(FrameLook, look)
        return own.image.nbytes + own.rgb.untyped_storage().nbytes()

    def prompt(self, look: object, prompt: Prompt, *, earlier: BoolMask | None) -> Found:
        """Answer a prompt as on a single image."""
        own = cast(FrameLook, look)
        features = self._embedded(own)
        asked = prompt
        if earlier is not None and prompt.box is None and prompt.mask is None and earlier.any():
            asked = Prompt(points=prompt.points, mask=_as_logits(earlier, features))
        is_open = asked.mask is None and asked.box is None and len(prompt.points or ()) == 1
        answer = self._predictor.predict(features, asked, multimask=is_open)
        return self.adopt(look, answer.best, score=float(answer.scores[0]))

    def adopt(self, look: object, mask: BoolMask, *, score: float) -> Found:
        """Take a mask as the answer."""
        own = cast(FrameLook, look)
        extent = box_of(mask) if mask.any() else None
        frame = _laid(extent, last=None, shape=own.shape)
        seen = self._seen(own, [frame])
        cells = self._logit_side(frame.side)
        drawn = cut(torch.from_numpy(mask.astype(np.float32))[None, None], seen.places, side=frame.side)
        logits = (2 * F.adaptive_avg_pool2d(drawn, cells) - 1) * 10
        answer = self._tracking.drawn(seen, logits.to(seen.features.embedding.device))
        kept = self._tracking.remember(seen, answer)
        region = (slice(0, own.shape[0]), slice(0, own.shape[1]))
        whole = np.where(mask, np.float32(10), np.float32(-10))
        memory = Memory(CloseSpatial(kept, answer, frame, extent), kept.pointers)
        return Found(Drawn(region, whole, score if extent is not None else min(score, -0.5)), memory)

    def follow(self, look: object, asks: Sequence[Ask]) -> list[Found]:
        """Answer for objects without a prompt: those whose windows and memories are of a size at once."""
        own = cast(FrameLook, look)
        frames = [_laid(last.extent, last=last.frame, shape=own.shape) for last in map(_last, asks)]
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, (ask, frame) in enumerate(zip(asks, frames, strict=True)):
            groups.setdefault(_kind(ask, frame), []).append(index)
        found: dict[int, Found] = {}
        for members in groups.values():
            for start in range(0, len(members), _BATCH):
                part = members[start : start + _BATCH]
                answers = self._step(own, [asks[i] for i in part], [frames[i] for i in part])
                found.update(zip(part, answers, strict=True))
        return [found[i] for i in range(len(asks))]

    def _step(self, look: FrameLook, asks: list[Ask], frames: list[Frame]) -> list[Found]:
        """Answer for some objects at once."""
        seen = self._seen(look, frames)
        lasts = [_last(ask) for ask in asks]
        count = range(len(asks[0].memories))
        kept = [
            (asks[0].memories[i][0], _joined([_spatial(ask.memories[i][1]).kept for ask in asks]))
            for i in count
        ]
        pointers = [
            (asks[0].pointers[i][0], torch.cat([ask.pointers[i][1].pointer for ask in asks]))
            for i in range(len(asks[0].pointers))
        ]
        told = self._tracking.recollection(seen.places, kept, pointers)
        earlier = torch.cat(
            [
                self._tracking.earlier(
                    last.answer, source=last.kept.places, target=seen.places.rows(torch.tensor([i])),
                    size=self._logit_side(frames[i].side),
                )
                for i, last in enumerate(lasts)
            ]
        )  # fmt: skip
        answer = self._tracking.followed(seen, told, earlier=earlier)
        answer = _without_islands(answer)
        remembered = self._tracking.remember(seen, answer)
        rows = [torch.tensor([i]) for i in range(len(asks))]
        return [
            self._found(look, answer.row(i), remembered.rows(rows[i]), frames[i], lasts[i].extent)
            for i in range(len(asks))
        ]

    def _found(
        self, look: FrameLook, answer: TrackedFrame, kept: CloseKept, frame: Frame, last: Box | None
    ) -> Found:
        """Return one object's answer, drawn at the pixels of its window."""
        side = frame.side / frame.scale
        x, y = kept.places.corner[0].tolist()
        region = _inside((y, x), side, shape=look.shape)
        width = side / answer.logits.shape[2]
        logits = at_pixels(answer.logits[0, 0], region, corner=(y, x), step=(width, width))
        inside = logits > 0
        is_empty = not bool(inside.any())
        score = score_of(float(answer.ious[0, 0]), float(answer.object_scores[0, 0]), is_empty=is_empty)
        extent = last if is_empty else _moved(box_of(inside), region)
        return Found(
            Drawn(region, logits, score), Memory(CloseSpatial(kept, answer, frame, extent), kept.pointers)
        )

    def _seen(self, look: FrameLook, frames: list[Frame]) -> Seen:
        """Return the features of windows of one side."""
        each = [frame.places(look.shape) for frame in frames]
        places = Places(torch.cat([p.corner for p in each]), torch.cat([p.scale for p in each]))
        placement = self._model.placement
        pixels = torch.cat([cut(look.rgb, p, side=frames[0].side) for p in each])
        pixels = normalise(pixels).to(
            placement.device, placement.encoder_dtype, memory_format=torch.channels_last
        )
        features = self._model.network.encode(pixels).to(placement.device, torch.float32)
        return Seen(features, Places(places.corner.to(placement.device), places.scale.to(placement.device)))

    def _embedded(self, look: FrameLook) -> Features:
        """Return the features of a frame as prompts see them, embedded once."""
        if self._features is None or self._features[0] is not look:
            self._features = look, self._predictor.embed(look.image, window=self._window)
        return self._features[1]

    def _logit_side(self, side: int) -> int:
        """Return how many logits there are on a window's side."""
        return side * 4 // self._tracking.model.config.stride


def _laid(extent: Box | None, *, last: Frame | None, shape: tuple[int, int]) -> Frame:
    """Return how the window of an object lies that was seen in `extent`; as the last one did where it was not."""
    if extent is None:
        return last or _laid(Box(0, 0, *shape), last=None, shape=shape)
    centre = ((extent.col0 + extent.col1) / 2, (extent.row0 + extent.row1) / 2)
    long = max(extent.height, extent.width)
    if last is not None and 1 / _LOOSE < last.scale * long / _appearing(last.side) < _LOOSE:
        return Frame(last.side, last.scale, centre)
    smallest = min(1.0, 512 / max(shape))
    least = SIDE / min(shape)
    scale = float(np.clip(APPEARING / long, max(smallest, least), LARGEST_SCALE))
    wanted = np.ceil(max(SIDE, _CONTEXT * long * scale) / _MULTIPLE) * _MULTIPLE
    room = np.floor(min(shape) * scale / _MULTIPLE + 1e-6) * _MULTIPLE
    return Frame(int(min(wanted, max(room, SIDE), _LARGEST_SIDE)), scale, centre)


def _appearing(side: int) -> float:
    """Return how long an object should be in a window of some side, in window pixels."""
    return APPEARING if side == SIDE else side / _CONTEXT


def _kind(ask: Ask, frame: Frame) -> tuple[object, ...]:
    """Return what objects of one batch have in common."""
    memories = tuple((age, _spatial(m).kept.grid) for age, m in ask.memories)
    return frame.side, memories, tuple(distance for distance, _ in ask.pointers)


def _spatial(memory: Memory) -> CloseSpatial:
    """Return a memory's spatial part."""
    return cast(CloseSpatial, memory.spatial)


def _last(ask: Ask) -> CloseSpatial:
    """Return what is remembered of the frame just passed."""
    return _spatial(ask.last)


def _joined(kept: list[CloseKept]) -> CloseKept:
    """Return memories of single objects as one batch."""
    places = Places(torch.cat([k.places.corner for k in kept]), torch.cat([k.places.scale for k in kept]))
    return CloseKept(torch.cat([k.tokens for k in kept]), torch.cat([k.pointers for k in kept]), places)


def _without_islands(answer: TrackedFrame) -> TrackedFrame:
    """Return answers without small parts beside the largest."""
    kept = kept_parts(answer.logits)
    logits = torch.where(kept, answer.logits, answer.logits.clamp(max=-1.0))
    return TrackedFrame(logits, answer.ious, answer.object_scores, answer.pointers)


def _inside(corner: tuple[float, float], side: float, *, shape: tuple[int, int]) -> PlaneBox:
    """Return the pixels of the image that a window from `corner` (row, col) covers."""
    rows, cols = (
        slice(max(0, round(start)), max(1, min(count, round(start + side))))
        for start, count in zip(corner, shape, strict=True)
    )
    return rows, cols


def _moved(box: Box, region: PlaneBox) -> Box:
    """Return a box of a region's pixels in pixels of the image."""
    row, col = region[0].start, region[1].start
    return Box(box.row0 + row, box.col0 + col, box.row1 + row, box.col1 + col)


def _as_logits(mask: BoolMask, features: Features) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return a mask as the logits of an earlier answer."""
    area = F.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None],
        size=features.logits_shape,
        mode="bilinear",
        antialias=True,
    )
    return ((2 * area[0, 0] - 1) * 6).numpy()
