"""Following in windows: each object is looked at in a window that goes with it, magnified as its size asks for.

For models with a `CloseMemory`, the bundled ones. What is not near an object is not encoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import CapabilityError
from napari_segany.core.intensity import Window
from napari_segany.core.masks import PlaneBox, box_of, mask_iou
from napari_segany.core.types import AnyArray, BoolMask, Box, Points, Prompt
from napari_segany.models.close_memory import CloseMemoryConfig, CloseRecollection
from napari_segany.models.close_tracking import CloseKept, CloseTracking, Seen, joined
from napari_segany.models.sam2 import Sam2
from napari_segany.models.tracking import TrackedFrame
from napari_segany.models.windows import LARGEST_SCALE, Places, corner_around, cut

from .features import Features
from .followed import Memory
from .follower import Ask, Drawn, Found, Reminder, at_pixels, emptied, nothing, resolved, score_of, whole
from .image import ImagePredictor
from .loading import Model
from .preprocess import check_image, normalise, to_rgb
from .prompts import DRAWN_LOGIT
from .window_prompts import around, at_points, by_click, in_places, misses, says_nothing_else
from .zoom import without_islands

SIDE = 128
"""Window pixels on the smallest window's side."""
APPEARING = 54.0
"""Window pixels that an object's longer side should have."""
_CONTEXT = 2.4  # sides of a window per side of an object that is too large for the smallest
_LARGEST_SIDE = 640
_MULTIPLE = 32
_STEPS = 2  # scales for each doubling
_BATCH = 16
_TRUST = 0.05  # by how much better a correction's answer must be to lead away from the mask that it corrects
_MOST_LOOKS, _SETTLED = 4, 0.98  # how often a prompted object is looked at in its window; IoU that is enough
_FOUND_AGAIN = 0.6  # predicted IoU that an object needs to come back
_PLAIN = 0.8  # predicted IoU from which on the answer on the image alone is good enough


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
        """From how many passed frames pointers are taken: from prompted ones only."""
        return 0

    @property
    def looks_again(self) -> bool:
        """Whether what is gone is looked for as it was seen last: once remembered as gone, it would not be found."""
        return True

    def look(self, image: AnyArray) -> FrameLook:
        """Return a frame in 0..1."""
        image = check_image(image)
        return FrameLook(image, to_rgb(image, self._window))

    def nbytes(self, look: object) -> int:
        """Return the memory that a look holds."""
        own = cast(FrameLook, look)
        return own.image.nbytes + own.rgb.untyped_storage().nbytes()

    def prompt(
        self, look: object, prompt: Prompt, *, earlier: BoolMask | None, reminded: Reminder = nothing
    ) -> Found:
        """Answer a prompt: as on a single image and, while that is not sure, in the object's own window, reminded.

        A drawn mask is the answer. A correction begins with the mask that it corrects.
        """
        own = cast(FrameLook, look)
        if prompt.mask is not None and prompt.mask.dtype == np.bool_ and says_nothing_else(prompt):
            return Found(whole(prompt.mask.astype(bool), score=1.0), own)
        if earlier is None or not earlier.any() or prompt.box is not None or prompt.mask is not None:
            answer = self._begun(own, prompt, reminded=reminded)
        else:
            answer = self._corrected(own, prompt, earlier, reminded=reminded())
        return Found(whole(answer.mask, score=answer.score), own)

    def _begun(self, look: FrameLook, prompt: Prompt, *, reminded: Reminder) -> _Answered:
        """Answer a prompt on an object that has no mask yet.

        The image model draws better than the memory's own decoder, wherever it is sure; then no memory is asked for.
        """
        plain = self._by_click(look, prompt)
        if says_nothing_else(prompt) or (plain.score >= _PLAIN and not misses(prompt, plain.mask)):
            return plain
        best = _fitting(prompt, [plain, self._settled(look, [prompt], plain, reminded=reminded())])
        if misses(prompt, best.mask):
            best = _fitting(prompt, [best, self._on_image(look, prompt)])
        return best

    def _corrected(
        self, look: FrameLook, prompt: Prompt, earlier: BoolMask, *, reminded: Ask | None
    ) -> _Answered:
        """Answer clicks on top of a mask, or as if there were none, if that fits better: it may be on the neighbour."""
        kept = self._settled(look, by_click(prompt), _Answered(earlier, 0.0), reminded=reminded)
        answers = [_Answered(kept.mask, kept.score + _TRUST)]
        points = prompt.points
        assert points is not None
        outside = points.positive & ~at_points(earlier, points)
        if outside.any():
            order = np.argsort(~outside, kind="stable")  # those before all others
            again = Prompt(points=Points(points.coords[order], points.positive[order]))
            answers.append(self._begun(look, again, reminded=lambda: reminded))
        best = _fitting(prompt, answers)
        if misses(prompt, best.mask):
            best = _fitting(prompt, [best, self._on_image(look, prompt, earlier=earlier)])
        return _Answered(best.mask, min(best.score, 1.0))

    def _by_click(self, look: FrameLook, prompt: Prompt) -> _Answered:
        """Answer a prompt as on a single image, click by click, each on the answer before."""
        features = self._embedded(look)
        first, *others = by_click(prompt)
        is_open = first.mask is None and first.box is None and len(first.points or ()) == 1
        answer = self._predictor.predict(features, first, multimask=is_open)
        for part in others:
            answer = self._predictor.predict(features, replace(part, mask=answer.logits[0]), multimask=False)
        return _Answered(answer.best, float(answer.scores[0]))

    def _on_image(self, look: FrameLook, prompt: Prompt, *, earlier: BoolMask | None = None) -> _Answered:
        """Answer all of a prompt at once, as on a single image."""
        features = self._embedded(look)
        if earlier is not None:
            prompt = Prompt(points=prompt.points, mask=_as_logits(earlier, features))
        answer = self._predictor.predict(features, prompt, multimask=False)
        return _Answered(answer.best, float(answer.scores[0]))

    def _settled(
        self, look: FrameLook, parts: list[Prompt], answer: _Answered, *, reminded: Ask | None
    ) -> _Answered:
        """Answer in the object's window, then all of it again on top of that, until little changes."""
        for turn in range(_MOST_LOOKS):
            before = answer.mask
            answer = self._in_window(look, parts[-1:] if turn else parts, before, reminded=reminded)
            if not answer.mask.any() or mask_iou(before, answer.mask) > _SETTLED:
                break
        return answer

    def _in_window(
        self, look: FrameLook, parts: Sequence[Prompt], start: BoolMask, *, reminded: Ask | None
    ) -> _Answered:
        """Answer prompts, each on top of the last answer, the first on top of a mask, in a window around all."""
        frame = _laid(around(parts[-1], start), shape=look.shape)
        seen = self._seen(look, [frame])
        is_reminded = reminded is not None and bool(reminded.memories)
        told = self._recollection(seen.places, [reminded]) if reminded is not None and is_reminded else None
        earlier = self._logits(start, seen)
        for part in parts:
            clicks = in_places(part, seen.places)
            answer = self._tracking.clicked(seen, told, earlier=earlier, clicks=clicks)
            earlier = torch.where(answer.logits > 0, DRAWN_LOGIT, -DRAWN_LOGIT)
        drawn = self._drawn(look, answer, seen.places, frame)
        return _Answered(resolved([drawn], look.shape)[0], drawn.score)

    def adopt(self, look: object, mask: BoolMask, *, extent: Box | None = None) -> Memory:
        """Remember a mask; the window lies around `extent`, as it did when the mask was followed from there."""
        own = cast(FrameLook, look)
        around = extent or (box_of(mask) if mask.any() else None)
        seen = self._seen(own, [_laid(around, shape=own.shape)])
        answer = self._tracking.drawn(seen, self._logits(mask, seen))
        kept = self._tracking.remember(seen, answer)
        return Memory(kept, answer.pointers)

    def follow(self, look: object, asks: Sequence[Ask]) -> list[Found]:
        """Answer for objects without a prompt: those whose windows and memories are of a size at once."""
        own = cast(FrameLook, look)
        frames = [_laid(ask.extent, shape=own.shape) for ask in asks]
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

    def remember(self, found: Sequence[Found], masks: NDArray[np.bool_]) -> list[Memory]:
        """Return memories of masks in the windows that they were found in, those of a size at once.

        They are made of the masks alone, so that they can be made again.
        """
        memories = {
            i: self.adopt(one.seen, masks[i])
            for i, one in enumerate(found)
            if isinstance(one.seen, FrameLook)
        }
        each = {i: one.seen for i, one in enumerate(found) if isinstance(one.seen, Seen)}
        for side in {seen.side for seen in each.values()}:
            part = [i for i, seen in each.items() if seen.side == side]
            for start in range(0, len(part), _BATCH):
                some = part[start : start + _BATCH]
                seen = joined([each[i] for i in some])
                logits = torch.cat([self._logits(masks[i], each[i]) for i in some])
                kept = self._tracking.remember(seen, self._tracking.bare(logits))
                rows = [torch.tensor([k]) for k in range(len(some))]
                memories |= {
                    i: Memory(kept.rows(rows[k]), kept.pointers[rows[k]]) for k, i in enumerate(some)
                }
        return [memories[i] for i in range(len(found))]

    def _step(self, look: FrameLook, asks: list[Ask], frames: list[Frame]) -> list[Found]:
        """Answer for some objects at once."""
        seen = self._seen(look, frames)
        told = self._recollection(seen.places, asks)
        rows = [seen.rows(torch.tensor([i])) for i in range(len(asks))]
        earlier = torch.cat(
            [self._logits(ask.mask, row) * bool(ask.mask.any()) for ask, row in zip(asks, rows, strict=True)]
        )
        answer = _without_islands(self._tracking.followed(seen, told, earlier=earlier))
        drawn = [self._drawn(look, answer.row(i), row.places, frames[i]) for i, row in enumerate(rows)]
        for i, ask in enumerate(asks):
            if ask.is_repeated and drawn[i].score < _FOUND_AGAIN:
                drawn[i] = emptied(drawn[i])
        return list(map(Found, drawn, rows))

    def _recollection(self, places: Places, asks: list[Ask]) -> CloseRecollection:
        """Return what some objects are reminded of, memories of one kind each."""
        first = asks[0]
        kept = [
            (age, _joined([cast(CloseKept, ask.memories[i][1].spatial) for ask in asks]))
            for i, (age, _) in enumerate(first.memories)
        ]
        pointers = [
            (far, torch.cat([ask.pointers[i][1].pointer for ask in asks]))
            for i, (far, _) in enumerate(first.pointers)
        ]
        return self._tracking.recollection(places, kept, pointers)

    def _drawn(self, look: FrameLook, answer: TrackedFrame, places: Places, frame: Frame) -> Drawn:
        """Return one object's answer, drawn at the pixels of its window."""
        side = frame.side / frame.scale
        x, y = places.corner[0].tolist()
        region = _inside((y, x), side, shape=look.shape)
        width = side / answer.logits.shape[2]
        logits = at_pixels(answer.logits[0, 0], region, corner=(y, x), step=(width, width))
        is_empty = not bool((logits > 0).any())
        score = score_of(float(answer.ious[0, 0]), float(answer.object_scores[0, 0]), is_empty=is_empty)
        return Drawn(region, logits, score)

    def _logits(self, mask: BoolMask, seen: Seen) -> Tensor:
        """Return (1, 1, 4h, 4w) logits of an (H, W) mask in one window."""
        device = seen.features.embedding.device
        image = torch.from_numpy(mask.astype(np.float32))[None, None].to(device)
        shown = cut(image, seen.places, side=seen.side)
        size = seen.side * 4 // self._tracking.model.config.stride
        return (2 * F.adaptive_avg_pool2d(shown, size) - 1) * DRAWN_LOGIT

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


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """An (H, W) answer to a prompt, and its score as in `FrameMasks`."""

    mask: BoolMask
    score: float


