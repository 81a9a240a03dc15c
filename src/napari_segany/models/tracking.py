"""One frame of SAM 2's tracking: what is remembered is looked up, the frame is answered, the answer becomes a memory.

Paper: Ravi et al. 2024, section 4 and appendix D. Here is the arithmetic only, over a network and plain values; which
frames are kept and which of them a frame is reminded of is decided in `predict`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_segany.core.errors import CapabilityError, SettingsError

from .close_memory import CloseMemoryConfig
from .condensing import PlacedTokens, condensed, grid_code, joined
from .image_model import ImageFeatures
from .mask_decoder import FineUse, MaskOutput
from .prompt_labels import PADDING
from .sam2 import Sam2
from .time_code import time_code

ABSENT = -1024.0
"""Logit of every pixel of an object that is judged absent."""

_SCALE, _BIAS = 20.0, -10.0  # of a mask of zeros and ones, where logits are wanted
_OUTSIDE = -10.0  # of pixels that another object takes


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """One answer for each of B objects on a frame.

    Attributes
    ----------
    logits : (B, 1, 4h, 4w)
        `ABSENT` everywhere for objects that are not there.
    ious : (B, 1)
        Predicted IoU, 0 to 1.
    object_scores : (B, 1)
        Logit of "the object is in this frame".
    pointers : (B, C)
        What the object looked like, in one vector.
    """

    logits: Tensor
    ious: Tensor
    object_scores: Tensor
    pointers: Tensor

    @property
    def is_present(self) -> Tensor:
        """Which objects are in the frame: (B, 1) bool."""
        return self.object_scores > 0

    def row(self, index: int) -> TrackedFrame:
        """Return the answer for one object, still as a batch of one."""
        part = slice(index, index + 1)
        return TrackedFrame(self.logits[part], self.ious[part], self.object_scores[part], self.pointers[part])


@dataclass(frozen=True, slots=True, eq=False)
class FrameMemory:
    """What is remembered of a frame, for B objects.

    Attributes
    ----------
    spatial : (B, C_mem, h, w) or (B, L, C_mem)
        Image and mask, fused: a map, or in models with a perceiver its tokens.
    pointers : (B, C)
    """

    spatial: Tensor
    pointers: Tensor

    def __post_init__(self) -> None:
        if (
            self.spatial.ndim not in (3, 4)
            or self.pointers.ndim != 2
            or len(self.spatial) != len(self.pointers)
        ):
            raise SettingsError(
                f"a memory needs (B, C_mem, h, w) or (B, L, C_mem), and (B, C) of the same B, "
                f"got {tuple(self.spatial.shape)} and {tuple(self.pointers.shape)}"
            )

    def row(self, index: int) -> FrameMemory:
        """Return the memory of one object, still as a batch of one."""
        part = slice(index, index + 1)
        return FrameMemory(self.spatial[part], self.pointers[part])


@dataclass(frozen=True, slots=True, eq=False)
class Recollection:
    """What a frame is reminded of, for B objects; whatever is missing is left out, not padded.

    Attributes
    ----------
    spatial : of (B, C_mem, h, w) or (B, L, C_mem)
        Memories, each with its age: 0 for a prompted frame, else the place in the queue, 1 the newest.
    pointers : of (B, C)
        Pointers, each with how many frames it lies back, in the direction of tracking.
    span
        The largest distance of a pointer, that time codes are relative to.
    near : of (B, k)
        For each memory that is a map, which blocks of it to recall cell by cell (see `condensing`); the others are
        recalled as means. Empty: all are whole.
    """

    spatial: tuple[tuple[int, Tensor], ...]
    pointers: tuple[tuple[int, Tensor], ...] = ()
    span: int = 1
    near: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if not self.spatial:
            raise SettingsError("a recollection needs at least one memory; on a first frame use `unreminded`")


@dataclass(frozen=True, slots=True, eq=False)
class Tracking:
    """The steps of tracking over one network.

    Attributes
    ----------
    model
        A SAM 2 with a memory.
    fine
        What becomes of fine boundaries, in models that draw them.
    is_binarised
        Whether masks of prompted frames are remembered as zeros and ones, without their logits' doubts.
    is_exclusive
        Whether, of objects that are remembered together, a pixel goes into the memory of one only.
    storage
        The number format that spatial memories are kept in; None keeps that of the computation.
    """

    model: Sam2
    fine: FineUse = "off"
    is_binarised: bool = True
    is_exclusive: bool = False
    storage: torch.dtype | None = torch.bfloat16

    def __post_init__(self) -> None:
        if self.model.config.memory is None or isinstance(self.model.config.memory, CloseMemoryConfig):
            raise CapabilityError(
                f"{self.model.config.name} has no memory and cannot track; choose a SAM 2 for video"
            )

    def unreminded(self, features: ImageFeatures) -> ImageFeatures:
        """Return raw features of a frame as prompts see them where nothing is remembered yet."""
        return self.model.without_memory(features)

    def reminded(self, features: ImageFeatures, recollection: Recollection) -> ImageFeatures:
        """Condition a frame on what is remembered (section 4, "Memory attention").

        Parameters
        ----------
        features
            Raw features of one frame, or of B.
        recollection
            Of B objects.

        Returns
        -------
        ImageFeatures
            With an embedding for each of the B objects.
        """
        embedding = features.embedding
        size = (embedding.shape[2], embedding.shape[3])
        told = self._spatial_tokens(recollection, dtype=embedding.dtype)
        pointers, pointer_codes = self._pointer_tokens(recollection, like=told.values)
        count = pointers.shape[1]
        conditioned = self.model.memory_attention(
            embedding,
            torch.cat((told.values, pointers), dim=1),
            codes=(
                grid_code(self.model.config.width, size)[None].to(embedding),
                torch.cat((told.codes, pointer_codes), dim=1),
            ),
            pointers=count,
            turns=told.turns,
            log_counts=None if told.log_counts is None else F.pad(told.log_counts, (0, count)),
        )
        return replace(features, embedding=conditioned)

    def answer(
        self, features: ImageFeatures, xy: Tensor, labels: Tensor, *, masks: Tensor | None = None
    ) -> TrackedFrame:
        """Answer prompts, or no prompt, on conditioned features.

        Parameters
        ----------
        features
            From `reminded` or `unreminded`: of one frame, or of B.
        xy : (B, N, 2)
            (x, y) in frame pixels, box corners first; N is 0 where the object is only followed.
        labels : (B, N)
            As in the prompt encoder. No or one point is ambiguous: the best of three masks is taken.
        masks : (B, 1, 4h, 4w)
            Earlier logits.
        """
        multimask = labels.shape[1] <= 1
        if labels.shape[1] == 0:
            xy, labels = _no_points(xy)
        output = self.model.decode_all(features, xy, labels, masks=masks, with_fine=self.fine != "off")
        chosen = self.model.decoder.select(output, multimask=multimask, fine=self.fine)
        if multimask:
            chosen = _best(chosen)
        return self._judged(chosen)

    def adopt(self, features: ImageFeatures, masks: Tensor) -> TrackedFrame:
        """Take masks as the answer, without asking the decoder for more than a pointer.

        Parameters
        ----------
        features
            Raw features of one frame, or of B.
        masks : (B, 1, S, S')
            0 or 1, in the frame's resolution.
        """
        size = [4 * side for side in features.embedding.shape[2:]]
        logits = masks * _SCALE + _BIAS
        small = F.interpolate(logits, size=size, mode="bilinear", align_corners=False, antialias=True)
        prompt = self.model.mask_downsample(masks)
        output = self.model.decode_all(
            features, *_no_points(masks), masks=prompt, with_fine=self.fine != "off", kept=slice(1)
        )
        is_present = masks.flatten(1).any(dim=1, keepdim=True)  # (B, 1)
        assert output.object_scores is not None
        pointers = self._pointers(output.tokens[:, 0], is_present=output.object_scores > 0)
        return TrackedFrame(
            logits=small,
            ious=torch.ones_like(output.object_scores),
            object_scores=is_present * _SCALE + _BIAS,
            pointers=self._or_absent(pointers, is_present=is_present),  # a second time, as published
        )

    def remember(self, features: ImageFeatures, answer: TrackedFrame, *, is_prompted: bool) -> FrameMemory:
        """Encode an answer as a memory (section 4, "Memory encoder").

        Parameters
        ----------
        features
            Raw features of the frame.
        answer
            Of B objects.
        is_prompted
            Whether the answer is to a prompt, rather than a guess.
        """
        embedding = features.embedding.expand(len(answer.logits), -1, -1, -1)
        size = [side * self.model.config.stride for side in embedding.shape[2:]]
        logits = F.interpolate(answer.logits.float(), size=size, mode="bilinear", align_corners=False)
        if self.is_exclusive:
            logits = exclusive(logits)
        binarises = self.is_binarised and is_prompted
        masks = (logits > 0).to(embedding) if binarises else logits.sigmoid().to(embedding)
        dtype = self.model.memory_encoder.out_proj.weight.dtype
        spatial = self.model.memory_encoder(embedding.to(dtype), (masks * _SCALE + _BIAS).to(dtype))
        spatial = spatial.to(embedding)
        if self._is_later:
            absent = (~answer.is_present).to(spatial) * self.model.no_obj_embed_spatial  # (B, C_mem)
            spatial = spatial + absent[..., None, None]
        if self._has_tokens:
            spatial = self.model.spatial_perceiver(spatial)
        return FrameMemory(spatial.to(self.storage or spatial.dtype), answer.pointers)

    @property
    def _is_later(self) -> bool:
        """Whether the model has what SAM 2.1 added: a code for absent objects, and times of pointers."""
        return self.model.config.version == "2.1"

    @property
    def _has_tokens(self) -> bool:
        """Whether the model's memories are a perceiver's tokens, and not maps."""
        memory = self.model.config.memory
        return memory is not None and memory.perceiver is not None

    def _judged(self, output: MaskOutput) -> TrackedFrame:
        """Return (B, 1) masks with those of absent objects emptied, and pointers that say so."""
        assert output.object_scores is not None
        is_present = output.object_scores > 0  # (B, 1)
        return TrackedFrame(
            logits=torch.where(is_present[..., None, None], output.logits, ABSENT).float(),
            ious=output.ious,
            object_scores=output.object_scores,
            pointers=self._pointers(output.tokens[:, 0], is_present=is_present),
        )

    def _pointers(self, tokens: Tensor, *, is_present: Tensor) -> Tensor:
        """Return (B, C) pointers made of (B, C) mask tokens, for (B, 1) objects there or not."""
        return self._or_absent(self.model.obj_ptr_proj(tokens), is_present=is_present)

    def _or_absent(self, pointers: Tensor, *, is_present: Tensor) -> Tensor:
        """Return (B, C) pointers, the one for "no object" in place of those of absent objects."""
        return torch.where(is_present, pointers, self.model.no_obj_ptr)

    def _spatial_tokens(self, recollection: Recollection, *, dtype: torch.dtype) -> PlacedTokens:
        """Return the tokens of all memories, with codes of place and age."""
        parts = []
        for index, (age, spatial) in enumerate(recollection.spatial):
            placed = self._placed(
                spatial.to(dtype), near=recollection.near[index] if recollection.near else None
            )
            aged = placed.codes + self.model.maskmem_tpos_enc[age - 1, 0]  # (B, L, C_mem); 0 is the last
            parts.append(replace(placed, codes=aged.expand_as(placed.values)))
        return joined(parts)

    def _placed(self, spatial: Tensor, *, near: Tensor | None) -> PlacedTokens:
        """Return the tokens of a memory; of a map whose blocks `near` (B, k) are told, the others are put together."""
        if self._has_tokens:
            return PlacedTokens(spatial, self.model.spatial_perceiver.code().to(spatial)[None])
        if near is not None:
            return condensed(spatial, near, width=self.model.config.width)
        code = grid_code(spatial.shape[1], (spatial.shape[2], spatial.shape[3])).to(spatial)
        return PlacedTokens(spatial.flatten(2).transpose(1, 2), code.flatten(1).T[None])

    def _pointer_tokens(self, recollection: Recollection, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, P, C_mem) tokens, several a pointer, and their (B, P, C_mem) codes of time."""
        if not recollection.pointers:
            nothing = like[:, :0]
            return nothing, nothing
        distances, pointers = zip(*recollection.pointers, strict=True)
        width = like.shape[2]
        tokens = torch.stack([x.to(like) for x in pointers], dim=1)  # (B, n, C)
        parts = tokens.shape[2] // width
        split = tokens.reshape(len(like), -1, width)  # (B, n * parts, C_mem)
        if not self._is_later:
            return split, torch.zeros_like(split)
        times = like.new_tensor(distances) / recollection.span
        code = self.model.obj_ptr_tpos_proj(time_code(times, tokens.shape[2]))  # (n, C_mem)
        return split, code.repeat_interleave(parts, dim=0).expand(len(like), -1, -1)


def exclusive(logits: Tensor) -> Tensor:
    """Return (K, 1, H, W) logits of which at most one is positive at each pixel."""
    if len(logits) == 1:
        return logits
    index = torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return torch.where(logits.argmax(dim=0, keepdim=True) == index, logits, logits.clamp(max=_OUTSIDE))


def _no_points(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, 1, 2) points and (B, 1) labels that say "no prompt": a point that is padding."""
    return like.new_zeros(len(like), 1, 2), torch.full((len(like), 1), PADDING, device=like.device)


def _best(output: MaskOutput) -> MaskOutput:
    """Return the mask with the highest predicted IoU of each prompt."""
    return output.masks(output.ious.argmax(dim=1, keepdim=True))
