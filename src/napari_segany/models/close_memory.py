"""The memory of the bundled models: SAM 2's, in windows that move with their object.

Paper: Ravi et al. 2024, section 4 and appendix D. What differs: memories have half the resolution of the embedding;
queries and keys are turned by where they lie in the image, which need not be a whole number, so windows may move and
change their scale; what was recalled is added to the embedding, which without it is that of a single image. The image
model beneath is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image_model import ImageFeatures
from .layers import Mlp
from .mask_decoder import MaskDecoder, MaskOutput
from .memory import FuserBlock, MemoryConfig, MemoryEncoder, MemoryLayer, axial_rotation, rotation_at
from .prompt_encoder import PromptEncoder
from .prompt_labels import PADDING
from .second_opinion import SecondOpinion
from .time_code import time_code

SPAN = 16
"""Frames that the time codes of pointers are relative to."""


@dataclass(frozen=True, slots=True)
class CloseMemoryConfig(MemoryConfig):
    """Sizes of the memory in windows; `frames` counts ages, 0 for prompted frames."""

    layers: int = 2
    mlp_width: int = 512
    pointers: int = 7


@dataclass(frozen=True, slots=True, eq=False)
class CloseRecollection:
    """What B objects are reminded of, each in its window.

    Attributes
    ----------
    spatial : of (B, L, C_mem)
        Memories, each with its age: 0 for a prompted frame, else the place in the queue, 1 the newest.
    cells : of (B, L, 2)
        Where their tokens lie, (x, y) in cells of the embedding of the present window.
    pointers : of (B, C)
        Each with how many frames it lies back.
    """

    spatial: tuple[tuple[int, Tensor], ...]
    cells: tuple[Tensor, ...]
    pointers: tuple[tuple[int, Tensor], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """What is said of B objects in their windows: `xy` (B, P, 2) in window pixels, `labels` (B, P), box corners too."""

    xy: Tensor
    labels: Tensor

    @classmethod
    def none(cls, count: int, *, like: Tensor) -> Clicks:
        """Return nothing said of `count` objects."""
        xy = like.new_zeros(count, 2, 2, dtype=torch.float32)
        return cls(xy, torch.full((count, 2), PADDING, device=like.device))


class CloseMemory(nn.Module):
    """Encodes what was found in a window, lets later windows attend to it, and decodes what is found there.

    Parameters
    ----------
    width
        Channels of the image embedding.
    prompts, decoder
        For objects that are followed.
    """

    def __init__(
        self, width: int, config: CloseMemoryConfig, *, prompts: PromptEncoder, decoder: MaskDecoder
    ) -> None:
        super().__init__()
        self.prompts = prompts
        self.decoder = decoder
        self.encoder = MemoryEncoder(width, config)
        self.layers = nn.ModuleList(MemoryLayer(width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        nn.init.normal_(
            self.out.weight, std=0.02
        )  # nearly nothing is added at first; from zeros, hardly anything is learnt
        nn.init.zeros_(self.out.bias)
        for block in self.encoder.fuser.layers:
            assert isinstance(block, FuserBlock)
            nn.init.constant_(
                block.gamma, 0.5
            )  # 1e-6, for deep networks, hides the mask from the memory for long
        self.ages = nn.Parameter(0.02 * torch.randn(config.frames, config.width))
        self.pointer = Mlp((width, width, width, width))
        self.pointer_time = nn.Linear(width, config.width)
        self.no_pointer = nn.Parameter(0.02 * torch.randn(1, width))
        self.absent = nn.Parameter(0.02 * torch.randn(1, config.width))
        self.opinion = SecondOpinion(width)

    @property
    def n_ages(self) -> int:
        """How many ages of memories are known: 0 for prompted frames, and the places in the queue."""
        return len(self.ages)

    def encode(self, embedding: Tensor, masks: Tensor, *, is_present: Tensor) -> Tensor:
        """Return the (B, L, C_mem) memory of windows, tokens of 2 x 2 cells row by row.

        Parameters
        ----------
        embedding : (B, C, h, w)
            As a single image's; h and w are even.
        masks : (B, 1, 8h, 8w)
            Chances, 0 to 1.
        is_present : (B, 1) bool
        """
        spatial = self.encoder(F.avg_pool2d(embedding, 2), masks.to(embedding.dtype) * 20 - 10)
        spatial = spatial + ((~is_present).to(spatial) * self.absent)[..., None, None]
        return spatial.flatten(2).transpose(1, 2)

    def point(self, tokens: Tensor, *, is_present: Tensor) -> Tensor:
        """Return (B, C) pointers of (B, C) mask tokens, for (B, 1) objects there or not."""
        return torch.where(is_present, self.pointer(tokens), self.no_pointer)

    def remind(self, embedding: Tensor, told: CloseRecollection) -> Tensor:
        """Return (B, C, h, w) embeddings with what is recalled added to them."""
        size = (embedding.shape[2], embedding.shape[3])
        x = embedding.flatten(2).transpose(1, 2)  # (B, hw, C)
        memories = torch.cat([tokens.to(x) for _, tokens in told.spatial], dim=1)
        codes = torch.cat([self.ages[age].expand_as(tokens) for age, tokens in told.spatial], dim=1)
        pointers, pointer_codes = self._pointer_tokens(told, like=memories)
        values = torch.cat((memories, pointers), dim=1)
        keys = values + torch.cat((codes, pointer_codes), dim=1)
        cells = torch.cat(told.cells, dim=1)[:, None]  # (B, 1, L, 2)
        turn = rotation_at(x.shape[2], x=cells[..., 0], y=cells[..., 1])
        own = axial_rotation(x.shape[2], size).to(x.device)
        for layer in self.layers:
            x = layer(x, keys, values, rotation=own, key_rotation=turn, pointers=pointers.shape[1])
        return embedding + self.out(self.norm(x)).transpose(1, 2).unflatten(2, size)

    def decode(self, features: ImageFeatures, earlier: Tensor, *, clicks: Clicks | None = None) -> MaskOutput:
        """Return one mask for each of B windows: (B, 1, 4h, 4w) earlier logits, zeros for none, and clicks, if any."""
        size = (features.embedding.shape[2], features.embedding.shape[3])
        said = clicks or Clicks.none(len(earlier), like=earlier)
        sparse, dense = self.prompts(said.xy, said.labels, masks=earlier, size=size)
        output: MaskOutput = self.decoder(
            features.embedding,
            features.fine,
            sparse=sparse,
            dense=dense,
            image_code=self.prompts.dense_code(size),
            kept=slice(1),
        )
        return output

    def _pointer_tokens(self, told: CloseRecollection, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, P, C_mem) tokens, several a pointer, and their codes of time."""
        if not told.pointers:
            return like[:, :0], like[:, :0]
        distances, pointers = zip(*told.pointers, strict=True)
        tokens = torch.stack([x.to(like) for x in pointers], dim=1)  # (B, n, C)
        split = tokens.reshape(len(like), -1, like.shape[2])
        times = torch.tensor(distances, dtype=torch.float32, device=like.device) / SPAN
        code = self.pointer_time(time_code(times, tokens.shape[2]).to(like))  # (n, C_mem)
        parts = tokens.shape[2] // like.shape[2]
        return split, code.repeat_interleave(parts, dim=0).expand(len(like), -1, -1)
