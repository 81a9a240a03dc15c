"""The steps of following objects in windows: answer a prompt, follow without one, remember.

Arithmetic only, over a network with a `CloseMemory` and plain values; which windows and which memories is decided in
`predict`. A followed object is told its last mask as a prompt, carried into the new window, beside what the memory adds
to the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.errors import CapabilityError

from .close_memory import Clicks, CloseMemory, CloseMemoryConfig, CloseRecollection
from .image_model import ImageFeatures
from .mask_decoder import MaskOutput
from .prompt_labels import BOX_END, BOX_START, POSITIVE
from .sam2 import Sam2
from .second_opinion import Heard, ends, middles
from .tracking import ABSENT, TrackedFrame
from .windows import Places, carried

MEMORY_CELL = 16
"""Window pixels on the side of a memory token."""

SURE = 10.0
"""Object score where a person said that the object is there, or not."""

_DOUBT, _FITTING = -1.0, 0.7
"""Down to this object score, a mask of at least this predicted IoU is not thrown away."""

_LEAST_SCORE = 1e-3  # object score of what is there


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """B windows of one frame, and their features: those of single images."""

    features: ImageFeatures
    places: Places

    @property
    def side(self) -> int:
        """Window pixels on a side."""
        return self.features.embedding.shape[2] * 8

    def rows(self, index: Tensor) -> Seen:
        """Return some of the windows."""
        return Seen(self.features.of(index), self.places.rows(index))


@dataclass(frozen=True, slots=True, eq=False)
class CloseKept:
    """What is remembered of B objects on a frame: memory tokens (B, L, C_mem) of windows, pointers (B, C)."""

    tokens: Tensor
    pointers: Tensor
    places: Places

    @property
    def grid(self) -> int:
        """Tokens on a window's side."""
        return round(self.tokens.shape[1] ** 0.5)

    def rows(self, index: Tensor) -> CloseKept:
        """Return what is kept of some objects."""
        return CloseKept(self.tokens[index], self.pointers[index], self.places.rows(index))


def joined(seen: list[Seen]) -> Seen:
    """Return windows of one size as one batch."""
    embedding = torch.cat([one.features.embedding for one in seen])
    fine = tuple(torch.cat(maps) for maps in zip(*(one.features.fine for one in seen), strict=True))
    corner = torch.cat([one.places.corner for one in seen])
    return Seen(ImageFeatures(embedding, fine), Places(corner, torch.cat([one.places.scale for one in seen])))


