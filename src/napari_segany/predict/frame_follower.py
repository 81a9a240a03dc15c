"""Following in whole frames, as SAM 2 was published: every object is remembered over the whole frame.

Paper: Ravi et al. 2024, section 4. Objects that are reminded of the same frames are worked out as one batch, in which
what does not depend on the object is done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.errors import CapabilityError
from napari_segany.core.geometry import ResizeMap, stretch
from napari_segany.core.intensity import Window
from napari_segany.core.masks import PlaneBox
from napari_segany.core.types import AnyArray, BoolMask, Box, Prompt
from napari_segany.models.condensing import near_blocks
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.sam2 import Sam2
from napari_segany.models.tracking import FrameMemory, Recollection, TrackedFrame, Tracking

from .features import Features
from .followed import Memory
from .follower import Ask, Drawn, Found, Reminder, at_pixels, nothing, score_of, whole
from .loading import Model
from .preprocess import check_image, to_frame, to_rgb
from .prompts import Encoded, encode_prompt

_BATCH = 4
_EARLIER_LOGIT = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """Raw features of one frame, before anything is remembered."""

    features: ImageFeatures
    resize: ResizeMap


@dataclass(frozen=True, slots=True, eq=False)
class SpatialMemory:
    """What is remembered of one object on one frame, (1, C_mem, h, w) or (1, L, C_mem), and which blocks are near it.

    `near` is (1, k), or None where all is recalled as it is.
    """

    cells: Tensor
    near: Tensor | None


class FrameFollower:
    """See the module.

    Parameters
    ----------
    model
        A SAM 2 with a memory of whole frames.
    window
        The one intensity window of the stack.
    condenses
        Recall what is far from an object as means of 2 x 2 cells (`models.condensing`): an approximation, which takes
        half the time on a CPU. None: on CPUs, unless the encoder runs in float32 ("reproducible"), where all is exact.
    """

    def __init__(self, model: Model, *, window: Window, condenses: bool | None = None) -> None:
        if not isinstance(model.network, Sam2):
            raise CapabilityError(
                f"{model.card.name} has no memory and cannot follow objects; choose a SAM 2"
            )
        self._tracking = Tracking(model.network)
        self._model, self._window = model, window
        is_slow = model.placement.device.type == "cpu" and model.placement.encoder_dtype != torch.float32
        self._condenses = is_slow if condenses is None else condenses

    @property
    def queue(self) -> int:
        """How many passed frames are remembered."""
        return self._config.frames - 1

    @property
    def pointers(self) -> int:
        """From how many frames pointers are taken."""
        return self._config.pointers - 1

    @property
    def looks_again(self) -> bool:
        """Whether what is gone is looked for as it was seen last: it is remembered as gone, as published."""
        return False

    def look(self, image: AnyArray) -> EncodedFrame:
        """Return the raw features of a frame."""
        image = check_image(image)
        model, config = self._model, self._model.config
        resize = stretch((image.shape[0], image.shape[1]), side=config.image_size)
        pixels = to_frame(to_rgb(image, self._window), resize)
        pixels = pixels.to(
            model.placement.device, model.placement.encoder_dtype, memory_format=torch.channels_last
        )
        features = cast(Sam2, model.network).encode_frame(pixels)
        return EncodedFrame(features.to(model.placement.device, torch.float32), resize)

    def nbytes(self, look: object) -> int:
        """Return the memory that a look holds."""
        return cast(EncodedFrame, look).features.nbytes

    def prompt(
        self, look: object, prompt: Prompt, *, earlier: BoolMask | None, reminded: Reminder = nothing
    ) -> Found:
        """Answer a prompt on the frame alone, beside an earlier mask, as the released models were trained to."""
        own = cast(EncodedFrame, look)
        if (
            prompt.mask is not None
            and prompt.mask.dtype == np.bool_
            and prompt.points is None
            and prompt.box is None
        ):
            mask = prompt.mask.astype(bool)
            return Found(whole(mask, score=1.0), self.adopt(look, mask))
        encoded = encode_prompt(prompt, self._as_features(own))
        logits = encoded.mask
        if logits is None and earlier is not None and prompt.box is None and earlier.any():
            logits = self._low(earlier, own) * _EARLIER_LOGIT
        return self._found(
            own, self._answered(own, Encoded(encoded.xy, encoded.labels, logits)), is_prompted=True
        )

    def adopt(self, look: object, mask: BoolMask, *, extent: Box | None = None) -> Memory:
        """Remember a mask as if it had been found; where it was seen before does not matter."""
        own = cast(EncodedFrame, look)
        side = self._model.config.image_size
        large = F.interpolate(
            torch.from_numpy(mask.astype(np.float32))[None, None],
            size=(side, side),
            mode="bilinear",
            antialias=True,
        )
        binary = (large >= 0.5).float().to(own.features.embedding.device)
        answer = self._tracking.adopt(own.features, binary)
        memory = self._tracking.remember(own.features, answer, is_prompted=True)
        return self._kept(answer, memory)

    def remember(self, found: Sequence[Found], masks: NDArray[np.bool_]) -> list[Memory]:
        """Return what `prompt` and `follow` remembered, of what the decoder said rather than of the masks."""
        return [cast(Memory, one.seen) for one in found]

    def follow(self, look: object, asks: Sequence[Ask]) -> list[Found]:
        """Answer for objects without a prompt, those that are reminded of the same frames at once."""
        own = cast(EncodedFrame, look)
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, ask in enumerate(asks):
            kind = (tuple(age for age, _ in ask.memories), tuple(far for far, _ in ask.pointers))
            groups.setdefault(kind, []).append(index)
        found: dict[int, Found] = {}
        for members in groups.values():
            for start in range(0, len(members), _BATCH):
                part = members[start : start + _BATCH]
                found.update(zip(part, self._step(own, [asks[i] for i in part]), strict=True))
        return [found[i] for i in range(len(asks))]

    def _step(self, look: EncodedFrame, asks: list[Ask]) -> list[Found]:
        """Answer for some objects at once."""
        first = asks[0]
        remembered = [[cast(SpatialMemory, memory.spatial) for _, memory in ask.memories] for ask in asks]
        columns = list(zip(*remembered, strict=True))  # memory by memory, for all objects
        spatial = tuple(
            (age, torch.cat([one.cells for one in column]))
            for (age, _), column in zip(first.memories, columns, strict=True)
        )
        near = tuple(
            torch.cat([one.near for one in column if one.near is not None])
            for column in columns
            if column[0].near is not None
        )
        pointers = tuple(
            (far, torch.cat([ask.pointers[i][1].pointer for ask in asks]))
            for i, (far, _) in enumerate(first.pointers)
        )
        span = max(self._config.pointers - 1, 1)
        seen = self._tracking.reminded(look.features, Recollection(spatial, pointers, span, near))
        nothing = seen.embedding.new_zeros(len(asks), 0, 2)
        labels = torch.zeros(nothing.shape[:2], dtype=torch.long, device=nothing.device)
        answer = self._tracking.answer(seen, nothing, labels)
        memory = self._tracking.remember(look.features, answer, is_prompted=False)
        return [self._drawn(look, answer.row(i), memory.row(i)) for i in range(len(asks))]

    def _kept(self, answer: TrackedFrame, memory: FrameMemory) -> Memory:
        """Return what is kept of one object."""
        near = near_blocks(answer.logits) if self._condenses and memory.spatial.ndim == 4 else None
        return Memory(SpatialMemory(memory.spatial, near), memory.pointers)

    def _answered(self, look: EncodedFrame, prompt: Encoded) -> TrackedFrame:
        """Return the answer to one prompt."""
        device = look.features.embedding.device
        seen = self._tracking.unreminded(look.features)
        masks = None if prompt.mask is None else prompt.mask[None].to(device)
        return self._tracking.answer(
            seen, prompt.xy[None].to(device), prompt.labels[None].to(device), masks=masks
        )

    def _found(self, look: EncodedFrame, answer: TrackedFrame, *, is_prompted: bool) -> Found:
        """Return an answer with its memory."""
        return self._drawn(
            look, answer, self._tracking.remember(look.features, answer, is_prompted=is_prompted)
        )

    def _drawn(self, look: EncodedFrame, answer: TrackedFrame, memory: FrameMemory) -> Found:
        """Return one object's answer, drawn at the pixels around it."""
        logits = answer.logits[0, 0]
        size = look.resize.source
        step = (size[0] / logits.shape[0], size[1] / logits.shape[1])
        region = _around(logits, step=step, shape=size)
        score = score_of(float(answer.ious[0, 0]), float(answer.object_scores[0, 0]), is_empty=region is None)
        kept = self._kept(answer, memory)
        if region is None:
            return Found(
                Drawn((slice(0, 1), slice(0, 1)), np.full((1, 1), -1, dtype=np.float32), score), kept
            )
        return Found(Drawn(region, at_pixels(logits, region, corner=(0.0, 0.0), step=step), score), kept)

    def _low(self, mask: BoolMask, look: EncodedFrame) -> Tensor:
        """Return a mask as (1, 4h, 4w), -1 outside to 1 inside."""
        size = [4 * side for side in look.features.embedding.shape[2:]]
        image = torch.from_numpy(mask.astype(np.float32))[None, None]
        return 2 * F.interpolate(image, size=size, mode="bilinear", antialias=True)[0] - 1

    def _as_features(self, look: EncodedFrame) -> Features:
        """Return a frame as what prompts are encoded for."""
        return Features(
            look.features, look.resize, self._window, self._model.card, stride=self._model.config.stride
        )

    @property
    def _config(self) -> MemoryConfig:
        """The memory's sizes."""
        config = cast(Sam2, self._model.network).config.memory
        assert config is not None
        return config


def _around(logits: Tensor, *, step: tuple[float, float], shape: tuple[int, int]) -> PlaneBox | None:
    """Return the pixels around the positive logits, one logit more on each side; None if there are none."""
    inside = (logits > 0).cpu().numpy()
    if not inside.any():
        return None
    parts = []
    for axis in (0, 1):
        marked = np.flatnonzero(inside.any(axis=1 - axis))
        start, stop = (marked[0] - 1) * step[axis], (marked[-1] + 2) * step[axis]
        parts.append(slice(max(0, int(start)), min(shape[axis], int(np.ceil(stop)))))
    return parts[0], parts[1]