def _fitting(prompt: Prompt, answers: list[_Answered]) -> _Answered:
    """Return the answer that contradicts the fewest clicks; of several, the one with the best score."""
    return min(answers, key=lambda answer: (misses(prompt, answer.mask), -answer.score))


def _laid(extent: Box | None, *, shape: tuple[int, int]) -> Frame:
    """Return how the window of an object lies that was seen in `extent`; None is anywhere.

    Scales come in steps, so that an object that grows a little is seen as before.
    """
    extent = extent or Box(0, 0, *shape)
    centre = ((extent.col0 + extent.col1) / 2, (extent.row0 + extent.row1) / 2)
    long = max(extent.height, extent.width)
    least = SIDE / min(shape)
    wanted = 2 ** (round(math.log2(APPEARING / long) * _STEPS) / _STEPS)
    scale = min(max(wanted, least), LARGEST_SCALE)
    side = math.ceil(max(SIDE, _CONTEXT * long * scale) / _MULTIPLE) * _MULTIPLE
    room = math.floor(min(shape) * scale / _MULTIPLE + 1e-6) * _MULTIPLE
    return Frame(min(side, max(room, SIDE), _LARGEST_SIDE), scale, centre)


def _kind(ask: Ask, frame: Frame) -> tuple[object, ...]:
    """Return what objects of one batch have in common."""
    memories = tuple((age, cast(CloseKept, m.spatial).grid) for age, m in ask.memories)
    return frame.side, memories, tuple(distance for distance, _ in ask.pointers)


def _joined(kept: list[CloseKept]) -> CloseKept:
    """Return memories of single objects as one batch."""
    places = Places(torch.cat([k.places.corner for k in kept]), torch.cat([k.places.scale for k in kept]))
    return CloseKept(torch.cat([k.tokens for k in kept]), torch.cat([k.pointers for k in kept]), places)


def _without_islands(answer: TrackedFrame) -> TrackedFrame:
    """Return answers without small parts beside the largest."""
    logits, _ = without_islands(answer.logits)
    return TrackedFrame(logits, answer.ious, answer.object_scores, answer.pointers)


def _inside(corner: tuple[float, float], side: float, *, shape: tuple[int, int]) -> PlaneBox:
    """Return the pixels of the image that a window from `corner` (row, col) covers."""
    rows, cols = (
        slice(max(0, round(start)), max(1, min(count, round(start + side))))
        for start, count in zip(corner, shape, strict=True)
    )
    return rows, cols


def _as_logits(mask: BoolMask, features: Features) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return a mask as the logits of an earlier answer."""
    area = F.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None],
        size=features.logits_shape,
        mode="bilinear",
        antialias=True,
    )
    return ((2 * area[0, 0] - 1) * 6).numpy()