@dataclass(frozen=True, slots=True, eq=False)
class CloseTracking:
    """Following in windows, over one network."""

    model: Sam2

    def __post_init__(self) -> None:
        if not isinstance(self.model.config.memory, CloseMemoryConfig):
            raise CapabilityError(f"{self.model.config.name} does not follow objects in windows")

    @property
    def memory(self) -> CloseMemory:
        """The memory of the network."""
        return self.model.memory

    def drawn(self, seen: Seen, logits: Tensor) -> TrackedFrame:
        """Take (B, 1, 4h, 4w) logits as the answer: masks that a person drew, or that were found before."""
        output = self.memory.decode(seen.features, logits)
        is_present = (logits > 0).flatten(1).any(dim=1, keepdim=True)
        answer = self._judged(output, scores=torch.where(is_present, SURE, -SURE))
        return replace(answer, logits=torch.where(is_present[..., None, None], logits.float(), ABSENT))

    def bare(self, logits: Tensor) -> TrackedFrame:
        """Return (B, 1, 4h, 4w) logits as answers that nobody asked the decoder about: their pointers say nothing."""
        is_present = (logits > 0).flatten(1).any(dim=1, keepdim=True)  # (B, 1)
        shown = torch.where(is_present[..., None, None], logits.float(), ABSENT)
        scores = torch.where(is_present, SURE, -SURE)
        return TrackedFrame(shown, scores, scores, self.memory.no_pointer.expand(len(logits), -1))

    def followed(self, seen: Seen, told: CloseRecollection, *, earlier: Tensor) -> TrackedFrame:
        """Answer without a prompt, on what is recalled and on (B, 1, 4h, 4w) earlier logits, zeros for none."""
        return self.judged(self.traced(seen, told, earlier=earlier))

    def traced(self, seen: Seen, told: CloseRecollection, *, earlier: Tensor) -> MaskOutput:
        """Return what is said for `followed`, before objects are judged absent."""
        reminded = self.memory.remind(seen.features.embedding, told)
        output = self._decoded(seen, reminded, earlier=earlier)
        recalled = reminded - seen.features.embedding
        return self.weighed(seen, output, earlier=earlier, recalled=recalled)

    def clicked(
        self, seen: Seen, told: CloseRecollection | None, *, earlier: Tensor, clicks: Clicks
    ) -> TrackedFrame:
        """Answer clicks on top of (B, 1, 4h, 4w) earlier logits, on what is recalled, if anything."""
        return self.judged(self.asked(seen, told, earlier=earlier, clicks=clicks), clicks=clicks)

    def asked(
        self, seen: Seen, told: CloseRecollection | None, *, earlier: Tensor, clicks: Clicks
    ) -> MaskOutput:
        """Return what is said for `clicked`, before objects are judged absent."""
        embedding = seen.features.embedding
        if told is not None:
            embedding = self.memory.remind(embedding, told)
        return self._decoded(seen, embedding, earlier=earlier, clicks=clicks)

    def _decoded(
        self, seen: Seen, embedding: Tensor, *, earlier: Tensor, clicks: Clicks | None = None
    ) -> MaskOutput:
        """Return what the memory's decoder says to windows with (B, C, h, w) embeddings in place of their own."""
        features = replace(seen.features, embedding=embedding, look=None)
        return self.memory.decode(features, earlier, clicks=clicks)

    def weighed(self, seen: Seen, output: MaskOutput, *, earlier: Tensor, recalled: Tensor) -> MaskOutput:
        """Return one mask each, weighed against what the image model says there; empty masks stay as they are."""
        rows = (output.logits > 0).flatten(1).any(1).nonzero()[:, 0]
        if not len(rows):
            return output
        part, own = seen.features.of(rows), output.rows(rows)
        new = self.memory.opinion(
            own,
            self._heard(part, own.logits),
            fine=part.fine[1],
            earlier=earlier[rows],
            recalled=recalled[rows],
        )
        scores = output.object_scores
        assert scores is not None and new.object_scores is not None
        return replace(
            output,
            logits=output.logits.float().index_copy(0, rows, new.logits),
            ious=output.ious.float().index_copy(0, rows, new.ious),
            object_scores=scores.float().index_copy(0, rows, new.object_scores),
        )

    @torch.no_grad()
    def _heard(self, features: ImageFeatures, logits: Tensor) -> Heard:
        """Return what the image model answers to clicks in the middle of masks and to their boxes."""
        inside, cell = logits[:, 0] > 0, self.model.config.stride / 4
        clicks = (middles(inside) + 0.5) * cell - 0.5
        boxes = ends(inside) * cell - 0.5
        labels = torch.tensor([POSITIVE, BOX_START, BOX_END], device=logits.device).expand(len(inside), 3)
        clicked = self.model.decode_all(features, clicks[:, None], labels[:, :1])
        boxed = self.model.decode_all(features, boxes, labels[:, 1:]).masks(
            slice(1)
        )  # a judge compares all four
        return Heard(
            torch.cat((clicked.logits, boxed.logits), dim=1), torch.cat((clicked.ious, boxed.ious), dim=1)
        )

    def judged(self, output: MaskOutput, *, clicks: Clicks | None = None) -> TrackedFrame:
        """Return an answer with absent objects emptied; what a person clicked on or boxed is there.

        Of what was followed, a doubted object whose mask seems to fit is there, too: once gone, it would stay so.
        """
        scores = output.object_scores
        assert scores is not None
        if clicks is None:
            is_kept = (scores > _DOUBT) & (output.ious[:, :1] >= _FITTING)
            scores = torch.where(is_kept, scores.clamp(min=_LEAST_SCORE), scores)
        else:
            is_said = (clicks.labels >= POSITIVE).any(dim=1, keepdim=True)
            scores = torch.where(is_said, SURE, scores)
        return self._judged(output, scores=scores)

    def remember(self, seen: Seen, answer: TrackedFrame) -> CloseKept:
        """Encode an answer as a memory."""
        side = seen.side
        wide = F.interpolate(answer.logits.float(), size=(side, side), mode="bilinear", align_corners=False)
        tokens = self.memory.encode(seen.features.embedding, wide.sigmoid(), is_present=answer.is_present)
        return CloseKept(tokens, answer.pointers, seen.places)

    def recollection(
        self,
        places: Places,
        kept: list[tuple[int, CloseKept]],
        pointers: list[tuple[int, Tensor]],
    ) -> CloseRecollection:
        """Return memories with their ages, and pointers with their distances, as seen from other windows."""
        cells = [
            places.cells(
                k.places.centres((k.grid, k.grid), stride=MEMORY_CELL), stride=self.model.config.stride
            )
            for _, k in kept
        ]
        return CloseRecollection(
            tuple((age, k.tokens) for age, k in kept),
            tuple(cells),
            tuple(pointers),
        )

    def earlier(
        self, answer: TrackedFrame, *, source: Places, target: Places, size: int | None = None
    ) -> Tensor:
        """Return the logits of an answer in other windows, `size` on a side (None for as many as there are).

        They are zeros, which say nothing, of absent objects.
        """
        cell = self.model.config.stride / 4
        logits = carried(answer.logits, source=source, target=target, cell=cell, size=size)
        return torch.where(answer.is_present[..., None, None], logits.clamp(-10, 10), 0.0)

    def _judged(self, output: MaskOutput, *, scores: Tensor) -> TrackedFrame:
        """Return (B, 1) masks, emptied where the (B, 1) scores say that the object is absent, and pointers."""
        is_present = scores > 0
        return TrackedFrame(
            logits=torch.where(is_present[..., None, None], output.logits.float(), ABSENT),
            ious=output.ious,
            object_scores=scores,
            pointers=self.memory.point(output.tokens[:, 0], is_present=is_present),
        )
